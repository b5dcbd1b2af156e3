"""The fold (aggregation): accepted updates and the previous version in, the next version out.

    fold(state, updates) -> (blobs, state', report)

Pure: no store, no clock, no sockets. Updates come one at a time in ascending order of client id. Sums run over a
fixed two-level tree: blocks of BLOCK consecutive clients, each summed in order, merged in order. So the bytes depend on
who took part and never on who came first, blocks can be summed elsewhere, and at most two partial sums and one update
are in memory.
"""

from __future__ import annotations

from collections.abc import Iterable

from fedhft.adapter import AdapterSchema
from fedhft.aggregation.publish import FoldReport, Published, publish
from fedhft.aggregation.sums import (
    ClientUpdate,
    FoldRules,
    Partial,
    ProductStep,
    RowStep,
    Steps,
    accumulate,
    finish,
    merge,
)
from fedhft.aggregation.versions import ServerState
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec

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

    updates: lazy, in strictly ascending order of client id; each is dropped once added.
    Raises FedhftError(INVALID_ARGUMENT) for updates out of order or twice, and what `accumulate` and `encode` raise.
    """
    rules = FoldRules.of(spec, schema, previous.state.clusters, previous.state.version + 1)
    total = _sum(rules, updates)
    return publish(spec, schema, previous, finish(total, rules), total.mass, total.clients)


def _sum(rules: FoldRules, updates: Iterable[ClientUpdate]) -> Partial:
    total: Partial | None = None
    block, last = Partial.empty(rules), ""
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
        block = accumulate(block, update, rules)
        if block.clients == BLOCK:
            total = block if total is None else merge(total, block)
            block = Partial.empty(rules)
    if total is None:
        return block
    return merge(total, block) if block.clients else total
