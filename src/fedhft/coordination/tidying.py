"""After a round: delete what neither a client nor a restart can still need.

A coordinator may fall asleep at any line here and wake up rounds later. What it deletes then is still not needed:
it looks up what is needed after it took a mark, and deletes only what was stored before the mark, while everything that
others came to need since, they have stored, or stored again, after it. And once another holds the lease, the first step
here is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

from fedhft.coordination.driven import Driven
from fedhft.records import UpdateRecord
from fedhft.rounds.retention import oldest_kept, retention

_ORPHAN_AGE_S = 3600.0


async def tidy(driven: Driven, latest: int, updates: Iterable[UpdateRecord], fence: int, *, best: int = 0) -> None:
    """Tidy after version `latest` was published, whose round folded `updates`. best: the best version, 0 for none.

    Raises FENCED, and the store's.
    """
    store, job = driven.store, driven.job
    mark = await store.blobs.mark(job)
    driven.reached("tidying")
    oldest = oldest_kept(latest)
    forgotten = await store.drop_versions(job, oldest, fence, keep=best)
    numbers = [*([best] if 0 < best < oldest else []), *range(oldest, latest + 1)]
    found = [await store.version(job, number) for number in numbers]
    verdict = retention(latest, [one for one in found if one is not None], forgotten, updates, best)
    await store.blobs.delete(job, verdict.dropped, mark)
    await store.blobs.sweep(job, verdict.kept, _ORPHAN_AGE_S, mark)
    await store.transfers.sweep(job, _ORPHAN_AGE_S)
