"""The report of a demo, Markdown: what was run, how every method scored and what it cost, and how to read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedhft.datasets.federated import FederatedData, label_counts
from fedhft.job import JobSpec
from fedhft.local.devices import LocalDevice
from fedhft.reporting.result import RunResult, clusters_of, measured
from fedhft.reporting.table import depths, shown, size
from fedhft.v1 import jobs_pb2, plans_pb2


@dataclass(frozen=True)
class MethodRun:
    """One finished method: its job as submitted, as it ended, and summarised."""

    spec: JobSpec
    job: jobs_pb2.Job
    result: RunResult
    plans: plans_pb2.ExplainPlanResponse | None = None
    """Where it plans by capacity: who trained what in the end, and why."""
    devices: Mapping[str, LocalDevice] = field(default_factory=dict)
    """Client -> what its agent was held to."""


def fewest_rows(data: FederatedData) -> frozenset[str]:
    """The third of the clients with the fewest training rows, ties included."""
    sizes = sorted(len(client.train) for client in data.clients)
    limit = sizes[max(1, round(len(sizes) / 3)) - 1]
    return frozenset(client.client for client in data.clients if len(client.train) <= limit)


def mean_over(run: MethodRun, clients: frozenset[str], name: str) -> float | None:
    """Mean of a final figure (`personal_before`, ...) over some clients; None if it is missing for any of them."""
    values = [measured(result, name) for result in run.job.results if result.client in clients]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(clients) else None


def write_report(runs: Sequence[MethodRun], data: FederatedData, plots: Mapping[str, str]) -> str:
    """The whole report. plots: title -> path relative to the report."""
    main = runs[0]
    parts = [
        f"# Federation report: {main.result.method} on {data.name}",
        _overview(main, data),
        "## Scores",
        _scores(runs, data),
        *_metrics(runs),
        "## The clients with the least data",
        _least(runs, data),
        "## What it cost",
        _costs(runs),
        *_device_section(runs),
        *_membership_section(runs, data),
        "## Rounds",
        *(part for run in runs for part in (_rounds(run), *_time_spent(run))),
        "## Clients",
        _clients(runs, data),
        *([] if not plots else ["## Plots", *(f"![{title}]({path})" for title, path in plots.items())]),
        *_adapter_section(runs),
        "## How to read this",
        _LEGEND,
    ]
    return "\n\n".join(parts) + "\n"


_LEGEND = """\
* **personal** (elsewhere: personalised accuracy): every client's own held-out rows, with the adapter that client is
  served. *Before* is what the federation gives a client; *after* is what the client has after one more local training
  from there.
* **shared** (global accuracy): the common validation rows. Every client scores a part with its own mixture;
  *mass-weighted* scores a single adapter for all clients. Where hidden groups permute the labels, each client scores
  the common texts with its own group's labels.
* **worst tenth** (bottom decile): mean over the tenth of clients that score lowest (at least one).
* **majority label** (majority-class baseline): always answering a client's most frequent training label.
* Bytes per client and round are from the kernel's TCP counters of the agents' sockets; they include protocol overhead,
  joining and the final evaluation (for which every client fetches all clusters). Bytes of a single round are adapters
  alone."""


def _overview(main: MethodRun, data: FederatedData) -> str:
    spec = main.spec
    rows = [len(client.train) for client in data.clients]
    held = [len(client.holdout) for client in data.clients]
    lines = [
        f"* {len(data.clients)} clients with {_span(rows)} training rows and {_span(held)} held-out rows each; "
        f"{len(data.shared[0])} common validation rows; {len(data.labels) or 'no'} labels",
        f"* base model `{spec.model.name}`, LoRA rank {spec.adapter.rank}, alpha {spec.adapter.alpha:g} on "
        f"{spec.adapter.targets_line}",
        f"* {spec.rounds.total} rounds of {spec.training.epochs:g} local epoch(s), learning rate "
        f"{spec.training.learning_rate:g}, seed {spec.seed}",
    ]
    if data.has_groups:
        lines.append(
            f"* {len(data.shared)} hidden groups, each with its own meaning of the labels; the federation is not told"
        )
    return "\n".join(lines)


def _scores(runs: Sequence[MethodRun], data: FederatedData) -> str:
    def row(run: MethodRun) -> list[str]:
        personal, shared = run.result.personal, run.result.validation
        return [
            run.result.method,
            shown(personal.before.mean), shown(personal.before.worst_tenth), shown(personal.before.worst),
            shown(personal.after.mean), shown(personal.after.worst_tenth), shown(personal.after.worst),
            shown(shared.before), shown(shared.after), shown(shared.mass_weighted),
            shown(measured(run.job.final, "personal_loss_before_median")),
            shown(measured(run.job.final, "shared_loss_before")),
        ]  # fmt: skip

    heads = (
        "method", "personal before", "worst tenth", "worst", "personal after", "worst tenth", "worst",
        "shared before", "shared after", "mass-weighted", "personal loss before", "shared loss before",
    )  # fmt: skip
    table = _table(heads, map(row, runs))
    return (
        f"{table}\n\nAnswering the majority label would score {data.majority():.3f} (personal)."
        if data.labels
        else table
    )


def _metrics(runs: Sequence[MethodRun]) -> list[str]:
    """Every metric of the task; nothing where there is none beside the score."""
    fields = ("personal_before", "personal_after", "shared_before", "floor")
    rows = [
        [run.result.method, one.name, *(shown(measured(one, field)) for field in fields)]
        for run in runs
        for one in run.job.final.metrics
        if len(run.job.final.metrics) > 1
    ]
    heads = ("method", "metric", "personal before", "personal after", "shared before", "constant answer (personal)")
    return [_table(heads, rows)] if rows else []


def _least(runs: Sequence[MethodRun], data: FederatedData) -> str:
    clients = fewest_rows(data)
    rows = sorted({len(client.train) for client in data.clients if client.client in clients})
    cells = [
        [run.result.method, *(shown(mean_over(run, clients, f"personal_{moment}")) for moment in ("before", "after"))]
        for run in runs
    ]
    names = ", ".join(sorted(clients))
    return f"{names}: {_span(rows)} training rows.\n\n" + _table(("method", "personal before", "personal after"), cells)


def _costs(runs: Sequence[MethodRun]) -> str:
    def row(run: MethodRun) -> list[str]:
        result = run.result
        cpu = result.aggregator_cpu_seconds
        return [
            result.method,
            size(result.bytes.up_per_client_round),
            size(result.bytes.down_per_client_round),
            size(result.agent_peak_rss_bytes.max),
            size(result.agent_peak_rss_bytes.mean),
            "-" if cpu is None else f"{cpu:.1f}",
            f"{result.wall_seconds:.0f}",
        ]

    heads = (
        "method", "up per client and round", "down", "agent peak memory, max", "mean",
        "aggregator CPU seconds", "wall seconds",
    )  # fmt: skip
    return _table(heads, map(row, runs))


def _device_section(runs: Sequence[MethodRun]) -> list[str]:
    """What agents were held to, and what was planned for each by what it was measured to do."""
    devices = runs[0].devices
    parts = ["## Devices and plans"] if devices or any(run.plans for run in runs) else []
    if devices:
        heads = ("client", "device", "share of a core", "memory", "up", "down")
        rows = [
            [
                client, device.name or "-", f"{device.cpu:g}", size(device.memory) if device.memory else "all",
                f"{size(device.up)}/s", f"{size(device.down)}/s",
            ]
            for client, device in sorted(devices.items())
        ]  # fmt: skip
        parts.append(_table(heads, rows))
    for run in runs:
        if run.plans is not None and run.plans.clients:
            parts += [_plans_line(run, run.plans), _plans(run.plans)]
    return parts


def _plans_line(run: MethodRun, plans: plans_pb2.ExplainPlanResponse) -> str:
    return (
        f"**{run.result.method}** was not told what the devices are: plans follow what each was measured to do. Those "
        f"of the end were made for round {plans.round} ({plans.reason}): rounds of {plans.horizon_seconds:.3g} s, of "
        f"which clients wait {plans.waiting:.0%}."
    )


def _plans(plans: plans_pb2.ExplainPlanResponse) -> str:
    heads = ("client", "tier", "layers", "steps", "seconds", "ms per layer, forward + backward", "why not more")
    rows = [
        [
            one.client, one.tier, f"{one.depth} of {plans.layers}" if one.steps else "sits out",
            f"{one.steps} of {one.epoch_steps}", f"{one.seconds:.3g}",
            f"{one.capacity.forward_ms:.3g} + {one.capacity.backward_ms:.3g}", one.why,
        ]
        for one in plans.clients
    ]  # fmt: skip
    return _table(heads, rows)


def _membership_section(runs: Sequence[MethodRun], data: FederatedData) -> list[str]:
    clustered = [run for run in runs if run.spec.method.is_clustered and run.job.memberships.rows]
    if not clustered:
        return []
    group_of = {client.client: client.group for client in data.clients}
    parts = ["## Clusters"]
    for run in clustered:
        found = run.result.clusters
        index = "" if found.adjusted_rand_index is None else f", adjusted Rand index {found.adjusted_rand_index:.3f}"
        parts.append(
            f"**{run.result.method}**: {found.count} cluster(s){index}, "
            f"mean largest membership {shown(found.mean_max_membership)}"
        )
        heads = ["client", *(["hidden group"] if data.has_groups else [])]
        heads += [f"cluster-{cluster}" for cluster in range(run.job.memberships.clusters)]
        rows = [
            [
                row.client,
                *([str(group_of.get(row.client, "-"))] if data.has_groups else []),
                *(f"{weight:.3f}" for weight in row.weights),
            ]
            for row in run.job.memberships.rows
        ]
        parts.append(_table(heads, rows))
    return parts


def _rounds(run: MethodRun) -> str:
    rows = [
        [
            str(entry.round),
            shown(measured(entry, "personal_before_mean")),
            shown(measured(entry, "personal_after_mean")),
            shown(measured(entry, "shared_before")),
            shown(measured(entry, "personal_loss_before_median")),
            size(entry.payload_bytes_up),
            size(entry.payload_bytes_down),
            "+".join(map(str, entry.cluster_sizes)) or "-",
            depths(entry.work),
            str(entry.work.steps),
            f"{entry.seconds:.1f}",
            f"{entry.evaluate_seconds_mean:.1f}",
        ]
        for entry in (*run.job.history, *([run.job.final] if run.job.HasField("final") else []))
    ]
    heads = (
        "round",
        "personal before",
        "personal after",
        "shared before",
        "loss before",
        "up",
        "down",
        "clusters",
        "layers",
        "steps",
        "seconds",
        "scoring",
    )
    return (
        f"**{run.result.method}** (the last line is the final evaluation; scores are those at its start; layers: with "
        "adapters, fewest to most; steps: of all clients; scoring: seconds of a client, mean)\n\n" + _table(heads, rows)
    )


def _time_spent(run: MethodRun) -> list[str]:
    """Where clients' time went, round by round; nothing where no client measured it."""
    activities = [field.name for field in jobs_pb2.TimeSpent.DESCRIPTOR.fields]
    rows = [
        [str(entry.round), *(f"{getattr(entry.work.seconds, name):.2f}" for name in activities)]
        for entry in run.job.history
        if entry.work.HasField("seconds")
    ]
    if not rows:
        return []
    what = f"Where the time of a client went, **{run.result.method}**, seconds, mean over clients (fill: passing rows "
    what += "through the frozen layers, once; send: of the update before; wait: for the last update of the round)"
    return [f"{what}\n\n{_table(['round', *activities], rows)}"]


def _clients(runs: Sequence[MethodRun], data: FederatedData) -> str:
    results: list[Mapping[str, jobs_pb2.ClientResult]] = [{r.client: r for r in run.job.results} for run in runs]
    cluster_of = clusters_of(runs[0].job.memberships)
    rows = []
    for client in data.clients:
        own = results[0].get(client.client)
        cells = [
            client.client,
            str(client.group) if data.has_groups else "-",
            str(cluster_of.get(client.client, "-")),
            own.tier if own else "-",
            str(len(client.train)),
            "/".join(map(str, label_counts(client.train, len(data.labels)))) if 0 < len(data.labels) <= 8 else "-",
        ]
        for found in results:
            result = found.get(client.client)
            cells += [_figure(result, f"personal_{moment}") for moment in ("before", "after")]
        rows.append(cells)
    heads = ["client", "group", "cluster", "tier", "rows", "rows by label"]
    for run in runs:
        heads += [f"{run.result.method} before", f"{run.result.method} after"]
    return _table(heads, rows)


def _adapter_section(runs: Sequence[MethodRun]) -> list[str]:
    exported = [path for run in runs for path in run.result.adapters]
    if not exported:
        return []
    return ["## Adapters", "\n".join(f"* `{path}`" for path in exported), "Each loads with plain PEFT:", _LOADING]


_LOADING = """\
```python
from peft import PeftModel
model = PeftModel.from_pretrained(base_model, "<directory>")  # base_model in float32; see the directory's README.md
```"""


def _figure(result: jobs_pb2.ClientResult | None, name: str) -> str:
    return "-" if result is None else shown(measured(result, name))


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
