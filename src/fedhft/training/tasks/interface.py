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

from fedhft.adapter import Float32
from fedhft.datasets.examples import Example
from fedhft.datasets.tables import RawRow
from fedhft.job_task import TaskSpec
from fedhft.scoring.pooling import Tally

if TYPE_CHECKING:
    import torch

__all__ = ["ErrorsOf", "Tally", "Targets", "Task", "Tokens", "flat", "place_targets", "sizes_of"]

Targets = NDArray[Any]
"""Targets of n rows as the task encodes them, (n, ...), their dtype the task's own choice. Where a row has a target
per place (word, token): an object array (n,) of integer arrays.
"""

ErrorsOf = Callable[[NDArray[np.int64], "torch.Tensor"], NDArray[Any]]
"""(row numbers, those rows' logits without gradient) -> the error of each logit, shaped like the logits."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """One row as the model reads it. ids: int32 (tokens,). types: token types, or None where the model takes none.

    places: which tokens' outputs count, ascending; None where the model has one output per row. segments: for packed
    rows, how many tokens each has; () for one row.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int32] | None = None
    places: NDArray[np.int32] | None = None
    segments: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task(ABC):
    """One kind of task, as a job's `[task]` section describes it.

    Members in the order of use. Reading data: `split_by_class`, `parse`, `describe`. Loading a model: `auto_class`,
    `configure`, `head`, `check_model`. Feeding it: `counts_places`, `tokenize`, `logits`. Training and scoring: `loss`,
    `metrics`, `tally`, `floor`. Predicting: `blank`, `answers`, `writes`. Clustering: `signature_errors`. Exporting:
    `pipeline_tag`, `peft_task_type`, `outputs`, `auto_arguments`, `labels_line`.

    A task of your own derives from this class or from one of the kinds, and its package names it by an entry point
    `fedhft.tasks`: `examples/own_task.py`.
    """

    spec: TaskSpec

    # -- reading data

    @property
    @abstractmethod
    def split_by_class(self) -> bool:
        """Whether rows of equal target form a class, so that a drawn holdout is spread over the classes."""

    @abstractmethod
    def parse(self, raw: RawRow) -> Example:
        """One row of a file.

        Raises FedhftError(INVALID_DATA) naming file, line, column, value and fix.
        """

    def describe(self, rows: Sequence[Example]) -> str:
        """The targets of rows (at least one), for people who check their data; empty where there is nothing to say."""
        return ""

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

    def check_model(self, model: torch.nn.Module) -> None:
        """Look at the loaded model, in eval mode. Raises FedhftError(INVALID_MODEL) when it cannot do the task."""
        return

    # -- feeding it

    @property
    def counts_places(self) -> bool:
        """Whether outputs count at places of a row; otherwise a row has one output."""
        return False

    @abstractmethod
    def tokenize(
        self, tokenizer: Any, rows: Sequence[Example], max_length: int, with_types: bool, *, training: bool
    ) -> tuple[list[Tokens], Targets]:
        """Rows as the model reads them, each at most `max_length` tokens, and their encoded targets.

        with_types: whether the model takes token types. training: whether rows may be packed. Text that looks like a
        special token is text.
        """

    @abstractmethod
    def logits(self, model: torch.nn.Module, inputs: Mapping[str, Any], places: torch.Tensor | None) -> torch.Tensor:
        """Outputs of the model that count, (m x outputs), row after row.

        places: bool (rows x width), True where an output counts; None where a row has one output.
        """

    # -- training and scoring

    @abstractmethod
    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of a batch, a scalar. logits: float32 (m x outputs); targets: encoded, on the same device."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what is measured; the first is the score, of which more is better, at least -1 and at most 1."""
        return self.spec.measured

    @abstractmethod
    def tally(self, logits: Float32, targets: Targets, sizes: NDArray[np.int64]) -> Tally:
        """Count scored rows. logits: (m x outputs); targets: encoded, (m, ...); sizes: how many of them each row has.

        Rows come in parts where their logits are many: then the sums of the parts are added.
        """

    @abstractmethod
    def floor(self, train_targets: Targets, targets: Targets) -> Mapping[str, float]:
        """Every metric of the best constant answer that the training targets suggest, on `targets` (n > 0 rows)."""

    # -- predicting

    @property
    def blank(self) -> object | None:
        """What may stand in the label column of a row whose target is not known; None where rows need a target."""
        return None

    @property
    def writes(self) -> bool:
        """Whether the model answers a row by writing on from its prompt, and not by `answers`."""
        return False

    def answers(self, logits: Float32, sizes: NDArray[np.int64]) -> list[dict[str, Any]]:
        """What the model says of each row, as JSON objects. Arguments as for `tally`."""
        edges = np.cumsum(sizes)[:-1]
        return [{"outputs": part.tolist()} for part in np.split(logits, edges)]

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
        """Width of the logits; 0 where it is the model's vocabulary."""

    @property
    @abstractmethod
    def auto_arguments(self) -> Mapping[str, Any]:
        """Keyword arguments that `auto_class.from_pretrained` needs to build a head as wide as the job's."""

    @abstractmethod
    def labels_line(self) -> str:
        """What a model card says after "labels:"."""


def place_targets(rows: Sequence[NDArray[np.int32]]) -> Targets:
    """An object array (n,) of each row's targets."""
    targets = np.empty(len(rows), object)
    for index, row in enumerate(rows):
        targets[index] = row
    return targets


def flat(targets: Targets) -> NDArray[Any]:
    """Targets of several rows one after another: as they are, or, where a row has several, joined."""
    if targets.dtype != object:
        return targets
    joined: NDArray[Any] = np.concatenate([*targets, np.zeros(0, np.int32)]).astype(np.int64)
    return joined


def sizes_of(targets: Targets) -> NDArray[np.int64]:
    """How many targets each row has."""
    if targets.dtype != object:
        return np.ones(len(targets), np.int64)
    return np.array([len(row) for row in targets], np.int64)
