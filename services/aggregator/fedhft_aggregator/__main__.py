"""`python -m fedhft_aggregator`: serves agents and people, drives jobs."""

from __future__ import annotations

import sys

from fedhft.process.allocator import bound_arenas


def main() -> int:
    """Entry point; returns the exit code."""
    bound_arenas()
    # Imported late: numpy and gRPC start threads, and the first one fixes the number of arenas.
    from fedhft_aggregator.service import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
