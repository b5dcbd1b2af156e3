"""Closing a round: pinned updates in, a published version out.

A pure function of what is in the store (previous version, the round as pinned, the sorted accepted updates), so whoever
holds the lease may run it, and run it again: the same blobs come out, and the first publish wins.

A trimmed mean reads the updates several times. One that was read once and cannot be read again is set aside like any
other, and the fold begins anew without it: no part of a version has an update that another part lacks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fedhft.adapter import AdapterSchema, MaskedDelta
from fedhft.aggregation.direction import opposed
from fedhft.aggregation.fold import ClientUpdate, FoldReport, Published, fold
from fedhft.aggregation.regrouping import copies, regroup
from fedhft.coordination.decoded import DecodedUpdates
from fedhft.coordination.state_blobs import load_state
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import JobId
from fedhft.job import JobSpec
from fedhft.records import RoundRecord, UpdateRecord, VersionRecord
from fedhft.rounds.acceptance import check_update, largest_values
from fedhft.rounds.influence import Magnitude, scales
from fedhft.rounds.patience import is_at_fault
from fedhft.store.interface import Store
from fedhft.store.whole_blob import read_whole
from fedhft.telemetry import metrics
from fedhft.v1 import adapter_pb2
from fedhft.wire.codec import decode

T = TypeVar("T")

log = logging.getLogger(__name__)

_BLOB_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Note:
    """Notes in the store whose update is being folded, so that an update that ends attempts is found."""

    store: Store
    job: JobId
    fence: int

    async def now(self, client: str) -> None:
        """The update of this client is next; empty: all are folded. Raises FENCED."""
        await self.store.note_folding(self.job, client, self.fence)


@dataclass(frozen=True)
class Folded:
    """A fold, and what it had to leave out."""

    published: Published
    aside: Mapping[str, str]
    """client -> why its update could not be read."""
    clipped: Mapping[str, float]
    """client -> factor < 1 by which its update was scaled down."""
    opposed: tuple[str, ...]
    """Clients whose updates were left out because they point against the others'."""


class _LostError(Exception):
    """An update that this fold has used cannot be read any more."""


@dataclass
class _Updates:
    """The updates of a round as the fold reads them: by client id, one in memory at a time, as often as it asks."""

    read: Callable[[str], ClientUpdate | None]
    clients: Callable[[], Sequence[str]]
    """Whose updates are folded, unless they cannot be read."""
    most: int
    done: Callable[[], None]
    """Called whenever all have been read."""
    used: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return self.most

    def __iter__(self) -> Iterator[ClientUpdate]:
        for client in self.clients():
            update = self.read(client)
            if update is not None:
                self.used.add(client)
                yield update
            elif client in self.used:
                raise _LostError
        self.done()


async def fold_round(
    store: Store,
    job: JobId,
    spec: JobSpec,
    schema: AdapterSchema,
    current: RoundRecord,
    pinned: Sequence[str],
    updates: Mapping[str, UpdateRecord],
    previous: VersionRecord | None,
    note: Note | None = None,
    reached: Callable[[str], None] = lambda point: None,
    decoded: DecodedUpdates | None = None,
) -> Folded:
    """Fold the pinned updates onto the previous version, in a worker thread, holding one update in memory at a time.

    An update that is gone, damaged, or not what was accepted is left out; a large one is scaled down (`influence`).
    decoded: updates that this process has decoded and checked already.
    """
    state = await load_state(store.blobs, job, spec, schema, previous)
    if (previous is None or previous.version == 0) and state.state.clusters < current.clusters:
        state = regroup(state, copies(current.clusters))  # version 0 is the same for all clusters
    loop = asyncio.get_running_loop()

    aside: dict[str, str] = {}
    clipped: dict[str, float] = {}
    against: list[str] = []
    factors: dict[str, float] = {}
    memberships = {client: current.participants[client].memberships for client in pinned}

    def ask(answer: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run_coroutine_threadsafe(answer, loop).result(_BLOB_TIMEOUT_S)
        except (TimeoutError, CancelledError) as error:
            raise FedhftError(ErrorCode.STORE_UNAVAILABLE, "the store does not answer in time; check it") from error

    def clients() -> Sequence[str]:
        if not factors:
            factors.update(scales(magnitudes(), spec.limits.clip))
            sketches = {client: updates[client].sketch for client in pinned}
            against.extend(opposed(sketches, memberships, spec.limits.opposed))
        left_out = {*against, *aside}
        return [client for client in pinned if client not in left_out]

    def update_of(client: str) -> ClientUpdate | None:
        delta = read(client)
        if delta is None:
            clipped.pop(client, None)
            return None
        part, scale = current.participants[client], factors[client]
        if scale < 1.0:
            clipped[client] = scale
        return ClientUpdate(client, part.weight, part.memberships, delta, scale)

    def done() -> None:
        if note is not None:
            ask(note.now(""))

    def read(client: str) -> MaskedDelta | None:
        if note is not None:
            ask(note.now(client))
        reached(f"decoding={client}")
        try:
            delta = decoded.take(job, updates[client].digest) if decoded is not None else None
            if delta is None:
                data = ask(read_whole(store.blobs, job, updates[client].digest))
                with metrics.DECODING_SECONDS.time():
                    delta = decode(data, schema, kind=adapter_pb2.BLOB_KIND_UPDATE).delta
                    check_update(spec, schema, current.participants[client].plan, delta)
        except Exception as error:
            if not is_at_fault(error):
                raise
            aside[client] = error.message if isinstance(error, FedhftError) else f"{type(error).__name__}: {error}"
            return None
        return delta

    def magnitudes() -> dict[str, Magnitude]:
        found: dict[str, Magnitude] = {}
        for client in pinned:
            norm = updates[client].norm
            if norm is None:  # recorded by an earlier release
                delta = read(client)
                norm = 0.0 if delta is None else delta.norm()
            found[client] = Magnitude(norm, largest_values(spec, schema, current.participants[client].plan))
        return found

    def folded() -> Published:
        while True:  # every turn but the last sets an update aside
            try:
                return fold(spec, schema, state, _Updates(update_of, clients, len(pinned), done))
            except _LostError:
                log.warning("an update cannot be read again: the fold begins anew", extra={"job": job})

    with metrics.FOLD_SECONDS.time():
        published = await asyncio.to_thread(folded)
    return Folded(published, aside, clipped, tuple(against))


def fold_figures(report: FoldReport | None) -> dict[str, float]:
    """The fold's figures for the round's summary."""
    if report is None:
        return {}
    return {
        "published_norm": report.published_norm,
        "residual_norm": report.residual_norm,
        "dropped_mass": report.dropped_mass,
    }
