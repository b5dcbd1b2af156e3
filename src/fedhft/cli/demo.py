"""`fedhft demo`: a local federation of real processes."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from fedhft.cli.output import Report, ReportOption, print_json
from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.device_name import parse_device

if TYPE_CHECKING:
    from rich.console import Console

    from fedhft.datasets.partition import Partition
    from fedhft.reporting.result import DemoResult, RunResult

_MOST_DIGITS = 4
_SUMMARY_RANKS = (0, 0, 4, 2, 3, 1, 5, 6, 7)
"""Columns of the summary that are left out first where there is little room: those with the largest."""
_DATA, _TRAINING, _RUN = "Data", "Training", "Run"


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for report, plots, history and adapters.", rich_help_panel=_RUN)
    ] = Path("out/demo"),
    method: Annotated[
        str,
        typer.Option(
            help="fedhft, fedhft-paper, fedit, ffa-lora, rolora, hetlora, flexlora, flora, fedsa-lora, full or local.",
            rich_help_panel=_TRAINING,
        ),
    ] = "fedhft",
    compare: Annotated[
        str,
        typer.Option(help="Further methods on the same clients, e.g. fedit,local.", rich_help_panel=_TRAINING),
    ] = "",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with train and validation (.jsonl, .csv or .parquet) and meta.json.",
            show_default="a generated corpus of support tickets",
            rich_help_panel=_DATA,
        ),
    ] = None,
    clients: Annotated[int, typer.Option(help="Number of clients, one agent process each.", rich_help_panel=_DATA)] = 6,
    per_client: Annotated[
        int, typer.Option(help="Rows per client (with --data); a fifth of them is held out.", rich_help_panel=_DATA)
    ] = 400,
    partition: Annotated[
        str, typer.Option(help="How --data is partitioned: dirichlet, groups or iid.", rich_help_panel=_DATA)
    ] = "dirichlet",
    alpha: Annotated[
        float, typer.Option(help="Dirichlet concentration; smaller means more skew.", rich_help_panel=_DATA)
    ] = 1.0,
    groups: Annotated[
        int, typer.Option(help="Hidden groups, each with its own meaning of the labels.", rich_help_panel=_DATA)
    ] = 2,
    extra_holdout: Annotated[
        int,
        typer.Option(
            help="Extra held-out rows per client (with --data), for steadier personal scores.", rich_help_panel=_DATA
        ),
    ] = 0,
    validation_rows: Annotated[
        int, typer.Option(help="Largest number of shared validation rows (with --data).", rich_help_panel=_DATA)
    ] = 2000,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Rounds to run.", show_default="6; 12 where devices are planned for", rich_help_panel=_TRAINING
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of data, partition and training.", rich_help_panel=_TRAINING)] = 0,
    tiers: Annotated[
        str,
        typer.Option(
            help="Row densities of the device classes (hetlora, flexlora, flora: shares of the rank); clients take them"
            " in turn.",
            rich_help_panel=_TRAINING,
        ),
    ] = "1.0,0.5,0.25",
    clusters: Annotated[
        str,
        typer.Option(help="J or auto, for clustered methods.", show_default="the method's", rich_help_panel=_TRAINING),
    ] = "",
    epochs: Annotated[float, typer.Option(help="Local epochs per round.", rich_help_panel=_TRAINING)] = 1.0,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="AdamW learning rate.", show_default="3e-3; full: 1e-4", rich_help_panel=_TRAINING),
    ] = None,
    learning_rate_decay: Annotated[
        float, typer.Option(help="Factor on the learning rate per round.", rich_help_panel=_TRAINING)
    ] = 1.0,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other field of the job, e.g. server.momentum=0.5; repeatable. "
            "method.* and wire.* apply to --method only.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of the base model.", show_default="the packaged MiniLM", rich_help_panel=_TRAINING
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where agents train: auto, cpu, cuda, cuda:N or mps. They share it.", rich_help_panel=_TRAINING
        ),
    ] = "auto",
    devices: Annotated[
        str,
        typer.Option(
            help="What agents are held to: classes (three: a share of a core, memory and a link each), none, or a TOML "
            "file (see docs/operations.md). Plans then follow from what is measured. With --simulate: a file of "
            "profiles by which time passes.",
            show_default="classes; with --compare or --simulate none",
            rich_help_panel=_TRAINING,
        ),
    ] = "",
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="Run in one process: the same rounds and scores, but no sockets, so no byte or memory figures, and "
            "no exported adapters.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    tls: Annotated[
        bool,
        typer.Option(
            "--tls", help="Mutual TLS on every connection, with certificates made for this run.", rich_help_panel=_RUN
        ),
    ] = False,
    keep_logs: Annotated[
        bool, typer.Option("--keep-logs", help="Keep logs, Redis data and agent states.", rich_help_panel=_RUN)
    ] = False,
    timeout: Annotated[
        float, typer.Option(help="Longest time one method may take, seconds.", rich_help_panel=_RUN)
    ] = 3600.0,
    output: ReportOption = Report.TABLE,
) -> None:
    """Run a whole federation on this machine: Redis, clusterer, aggregator and agents as real processes talking gRPC.

    Writes report.md, plots, results.json, every method's history and the exported adapters under --out. With -o
    json standard output is one object {"runs": [...]}; progress goes to standard error.
    """
    from rich.console import Console

    from fedhft.demo.run import run_demo
    from fedhft.demo.settings import DemoSettings
    from fedhft.reporting.table import RoundTable

    settings = DemoSettings(
        out=out,
        method=method,
        compare=tuple(name.strip() for name in compare.split(",") if name.strip()),
        data=data,
        clients=clients,
        per_client=per_client,
        alpha=alpha,
        partition=parse_partition(partition),
        groups=groups,
        extra_holdout=extra_holdout,
        validation_rows=validation_rows,
        tiers=parse_densities(tiers),
        rounds=rounds,
        seed=seed,
        epochs=epochs,
        learning_rate=learning_rate,
        learning_rate_decay=learning_rate_decay,
        clusters=parse_clusters(clusters),
        overrides=tuple(set_ or ()),
        model=model,
        device=parse_device(device),
        devices=devices,
        simulate=simulate,
        tls=tls,
        keep_logs=keep_logs,
        timeout_s=timeout,
    )
    console = Console(stderr=output is Report.JSON)
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        with RoundTable(console) as table:
            result = run_demo(settings, table)
    except (KeyboardInterrupt, SystemExit):
        if out.exists():
            with contextlib.suppress(OSError, SystemExit):  # the reader may be gone
                _say(console, f"stopped before the end; what was written so far is in {out}")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if output is Report.JSON:
        print_json(result.as_dict())
    else:
        print_summary(console, result)
        _say(console, f"report: {out / 'report.md'}")


def parse_partition(text: str) -> Partition:
    """`dirichlet`, `groups` or `iid`. Raises FedhftError(INVALID_ARGUMENT)."""
    from fedhft.datasets.partition import Partition

    try:
        return Partition(text)
    except ValueError:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "partition", text, "unknown", f"choose from {', '.join(Partition)}"
        ) from None


def parse_densities(text: str) -> tuple[float, ...]:
    """`1.0,0.5` as numbers. Raises FedhftError(INVALID_ARGUMENT)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "tiers", text, "is not a list of densities", "write 1.0,0.5,0.25"
        ) from None


def parse_clusters(text: str) -> int | str | None:
    """`auto`, a number, or nothing. Raises FedhftError(INVALID_ARGUMENT)."""
    if text in ("", "auto"):
        return text or None
    if len(text) > _MOST_DIGITS or not text.isdecimal() or int(text) < 1:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "clusters", text, "is not a number", "write auto, 1, 2, ..."
        )
    return int(text)


def print_summary(console: Console, result: DemoResult) -> None:
    """Methods side by side."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from fedhft.reporting.columns import fitting, left_out
    from fedhft.reporting.table import shown, size

    # Narrow enough for 80 columns, even with the largest figures; where there is less room, columns are left out.
    title = "Scores before local training, bytes per client and round"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    heads = ("method", "personal", "worst\ntenth", "after", "shared", "up", "down", "agent\nmemory", "seconds")
    rows = [
        (
            run.method,
            shown(run.personal.before.mean),
            shown(run.personal.before.worst_tenth),
            shown(run.personal.after.mean),
            shown(run.validation.before),
            size(run.bytes.up_per_client_round),
            size(run.bytes.down_per_client_round),
            size(run.agent_peak_rss_bytes.max),
            f"{run.wall_seconds:.0f}",
        )
        for run in result.runs
    ]
    lines = [[*head.split("\n"), *(row[index] for row in rows)] for index, head in enumerate(heads)]
    places, _ = fitting([max(map(len, column)) for column in lines], _SUMMARY_RANKS, 1, console.width)
    for place in places:
        table.add_column(heads[place], justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(row[place] for place in places))
    console.print(table)
    if missing := left_out([head.replace("\n", " ") for head in heads], places):
        console.print(missing, markup=False, highlight=False)
    for run in result.runs:
        found = run.clusters
        if found.adjusted_rand_index is not None:
            console.print(
                f"{run.method}: {found.count} cluster(s), adjusted Rand index {found.adjusted_rand_index:.3f} against "
                f"the hidden groups, mean largest membership {shown(found.mean_max_membership)}",
                markup=False,
                highlight=False,
            )
        print_devices(console, run)


def print_devices(console: Console, run: RunResult) -> None:
    """What each device was given to do, where plans went by capacity."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    if not run.devices:
        return
    title = f"{run.method}: plans by what devices were measured to do"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for head in ("client", "device", "core", "layers", "steps", "seconds", "what limits it"):
        right = head in ("core", "layers", "seconds")
        table.add_column(head, justify="right" if right else "left", no_wrap=head != "what limits it")
    for one in run.devices:
        table.add_row(
            one.client,
            one.device or "-",
            "-" if one.cpu is None else f"{one.cpu:.0%}",
            str(one.layers or "-"),
            f"{one.steps} of {one.epoch_steps}",
            f"{one.seconds:.1f}",
            escape(one.why),
        )
    console.print(table)


def _say(console: Console, text: str) -> None:
    """Print a line without wrapping it, so that a path in it can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _stop(number: int, frame: FrameType | None) -> None:
    # Like Ctrl-C: unwinds, so that the federation stops in order.
    raise SystemExit(128 + number)
