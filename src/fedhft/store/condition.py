"""How Redis itself is, for the metrics page: its memory, and whether its append-only file is being written."""

from __future__ import annotations

import logging
import time

from fedhft.errors import FedhftError
from fedhft.store.connection import RedisConnection
from fedhft.telemetry import metrics

log = logging.getLogger(__name__)

EVERY_S = 10.0
"""How often it is asked."""
STATES = ("ok", "failing", "off")


class Condition:
    """What one process knows of its Redis. It is no part of whether the store can be used."""

    def __init__(self, redis: RedisConnection) -> None:
        self._redis = redis
        self._asked_s = float("-inf")
        self._told = False

    async def observe(self) -> None:
        """Ask, unless that was done lately, and show the answer."""
        if time.monotonic() - self._asked_s < EVERY_S:
            return
        self._asked_s = time.monotonic()
        try:
            answers = await self._redis.together(("INFO", "memory"), ("INFO", "persistence"))
            found = parse_info(*answers)
            used, maximum = int(found["used_memory"]), int(found["maxmemory"])
        except (FedhftError, KeyError, ValueError) as error:
            if not self._told:
                log.info("%s does not tell its memory and persistence: %s", self._redis.where, error)
                self._told = True
            return
        metrics.STORE_MEMORY_USED_BYTES.set(used)
        metrics.STORE_MEMORY_MAXIMUM_BYTES.set(maximum)
        now = aof_state(found)
        for state in STATES:
            metrics.STORE_AOF_STATE.labels(state=state).set(state == now)


def parse_info(*answers: object) -> dict[str, str]:
    """The fields of answers to INFO, which redis-py leaves as bytes or has parsed already."""
    found: dict[str, str] = {}
    for answer in answers:
        if isinstance(answer, dict):
            found.update({str(name): str(value) for name, value in answer.items()})
        elif isinstance(answer, bytes):
            lines = (line.partition(":") for line in answer.decode(errors="replace").splitlines())
            found.update({name: value for name, colon, value in lines if colon})
    return found


def aof_state(info: dict[str, str]) -> str:
    """One of STATES, from the fields of INFO persistence."""
    if info.get("aof_enabled") != "1":
        return "off"
    outcomes = (info.get("aof_last_write_status", "ok"), info.get("aof_last_bgrewrite_status", "ok"))
    return "ok" if outcomes == ("ok", "ok") else "failing"
