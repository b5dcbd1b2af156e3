"""The model card of an exported adapter, a README.md for model hubs: what it is, how it scored, how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedhft.adapter import AdapterSchema
from fedhft.aggregation.mixture import strongest
from fedhft.job import JobSpec
from fedhft.rounds.summary import spread
from fedhft.training.tasks import Task, task_of
from fedhft.v1 import jobs_pb2

_MOMENTS = ("before", "after")


@dataclass(frozen=True)
class ExportedMixture:
    """One exported adapter: a weighting of a version's clusters, and the clients whose scores describe it.

    name: of its folder. weights: over the clusters, sum 1. of_one_client: whether it is the mixture of the client in
    `clients` rather than a cluster.
    """

    name: str
    weights: tuple[float, ...]
    clients: tuple[str, ...]
    of_one_client: bool = False

    @classmethod
    def of_cluster(
        cls, cluster: int, clusters: int, clients: Sequence[str], memberships: Mapping[str, Sequence[float]]
    ) -> ExportedMixture:
        """A cluster alone. Its clients are those whose largest membership it is; all clients when it is the only one.

        clients: of the whole job. memberships: client -> weights over clusters.
        """
        members = tuple(
            client
            for client in clients
            if clusters == 1 or (client in memberships and strongest(memberships[client]) == cluster)
        )
        return cls(f"cluster-{cluster}", tuple(float(cluster == other) for other in range(clusters)), members)

    @classmethod
    def of_client(cls, client: str, weights: Sequence[float]) -> ExportedMixture:
        """The mixture that one client is served."""
        return cls(f"client-{client}", tuple(weights), (client,), of_one_client=True)


def model_card(
    spec: JobSpec, schema: AdapterSchema, job: jobs_pb2.Job, version: int, exported: ExportedMixture, base_name: str
) -> str:
    """The whole card, Markdown with front matter. base_name: hub id or path of the base model."""
    task = task_of(spec.task)
    what = "A model made from" if schema.weights else "A LoRA adapter for"
    parts = [
        _front_matter(schema, task, base_name),
        f"# {job.job}, {exported.name}",
        f"{what} `{base_name}`, trained by federated learning with fedhft: the data never left its owners.",
        _facts(spec, schema, task, job, version, exported),
        _scores(job, exported),
        "## Loading it",
        "\n".join(["```python", *_loading(schema, task, base_name), "```"]),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(schema: AdapterSchema, task: Task, base_name: str) -> str:
    library = "transformers" if schema.weights else "peft"
    lines = ["---", f"library_name: {library}", f"pipeline_tag: {task.pipeline_tag}"]
    lines.append("tags: [fedhft, federated-learning]")
    if not Path(base_name).is_absolute():  # a path on this machine means nothing elsewhere
        lines.append(f"base_model: {base_name}")
    return "\n".join([*lines, "---"])


def _facts(
    spec: JobSpec, schema: AdapterSchema, task: Task, job: jobs_pb2.Job, version: int, exported: ExportedMixture
) -> str:
    adapter = spec.adapter
    lines = [f"* method {spec.method.preset}, {job.rounds_done} rounds, version {version}, seed {spec.seed}"]
    if not schema.weights:
        lines.append(f"* rank {adapter.rank}, alpha {adapter.alpha:g}, modules {adapter.targets_line}")
    lines += [
        f"* labels: {task.labels_line()}",
        f"* base model digest: `{schema.base_digest}`",
        f"* weights over the {len(exported.weights)} cluster(s): "
        f"{', '.join(f'{weight:.3f}' for weight in exported.weights)}",
    ]
    if not exported.of_one_client:
        lines.append(f"* clients of this cluster: {len(exported.clients)} of {len(job.clients)}")
    return "\n".join(lines)


def _scores(job: jobs_pb2.Job, exported: ExportedMixture) -> str:
    """A table of the final scores of the adapter's own clients, or a sentence when there are none."""
    scored = [result for result in job.results if result.client in exported.clients]
    if not scored:
        return "No score: none of this adapter's clients took part in a final evaluation."
    personal = [_over(scored, f"personal_{moment}") for moment in _MOMENTS]
    # Clients may score unequal shares of the common rows; for all clients together the job has the mean over rows.
    whole = [job.final] if len(exported.weights) == 1 and not exported.of_one_client else scored
    shared = [_over(whole, f"shared_{moment}")[0] for moment in _MOMENTS]
    rows = [("own held-out rows", [mean for mean, _ in personal]), ("common validation rows", shared)]
    notes = []
    if not exported.of_one_client:
        rows[:1] = [
            ("own held-out rows, mean of the clients", [mean for mean, _ in personal]),
            ("own held-out rows, mean of the lowest tenth of the clients", [tenth for _, tenth in personal]),
        ]
        if len(exported.weights) > 1:
            notes = ["", "Every client was scored with its own mixture of the clusters."]
    lines = [f"| {_whose(job, exported, len(scored))} | before local training | after |", "| --- | --- | --- |"]
    lines += [f"| {title} | {' | '.join(map(_shown, values))} |" for title, values in rows]
    return "\n".join([*lines, *notes])


def _whose(job: jobs_pb2.Job, exported: ExportedMixture, scored: int) -> str:
    if exported.of_one_client:
        return f"score of client {exported.clients[0]}"
    number = f"all {scored}" if scored == len(job.clients) else f"{scored} of {len(job.clients)}"
    members = ", those whose largest membership this cluster is" if len(exported.weights) > 1 else ""
    return f"score over {number} clients{members}"


def _over(
    results: Sequence[jobs_pb2.ClientResult | jobs_pb2.RoundSummary], name: str
) -> tuple[float | None, float | None]:
    """Mean of a figure, and its mean over the lowest tenth of the results (at least one)."""
    found = spread(getattr(result, name) if result.HasField(name) else None for result in results)  # type: ignore[arg-type]
    return (None, None) if found is None else found[:2]


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _loading(schema: AdapterSchema, task: Task, base_name: str) -> list[str]:
    """Python that loads the directory. Training was in float32, but transformers loads in a checkpoint's own dtype."""
    if schema.weights:
        return [
            "import torch",
            f"from transformers import {task.auto_class}",
            "",
            f"model = {task.auto_class}.from_pretrained(DIRECTORY, dtype=torch.float32)",
        ]
    width = "".join(f", {name}={value!r}" for name, value in task.auto_arguments.items())
    code = [
        "import torch",
        "from peft import PeftModel",
        f"from transformers import {task.auto_class}",
        "",
        "# It was trained in float32; without dtype, transformers uses the checkpoint's own.",
        f'base = {task.auto_class}.from_pretrained("{base_name}"{width}, dtype=torch.float32)',
    ]
    if "score.weight" in {parameter.name for parameter in schema.head}:  # decoders find a row's end by its padding
        code.append("base.config.pad_token_id = PAD  # the tokenizer's pad token; its end token if it has none")
    return [*code, "model = PeftModel.from_pretrained(base, DIRECTORY).eval()"]
