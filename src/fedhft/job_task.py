"""The table `task` of a job file: what is learnt, from which columns, and how it is scored."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from fedhft.documents import nearest
from fedhft.job_sections import StoppingSpec, TrainingSpec
from fedhft.job_values import Name, Section
from fedhft.scoring.metrics import DEFAULTS, KINDS, KINDS_WITH_HEAD, KINDS_WITH_PAIRS, METRICS, metric, names_for

if TYPE_CHECKING:
    from fedhft.adapter import Float64
    from fedhft.scoring.pooling import Tally

TASK_PLUGINS = "fedhft.tasks"
"""Entry points by which a package brings tasks of its own; the name of one is a kind of task."""
_KINDS_WITH_LABELS = frozenset({"classification", "multi-label", "token-classification"})
"""Kinds whose targets are named by `task.labels`."""
_KINDS_WITH_WEIGHTS = ("classification", "token-classification")
"""Kinds whose every target is one of `task.labels`."""
_KINDS_WITH_SMOOTHING = (*_KINDS_WITH_WEIGHTS, "causal-lm")
"""Kinds whose loss is the cross entropy of one class."""
_LEAST_LABELS = {"classification": 2, "token-classification": 2, "multi-label": 1}


class TaskSpec(Section):
    """The task and the columns of its data."""

    kind: Name = Field(
        "classification",
        description=f"Kind of task: {', '.join(KINDS)}, or one that an installed package brings (entry point "
        f"`{TASK_PLUGINS}`).",
    )
    labels: tuple[Name, ...] = Field(
        (),
        max_length=4096,
        description="Names in class order: of labels, or of tags (`O`, `B-PER`, `I-PER`, ...); none for other kinds.",
    )
    metrics: tuple[Name, ...] = Field(
        (),
        max_length=8,
        description="What is measured, the score first (a metric of which more is better); empty means the kind's own.",
    )
    text: Name = Field("text", description="Column of the text; for token-classification, of its list of words.")
    text_pair: Name | None = Field(None, description="Column of the second text, for pair tasks.")
    label: Name = Field(
        "label",
        description="Column of the target: a label name or an index, a list of them (multi-label; tags), or a number.",
    )
    target_mean: float = Field(
        0.0, ge=-1e30, le=1e30, description="Regression: subtracted from every target; the mean of all, say."
    )
    target_std: float = Field(
        1.0, gt=0, le=1e30, description="Regression: what targets are then divided by; their standard deviation, say."
    )
    format: Literal["prompt", "text", "messages"] = Field(
        "prompt",
        description="causal-lm: rows are a prompt and its completion, plain text, or a conversation for the tokenizer's"
        " chat template. The loss is on completions (of assistants), or on all of a plain text.",
    )
    prompt: Name = Field("prompt", description="causal-lm: column of the prompt.")
    completion: Name = Field("completion", description="causal-lm: column of the completion.")
    messages: Name = Field("messages", description="causal-lm: column of the list of {role, content}.")
    head: Literal["new", "keep"] = Field(
        "new",
        description="Where the head starts: drawn anew from the job's seed, or as the base model's files hold it, which"
        " must be for the same labels.",
    )
    packing: bool = Field(
        False,
        description="causal-lm: train on several rows in one sequence of model.max_length tokens; none attends to "
        "another.",
    )

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the metrics, the score first; empty for a task of your own that leaves them to its package."""
        return self.metrics or DEFAULTS.get(self.kind, ())

    @property
    def least_score(self) -> float:
        """The worst score there is; the best is 1. An accuracy begins at 0, a correlation at -1."""
        names = self.measured
        return metric(names[0]).least if names and names[0] in METRICS else -1.0

    @property
    def has_head(self) -> bool:
        """Whether a head is certainly trained beside the adapters; a package's own task may have one or not."""
        return self.kind in KINDS_WITH_HEAD

    @property
    def may_have_pairs(self) -> bool:
        """Whether rows may be pairs of texts."""
        return self.kind in KINDS_WITH_PAIRS

    @property
    def sums(self) -> int:
        """How many sums a score of a common split carries (see `scoring.pooling`)."""
        from fedhft.scoring.pooling import sums_of  # numpy, which a command that only reads a job does not need

        return sums_of(self.kind, self.labels, self.measured)

    def sums_problem(self, sums: Sequence[float], rows: int, most_places: int) -> str:
        """Why sums cannot be those of `rows` rows of at most `most_places` targets each; empty where they can be."""
        from fedhft.scoring.pooling import inconsistent

        return inconsistent(self.kind, sums, rows, most_places)

    def training_problem(self, training: TrainingSpec) -> str:
        """Why the task cannot be trained as `training` says; empty where it can."""
        weights = training.class_weights
        if weights != "none" and self.kind not in _KINDS_WITH_WEIGHTS:
            which = f"{' and '.join(_KINDS_WITH_WEIGHTS)} have class weights, {self.kind} does not"
            return f"training.class_weights: {which}; remove the field"
        for name in weights if isinstance(weights, dict) else ():
            if name not in self.labels:
                return f"training.class_weights.{name}: not a label; task.labels has {', '.join(self.labels[:12])}"
        if training.label_smoothing and self.kind not in _KINDS_WITH_SMOOTHING:
            which = f"{', '.join(_KINDS_WITH_SMOOTHING)} have smoothed labels, {self.kind} does not"
            return f"training.label_smoothing = {training.label_smoothing:g}: {which}; remove the field"
        return ""

    def stopping_problem(self, stopping: StoppingSpec) -> str:
        """Why versions cannot be compared as `stopping` says; empty where they can."""
        known = (*self.measured, "loss")
        if stopping.metric in ("", *known) or not self.measured:  # a task of your own may leave them to its package
            return ""
        return f"stopping.metric = {stopping.metric!r}: not measured; choose one of {', '.join(known)}"

    def tally(self, sums: Sequence[float] | Float64) -> Tally:
        """What such sums say. For tasks that have sums."""
        from fedhft.scoring.pooling import tally_of

        return tally_of(self.kind, sums)

    @model_validator(mode="after")
    def _labels_fit_kind(self) -> TaskSpec:
        if self.kind not in KINDS:
            _check_own_kind(self.kind)
        elif self.head == "keep" and self.kind not in KINDS_WITH_HEAD:
            raise ValueError(f'head = "keep": {self.kind} trains no head; remove the field')
        elif self.kind not in _KINDS_WITH_LABELS:
            if self.labels:
                raise ValueError(f"labels: {self.kind} has none; remove the field")
        elif len(self.labels) < _LEAST_LABELS[self.kind] or len(set(self.labels)) != len(self.labels):
            least = "two or more" if _LEAST_LABELS[self.kind] == 2 else "one or more"
            raise ValueError(f"labels = {list(self.labels)!r}: {self.kind} needs {least} distinct label names")
        _check_order(self.labels)
        return self

    @model_validator(mode="after")
    def _metrics_fit_kind(self) -> TaskSpec:
        if len(set(self.metrics)) != len(self.metrics):
            raise ValueError(f"metrics = {list(self.metrics)!r}: name each metric once")
        if self.kind not in KINDS:
            return self
        known = names_for(self.kind)
        for name in self.metrics:
            if name not in known:
                raise ValueError(f"metrics: {self.kind} has no {name!r}; choose from {', '.join(known)}")
        if self.metrics and not metric(self.metrics[0]).more_is_better:
            scores = [name for name in known if metric(name).more_is_better]
            raise ValueError(
                f"metrics: the first one is the score, but of {self.metrics[0]!r} less is better; put one of "
                f"{', '.join(scores)} first"
            )
        if self.text_pair is not None and self.kind not in KINDS_WITH_PAIRS:
            raise ValueError(f"text_pair = {self.text_pair!r}: {self.kind} has no pairs of texts; remove the field")
        return self


def _check_own_kind(kind: str) -> None:
    """Refuse a kind of task that neither fedhft nor an installed package has. Raises ValueError."""
    own = sorted({found.name for found in entry_points(group=TASK_PLUGINS)})
    if kind not in own:
        likely = nearest(kind, (*KINDS, *own))
        raise ValueError(
            f"kind = {kind!r}: unknown kind of task; "
            + (f"did you mean {likely!r}? Otherwise " if likely else "")
            + f"use one of {', '.join((*KINDS, *own))}, or install the package that brings it"
        )


def _check_order(labels: tuple[str, ...]) -> None:
    """Refuse names of which every one is also the index of a label, but of another: nobody could tell what 1 means."""
    indices = [str(index) for index in range(len(labels))]
    if set(labels) == set(indices) and list(labels) != indices:
        raise ValueError(
            f"labels = {list(labels)!r}: every name is also the index of another label, so a 1 in the data could mean "
            f"either; write them in the order {indices!r}, or give them names"
        )
