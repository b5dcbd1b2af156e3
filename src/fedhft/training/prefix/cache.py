"""What enters the boundary for any batch of rows: read where it is kept, worked out where it is not."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from fedhft.telemetry import metrics
from fedhft.training.batches import padded_tokens
from fedhft.training.prefix.folder import PrefixFolder
from fedhft.training.prefix.passage import Passage
from fedhft.training.prefix.rows import KEY_BYTES, RowFile
from fedhft.training.prefix.stack import Inputs, Run, Stack
from fedhft.training.stopwatch import Stopwatch

log = logging.getLogger(__name__)

KEPT_AS: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""What `--cache-dtype` may say. Rows of 16 bits take half the room; single weights then differ by some 1e-3."""
_NUMPY: Mapping[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(np.uint16),  # numpy has no bfloat16: its bits
}
_CHECKED_ROWS = 3
"""The shortest, the longest and one between: a weak device takes seconds for each, at every new boundary."""
FILL_BATCH = 16
"""Rows passed through frozen layers at once."""
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
"""Largest difference that counts as rounding, relative to the largest value; measured 1e-6, 1e-3 and 1e-2."""


class Rows(Protocol):
    """Tokenised rows, as `batches.EncodedRows` has them."""

    def __len__(self) -> int: ...

    def inputs(self, index: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """The model's inputs for some rows, padded to the longest."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per row."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Targets per row."""


Cut = Callable[[Rows, NDArray[np.int64]], list[NDArray[np.int64]]]
"""Cuts a batch in parts that can be passed at once."""


@dataclass(frozen=True)
class Arithmetic:
    """How the prefix is computed. run: a forward pass of the model on inputs, under the job's autocast.

    coarsest: the dtype of the least precise step of it.
    """

    run: Run
    device: torch.device
    coarsest: torch.dtype


class PrefixCache:
    """The prefix of one network. identity: everything besides boundary and dtype that its values depend on. stopwatch:
    where passes of rows through frozen layers are counted; those of `fill` whoever calls times.

    Not safe for concurrent use.
    """

    def __init__(
        self,
        folder: PrefixFolder,
        stack: Stack,
        arithmetic: Arithmetic,
        identity: Mapping[str, object],
        kept_as: torch.dtype,
        stopwatch: Callable[[], Stopwatch] = Stopwatch,
    ) -> None:
        self._folder = folder
        self._stack = stack
        self._arithmetic = arithmetic
        self._identity = identity
        self._kept_as = kept_as
        self._keys: WeakKeyDictionary[Any, list[bytes | None]] = WeakKeyDictionary()
        self._files: dict[int, RowFile | None] = {}
        """By boundary; None where the cache was refused."""
        self._dtype = torch.float32
        self._width = 0
        self._stopwatch = stopwatch

    def hidden(self, rows: Rows, index: NDArray[np.int64], inputs: Inputs, boundary: int) -> torch.Tensor | None:
        """What enters `boundary` > 0 for the rows `index` whose inputs are `inputs`: (batch x tokens x width).

        Zero where a row is padded. None where the cache cannot be used for this boundary, or for such inputs: the model
        is then to be run whole.
        """
        mask = inputs.get("attention_mask")
        if mask is None or mask.dim() != 2:
            return None
        if boundary not in self._files:
            with self._stopwatch().check.running():
                self._files[boundary] = self._opened(rows, boundary)
        file = self._files[boundary]
        if file is None:
            return None
        hidden, computed = self._gather(file, rows, index, inputs, boundary)
        metrics.AGENT_PREFIX_ROWS.labels(source="cache").inc(len(index) - computed)
        metrics.AGENT_PREFIX_ROWS.labels(source="computed").inc(computed)
        return hidden

    def serves(self, boundary: int) -> bool:
        """Whether what enters a boundary is kept, as far as was tried."""
        return self._files.get(boundary, self) is not None

    def fill(self, parts: Sequence[Rows], boundary: int, cut: Cut, should_stop: Callable[[], bool]) -> None:
        """Work out all rows of `parts` that are not kept, a layer at a time over all of them: every value of a layer
        that is not in memory is read once, by the pass that checks the cache too where it is the first. What is between
        two layers is in a file that has no name.

        Comes back early when `should_stop` returns true, or there is no room: what is missing is worked out when it is
        wanted, for each batch anew.
        """
        rows = next((rows for rows in parts if len(rows)), None)
        if rows is None or (boundary in self._files and self._files[boundary] is None):
            return
        file = self._files.get(boundary)
        if file is None:
            file = self._file(boundary, self._stack.dtype, self._stack.width)
        if file is None:
            return
        batches = [(rows, part) for rows in parts for part in self._absent(file, rows, cut)]
        if boundary in self._files and not batches:
            return
        try:
            with self._stack.room(), Passage(self._folder.path) as passage:
                filling = _Filling(self, batches, passage, should_stop)
                if boundary not in self._files:
                    self._files[boundary] = self._opened(rows, boundary, filling.layer)
                else:
                    for layer in range(boundary):
                        with self._stack.values_of(layer):
                            filling.layer(layer)
                if self._files[boundary] is file and filling.layers == boundary:
                    self._keep(file, filling)
        except OSError as error:
            self._folder.unwritten(error)

    def _keep(self, file: RowFile, filling: _Filling) -> None:
        for number, (rows, index) in enumerate(filling.batches):
            values = _as_array(filling.passage.get(number), self._kept_as)
            keys, spans = self._keys_of(rows, index), _spans(rows.inputs(index)["attention_mask"])
            for key, row, span in zip(keys, values, spans, strict=True):
                file.append(key, np.ascontiguousarray(row[span]))
            self._stopwatch().fill.layer_tokens += filling.layers * padded_tokens(rows.lengths, index)
            metrics.AGENT_PREFIX_ROWS.labels(source="computed").inc(len(index))

    def _absent(self, file: RowFile, rows: Rows, cut: Cut) -> list[NDArray[np.int64]]:
        """Batches of the rows that are not kept, shortest first."""
        everything = np.arange(len(rows), dtype=np.int64)
        keys = self._keys_of(rows, everything)
        absent = np.array([i for i in everything if keys[i] not in file], np.int64)
        order = absent[np.argsort(rows.lengths[absent], kind="stable")]
        batches = [order[start : start + FILL_BATCH] for start in range(0, len(order), FILL_BATCH)]
        return [part for batch in batches for part in cut(rows, batch)]

    def next_layer(self, layer: int, rows: Rows, index: NDArray[np.int64], before: torch.Tensor | None) -> torch.Tensor:
        """What enters layer + 1 for a batch of rows, from what enters `layer`."""
        return self._one_layer(layer, self._to_device(rows.inputs(index)), before)

    def _one_layer(self, layer: int, inputs: Inputs, before: torch.Tensor | None) -> torch.Tensor:
        """What enters layer + 1, from what enters `layer`; None: from the inputs, at layer 0."""
        if before is None:
            return self._stack.entering(1, lambda: self._arithmetic.run(inputs))
        with self._stack.skipping(layer, before.to(self._arithmetic.device)):
            return self._stack.entering(layer + 1, lambda: self._arithmetic.run(inputs), layer)

    # -- a batch

    def _gather(
        self, file: RowFile, rows: Rows, index: NDArray[np.int64], inputs: Inputs, boundary: int
    ) -> tuple[torch.Tensor, int]:
        """As `hidden`, and how many of the rows had to be computed."""
        keys = self._keys_of(rows, index)
        spans = _spans(inputs["attention_mask"])
        tokens = inputs["attention_mask"].shape[1]
        out = np.zeros((len(index), tokens, self._width), _NUMPY[self._kept_as])
        absent = []
        for place, (key, span) in enumerate(zip(keys, spans, strict=True)):
            if not (key in file and self._read(file, key, out[place], span)):
                absent.append(place)
        if absent:
            self._work_out(file, rows, index, absent, keys, spans, boundary, out)
        return _as_tensor(out, self._kept_as).to(self._arithmetic.device, self._dtype), len(absent)

    def _work_out(
        self,
        file: RowFile,
        rows: Rows,
        index: NDArray[np.int64],
        absent: Sequence[int],
        keys: Sequence[bytes],
        spans: Sequence[NDArray[np.int64]],
        boundary: int,
        out: NDArray[Any],
    ) -> None:
        """Compute the rows at the places `absent` of the batch, put them in `out`, and keep them if there is room."""
        chosen = index[np.array(absent)]
        inputs = self._to_device(rows.inputs(chosen))
        with self._stopwatch().fill.running():
            computed, start = self._computed(rows, chosen, inputs, boundary)
            values = _as_array(computed, self._kept_as)
        self._stopwatch().fill.layer_tokens += padded_tokens(rows.lengths, chosen) * (boundary - start)
        for row, place, own in zip(values, absent, _spans(inputs["attention_mask"]), strict=True):
            found = np.ascontiguousarray(row[own])
            out[place, spans[place]] = found
            try:
                file.append(keys[place], found)
            except OSError as error:
                self._folder.unwritten(error)

    def _computed(
        self, rows: Rows, index: NDArray[np.int64], inputs: Inputs, boundary: int
    ) -> tuple[torch.Tensor, int]:
        """What enters the boundary, from the nearest boundary below it at which all these rows are kept; and which."""
        keys = self._keys_of(rows, index)
        for lower in sorted((b for b in self._files if b < boundary), reverse=True):
            file = self._files[lower]
            if file is not None and all(key in file for key in keys):
                hidden, _ = self._gather(file, rows, index, inputs, lower)
                with self._stack.skipping(lower, hidden):
                    return self._stack.entering(boundary, lambda: self._arithmetic.run(inputs), lower), lower
        return self._stack.entering(boundary, lambda: self._arithmetic.run(inputs)), 0

    def _read(self, file: RowFile, key: bytes, out: NDArray[Any], span: NDArray[np.int64]) -> bool:
        first, last = int(span[0]), int(span[-1]) + 1
        whole = last - first == len(span)
        target = out[first:last] if whole else np.empty((len(span), self._width), out.dtype)
        if not file.read(key, target):
            target[:] = 0
            self._folder.damaged(file.folder)
            return False
        if not whole:
            out[span] = target
        return True

    # -- keys

    def _keys_of(self, rows: Rows, index: NDArray[np.int64]) -> list[bytes]:
        """Keys of rows: a digest of all inputs of each, alone and without padding."""
        known = self._keys.setdefault(rows, [None] * len(rows))
        found = []
        for i in index:
            key = known[i]
            if key is None:
                digest = hashlib.blake2b(digest_size=KEY_BYTES)
                for name, tensor in sorted(rows.inputs(np.array([i], np.int64)).items()):
                    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
                    digest.update(tensor.contiguous().numpy().tobytes())
                key = known[i] = digest.digest()
            found.append(key)
        return found

    # -- opening

    def _opened(self, rows: Rows, boundary: int, beside: Callable[[int], None] = lambda layer: None) -> RowFile | None:
        """The file of a boundary, once a batch with it and one without it agree.

        beside: called with each layer below the boundary, in order, while it has its values.
        """
        order = np.argsort(rows.lengths, kind="stable")
        sample = np.unique(order[np.linspace(0, len(order) - 1, min(_CHECKED_ROWS, len(order))).round().astype(int)])
        modes = [(module, module.training) for module in self._stack.modules()]
        for module, _ in modes:
            module.training = False
        try:
            return self._checked(rows, sample, boundary, beside)
        finally:
            for module, training in modes:
                module.training = training

    def _checked(
        self, rows: Rows, sample: NDArray[np.int64], boundary: int, beside: Callable[[int], None]
    ) -> RowFile | None:
        inputs = self._to_device(rows.inputs(sample))
        mask = inputs["attention_mask"].bool()
        run = self._arithmetic.run
        alone = [rows.inputs(np.array([i], np.int64)) for i in sample]
        items = [self._to_device(one) for one in alone]
        if self._stack.streamed is None:
            wanted = self._stack.leaving(lambda: run(inputs))
            entering = [self._stack.entering(boundary, partial(run, item)) for item in items]
        else:
            states: list[torch.Tensor | None] = [None] * len(items)

            def visit(layer: int) -> None:
                states[:] = [self._one_layer(layer, item, state) for item, state in zip(items, states, strict=True)]
                beside(layer)

            with self._stack.visiting(boundary, visit):
                wanted = self._stack.leaving(lambda: run(inputs), boundary)
            entering = [state for state in states if state is not None]
        self._dtype, self._width = entering[0].dtype, int(entering[0].shape[-1])
        file = self._file(boundary, self._dtype, self._width)
        hidden = torch.zeros((*mask.shape, self._width), dtype=self._dtype, device=self._arithmetic.device)
        for place, (entered, one) in enumerate(zip(entering, alone, strict=True)):
            kept = entered[0].to(self._kept_as).to(self._dtype)
            hidden[place, mask[place]] = kept[one["attention_mask"][0].bool().to(kept.device)]
        with self._stack.skipping(boundary, hidden):
            found = self._stack.leaving(lambda: run(inputs), boundary)
        together = padded_tokens(rows.lengths, sample) * (2 * len(self._stack.layers) - boundary)
        self._stopwatch().check.layer_tokens += together + int(rows.lengths[sample].sum()) * boundary
        difference = float((found - wanted)[mask].abs().max() / wanted[mask].abs().max().clamp_min(1e-30))
        coarsest = max((self._kept_as, self._arithmetic.coarsest), key=lambda dtype: _TOLERANCE[dtype])
        if not difference <= _TOLERANCE[coarsest]:
            metrics.AGENT_PREFIX_FAULTS.labels(fault="different").inc()
            log.warning(
                "the frozen prefix of this model cannot be cached here: with the cache it computes something else",
                extra={"boundary": boundary, "relative_difference": difference},
            )
            return None
        return file

    def _file(self, boundary: int, dtype: torch.dtype, width: int) -> RowFile | None:
        """The file for states of a dtype and width that enter a boundary."""
        if dtype is not torch.float32:
            self._kept_as = dtype  # what is worked out in 16 bits gains nothing from more
        identity = {**self._identity, "boundary": boundary, "kept_as": str(self._kept_as)}
        return self._folder.rows(identity, width, _NUMPY[self._kept_as])

    def _to_device(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self._arithmetic.device) for name, tensor in inputs.items()}


class _Filling:
    """Batches of rows on their way through the layers. layers: how many all of them have passed."""

    def __init__(
        self,
        cache: PrefixCache,
        batches: Sequence[tuple[Rows, NDArray[np.int64]]],
        passage: Passage,
        should_stop: Callable[[], bool],
    ) -> None:
        self.batches = batches
        self.passage = passage
        self.layers = 0
        self._cache = cache
        self._should_stop = should_stop

    def layer(self, layer: int) -> None:
        """Pass all batches through the next layer, which has its values. Raises OSError where the disk has no room."""
        if self.layers != layer:
            return  # stopped at an earlier one
        for number, (rows, index) in enumerate(self.batches):
            if self._should_stop():
                return
            before = self.passage.get(number) if layer else None
            self.passage.put(number, self._cache.next_layer(layer, rows, index, before))
        self.layers += 1


def _spans(mask: torch.Tensor) -> list[NDArray[np.int64]]:
    """Positions of each row's tokens; a row has at least one."""
    return [np.flatnonzero(row) for row in mask.cpu().numpy()]


def _as_array(states: torch.Tensor, kept_as: torch.dtype) -> NDArray[Any]:
    kept = states.detach().to("cpu", kept_as).contiguous()
    array: NDArray[Any] = (kept.view(torch.int16) if kept_as is torch.bfloat16 else kept).numpy()
    return array.view(_NUMPY[kept_as])


def _as_tensor(array: NDArray[Any], kept_as: torch.dtype) -> torch.Tensor:
    if kept_as is torch.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
