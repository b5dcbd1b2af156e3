"""`python -m fedhft_agent`: this machine's part of a federation; with `check` first, whether it would work."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fedhft.process.allocator import bound_arenas
from fedhft.process.program import run_program
from fedhft_agent.settings import AgentSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["check"]:
        from fedhft_agent.check.program import main as check

        return check(arguments[1:])
    return run_program(AgentSettings, _run, arguments)


def _run(settings: AgentSettings) -> int:
    if settings.memory:
        bound_arenas()  # what is freed goes back to the system, so that peaks are what is in use
    from fedhft_agent.agent import run  # imports gRPC: late, so that --help answers at once

    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
