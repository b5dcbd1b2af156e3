"""From a job on a server to PEFT directories on disk: one per cluster and, on request, one per client's mixture."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedhft.adapter import AdapterSchema, AdapterState, Float32, TensorKey
from fedhft.aggregation.mixture import mix, served
from fedhft.aggregation.versions import apply_delta
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.description import DescribedCheck, describe_export, write_description
from fedhft.export.mixture import ExportedMixture
from fedhft.export.model_card import CARD_FILE, model_card
from fedhft.export.peft_directory import write_adapter, writing
from fedhft.job import JobSpec, load_canonical
from fedhft.jobs.client import JobsClient
from fedhft.rounds.influence import masses
from fedhft.training.export_check import Checked, ExportCheck, missing_to_check
from fedhft.v1 import adapter_pb2, jobs_pb2
from fedhft.wire.codec import decode


@dataclass(frozen=True, eq=False)
class PublishedAdapters:
    """A version of a job, fetched. memberships: client -> weights over clusters."""

    spec: JobSpec
    schema: AdapterSchema
    state: AdapterState
    memberships: Mapping[str, tuple[float, ...]]


def fetch_adapters(client: JobsClient, job: str, version: int = 0) -> PublishedAdapters:
    """Fetch a version of a job, the last for 0.

    Raises FedhftError, JOB_NOT_RUNNING when nothing was published, INVALID_ARGUMENT when the server does not keep it,
    or when what is published is not a whole adapter.
    """
    export = client.export(job, version)
    spec = load_canonical(export.spec_json)
    if not spec.method.combine.makes_one_model:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "job", job, f"method {spec.method.preset} shares no whole adapter",
            "what its clients trained stays with them; choose a job of another method",
        )  # fmt: skip
    schema = AdapterSchema.from_json(export.schema_json)
    memberships = {row.client: tuple(row.weights) for row in export.memberships.rows}
    clusters = export.memberships.clusters or 1 + max((_cluster(ref.scope) for ref in export.blobs), default=0)
    state = AdapterState(export.version, clusters)
    for ref in export.blobs:
        state = apply_delta(state, decode(client.blob(job, ref), schema, kind=adapter_pb2.BLOB_KIND_SNAPSHOT))
    return PublishedAdapters(spec, schema, state, memberships)


@dataclass(frozen=True)
class Exported:
    """A directory that was written. checked: how it compared; None where it was not, for the reason `unchecked`."""

    path: Path
    checked: Checked | None
    unchecked: str = ""


def write_adapters(
    adapters: PublishedAdapters,
    out: Path,
    job: jobs_pb2.Job,
    base_name: str = "",
    clients: Collection[str] = (),
    *,
    base_path: str = "",
    check: bool | None = None,
    merge: bool = False,
    samples: Mapping[str, int] | None = None,
) -> list[Exported]:
    """Write out/cluster-j for every cluster and out/client-<id> for each of `clients`.

    samples: training rows by client; with them out/mass-weighted, one mixture for everybody, in place of the clusters.

    base_name: what the card and adapter_config.json call the base model; empty takes the job's name for it. base_path:
    where it is on this machine; empty: under its name. check: whether each directory is loaded again and compared with
    what was trained; None where this machine can. merge: whole models instead of adapters, which needs what checking
    needs.
    Raises FedhftError: INVALID_ARGUMENT for a client that is not in the job; EXPORT_DIFFERS for a directory that
    answers otherwise than what was trained (it stays, without a card); SCHEMA_MISMATCH for another base model than the
    job's; with `check` or `merge`, INVALID_MODEL when there is no base model or library to load.
    """
    unknown = sorted(set(clients) - set(job.clients))
    if unknown:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "client", unknown[0], f"is not in job {job.job}",
            f"choose from {', '.join(job.clients)}",
        )  # fmt: skip
    count, floor = adapters.state.clusters, adapters.spec.clustering.serve_above
    if samples:
        q = masses(samples, adapters.spec.limits.sample_cap)
        every = [ExportedMixture.of_all(count, adapters.memberships, q)]
    else:
        every = [ExportedMixture.of_cluster(j, count, job.clients, adapters.memberships) for j in range(count)]
    for client in dict.fromkeys(clients):
        membership = adapters.memberships.get(client, (1.0 / count,) * count)
        every.append(ExportedMixture.of_client(client, served(membership, floor)))
    if adapters.state.version < job.rounds_done:  # the final scores are those of the last version
        best = job.best if job.best.version == adapters.state.version else None
        job = jobs_pb2.Job(job=job.job, clients=job.clients, rounds_done=adapters.state.version, best=best)
    name = base_name or adapters.spec.model.name
    checking, reason = _checking(adapters, base_path or name, True if merge else check)
    write = _Writing(adapters, job, name, base_path or name, checking, reason, merge)
    return [write(out / one.name, one) for one in every]


def _checking(adapters: PublishedAdapters, path: str, check: bool | None) -> tuple[ExportCheck | None, str]:
    """What compares the exports, or why nothing does."""
    if check is False:
        return None, "it was not asked for"
    missing = missing_to_check()
    try:
        if missing:
            raise FedhftError(ErrorCode.INVALID_MODEL, f"{missing} is not installed here; install fedhft[agent]")
        return ExportCheck(adapters.spec, adapters.schema, path), ""
    except FedhftError as error:
        if check or error.code is not ErrorCode.INVALID_MODEL:
            raise
        return None, error.message


@dataclass(frozen=True)
class _Writing:
    """Writes the mixtures of one export. checking: what compares them, None for the reason `unchecked`."""

    adapters: PublishedAdapters
    job: jobs_pb2.Job
    base_name: str
    base_path: str
    checking: ExportCheck | None
    unchecked: str
    merge: bool

    def __call__(self, directory: Path, exported: ExportedMixture) -> Exported:
        spec, schema, version = self.adapters.spec, self.adapters.schema, self.adapters.state.version
        tensors = mix(self.adapters.state, exported.weights)
        whole = self.merge or bool(schema.weights)
        with writing(directory):
            checked = self._write(directory, tensors)
            told = describe_export(spec, schema, self.job, version, exported, self.base_name, whole=whole)
            if checked is not None:
                found = DescribedCheck(rows=checked.rows, difference=checked.difference)
                told = told.model_copy(update={"checked": found})
            write_description(directory, told)
            card = model_card(spec, schema, self.job, version, exported, self.base_name, whole=whole, checked=checked)
            (directory / CARD_FILE).write_text(card, encoding="utf-8")
        return Exported(directory, checked, self.unchecked)

    def _write(self, directory: Path, tensors: Mapping[TensorKey, Float32]) -> Checked | None:
        spec, schema, checking = self.adapters.spec, self.adapters.schema, self.checking
        if schema.weights:
            from fedhft.training.full_model import write_full_model  # torch; only this method needs it

            write_full_model(directory, spec, tensors, self.base_path)
        elif not self.merge:
            write_adapter(directory, spec, schema, tensors, self.base_name, self.base_path)
            if checking is not None:
                checking.write_tokenizer(directory)
        elif checking is not None:
            with tempfile.TemporaryDirectory(prefix="fedhft-export-") as folder:
                write_adapter(Path(folder), spec, schema, tensors, self.base_name, self.base_path)
                checking.compare(Path(folder), tensors, whole=False)
                checking.merge(Path(folder), directory)
        if checking is None:
            return None
        return checking.compare(directory, tensors, whole=self.merge or bool(schema.weights))


def _cluster(scope: str) -> int:
    head, _, number = scope.rpartition("-")
    return int(number) if head == "cluster" else 0
