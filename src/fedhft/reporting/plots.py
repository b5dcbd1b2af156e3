"""The report's plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedhft.datasets.federated import FederatedData
from fedhft.reporting.report import MethodRun
from fedhft.reporting.result import measured
from fedhft.reporting.table import size

_DPI = 130


def write_plots(runs: Sequence[MethodRun], data: FederatedData, folder: Path) -> dict[str, Path]:
    """Draw every plot for which there is data; returns title -> file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    drawings: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
        "Score by round": ("score-by-round.png", lambda figure, axes: _scores(axes, runs, data)),
        "Bytes per client and round": ("bytes.png", lambda figure, axes: _bytes(axes, runs)),
        "Personal score of every client": ("personal.png", lambda figure, axes: _personal(axes, runs, data)),
        "Memberships": ("memberships.png", lambda figure, axes: _memberships(figure, axes, runs[0], data)),
    }
    written = {}
    for title, (name, draw) in drawings.items():
        figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
        if draw(figure, axes):
            axes.set_title(title)
            figure.savefig(folder / name, dpi=_DPI)
            written[title] = folder / name
        plt.close(figure)
    return written


def _scores(axes: Any, runs: Sequence[MethodRun], data: FederatedData) -> bool:
    """Personal score (solid) and shared score (dashed) of each published version."""
    drawn = False
    for index, run in enumerate(runs):
        following = [*run.job.history[1:], *([run.job.final] if run.job.HasField("final") else [])]
        rounds = [entry.round for entry in run.job.history[: len(following)]]
        for name, style in (("personal_before_mean", "-o"), ("shared_before", "--")):
            points = [(r, measured(entry, name)) for r, entry in zip(rounds, following, strict=True)]
            known = [(r, value) for r, value in points if value is not None]
            if known:
                title = "personal" if style == "-o" else "shared"
                label = f"{run.result.method}, {title}"
                axes.plot(*zip(*known, strict=True), style, color=f"C{index}", markersize=4, label=label)
                drawn = True
    if drawn:
        if data.labels:
            axes.axhline(data.majority(), color="grey", linewidth=1, linestyle=":", label="majority label")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("round")
        axes.set_ylabel("score before local training")
        axes.legend(fontsize=8)
    return drawn


def _bytes(axes: Any, runs: Sequence[MethodRun]) -> bool:
    """KiB up and down, on a logarithmic axis, because methods differ by orders of magnitude."""
    known = [run for run in runs if run.result.bytes.up_per_client_round]
    traffic = [run.result.bytes for run in known]
    sides = {
        "up": [entry.up_per_client_round or 0.0 for entry in traffic],
        "down": [entry.down_per_client_round or 0.0 for entry in traffic],
    }
    for offset, (name, heights) in enumerate(sides.items()):
        places = [index + (offset - 0.5) * 0.38 for index in range(len(known))]
        bars = axes.bar(places, [height / 1024 for height in heights], width=0.36, label=name)
        axes.bar_label(bars, labels=[size(height) for height in heights], fontsize=8)
    axes.set_xticks(range(len(known)), [run.result.method for run in known])
    axes.set_yscale("log")
    axes.set_ylabel("KiB on the sockets (log)")
    if known:
        axes.legend(fontsize=8)
    return bool(known)


def _personal(axes: Any, runs: Sequence[MethodRun], data: FederatedData) -> bool:
    """Per client: before (hollow) and after (filled) local training, clients with the least data first."""
    order = sorted(data.clients, key=lambda client: (len(client.train), client.client))
    drawn = False
    for index, run in enumerate(runs):
        results = {result.client: result for result in run.job.results}
        place = [number + (index - (len(runs) - 1) / 2) * 0.18 for number in range(len(order))]
        for name, filled in (("personal_before", False), ("personal_after", True)):
            points = [
                (x, measured(results[client.client], name))
                for x, client in zip(place, order, strict=True)
                if client.client in results
            ]
            known = [(x, value) for x, value in points if value is not None]
            if known:
                axes.plot(
                    *zip(*known, strict=True), "o", color=f"C{index}", markersize=6,
                    markerfacecolor=f"C{index}" if filled else "none",
                    label=f"{run.result.method}, {'after' if filled else 'before'}",
                )  # fmt: skip
                drawn = True
    axes.set_xticks(
        range(len(order)), [f"{client.client}\n{len(client.train)} rows" for client in order], fontsize=7, rotation=45
    )
    axes.set_ylabel("score on own held-out rows")
    if drawn:
        axes.legend(fontsize=7, ncols=len(runs))
    return drawn


def _memberships(figure: Any, axes: Any, run: MethodRun, data: FederatedData) -> bool:
    """Clients (sorted by hidden group) x clusters."""
    rows = {row.client: list(row.weights) for row in run.job.memberships.rows}
    order = [client for client in sorted(data.clients, key=lambda c: (c.group, c.client)) if client.client in rows]
    if not order or not run.spec.method.is_clustered:
        return False
    image = axes.imshow([rows[client.client] for client in order], vmin=0, vmax=1, aspect="auto", cmap="viridis")
    figure.colorbar(image, ax=axes, label="membership")
    names = [f"{client.client} (group {client.group})" if data.has_groups else client.client for client in order]
    axes.set_yticks(range(len(order)), names, fontsize=8)
    axes.set_xticks(range(run.job.memberships.clusters), [f"cluster-{j}" for j in range(run.job.memberships.clusters)])
    return True
