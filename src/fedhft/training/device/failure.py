"""What a device raises when it is gone or full, as refusals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedhft.errors import ErrorCode, FedhftError
from fedhft.training.device.state import device_memory

_FULL = re.compile(r"out of memory", re.I)
_GONE = re.compile(
    r"\b(CUDA|HIP|cuda|hip)(RT| driver)? error\b|\b(CUBLAS|CUDNN|NVML|HIPBLAS)_STATUS_|MPS backend|Metal\b"
)
_LONGEST_REASON = 300


@contextmanager
def device_failures(device: torch.device) -> Iterator[None]:
    """Inside, errors of the device become refusals; all others, and those of the CPU, stay what they are.

    Raises FedhftError(DEVICE_FAILED) when the device does not answer any more, (PLAN_TOO_LARGE) when it is full.
    """
    try:
        yield
    except RuntimeError as error:
        if device.type == "cpu":
            raise
        if isinstance(error, torch.cuda.OutOfMemoryError) or _FULL.search(str(error)):
            raise FedhftError(
                ErrorCode.PLAN_TOO_LARGE,
                f"{device}: its memory is full{_figures(device)}; lower training.batch_size or model.max_length in the "
                "job, ask for a smaller tier with --tier, or use a device with more",
            ) from error
        if isinstance(error, _accelerator_error()) or _GONE.search(str(error)):
            raise FedhftError(
                ErrorCode.DEVICE_FAILED,
                f"{device}: failed in the middle of work: {reason_of(error)}; see the system's log for what happened "
                "to it",
            ) from error
        raise


def reason_of(error: Exception) -> str:
    """The first line of what a library says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_LONGEST_REASON]


def _accelerator_error() -> tuple[type[Exception], ...]:
    """torch's own class for failing devices, which releases before 2.8 lack."""
    found = getattr(torch, "AcceleratorError", None)
    return () if found is None else (found,)


def _figures(device: torch.device) -> str:
    try:
        known = device_memory(device)
    except RuntimeError:
        return ""
    if known is None:
        return ""
    return (
        f" ({known.total >> 20} MiB in all, {known.free >> 20} MiB free, {known.peak >> 20} MiB was this agent's peak)"
    )
