"""The clients of `benchmarks.load`: coroutines in one process, each with its own connection, without torch.

`python -m benchmarks.load_clients '<json>'` runs a job to its end and prints one JSON object: push and pull latencies.
A client does what an agent does, except that its "training" is seeded noise in the job's shapes.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import grpc
import numpy as np
from fedhft_agent.connection import CHUNK_BYTES, LARGEST_CHUNK_BYTES, LEAST_CHUNK_BYTES

from fedhft import PROTOCOL_VERSION
from fedhft.adapter import AdapterSchema, MaskedDelta, MaskedMatrix, Parameter, Part, Slot
from fedhft.errors import ErrorCode
from fedhft.rpc.channel import ChannelSettings, open_aio_channel
from fedhft.rpc.go_ahead import is_go_ahead
from fedhft.rpc.piece_size import PieceSize
from fedhft.rpc.status import error_from_rpc
from fedhft.v1 import adapter_pb2, federation_pb2, federation_pb2_grpc
from fedhft.wire.codec import encode
from fedhft.wire.digest import digest_of

CALL_S = 600.0
WAIT_MS = 30_000
JOINING_AT_ONCE = 32

Response = federation_pb2.PushUpdateResponse


@dataclass(frozen=True)
class Shape:
    """Adapters on query and value of `layers` layers, and a head of two tensors."""

    layers: int
    width: int
    rank: int

    def schema(self) -> AdapterSchema:
        """The schema every client joins with."""
        names = [(layer, name) for layer in range(self.layers) for name in ("query", "value")]
        return AdapterSchema(
            base_digest="0" * 64,
            tokenizer_digest="1" * 64,
            architecture="load",
            labels=("a", "b"),
            layers=self.layers,
            slots=tuple(Slot(f"layer.{i}.{n}", i, self.width, self.width, self.rank) for i, n in names),
            head=(Parameter("classifier.weight", (2, self.width)), Parameter("classifier.bias", (2,))),
        )


@dataclass(frozen=True)
class Load:
    """What to run."""

    server: str
    job: str
    clients: int
    shape: Shape


@dataclass
class Figures:
    """What the clients measured. Seconds, bytes."""

    pushes: list[float] = field(default_factory=list)
    pulls: list[float] = field(default_factory=list)
    update_bytes: int = 0
    update_values: int = 0
    arrays: int = 0
    resumed: int = 0
    """Transfers that lost their place and went on later."""
    cpu_seconds: float = 0.0


class Client:
    """One client of the job."""

    def __init__(self, load: Load, number: int, schema: AdapterSchema, figures: Figures) -> None:
        self._name = f"client-{number:04d}"
        self._load = load
        self._schema = schema
        self._figures = figures
        self._random = np.random.default_rng(number)
        self._held: dict[str, int] = {}
        self._chunk_size = PieceSize(CHUNK_BYTES, LEAST_CHUNK_BYTES, LARGEST_CHUNK_BYTES)

    async def run(self, joining: asyncio.Semaphore) -> None:
        """Enroll, join, then pull and push until the job is over."""
        settings = ChannelSettings(self._load.server, own_connection=True)
        async with open_aio_channel(settings) as channel:
            self._stub = federation_pb2_grpc.FederationStub(channel)
            async with joining:
                await self._join()
            while (task := await self._next()) is not None:
                await self._fetch(task)
                await self._push(task)

    async def _join(self) -> None:
        enrolled = await self._stub.Enroll(
            federation_pb2.EnrollRequest(client=self._name, protocol_version=PROTOCOL_VERSION), timeout=CALL_S
        )
        self._token, self._inline = enrolled.lease_token, enrolled.max_inline_bytes
        request = federation_pb2.JoinRequest(
            client=self._name,
            lease_token=self._token,
            job=self._load.job,
            schema_json=self._schema.to_json(),
            samples=100,
        )
        await self._stub.Join(request, timeout=CALL_S)

    async def _next(self) -> federation_pb2.TrainTask | None:
        request = federation_pb2.NextTaskRequest(
            client=self._name,
            lease_token=self._token,
            job=self._load.job,
            wait_ms=WAIT_MS,
            held=[federation_pb2.HeldScope(scope=s, version=v) for s, v in self._held.items()],
        )
        while True:
            answer = await self._stub.NextTask(request, timeout=CALL_S)
            match answer.WhichOneof("task"):
                case "train":
                    return answer.train
                case "finished" if answer.finished.status == "completed":
                    return None
                case "wait":
                    continue
                case _:
                    raise RuntimeError(f"{self._name}: unexpected answer {answer}")

    async def _fetch(self, task: federation_pb2.TrainTask) -> None:
        for ref in task.view.blobs:
            started = time.perf_counter()
            data = bytearray()
            while len(data) < ref.size:
                request = federation_pb2.PullBlobRequest(
                    client=self._name, lease_token=self._token, job=self._load.job, digest=ref.digest, offset=len(data)
                )
                with self._losing_its_place():
                    async for chunk in self._stub.PullBlob(request, timeout=CALL_S):
                        data += chunk.data
            if digest_of(bytes(data)) != ref.digest.hex():
                raise RuntimeError(f"{self._name}: blob {ref.digest.hex()[:12]} arrived with other bytes")
            self._held[ref.scope] = ref.version
            self._figures.pulls.append(time.perf_counter() - started)

    async def _push(self, task: federation_pb2.TrainTask) -> None:
        blob = self._update(task.view.version)
        header = federation_pb2.UpdateHeader(
            client=self._name,
            lease_token=self._token,
            job=self._load.job,
            round=task.round,
            base_version=task.view.version,
            digest=bytes.fromhex(digest_of(blob)),
            size=len(blob),
        )

        async def messages(begin: int) -> AsyncIterator[federation_pb2.PushUpdateRequest]:
            if len(blob) <= self._inline:
                header.blob = blob
            yield federation_pb2.PushUpdateRequest(header=header)
            if header.blob or header.query_staged or not is_go_ahead(await call.initial_metadata()):
                return
            for offset, part in self._chunk_size.pieces(blob, begin):
                yield federation_pb2.PushUpdateRequest(chunk=federation_pb2.BlobChunk(offset=offset, data=part))

        started = time.perf_counter()
        answer, begin = Response(), 0
        while answer.result != Response.RESULT_ACCEPTED:
            with self._losing_its_place():
                header.query_staged = False
                call = self._stub.PushUpdate(messages(begin), timeout=CALL_S)
                answer = await call
                if answer.result != Response.RESULT_ACCEPTED:
                    raise RuntimeError(f"{self._name}: push answered {answer}")
                break
            header.query_staged = True
            call = self._stub.PushUpdate(messages(0), timeout=CALL_S)
            begin = (await call).staged_bytes
        self._figures.pushes.append(time.perf_counter() - started)

    @contextmanager
    def _losing_its_place(self) -> Iterator[None]:
        """Lets a transfer be resumed that a full server ended because it stood still: the clients share one process."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            if error_from_rpc(error).code is not ErrorCode.TRUNCATED_STREAM:
                raise
            self._figures.resumed += 1

    def _update(self, version: int) -> bytes:
        tensors = {}
        for key in self._schema.keys:
            if key.part in (Part.A, Part.B, Part.HEAD):
                noise = self._random.standard_normal(self._schema.shape(key), np.float32)
                tensors[key] = MaskedMatrix.full(noise * np.float32(1e-3))
        delta = MaskedDelta(tensors)
        kind = adapter_pb2.BLOB_KIND_UPDATE
        blob = encode(delta, self._schema, kind=kind, encoding="fp32", version=version)
        figures = self._figures
        figures.update_bytes, figures.update_values, figures.arrays = len(blob), delta.values, len(tensors)
        return blob


async def run(load: Load) -> Figures:
    """Run all clients of one job, to its end."""
    figures = Figures()
    schema = load.shape.schema()
    joining = asyncio.Semaphore(JOINING_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for number in range(load.clients):
            group.create_task(Client(load, number, schema, figures).run(joining))
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures.cpu_seconds = used.ru_utime + used.ru_stime
    return figures


def main() -> None:
    """Entry point."""
    given = json.loads(sys.argv[1])
    load = Load(**{**given, "shape": Shape(**given["shape"])})
    print(json.dumps(asdict(asyncio.run(run(load)))))


if __name__ == "__main__":
    main()
