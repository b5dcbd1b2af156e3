"""Which device a name means, whether it works, and in what precision a base model is held on it."""

from __future__ import annotations

import logging
import os
import platform

import torch

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.methods import Start
from fedhft.process.device_name import AUTO
from fedhft.training.device.failure import reason_of
from fedhft.training.device.state import device_memory

log = logging.getLogger(__name__)

CPU = torch.device("cpu")
_ACCELERATORS = ("cuda", "mps")
"""In the order in which `auto` looks for them."""
_BF16_CAPABILITY = 8
"""Major compute capability from which NVIDIA's GPUs compute in bf16; others convert every value."""
_TRIED = 32
"""Rows and columns of the matrices that a device is tried with."""


def usable_device(name: str, flag: str = "--device") -> torch.device:
    """The device of a name as `parse_device` takes them, tried out. auto: the first CUDA device, MPS, or else the CPU.

    Raises FedhftError(INVALID_ARGUMENT) when it is not there or does not work. An accelerator that does not work is
    passed over by auto, with a warning.
    """
    if name != AUTO:
        return _tried(name, flag)
    for kind in accelerators():
        try:
            return _tried(kind, flag)
        except FedhftError as error:
            log.warning("the accelerator cannot be used; training on the CPU", extra={"detail": error.message})
    return CPU


def accelerators() -> tuple[str, ...]:
    """Kinds of accelerators that torch finds here, whether they work or not, in the order in which auto tries them."""
    return tuple(kind for kind in _ACCELERATORS if _count(kind))


def description(device: torch.device) -> str:
    """For people: the device, what it is, and its memory."""
    if device.type == "cpu":
        return f"cpu ({platform.machine()})"
    known = device_memory(device)
    room = "" if known is None else f", {known.free / 2**30:.1f} of {known.total / 2**30:.1f} GiB free"
    called = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"{device}{called}{room}, {'bf16' if computes_bf16(device) else 'no bf16'}"


def base_dtype(device: torch.device, spec: JobSpec, stored: str) -> torch.dtype:
    """In what precision the base model is held. stored: dtype of its files as safetensors names it, e.g. "BF16".

    On the CPU float32. On an accelerator bf16 where the job says so, else what its files have. Base weights that are
    trained or written to are float32: small steps would be lost in 16 bits.
    """
    written_to = not spec.method.uses_adapters or spec.method.start is Start.RESTART
    if device.type == "cpu" or written_to or not computes_bf16(device):
        return torch.float32
    if spec.training.precision == "bf16":
        return torch.bfloat16
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(stored, torch.float32)


def computes_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16 and does not merely convert from and to it."""
    if device.type == "cuda" and torch.version.hip is None:
        return torch.cuda.get_device_capability(device)[0] >= _BF16_CAPABILITY
    try:
        values = torch.ones(2, 2, dtype=torch.bfloat16, device=device)
        return float((values @ values)[0, 0]) == 2.0
    except (RuntimeError, TypeError):
        return False


def _tried(name: str, flag: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cpu":
        return CPU

    def refused(problem: str, fix: str) -> FedhftError:
        return FedhftError.field(ErrorCode.INVALID_ARGUMENT, flag, name, problem, fix)

    count = _count(device.type)
    if not count:
        raise refused(*_why_none(device.type))
    number = device.index or 0
    if number >= count:
        raise refused(
            f"this machine has {count}, {device.type}:0" + (f" to {device.type}:{count - 1}" if count > 1 else ""),
            "name one of them",
        )
    device = torch.device(device.type, number)
    _repeat_itself(device)
    try:
        _try(device)
    except (RuntimeError, AssertionError) as error:
        raise refused(
            f"cannot be used: {reason_of(error)}", "see that nothing else holds it, or use another"
        ) from error
    return device


def _count(kind: str) -> int:
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)
    return int(module.device_count()) if module is not None and module.is_available() else 0


def _why_none(kind: str) -> tuple[str, str]:
    """Why torch finds no device of a kind, and what to do."""
    if kind == "mps":
        return "torch finds no GPU that Metal knows", "use cpu, or auto"
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"this build of torch ({torch.__version__}) is for CPUs alone",
            "install one with CUDA, or use cpu or auto",
        )
    return "torch finds no GPU", "see with nvidia-smi whether the driver does, or use cpu or auto"


def _repeat_itself(device: torch.device) -> None:
    """Have the device choose algorithms whose results repeat, where it knows such. Holds for the whole process."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        torch.backends.cudnn.benchmark = False
        # Where there is no such algorithm torch says so once, and takes the one there is.
        torch.use_deterministic_algorithms(True, warn_only=True)


def _try(device: torch.device) -> None:
    """One step of everything that training does: a product, its gradient, and the way back to the CPU.

    Raises RuntimeError when it does not come out right.
    """
    left = torch.eye(_TRIED, device=device, requires_grad=True)
    (left @ torch.ones(_TRIED, _TRIED, device=device)).sum().backward()
    gradient = left.grad
    if gradient is None or not bool((gradient.cpu() == _TRIED).all()):
        raise RuntimeError("a product of two small matrices comes out wrong")
