"""Looking for a device in a process of its own: `python -m fedhft.training.device.trying NAME`.

Where a device was used, its context takes memory for the rest of the process, and an error of the device breaks it for
the rest of the process. So an agent asks another process whether a device is there before it has work for it, and
whether it has come back.
"""

from __future__ import annotations

import subprocess
import sys

from fedhft.errors import ErrorCode, FedhftError

_PATIENCE_S = 120.0


def try_device(name: str) -> None:
    """Raises FedhftError(INVALID_ARGUMENT) when the device of that name is not there or does not work."""
    command = [sys.executable, "-m", "fedhft.training.device.trying", name]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--device", name, f"cannot be tried: {error}", "use --device cpu"
        ) from error
    if found.returncode:
        said = found.stderr.strip().splitlines()
        raise FedhftError(ErrorCode.INVALID_ARGUMENT, said[-1] if said else f"--device = {name!r}: cannot be used")


def main() -> int:
    """Entry point; returns the exit code."""
    from fedhft.training.device.choice import usable_device

    try:
        usable_device(sys.argv[1])
    except FedhftError as error:
        print(error.message, file=sys.stderr)
        return error.outcome.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
