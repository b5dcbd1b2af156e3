"""`fedhft aggregator | clusterer | agent`: become `python -m fedhft_...` with the same arguments."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

import typer

from fedhft.cli.contexts import VARIABLE, chosen_context
from fedhft.errors import ErrorCode, FedhftError

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def add_to(app: typer.Typer) -> None:
    """Add the three commands. Their options are the services' own: `fedhft agent --help` is the agent's help."""
    app.command("aggregator", context_settings=_PASS_ON, add_help_option=False)(aggregator)
    app.command("clusterer", context_settings=_PASS_ON, add_help_option=False)(clusterer)
    app.command("agent", context_settings=_PASS_ON, add_help_option=False)(agent)


def aggregator(context: typer.Context) -> None:
    """Serve agents and people, drive jobs. Options: fedhft aggregator --help."""
    become("fedhft_aggregator", context.args, needs=("redis", "cryptography"), extra="server")


def clusterer(context: typer.Context) -> None:
    """Compute memberships for an aggregator. Options: fedhft clusterer --help."""
    become("fedhft_clusterer", context.args, needs=("redis", "scipy", "cryptography"), extra="server")


def agent(context: typer.Context) -> None:
    """Train this machine's part of a federation, or look whether it would work: fedhft agent check. Options: --help."""
    _take_context()
    become("fedhft_agent", context.args, needs=("torch", "transformers"), extra="agent")


def _take_context() -> None:
    """Where FEDHFT_CONTEXT names a context, server and authority come from it, unless variables say otherwise.

    The context in use is for people: a service must not depend on it.
    """
    if name := os.environ.get(VARIABLE):
        chosen = chosen_context(name)
        for variable, value in (("FEDHFT_SERVER", chosen.server), ("FEDHFT_TLS_AUTHORITY", chosen.tls_authority)):
            if value is not None:
                os.environ.setdefault(variable, value)


def become(module: str, arguments: Sequence[str], *, needs: Sequence[str], extra: str) -> None:
    """Replace this process with `python -m module`, so that signals and exit codes are the service's own.

    Raises FedhftError(INVALID_ARGUMENT) when a package the service needs is not installed.
    """
    missing = [name for name in (module, *needs) if importlib.util.find_spec(name) is None]
    if missing:
        raise FedhftError(
            ErrorCode.INVALID_ARGUMENT,
            f'{module} needs {", ".join(missing)}, which is not installed; pip install "fedhft[{extra}]"',
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - this very interpreter
