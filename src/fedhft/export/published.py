"""From a job on a server to PEFT directories on disk: one per cluster and, on request, one per client's mixture."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedhft.adapter import AdapterSchema, AdapterState
from fedhft.aggregation.mixture import mix, served
from fedhft.aggregation.versions import apply_delta
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.model_card import ExportedMixture, model_card
from fedhft.export.peft_directory import write_adapter
from fedhft.job import JobSpec, load_canonical
from fedhft.jobs.client import JobsClient
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

    Raises FedhftError, JOB_NOT_RUNNING when nothing was published, INVALID_ARGUMENT when the server does not keep it.
    """
    export = client.export(job, version)
    schema = AdapterSchema.from_json(export.schema_json)
    memberships = {row.client: tuple(row.weights) for row in export.memberships.rows}
    clusters = export.memberships.clusters or 1 + max((_cluster(ref.scope) for ref in export.blobs), default=0)
    state = AdapterState(export.version, clusters)
    for ref in export.blobs:
        state = apply_delta(state, decode(client.blob(job, ref), schema, kind=adapter_pb2.BLOB_KIND_SNAPSHOT))
    return PublishedAdapters(load_canonical(export.spec_json), schema, state, memberships)


def write_adapters(
    adapters: PublishedAdapters, out: Path, job: jobs_pb2.Job, base_name: str = "", clients: Collection[str] = ()
) -> list[Path]:
    """Write out/cluster-j for every cluster and out/client-<id> for each of `clients`; returns the directories.

    base_name: what the model card and adapter_config.json call the base model; empty takes the job's name for it.
    Raises FedhftError(INVALID_ARGUMENT) for a client that is not in the job.
    """
    unknown = sorted(set(clients) - set(job.clients))
    if unknown:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "client", unknown[0], f"is not in job {job.job}",
            f"choose from {', '.join(job.clients)}",
        )  # fmt: skip
    count, floor = adapters.state.clusters, adapters.spec.clustering.serve_above
    every = [ExportedMixture.of_cluster(j, count, job.clients, adapters.memberships) for j in range(count)]
    for client in dict.fromkeys(clients):
        membership = adapters.memberships.get(client, (1.0 / count,) * count)
        every.append(ExportedMixture.of_client(client, served(membership, floor)))
    if adapters.state.version < job.rounds_done:  # the final scores are those of the last version
        job = jobs_pb2.Job(job=job.job, clients=job.clients, rounds_done=adapters.state.version)
    spec, schema, name = adapters.spec, adapters.schema, base_name or adapters.spec.model.name
    for exported in every:
        card = model_card(spec, schema, job, adapters.state.version, exported, name)
        write_adapter(out / exported.name, spec, schema, mix(adapters.state, exported.weights), card, name)
    return [out / exported.name for exported in every]


def _cluster(scope: str) -> int:
    head, _, number = scope.rpartition("-")
    return int(number) if head == "cluster" else 0
