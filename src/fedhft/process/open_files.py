"""How many connections a server can hold open."""

from __future__ import annotations

import contextlib
import resource


def allow_many_connections() -> None:
    """Raise the soft limit on open files to the hard one: it is often 1024, and every agent holds a connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a limit that cannot be raised is met when it is met
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
