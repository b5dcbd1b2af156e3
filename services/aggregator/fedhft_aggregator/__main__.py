"""`python -m fedhft_aggregator`: serves agents and people, drives jobs."""

from __future__ import annotations

import sys

from fedhft.process.allocator import bound_arenas
from fedhft.process.open_files import allow_many_connections
from fedhft.process.program import run_program
from fedhft_aggregator.settings import AggregatorSettings


def main() -> int:
    """Entry point; returns the exit code."""
    bound_arenas()
    allow_many_connections()
    return run_program(AggregatorSettings, _run)


def _run(settings: AggregatorSettings) -> int:
    # Imported late: numpy and gRPC start threads, and the first one fixes the number of arenas.
    from fedhft_aggregator.service import run

    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
