"""Values from safetensors files, a tensor at a time.

safetensors' own torch reader maps a whole file, private and writable: such a mapping counts under RLIMIT_DATA, and all
tensors of the file share it, so that dropping one frees nothing.
"""

from __future__ import annotations

import math
import mmap
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from fedhft.errors import ErrorCode, FedhftError
from fedhft.training.stored_weights import StoredTensor

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PIECE = 8 << 20
"""Bytes read and converted at a time."""


def is_readable(stored: StoredTensor) -> bool:
    """Whether the tensor holds plain floating-point values."""
    return stored.dtype in _DTYPES


def can_be_mapped(stored: StoredTensor, dtype: torch.dtype) -> bool:
    """Whether the values can be used where they are in the file."""
    return _DTYPES[stored.dtype] is dtype and stored.offset % dtype.itemsize == 0


def read_tensor(stored: StoredTensor, dtype: torch.dtype) -> torch.Tensor:
    """The values as `dtype`, in memory of their own, which goes back to the system with the tensor.

    Raises FedhftError(INVALID_MODEL) when the file cannot be read or ends before them.
    """
    own = _DTYPES[stored.dtype]
    out = _empty(stored.shape, dtype)
    flat = out.view(-1)
    values = _PIECE // own.itemsize
    buffer = np.empty(min(_PIECE, stored.size), np.uint8)
    with _opened(stored) as file:
        for start in range(0, flat.numel(), values):
            piece = flat[start : start + values]
            data = buffer[: piece.numel() * own.itemsize]
            _read_into(file, data, stored, start * own.itemsize)
            piece.copy_(torch.from_numpy(data).view(own))
    return out


def read_rows(stored: StoredTensor, index: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows of a matrix (rows x width) as `dtype`, in the shape of `index` with the width behind it; on its device.

    Raises FedhftError(INVALID_MODEL) as `read_tensor` does, IndexError for a row that there is not.
    """
    own = _DTYPES[stored.dtype]
    rows, width = stored.shape
    wanted, places = torch.unique(index.cpu(), return_inverse=True)
    if len(wanted) and not 0 <= int(wanted[0]) <= int(wanted[-1]) < rows:
        raise IndexError(f"rows {int(wanted[0])} to {int(wanted[-1])} of {rows}")
    size = width * own.itemsize
    data = np.empty((len(wanted), size), np.uint8)
    with _opened(stored) as file:
        for row, number in zip(data, wanted.tolist(), strict=True):
            _read_into(file, row, stored, number * size)
    return torch.from_numpy(data).view(own).to(dtype)[places].to(index.device)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor that is not on the heap: from there glibc neither returns nor reuses freed blocks of aligned memory
    (measured: 67 MB were lost with each of 18 layers of 202 MB).
    """
    size = math.prod(shape) * dtype.itemsize
    if size < _PIECE:
        return torch.empty(shape, dtype=dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def mapped_tensor(stored: StoredTensor) -> torch.Tensor | None:
    """The values as they are stored, mapped for reading: what is not touched takes no memory. Not to be written to.

    None where the file does not hold them aligned. Raises FedhftError(INVALID_MODEL) when the file ends before them.
    """
    own = _DTYPES[stored.dtype]
    if stored.offset % own.itemsize:
        return None
    try:
        array = np.memmap(stored.file, np.uint8, "r", stored.offset, (stored.size,))
    except OSError as error:
        raise _unreadable(stored, error) from error
    except ValueError as error:
        raise _shorter(stored) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has no read-only tensors, and says so
        return torch.from_numpy(array).view(own).view(stored.shape)


@contextmanager
def _opened(stored: StoredTensor) -> Iterator[int]:
    try:
        file = os.open(stored.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield file
        finally:
            os.close(file)
    except OSError as error:
        raise _unreadable(stored, error) from error


def _read_into(file: int, data: NDArray[np.uint8], stored: StoredTensor, offset: int) -> None:
    if os.preadv(file, [data.data], stored.offset + offset) != len(data):
        raise _shorter(stored)


def _unreadable(stored: StoredTensor, error: OSError) -> FedhftError:
    return FedhftError(
        ErrorCode.INVALID_MODEL, f"model {stored.file}: cannot be read ({error.strerror}); check the disk"
    )


def _shorter(stored: StoredTensor) -> FedhftError:
    return FedhftError(
        ErrorCode.INVALID_MODEL, f"model {stored.file}: has become shorter; download or copy the model again"
    )
