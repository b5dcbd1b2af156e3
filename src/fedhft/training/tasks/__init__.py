"""The kinds of task a job may have, a module for each, and the way to bring one's own. No torch.

Reading order:

    interface               what a task is
    labels                  what a value in a label column means
    sequence                one answer per text: classification, multi_label, regression
    places                  answers at places of a text: token_classification, causal_lm (with chat and packing)

A package brings a task of its own by an entry point `fedhft.tasks`, whose name is the kind of task:

    [project.entry-points."fedhft.tasks"]
    ordinal = "my_package:OrdinalTask"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job_task import TASK_PLUGINS, TaskSpec
from fedhft.scoring.metrics import KINDS
from fedhft.training.tasks.causal_lm import CausalLM
from fedhft.training.tasks.classification import Classification
from fedhft.training.tasks.interface import Task
from fedhft.training.tasks.multi_label import MultiLabel
from fedhft.training.tasks.regression import Regression
from fedhft.training.tasks.token_classification import TokenClassification

__all__ = ["Task", "kind_for", "task_of"]

_TASKS: Mapping[str, type[Task]] = {
    "classification": Classification,
    "multi-label": MultiLabel,
    "regression": Regression,
    "token-classification": TokenClassification,
    "causal-lm": CausalLM,
}


def task_of(spec: TaskSpec) -> Task:
    """The task that a job's `[task]` section describes.

    Raises FedhftError(INVALID_JOB) for an unknown kind, and for one whose package cannot be used.
    """
    found = _TASKS.get(spec.kind)
    return _own(spec) if found is None else found(spec)


def kind_for(labels: Sequence[str]) -> str:
    """The kind of task for data with these label names; without names, the targets are numbers."""
    return "classification" if labels else "regression"


def _own(spec: TaskSpec) -> Task:
    points = [point for point in entry_points(group=TASK_PLUGINS) if point.name == spec.kind]
    if not points:
        raise FedhftError.field(
            ErrorCode.INVALID_JOB, "task.kind", spec.kind, "unknown kind of task",
            f"use one of {', '.join(KINDS)}, or install the package that brings it",
        )  # fmt: skip
    if len(points) > 1:
        raise FedhftError.field(
            ErrorCode.INVALID_JOB, "task.kind", spec.kind, f"{len(points)} installed packages bring it",
            "uninstall all but one",
        )  # fmt: skip
    (point,) = points
    try:
        kind = point.load()
    except Exception as error:
        raise FedhftError.field(
            ErrorCode.INVALID_JOB, "task.kind", spec.kind, f"{point.value} cannot be imported: {error}",
            "repair the package that brings it",
        ) from error  # fmt: skip
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise FedhftError.field(
            ErrorCode.INVALID_JOB, "task.kind", spec.kind, f"{point.value} is not a task",
            "derive it from fedhft.training.tasks.Task",
        )  # fmt: skip
    return kind(spec)
