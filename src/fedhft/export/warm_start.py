"""Finding the adapter that a job is to begin with: in a folder, or on the server to which the job is submitted."""

from __future__ import annotations

import re

from fedhft.adapter import AdapterSchema
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.adapter_values import FIELD, AdapterValues, published_values, read_adapter, start_of_job
from fedhft.export.published import PublishedAdapters, fetch_adapters
from fedhft.job import JobSpec
from fedhft.jobs.client import JobsClient
from fedhft.paths import expanded
from fedhft.training.tasks import task_of

_JOB = re.compile(r"([a-z0-9][a-z0-9._-]{0,62})(?:@(\d{1,9}))?")
_FROM_THE_JOB = ("rank", "ranks", "targets", "depth")


def warm_start(
    client: JobsClient, spec: JobSpec, schema: AdapterSchema | None, base_path: str
) -> tuple[AdapterSchema, list[bytes], str]:
    """(schema, snapshots of version 0, what was left out of the adapter) of a job with `adapter.from`.

    schema: of the job, built from its base model; None takes that of the job it continues. base_path: where the base
    model is, empty where that is not known.
    Raises FedhftError: INVALID_ARGUMENT for an adapter that does not fit, and what fetching it raises.
    """
    origin = spec.adapter.origin
    if expanded(origin).is_dir():
        if schema is None:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, FIELD, origin, "the base model is needed to see whether the adapter fits",
                "give its folder with --model",
            )  # fmt: skip
        values: AdapterValues = read_adapter(expanded(origin))
    else:
        match = _JOB.fullmatch(origin)
        if match is None:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, FIELD, origin, "is neither a folder here nor the name of a job",
                "give the folder of a PEFT adapter, JOB, or JOB@VERSION",
            )  # fmt: skip
        adapters = fetch_adapters(client, match[1], int(match[2] or 0))
        schema = schema or _same_schema(spec, adapters)
        values = published_values(adapters, origin, base_path or adapters.spec.model.name)
    return (schema, *start_of_job(spec, schema, values, base_path or spec.model.name))


def _same_schema(spec: JobSpec, adapters: PublishedAdapters) -> AdapterSchema:
    """The schema of the job that is continued, which fits where both adapt the same modules of the same model."""
    own, theirs = spec.adapter, adapters.spec.adapter
    for name in _FROM_THE_JOB:
        if getattr(own, name) != getattr(theirs, name):
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, f"adapter.{name}", getattr(own, name),
                f"job {adapters.spec.name} has {getattr(theirs, name)!r}", "set it to that",
            )  # fmt: skip
    task, known = task_of(spec.task), task_of(adapters.spec.task)
    if (task.auto_class, spec.task.labels) != (known.auto_class, adapters.spec.task.labels):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "task.labels", list(spec.task.labels),
            f"job {adapters.spec.name} is for {list(adapters.spec.task.labels)}",
            "give the base model with --model, so that a new head can be made for them",
        )  # fmt: skip
    return adapters.schema
