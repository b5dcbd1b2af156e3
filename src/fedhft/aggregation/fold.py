"""The fold (aggregation): accepted updates and the previous version in, the next version out.

    fold(state, updates) -> (blobs, state', report)

Pure: no store, no clock, no sockets. Updates come one at a time in ascending order of client id. Sums run over a
fixed two-level tree: blocks of BLOCK consecutive clients, each summed in order, merged in order. So the bytes depend on
who took part and never on who came first, blocks can be summed elsewhere, and at most two partial sums and one update
are in memory. A trimmed mean has no partial sums: it reads the updates as often as its memory asks for (`trimming`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass

from fedhft.adapter import AdapterSchema
from fedhft.aggregation.publish import FoldReport, Published, publish
from fedhft.aggregation.rules import ClientUpdate, FoldRules
from fedhft.aggregation.sums import (
    Partial,
    ProductStep,
    RowStep,
    Steps,
    accumulate,
    finish,
    merge,
)
from fedhft.aggregation.trimming import MEMORY_BYTES, Trimmed, trimmed
from fedhft.aggregation.versions import ServerState
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.methods import Combine

__all__ = [
    "BLOCK",
    "ClientUpdate",
    "FoldReport",
    "FoldRules",
    "Partial",
    "ProductStep",
    "Published",
    "RowStep",
    "ServerState",
    "Steps",
    "accumulate",
    "finish",
    "fold",
    "merge",
]

BLOCK = 16
"""Clients per block of the reduction tree. Part of the result's bits."""


def fold(spec: JobSpec, schema: AdapterSchema, previous: ServerState, updates: Iterable[ClientUpdate]) -> Published:
    """Fold the updates of round previous.version + 1 and publish that version.

    updates: lazy, in strictly ascending order of client id; each is dropped once added. For a trimmed mean they have a
    length, an upper bound, and can be read more than once.
    Raises FedhftError(INVALID_ARGUMENT) for updates out of order or twice, and what `accumulate` and `encode` raise.
    """
    rules = FoldRules.of(spec, schema, previous.state.clusters, previous.state.version + 1, previous.state)
    if rules.combine is Combine.TRIMMED_MEAN:
        means = _trimmed(rules, updates)
        return publish(spec, schema, previous, means.steps, means.mass, means.clients)
    total = _sum(rules, updates)
    return publish(spec, schema, previous, finish(total, rules), total.mass, total.clients)


def _sum(rules: FoldRules, updates: Iterable[ClientUpdate]) -> Partial:
    total: Partial | None = None
    block = Partial.empty(rules)
    for update in _in_order(updates):
        block = accumulate(block, update, rules)
        if block.clients == BLOCK:
            total = block if total is None else merge(total, block)
            block = Partial.empty(rules)
    if total is None:
        return block
    return merge(total, block) if block.clients else total


def _trimmed(rules: FoldRules, updates: Iterable[ClientUpdate]) -> Trimmed:
    if not isinstance(updates, Sized):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT,
            "updates",
            type(updates).__name__,
            "can be read once only",
            "pass a sequence, or another iterable with a length that begins anew each time",
        )
    return trimmed(_Ordered(updates, len(updates)), rules, MEMORY_BYTES)


@dataclass(frozen=True, eq=False)
class _Ordered:
    """Updates whose order is checked each time they are read."""

    updates: Iterable[ClientUpdate]
    most: int

    def __iter__(self) -> Iterator[ClientUpdate]:
        return _in_order(self.updates)

    def __len__(self) -> int:
        return self.most


def _in_order(updates: Iterable[ClientUpdate]) -> Iterator[ClientUpdate]:
    last = ""
    for update in updates:
        if update.client <= last:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT,
                "updates",
                update.client,
                f"comes after {last!r}",
                "pass each client's update once, sorted by client id",
            )
        last = update.client
        yield update
