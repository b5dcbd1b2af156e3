"""Hidden states of many batches between two layers, in a file without a name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
import torch


class Passage:
    """Context manager: tensors by number, on the disk of `folder`, gone when it ends or the process does.

    A tensor that replaces another has its shape and dtype. Raises OSError where there is no room.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[int, tuple[int, torch.Size, torch.dtype]] = {}
        self._end = 0

    def __enter__(self) -> Passage:
        self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def put(self, number: int, states: torch.Tensor) -> None:
        """Keep a tensor, in the place of the one before it."""
        data = states.detach().to("cpu").contiguous().view(torch.uint8).numpy().data.cast("B")
        if number not in self._places:
            self._places[number] = (self._end, states.shape, states.dtype)
            self._end += len(data)
        offset, done = self._places[number][0], 0
        while done < len(data):
            done += os.pwrite(self._file.fileno(), data[done:], offset + done)

    def get(self, number: int) -> torch.Tensor:
        """The tensor last kept, on the CPU."""
        offset, shape, dtype = self._places[number]
        out = np.empty(shape.numel() * dtype.itemsize, np.uint8)
        if os.preadv(self._file.fileno(), [out.data], offset) != len(out):
            raise OSError(0, "the file of hidden states has become shorter")
        return torch.from_numpy(out).view(dtype).view(shape)
