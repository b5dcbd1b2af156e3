"""`python -m fedhft_agent`: this machine's part of a federation."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fedhft.errors import FedhftError
from fedhft_agent.settings import parse_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    try:
        settings = parse_settings(sys.argv[1:] if argv is None else argv)
        from fedhft.telemetry import logs
        from fedhft_agent.agent import run

        logs.configure(settings.log_format, settings.log_level)
        return run(settings)
    except FedhftError as error:
        print(f"fedhft_agent: {error.message}", file=sys.stderr)
        return error.outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
