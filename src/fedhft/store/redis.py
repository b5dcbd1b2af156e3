"""The store in Redis 6.2 or later. What each key holds is in keys.py, each transition in lua/."""

from __future__ import annotations

import logging

from fedhft.errors import FedhftError
from fedhft.ids import JobId
from fedhft.records import Topic
from fedhft.store.blobs import BlobStore
from fedhft.store.blobs_redis import RedisBlobs
from fedhft.store.changes import ChangeFeed
from fedhft.store.condition import Condition
from fedhft.store.connection import RedisConnection
from fedhft.store.interface import BlobBackEnd
from fedhft.store.keys import PROBE, JobKeys
from fedhft.store.redis_agents import RedisAgents
from fedhft.store.redis_capacities import RedisCapacities
from fedhft.store.redis_declines import RedisDeclines
from fedhft.store.redis_jobs import RedisJobs
from fedhft.store.redis_progress import RedisProgress
from fedhft.store.redis_revocations import RedisRevocations
from fedhft.store.redis_rounds import RedisRounds
from fedhft.store.transfers import TransferStore
from fedhft.store.transfers_redis import RedisTransfers
from fedhft.telemetry import metrics

log = logging.getLogger(__name__)

_PROBE_TTL_MS = 10_000
_DURABLE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


class RedisStore(RedisAgents, RedisJobs, RedisDeclines, RedisCapacities, RedisProgress, RedisRounds, RedisRevocations):
    """Store over Redis; blobs and transfers there too unless another back end is given. Connects when first used."""

    def __init__(self, redis: RedisConnection, back_end: BlobBackEnd | None = None) -> None:
        self._redis = redis
        back_end = back_end or BlobBackEnd(RedisBlobs(redis), RedisTransfers(redis))
        self._blobs, self._transfers = back_end.blobs, back_end.transfers
        self._changes = ChangeFeed(redis)
        self._settings_checked = False
        self._condition = Condition(redis)

    @property
    def blobs(self) -> BlobStore:
        """See Store.blobs."""
        return self._blobs

    @property
    def transfers(self) -> TransferStore:
        """See Store.transfers."""
        return self._transfers

    async def ping(self) -> None:
        """See Store.ping."""
        up = False
        try:
            await self._redis.call("SET", PROBE, 1, "PX", _PROBE_TTL_MS)
            up = True
        finally:
            metrics.STORE_UP.set(up)  # also when whoever asks has lost patience
        await self._blobs.ping()
        await self._condition.observe()
        if not self._settings_checked:
            self._settings_checked = True
            await self._check_settings()

    async def _check_settings(self) -> None:
        """Warn once when this Redis may lose what it acknowledged."""
        try:
            settings = await self._redis.together(*(("CONFIG", "GET", name) for name in _DURABLE))
        except FedhftError as error:
            log.info("cannot read the settings of %s, so its durability is unknown: %s", self._redis.where, error)
            return
        for (name, wanted), answer in zip(_DURABLE.items(), settings, strict=True):
            found = b" ".join(answer[1:]).decode()
            if found and found != wanted:
                log.warning(
                    "%s has %s %s: it may lose what it acknowledged; set `%s %s`",
                    *(self._redis.where, name, found, name, wanted),
                )

    async def now_ms(self) -> int:
        """See Store.now_ms."""
        seconds, microseconds = await self._redis.call("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def close(self) -> None:
        """See Store.close."""
        await self._changes.close()
        await self._blobs.close()
        await self._redis.close()

    async def changes(self, job: JobId, topic: Topic) -> int:
        """See Store.changes."""
        return await self._changes.read(JobKeys(job).changes(topic))

    async def wait_change(self, job: JobId, topic: Topic, seen: int, timeout_s: float) -> int:
        """See Store.wait_change."""
        return await self._changes.wait(JobKeys(job).changes(topic), seen, timeout_s)
