"""Where the kernel keeps the control groups (cgroups) of this process, of version 1 and 2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def groups_1(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's group of a controller of version 1, and of those above it, innermost first.

    root: folder that has proc and sys. A folder need not be there.
    """
    own = re.search(rf"^\d+:(?:[^:\n]*,)?{controller}(?:,[^:\n]*)?:/(.*)$", text_of(root / "proc/self/cgroup"), re.M)
    return _upwards(root / "sys/fs/cgroup" / controller, own[1] if own else "")


def groups_2(root: Path) -> Iterator[Path]:
    """As `groups_1`, of the one hierarchy of version 2."""
    own = re.search(r"^0::/(.*)$", text_of(root / "proc/self/cgroup"), re.M)
    return _upwards(root / "sys/fs/cgroup", own[1] if own else "")


def _upwards(mount: Path, own: str) -> Iterator[Path]:
    """This process's group and those above it. Inside a container the mount is its own group, whatever its path is."""
    parts = [part for part in own.split("/") if part]
    for count in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:count])


def text_of(path: Path) -> str:
    """A file of the kernel's; empty where it is not there, or not for this user."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
