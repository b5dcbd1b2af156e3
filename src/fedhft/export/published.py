"""From a job on a server to PEFT directories on disk: one per cluster and, on request, one per client's mixture."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhft.adapter import AdapterSchema, AdapterState
from fedhft.aggregation.mixture import mix, served
from fedhft.aggregation.versions import apply_delta
from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.peft_directory import write_adapter
from fedhft.job import JobSpec, load_canonical
from fedhft.jobs.client import JobsClient
from fedhft.v1 import adapter_pb2, jobs_pb2
from fedhft.wire.codec import decode


@dataclass(frozen=True, eq=False)
class PublishedAdapters:
    """The last version of a job, held here. memberships: client -> weights over clusters."""

    spec: JobSpec
    schema: AdapterSchema
    state: AdapterState
    memberships: Mapping[str, tuple[float, ...]]


def fetch_adapters(client: JobsClient, job: str) -> PublishedAdapters:
    """Fetch the last version of a job. Raises FedhftError, JOB_NOT_RUNNING when nothing was published."""
    export = client.export(job)
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
    count = adapters.state.clusters
    views: dict[str, tuple[float, ...]] = {
        f"cluster-{cluster}": tuple(float(cluster == other) for other in range(count)) for cluster in range(count)
    }
    floor = adapters.spec.clustering.serve_above
    for client in clients:
        uniform = (1.0 / count,) * count
        views[f"client-{client}"] = served(adapters.memberships.get(client, uniform), floor)
    name = base_name or adapters.spec.model.name
    for folder, weights in views.items():
        write_adapter(
            out / folder,
            adapters.spec,
            adapters.schema,
            mix(adapters.state, weights),
            model_card(adapters, job, folder, weights, name),
            name,
        )
    return [out / folder for folder in views]


def model_card(
    adapters: PublishedAdapters, job: jobs_pb2.Job, name: str, weights: Sequence[float], base_name: str
) -> str:
    """The card of one exported adapter, Markdown: what it is, whom it serves, how the job scored."""
    spec, final = adapters.spec, job.final
    members = sorted(
        client for client, row in adapters.memberships.items() if row and row.index(max(row)) == _strongest(weights)
    )
    lines = [
        f"# {job.job}, {name}",
        "",
        f"A LoRA adapter for `{base_name}`, trained by federated learning with fedhft: the data never left its owners.",
        "",
        f"* method {spec.method.preset}, {job.rounds_done} rounds, version {adapters.state.version}, seed {spec.seed}",
        f"* rank {spec.adapter.rank}, alpha {spec.adapter.alpha:g}, modules {', '.join(spec.adapter.targets)}",
        f"* labels: {', '.join(adapters.schema.labels) or 'none (regression)'}",
        f"* base model digest: `{adapters.schema.base_digest}`",
        f"* weights over the {adapters.state.clusters} cluster(s): {', '.join(f'{weight:.3f}' for weight in weights)}",
    ]
    if members:
        lines.append(f"* clients of this cluster: {len(members)} of {len(adapters.memberships)}")
    lines += ["", "| score over all clients | before local training | after |", "| --- | --- | --- |"]
    for title, measure in (
        ("own held-out rows, mean", "personal_{}_mean"),
        ("own held-out rows, worst tenth", "personal_{}_worst_tenth"),
        ("common validation rows", "shared_{}"),
    ):
        cells = [_shown(final, measure.format(moment)) for moment in ("before", "after")]
        lines.append(f"| {title} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _strongest(weights: Sequence[float]) -> int:
    return max(range(len(weights)), key=lambda cluster: weights[cluster])


def _shown(summary: jobs_pb2.RoundSummary, name: str) -> str:
    return f"{getattr(summary, name):.3f}" if summary.HasField(name) else "not measured"  # type: ignore[arg-type]


def _cluster(scope: str) -> int:
    head, _, number = scope.rpartition("-")
    return int(number) if head == "cluster" else 0
