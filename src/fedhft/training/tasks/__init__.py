"""The kinds of task a job may have: `interface.Task`, a module for each kind, and the table of kinds. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job_sections import TaskKind, TaskSpec
from fedhft.training.tasks.classification import Classification
from fedhft.training.tasks.interface import Task
from fedhft.training.tasks.regression import Regression

__all__ = ["Task", "kind_for", "task_of"]

_TASKS: Mapping[str, type[Task]] = {"classification": Classification, "regression": Regression}


def task_of(spec: TaskSpec) -> Task:
    """The task that a job's `[task]` section describes. Raises FedhftError(INVALID_JOB) for an unknown kind."""
    found = _TASKS.get(spec.kind)
    if found is None:
        raise FedhftError.field(
            ErrorCode.INVALID_JOB, "task.kind", spec.kind, "unknown kind of task", f"use one of {', '.join(_TASKS)}"
        )
    return found(spec)


def kind_for(labels: Sequence[str]) -> TaskKind:
    """The kind of task for data with these label names; without names, the targets are numbers."""
    return "classification" if labels else "regression"
