"""The agents of `benchmarks.scale`: thousands of light clients in one process, each on a connection of its own.

`python -m benchmarks.scale_clients '<json>'` enrolls and joins clients FIRST to LAST of a job, then waits for work in
long polls as agents do. A client that gets a task pushes a small update. How far it is stands in a file that is
rewritten several times a second, so that nothing of this passes through the aggregator.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc.aio
import numpy as np
from fedhft_agent.heartbeat import INTERVAL_S

from benchmarks.load_clients import Shape
from fedhft import PROTOCOL_VERSION
from fedhft.adapter import AdapterSchema, MaskedDelta, MaskedMatrix, Part
from fedhft.errors import ErrorCode
from fedhft.rpc.channel import ChannelSettings, open_aio_channel
from fedhft.rpc.keepalive import KeepAlive
from fedhft.rpc.status import error_from_rpc
from fedhft.v1 import adapter_pb2, federation_pb2, federation_pb2_grpc
from fedhft.wire.codec import encode
from fedhft.wire.digest import digest_of

SHAPE = Shape(layers=1, width=64, rank=2)
"""Updates of about a kilobyte: what is measured is the number of clients, not their bytes."""
_CALL_S = 120.0
_JOINING_AT_ONCE = 6
_SAID_EVERY_S = 0.1


@dataclass(frozen=True)
class Crowd:
    """Which clients, of what, and where to say how far they are."""

    server: str
    job: str
    first: int
    last: int
    progress: str
    deliver: bool
    """Whether a client with a task pushes an update; otherwise it keeps the task and waits."""


@dataclass
class Progress:
    """How far the clients of one process are."""

    joined: int = 0
    tasks: int = 0
    delivered: int = 0
    ended: int = 0
    repeated: int = 0
    """Polls that were refused for the moment and made again."""
    pushes: list[float] = field(default_factory=list)


class Client:
    """One agent."""

    def __init__(self, crowd: Crowd, number: int, schema: AdapterSchema, progress: Progress) -> None:
        self._crowd = crowd
        self._name = f"client-{number:05d}"
        self._schema = schema
        self._progress = progress
        self._random = np.random.default_rng(number)

    async def run(self, joining: asyncio.Semaphore) -> None:
        """Until the job is over."""
        # Thousands of clients share two cores here, so an answer to a ping may take long on their side.
        patient = KeepAlive(answer_s=120.0)
        settings = ChannelSettings(self._crowd.server, own_connection=True, keepalive=patient)
        async with open_aio_channel(settings) as channel:
            self._stub = federation_pb2_grpc.FederationStub(channel)
            async with joining:
                await self._join()
            self._progress.joined += 1
            kept = 0
            while True:
                answer = await self._poll()
                match answer.WhichOneof("task"):
                    case "finished":
                        self._progress.ended += 1
                        return
                    case "train" if answer.train.round != kept:
                        kept = answer.train.round
                        self._progress.tasks += 1
                        if self._crowd.deliver:
                            await self._push(answer.train)
                        else:
                            await asyncio.sleep(INTERVAL_S)  # an agent trains for so long before it looks again
                    case "train":
                        await asyncio.sleep(INTERVAL_S)

    async def _join(self) -> None:
        enrolled = await self._stub.Enroll(
            federation_pb2.EnrollRequest(client=self._name, protocol_version=PROTOCOL_VERSION), timeout=_CALL_S
        )
        self._token, self._wait_ms = enrolled.lease_token, enrolled.max_wait_ms
        request = federation_pb2.JoinRequest(
            client=self._name,
            lease_token=self._token,
            job=self._crowd.job,
            schema_json=self._schema.to_json(),
            samples=100,
        )
        await self._stub.Join(request, timeout=_CALL_S)

    async def _poll(self) -> federation_pb2.NextTaskResponse:
        request = federation_pb2.NextTaskRequest(
            client=self._name, lease_token=self._token, job=self._crowd.job, wait_ms=self._wait_ms
        )
        while True:
            try:
                return await self._stub.NextTask(request, timeout=_CALL_S)
            except grpc.aio.AioRpcError as error:
                if not error_from_rpc(error).outcome.retryable:
                    raise
                self._progress.repeated += 1
                await asyncio.sleep(1.0)  # as an agent does

    async def _push(self, task: federation_pb2.TrainTask) -> None:
        tensors = {}
        for key in self._schema.keys:
            if key.part in (Part.A, Part.B, Part.HEAD):
                noise = self._random.standard_normal(self._schema.shape(key), np.float32)
                tensors[key] = MaskedMatrix.full(noise * np.float32(1e-3))
        blob = encode(
            MaskedDelta(tensors),
            self._schema,
            kind=adapter_pb2.BLOB_KIND_UPDATE,
            encoding="fp32",
            version=task.view.version,
        )
        header = federation_pb2.UpdateHeader(
            client=self._name,
            lease_token=self._token,
            job=self._crowd.job,
            round=task.round,
            base_version=task.view.version,
            digest=bytes.fromhex(digest_of(blob)),
            size=len(blob),
            blob=blob,
        )

        async def messages() -> AsyncIterator[federation_pb2.PushUpdateRequest]:
            yield federation_pb2.PushUpdateRequest(header=header)

        try:
            await self._stub.PushUpdate(messages(), timeout=_CALL_S)
        except grpc.aio.AioRpcError as error:
            if error_from_rpc(error).code is not ErrorCode.ROUND_CLOSED:
                raise
        self._progress.delivered += 1


async def _say(progress: Progress, path: Path) -> None:
    new = path.with_suffix(".new")
    while True:
        new.write_text(json.dumps(asdict(progress)), encoding="utf-8")
        new.replace(path)
        await asyncio.sleep(_SAID_EVERY_S)


async def run(crowd: Crowd) -> None:
    """All clients, to the end of the job."""
    progress = Progress()
    schema = SHAPE.schema()
    joining = asyncio.Semaphore(_JOINING_AT_ONCE)
    saying = asyncio.create_task(_say(progress, Path(crowd.progress)))
    async with asyncio.TaskGroup() as group:
        for number in range(crowd.first, crowd.last + 1):
            group.create_task(Client(crowd, number, schema, progress).run(joining))
    saying.cancel()


if __name__ == "__main__":
    asyncio.run(run(Crowd(**json.loads(sys.argv[1]))))
