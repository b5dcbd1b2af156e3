"""`python -m fedhft_clusterer`: serves memberships to the aggregator."""

from __future__ import annotations

import sys

from fedhft.process.program import run_program
from fedhft_clusterer.settings import ClustererSettings


def main() -> int:
    """Entry point; returns the exit code."""
    return run_program(ClustererSettings, _run)


def _run(settings: ClustererSettings) -> int:
    from fedhft_clusterer.service import run  # gRPC, scipy and redis: late, so that --help answers at once

    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
