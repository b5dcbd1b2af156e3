"""A task: everything that depends on what the model is to do, in one object per kind.

These modules import neither torch nor transformers at the top: a server without torch uses a task for the card of an
exported adapter, and data files are parsed before any tensor library is loaded. A method that needs torch is given
tensors and imports torch inside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float32, Float64
from fedhft.job_sections import TaskSpec

if TYPE_CHECKING:
    import torch

Targets = NDArray[Any]
"""Targets of n rows as the task encodes them, (n, ...); their dtype is the task's own choice."""

ErrorsOf = Callable[[NDArray[np.int64], "torch.Tensor"], Float64]
"""(row numbers, those rows' logits without gradient) -> the error of each logit, float64, shaped like the logits."""


@dataclass(frozen=True)
class Task(ABC):
    """One kind of task, as a job's `[task]` section describes it.

    Members in the order of use. Reading data: `split_by_class`, `target`. Loading a model: `auto_class`, `configure`,
    `head`. Training and scoring: `encode`, `loss`, `score`, `baseline`. Clustering: `signature_errors`. Exporting:
    `pipeline_tag`, `peft_task_type`, `outputs`, `auto_arguments`, `labels_line`.

    To add a kind: write a module beside this one, add it to the table in `fedhft.training.tasks` and add its name to
    `job.TaskKind`.
    """

    spec: TaskSpec

    # -- reading data

    @property
    @abstractmethod
    def split_by_class(self) -> bool:
        """Whether rows of equal target form a class, so that a drawn holdout is spread over the classes."""

    @abstractmethod
    def target(self, value: object) -> float:
        """One row's target, from the value in its label column.

        Raises ValueError with problem and fix; the file's reader adds its name, line, column and value.
        """

    # -- loading a model

    @property
    @abstractmethod
    def auto_class(self) -> str:
        """Name of the transformers class that loads the model, e.g. "AutoModelForSequenceClassification"."""

    @abstractmethod
    def configure(self, config: Any) -> None:
        """Set what the task needs in the transformers configuration, before the model is loaded."""

    @abstractmethod
    def head(self, model: torch.nn.Module, new_parameters: frozenset[str]) -> tuple[str, ...]:
        """Names of the parameters that are trained in full and travel with the adapters, in the model's order.

        new_parameters: names of those that are not in the model's files.
        Raises FedhftError(INVALID_MODEL) when the model lacks what the task has to train.
        """

    # -- training and scoring

    @abstractmethod
    def encode(self, targets: Sequence[float]) -> Targets:
        """Targets of rows, as `target` made them, in the form that `loss` and the scores take."""

    @abstractmethod
    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch, a scalar. logits: float32 (n x outputs); targets: encoded, on the same device."""

    @abstractmethod
    def score(self, logits: Float32, targets: Targets) -> float:
        """How well logits (n x outputs) fit n > 0 targets; more is better."""

    @abstractmethod
    def baseline(self, train_targets: Targets, targets: Targets) -> float:
        """Score on `targets` of the best constant answer that the training targets suggest."""

    # -- clustering

    @abstractmethod
    def signature_errors(self, targets: Targets) -> ErrorsOf:
        """The logits' errors whose gradient is the anchor signature (see `training.signatures`).

        targets: of all rows the signature is computed on. The errors must depend on what targets mean, not on their
        shares.
        """

    # -- exporting

    @property
    @abstractmethod
    def pipeline_tag(self) -> str:
        """`pipeline_tag` of a model card, e.g. "text-classification"."""

    @property
    @abstractmethod
    def peft_task_type(self) -> str:
        """`task_type` of PEFT's adapter_config.json, e.g. "SEQ_CLS"."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Width of the logits."""

    @property
    @abstractmethod
    def auto_arguments(self) -> Mapping[str, Any]:
        """Keyword arguments that `auto_class.from_pretrained` needs to build a head as wide as the job's."""

    @abstractmethod
    def labels_line(self) -> str:
        """What a model card says after "labels:"."""
