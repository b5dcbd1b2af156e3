"""Points at which fault tests kill or stop this process, to show that nothing accepted is lost.

FEDHFT_FAILPOINT names one: `open` (before a round is recorded), `accepted` (an update is recorded but not
acknowledged), `folding` (updates are pinned), `decoding=CLIENT` (that client's update is folded next), `folded`
(before publishing), `published`, `tidying` (before old blobs are deleted). `@n` means the n-th time it is reached;
`!stop` after that suspends the process (SIGSTOP) instead of killing it (SIGKILL). Unset, as in any deployment, nothing
happens.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

from fedhft.errors import ErrorCode, FedhftError

VARIABLE = "FEDHFT_FAILPOINT"
POINTS = ("open", "accepted", "folding", "decoding", "folded", "published", "tidying")
_SETTING = re.compile(r"(?P<point>(?P<name>[a-z]+)(=[a-z0-9._-]+)?)(@(?P<count>[0-9]+))?(?P<stop>!stop)?")


def failpoint(setting: str) -> Callable[[str], None]:
    """The function a coordinator calls with each point it reaches. Raises INVALID_ARGUMENT for an unknown point."""
    if not setting:
        return lambda point: None
    parsed = _SETTING.fullmatch(setting)
    if parsed is None or parsed["name"] not in POINTS:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT,
            VARIABLE,
            setting,
            "is not a failpoint",
            f"write one of {', '.join(POINTS)}, or unset",
        )
    wanted = parsed["point"]
    how = signal.SIGSTOP if parsed["stop"] else signal.SIGKILL
    left = [int(parsed["count"] or "1")]

    def reached(point: str) -> None:
        if point == wanted:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), how)

    return reached
