"""What an agent does when its accelerator fails in the middle of work: it stays, and tries again.

A GPU error can leave the CUDA context of the process unusable, and no call resets it. So when the device does not work
here, but does in another process, the agent re-executes itself under the same process id; what it had trained is in its
state directory.
"""

from __future__ import annotations

import logging
import os
import sys

from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.device_name import AUTO, CPU
from fedhft.training.device.trying import try_device

log = logging.getLogger(__name__)


def check_device(name: str) -> None:
    """Before anything runs: whether the device that was asked for by name is there and works.

    Raises FedhftError(INVALID_ARGUMENT).
    """
    if name not in (AUTO, CPU):
        try_device(name)


def come_back(name: str) -> None:
    """Called when a device that worked does not work in this process any more; begins anew where others can use it.

    Raises FedhftError(DEVICE_FAILED) when no process can.
    """
    try:
        try_device(name)
    except FedhftError as error:
        raise FedhftError(ErrorCode.DEVICE_FAILED, f"{name}: failed, and has not come back: {error.message}") from error
    log.warning("the device is back, but not in this process; the agent begins anew", extra={"device": name})
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - this very command
