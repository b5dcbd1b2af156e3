"""Options of processes, and every command with its own: as `--help` prints them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from fedhft.process.options import options_of
from fedhft.process.settings import ProcessSettings
from generated_pages.tables import cell, table


def options(kind: type[ProcessSettings]) -> str:
    """The options of a process, as its --help prints them."""
    rows = []
    for option in options_of(kind):
        default = f"`{option.default}`" if option.default else ""
        meaning = f"{option.description}: {', '.join(option.choices)}" if option.choices else option.description
        rows.append((f"`{option.flag}`", f"`{option.variable}`", default, cell(meaning)))
    return table(("option", "environment variable", "default", "meaning"), rows)


def options_aggregator() -> str:
    """Options of the aggregator."""
    from fedhft_aggregator.settings import AggregatorSettings

    return options(AggregatorSettings)


def options_clusterer() -> str:
    """Options of the clusterer."""
    from fedhft_clusterer.settings import ClustererSettings

    return options(ClustererSettings)


def options_agent() -> str:
    """Options of the agent."""
    from fedhft_agent.settings import AgentSettings

    return options(AgentSettings)


def options_job() -> str:
    """Options of every `fedhft job` command that asks an aggregator."""
    import typer.main

    from fedhft.cli.main import app
    from fedhft.cli.server_options import ServerOptions

    command: Any = typer.main.get_command(app)
    parameters = {parameter.name: parameter for parameter in command.commands["job"].commands["get"].params}
    rows = []
    for field in dataclasses.fields(ServerOptions):
        option = parameters[field.name]
        rows.append(_parameter(option))
    return table(("option", "environment variable", "default", "meaning"), rows)


def commands() -> str:
    """Every command: what it is for, how it is called, its own options."""
    import typer.main

    from fedhft.cli.main import app
    from fedhft.cli.server_options import ServerOptions

    shared = {field.name for field in dataclasses.fields(ServerOptions)}
    parts = []
    for name, command, reaches in _commands_of(typer.main.get_command(app), ("fedhft",), shared):
        words = [" ".join(line.split()) for line in (command.help or "").split("\n\n")]
        own = [one for one in command.params if one.name not in {"help", *(shared if reaches else ())}]
        arguments = [one for one in own if one.param_type_name == "argument"]
        options = [one for one in own if one.param_type_name != "argument" and not one.hidden]
        shape = [one.name.upper() if one.required else f"[{one.name.upper()}]" for one in arguments]
        shape += [f"{one.opts[0]} {one.name.upper()}" for one in options if one.required]
        parts.append(f"### `{' '.join([name, *shape])}`")
        parts += words
        if reaches:
            parts.append("Reaches an aggregator; takes `-o`.")
        if own:
            rows = [_parameter(one) for one in (*arguments, *options)]
            parts.append(table(("argument or option", "variable", "default", "meaning"), rows))
    return "\n\n".join(parts)


def _commands_of(command: Any, path: tuple[str, ...], shared: set[str]) -> Iterable[tuple[str, Any, bool]]:
    """Name, command, and whether it takes the options that reach a server, of every command below this one."""
    for name, inner in getattr(command, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from _commands_of(inner, (*path, name), shared)
        else:
            yield " ".join((*path, name)), inner, shared <= {one.name for one in inner.params}


def _parameter(one: Any) -> tuple[str, ...]:
    is_argument = one.param_type_name == "argument"
    name = one.name.upper() if is_argument else ", ".join(f"`{option}`" for option in one.opts)
    shown = one.show_default if isinstance(one.show_default, str) else None
    plain = getattr(one.default, "value", one.default)
    says = isinstance(plain, str | int | float) and not isinstance(plain, bool) and plain != "" and not one.required
    default = shown or (f"`{plain}`" if says else "")
    variable = f"`{one.envvar}`" if getattr(one, "envvar", None) else ""
    return (f"`{name}`" if is_argument else name, variable, default, cell(one.help or ""))
