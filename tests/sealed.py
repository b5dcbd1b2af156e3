"""As containers run programs, without a container: a user that no list of users has, and nothing that it may write.

Mounts are made in a namespace of the program's own, so nothing changes for anybody else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

USER = 54321
HOMELESS: Mapping[str, str | None] = {"HOME": None, "XDG_STATE_HOME": None, "XDG_CACHE_HOME": None}
"""Variables of somebody without a home directory."""
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a root read-only, or become another user")

# Every file system that can be written becomes read-only, whatever is mounted where, but for the folders given, which
# are mounts of their own by then. Not the kernel's own: /proc and /sys refuse, and a process writes to /dev/null.
_SEAL = """
mount --make-rprivate /
for folder in $WRITABLE; do mount --bind "$folder" "$folder"; done
while read -r _ _ _ _ at options _; do
  case " /proc /sys /dev $WRITABLE " in *" $at "*) continue;; esac
  case "$at" in /proc/*|/sys/*|/dev/pts) continue;; esac
  case "$options" in rw*) mount -o "remount,bind,ro" "$at" || exit 71;; esac
done < /proc/self/mountinfo
exec setpriv --reuid USER --regid USER --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search "$@"
""".replace("USER", str(USER))


def sealed(*writable: Path) -> tuple[str, ...]:
    """What to put before a command, given the folders that it may write; skips where this machine cannot do that.

    The folders become the user's. Its one capability is to read the interpreter, which lies in a folder of root on some
    machines; it writes nothing.
    """
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("util-linux (unshare, setpriv) is not installed")
    for folder in writable:
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, USER, USER)
    places = " ".join(map(str, writable))
    command = ("env", f"WRITABLE={places}", "unshare", "--mount", "sh", "-c", _SEAL, "sealed")
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=30, check=False)
    if tried.returncode:
        pytest.skip(f"a read-only root cannot be made here: {tried.stderr.strip()}")
    return command
