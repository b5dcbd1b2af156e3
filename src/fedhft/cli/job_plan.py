"""`fedhft job plan`: who trains what, and what keeps each device from doing more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedhft.cli.completion import JobArgument
from fedhft.cli.device_columns import ENERGY, PASSES, energy, passes, short
from fedhft.cli.output import Column, answer, print_table
from fedhft.cli.server_options import ServerOptions, with_server_options
from fedhft.errors import ErrorCode, FedhftError

if TYPE_CHECKING:
    from fedhft.v1 import plans_pb2

_KEYS = ("slower", "up", "down", "deepest")


@with_server_options
def plan(
    options: ServerOptions,
    job: JobArgument,
    what_if: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of devices as they might be: tables [devices.CLIENT], or [devices.all], with `slower` "
            '(times as long), `up` and `down` ("2 Mbit/s"), `deepest` (layers it has memory for). Nothing is changed.',
            show_default="the plans in force",
        ),
    ] = None,
) -> None:
    """Show the plans of a job that plans by capacity, and what keeps each device from doing more."""
    from fedhft.jobs.messages import as_dict

    supposed = [] if what_if is None else read_what_if(what_if)
    with options.client() as client:
        told = client.plan(job, supposed)
    names = [one.client for one in told.clients]
    answer(options.output, {"job": job, **as_dict(told)}, names, lambda: print_plan(job, told))


def read_what_if(path: Path) -> list[plans_pb2.WhatIf]:
    """Devices as they might be. Raises FedhftError(INVALID_ARGUMENT) naming the key."""
    from fedhft.documents import read_toml
    from fedhft.planning.rates import parse_rate
    from fedhft.v1 import plans_pb2

    raw = read_toml(path, str(path), ErrorCode.INVALID_ARGUMENT)
    devices = raw.get("devices")
    if set(raw) != {"devices"} or not isinstance(devices, dict) or not devices:
        raise FedhftError(
            ErrorCode.INVALID_ARGUMENT,
            f"{path}: holds something other than tables [devices.CLIENT]; write one per client, or `all`",
        )
    found = []
    for client, changes in devices.items():
        where = f"{path}: devices.{client}"
        if not isinstance(changes, dict) or not set(changes) <= set(_KEYS):
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, where, changes, "has keys that cannot be supposed",
                f"use {', '.join(_KEYS)}",
            )  # fmt: skip
        try:
            values: dict[str, Any] = {
                key: parse_rate(value) if key in ("up", "down") else value for key, value in changes.items()
            }
            for key, value in values.items():
                if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                    raise ValueError(f"{key} = {value!r} is not a number above 0")
            found.append(plans_pb2.WhatIf(client="" if client == "all" else client, **values))
        except (TypeError, ValueError) as error:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, where, changes, f"cannot be read: {error}",
                'give numbers, and rates as text like "2 Mbit/s"',
            ) from error  # fmt: skip
    return found


def print_plan(job: str, told: plans_pb2.ExplainPlanResponse) -> None:
    """A line per client, and above them what they have in common."""
    if not told.clients:
        typer.echo(f"{job}: {told.reason}")
        return
    measured = any(one.capacity.energy_joules for one in told.clients)
    columns = (
        Column("client"),
        Column("layers"),
        Column("steps", 1),
        Column("scores", 4),
        Column("planned s", 4),
        Column("seconds now", 1),
        Column("training", 5),
        Column("scoring", 6),
        Column("fill", 6),
        Column("link", 5),
        Column("fixed", 6),
        Column(PASSES, 3),
        *([Column(ENERGY, 6)] if measured else []),
        Column("why", text=True),
    )
    rows = [
        (
            one.client,
            f"{one.depth}/{told.layers}" if one.steps else "-",
            f"{one.steps}/{one.epoch_steps}",
            "yes" if one.scores else "no",
            short(one.planned_seconds) if one.planned_seconds else "-",
            short(one.seconds) if one.seconds else "-",
            *(
                short(seconds) if one.seconds else "-"
                for seconds in (
                    one.training_seconds,
                    one.scoring_seconds,
                    one.fill_seconds,
                    one.link_seconds,
                    one.fixed_seconds,
                )
            ),
            passes(one.capacity),
            *([energy(one.capacity)] if measured else []),
            one.why,
        )
        for one in told.clients
    ]
    made = f"made for round {told.round} ({told.reason})" if told.round else told.reason
    title = (
        f"{job}: plans {made}, for rounds of {told.horizon_seconds:.3g} s (of which a client waits {told.waiting:.0%} "
        f"for the slowest, on average), about {told.rounds:.0f} to the gain target"
    )
    print_table(columns, rows, title)
