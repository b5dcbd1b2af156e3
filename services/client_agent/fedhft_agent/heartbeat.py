"""Signs of life while an agent computes, and what the server's answers to them mean.

Training makes no calls, so the server would take a slow device for a dead one and leave it out of the next round, and
the device would not learn that its round has closed. So a thread regularly asks for the client's task: to the server
that is a sign of life, and an answer other than the current task means that the work is no longer wanted.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType

import grpc

from fedhft.rpc.status import error_from_rpc
from fedhft.v1 import federation_pb2
from fedhft_agent.connection import Connection

log = logging.getLogger(__name__)

INTERVAL_S = 20.0
"""Seconds between two signs of life; well below any sensible rounds.client_timeout."""
_CALL_S = 10.0


class Heartbeat:
    """Context manager around the computation of one task; no other call may be made inside it."""

    def __init__(self, connection: Connection, job: str, round_number: int, interval_s: float = INTERVAL_S) -> None:
        self._connection = connection
        self._job = job
        self._round = round_number
        self._interval_s = interval_s
        self._done = threading.Event()
        self._outdated = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def outdated(self) -> bool:
        """Whether the server has said that this task is no longer wanted."""
        return self._outdated.is_set()

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(_CALL_S + 1.0)

    def _beat(self) -> None:
        while not self._done.wait(self._interval_s) and not self.outdated():
            try:
                answer = self._connection.look(self._job, _CALL_S)
            except grpc.RpcError as error:
                # Not retried: the next one is due soon, and delivering the work waits for the server anyway.
                log.debug("no answer to a sign of life", extra={"code": error_from_rpc(error).code.value})
                continue
            if not self._is_mine(answer):
                self._outdated.set()

    def _is_mine(self, answer: federation_pb2.NextTaskResponse) -> bool:
        match answer.WhichOneof("task"):
            case "train":
                return answer.train.round == self._round
            case "evaluate":
                return answer.evaluate.round == self._round
            case _:
                return False
