"""Points at which fault tests kill this process (SIGKILL), to show that nothing accepted is lost.

FEDHFT_FAILPOINT names one, with `@n` for the n-th time it is reached: `open` (before a round is recorded), `accepted`
(an update is recorded but not acknowledged), `folding` (updates are pinned), `folded` (before publishing), `published`.
Unset, as in any deployment, nothing happens.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from fedhft.errors import ErrorCode, FedhftError

VARIABLE = "FEDHFT_FAILPOINT"
POINTS = ("open", "accepted", "folding", "folded", "published")


def failpoint(setting: str) -> Callable[[str], None]:
    """The function a coordinator calls with each point it reaches. Raises INVALID_ARGUMENT for an unknown point."""
    if not setting:
        return lambda point: None
    wanted, _, count = setting.partition("@")
    if wanted not in POINTS or not (count or "1").isdecimal():
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT,
            VARIABLE,
            setting,
            "is not a failpoint",
            f"write one of {', '.join(POINTS)}, or unset",
        )
    left = [int(count or "1")]

    def reached(point: str) -> None:
        if point == wanted:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return reached
