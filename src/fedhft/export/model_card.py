"""The model card of an exported adapter, a README.md for model hubs: what it is, how it scored, how to load it."""

from __future__ import annotations

from pathlib import Path

from fedhft.adapter import AdapterSchema
from fedhft.export.mixture import ExportedMixture
from fedhft.export.scores import adapter_scores
from fedhft.job import JobSpec
from fedhft.training.export_check import Checked
from fedhft.training.tasks import Task, task_of
from fedhft.v1 import jobs_pb2

CARD_FILE = "README.md"


def model_card(
    spec: JobSpec,
    schema: AdapterSchema,
    job: jobs_pb2.Job,
    version: int,
    exported: ExportedMixture,
    base_name: str,
    *,
    whole: bool | None = None,
    checked: Checked | None = None,
) -> str:
    """The whole card, Markdown with front matter.

    base_name: hub id or path of the base model. whole: whether the directory holds a whole model (None: when the job
    trains one). checked: how it compared with what was trained.
    """
    task = task_of(spec.task)
    whole = bool(schema.weights) if whole is None else whole
    what = "A model made from" if whole else "A LoRA adapter for"
    parts = [
        _front_matter(whole, task, base_name),
        f"# {job.job}, {exported.name}",
        f"{what} `{base_name}`, trained by federated learning with fedhft: the data never left its owners.",
        _facts(spec, schema, task, job, version, exported, checked),
        _scores(job, exported),
        "## Loading it",
        "\n".join(["```python", *_loading(schema, task, base_name, whole), "```"]),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(whole: bool, task: Task, base_name: str) -> str:
    library = "transformers" if whole else "peft"
    lines = ["---", f"library_name: {library}", f"pipeline_tag: {task.pipeline_tag}"]
    lines.append("tags: [fedhft, federated-learning]")
    if not Path(base_name).is_absolute():  # a path on this machine means nothing elsewhere
        lines.append(f"base_model: {base_name}")
    return "\n".join([*lines, "---"])


def _facts(
    spec: JobSpec,
    schema: AdapterSchema,
    task: Task,
    job: jobs_pb2.Job,
    version: int,
    exported: ExportedMixture,
    checked: Checked | None,
) -> str:
    adapter = spec.adapter
    lines = [f"* method {spec.method.preset}, {job.rounds_done} rounds, version {version}, seed {spec.seed}"]
    if not schema.weights:
        ranks = sorted({slot.rank for slot in schema.slots})
        shown = f"ranks {ranks[0]} to {ranks[-1]} by layer" if len(ranks) > 1 else f"rank {[*ranks, adapter.rank][0]}"
        lines.append(f"* {shown}, alpha {adapter.alpha:g}, modules {adapter.targets_line}")
    lines += [
        f"* labels: {task.labels_line()}",
        f"* base model digest: `{schema.base_digest}`",
        f"* weights over the {len(exported.weights)} cluster(s): "
        f"{', '.join(f'{weight:.3f}' for weight in exported.weights)}",
    ]
    if exported.of_everybody:
        lines.append("* one adapter for everybody: every cluster weighs by the training rows of its clients")
    elif not exported.of_one_client:
        lines.append(f"* clients of this cluster: {len(exported.clients)} of {len(job.clients)}")
    if checked is not None:
        lines.append(
            f"* loaded again without fedhft: on {checked.rows} rows its logits differ from what was trained by at most "
            f"{checked.difference:.1g} of the largest"
        )
    return "\n".join(lines)


def _chosen(job: jobs_pb2.Job) -> str:
    """By what the version was found to be the best, where it is."""
    if not job.HasField("best") or job.best.version != job.rounds_done:
        return ""
    return (
        f" It is the best version of its job by {job.best.by}: {job.best.score:.4g} over all clients of round "
        f"{job.best.round}. The version was chosen by this figure, so on other rows expect less."
    )


def _scores(job: jobs_pb2.Job, exported: ExportedMixture) -> str:
    """A table of the final scores of the adapter's own clients, or a sentence when there are none."""
    found = adapter_scores(job, exported)
    if not found.results:
        return "No score: none of this adapter's clients took part in a final evaluation." + _chosen(job)
    rows = [("own held-out rows", [mean for mean, _ in found.personal]), ("common validation rows", found.shared)]
    notes = []
    if not exported.of_one_client:
        rows[:1] = [
            ("own held-out rows, mean of the clients", [mean for mean, _ in found.personal]),
            ("own held-out rows, mean of the lowest tenth of the clients", [tenth for _, tenth in found.personal]),
        ]
        if len(exported.weights) > 1:
            notes = ["", "Every client was scored with its own mixture of the clusters."]
            if exported.of_everybody and job.final.HasField("shared_mass_weighted"):
                notes[1] += (
                    f" This one scored {job.final.shared_mass_weighted:.3f} on the common rows, before training."
                )
    for title, losses in zip(
        ("loss on own held-out rows", "loss on common validation rows"), found.losses, strict=True
    ):
        if any(loss is not None for loss in losses):
            rows.append((title, losses))
    for name, (personal, shared, floor) in list(found.metrics.items())[1:]:
        notes += ["", f"{name}: {_shown(personal)} on own held-out rows, {_shown(shared)} on common validation rows; "
                  f"the best constant answer {_shown(floor)} on own rows."]  # fmt: skip
    lines = [f"| {_whose(job, exported, len(found.results))} | before local training | after |", "| --- | --- | --- |"]
    lines += [f"| {title} | {' | '.join(map(_shown, values))} |" for title, values in rows]
    return "\n".join([*lines, *notes])


def _whose(job: jobs_pb2.Job, exported: ExportedMixture, scored: int) -> str:
    if exported.of_one_client:
        return f"score of client {exported.clients[0]}"
    number = f"all {scored}" if scored == len(job.clients) else f"{scored} of {len(job.clients)}"
    members = (
        ", those whose largest membership this cluster is"
        if len(exported.weights) > 1 and not exported.of_everybody
        else ""
    )
    return f"score over {number} clients{members}"


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _loading(schema: AdapterSchema, task: Task, base_name: str, whole: bool) -> list[str]:
    """Python that loads the directory. Training was in float32, but transformers loads in a checkpoint's own dtype."""
    if whole:
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
