"""Clients without a model: they speak the protocol over real sockets and send made-up tensors that fit the job."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import grpc.aio
import numpy as np

from fedhft import PROTOCOL_VERSION, seeds
from fedhft.adapter import AdapterSchema, MaskedDelta, MaskedMatrix, Parameter, Slot
from fedhft.clustering.signature import DIMENSIONS
from fedhft.errors import ErrorCode
from fedhft.job import JobSpec, parse_job
from fedhft.plan import AdapterPlan
from fedhft.rounds.acceptance import expected_keys
from fedhft.rpc.status import error_from_rpc
from fedhft.v1 import adapter_pb2, federation_pb2, federation_pb2_grpc
from fedhft.wire.codec import encode


def light_schema(layers: int = 2, width: int = 16, rank: int = 4, labels: Sequence[str] = ("a", "b")) -> AdapterSchema:
    """A schema of `layers` slots of width x width."""
    return AdapterSchema(
        base_digest="0" * 64,
        tokenizer_digest="1" * 64,
        architecture="light",
        labels=tuple(labels),
        layers=layers,
        slots=tuple(Slot(f"layer.{i}.query", i, width, width, rank) for i in range(layers)),
        head=(Parameter("classifier.weight", (len(labels), width)), Parameter("classifier.bias", (len(labels),))),
    )


def light_job(name: str, **changes: Any) -> JobSpec:
    """A small job for light_schema; sections in `changes` are merged into the defaults."""
    raw: dict[str, Any] = {
        "name": name,
        "model": {"name": "light"},
        "task": {"labels": ["a", "b"]},
        "adapter": {"rank": 4},
        "method": {"preset": "fedhft", "clusters": 1},
        "rounds": {"total": 2, "min_clients": 2, "deadline": "20s", "join_timeout": "30s"},
        "evaluation": {"final": False},
    }
    for section, value in changes.items():
        raw[section] = {**raw[section], **value} if isinstance(value, dict) and section in raw else value
    return parse_job(raw)


def light_signature(place: int = 0) -> tuple[float, ...]:
    """A signature of norm 1; different places are at right angles."""
    return tuple(float(index == place) for index in range(DIMENSIONS))


def light_delta(
    spec: JobSpec, schema: AdapterSchema, plan: AdapterPlan, seed: int | str, scale: float = 0.01
) -> MaskedDelta:
    """An update that fits a plan: seeded noise on the first allowed rows."""
    tensors = {}
    for key in expected_keys(spec, schema, plan):
        rows, cols = schema.shape(key)
        kept = plan.rows_allowed(key, schema)
        values = seeds.uniform(seeds.seed_of("light", seed, key.name, key.part.value), (kept, cols), scale)
        index = None if kept == rows else np.arange(kept, dtype=np.int32)
        tensors[key] = MaskedMatrix(rows, cols, index, values)
    return MaskedDelta(tensors)


class LightClient:
    """One client of one job."""

    def __init__(self, channel: grpc.aio.Channel, name: str, spec: JobSpec, schema: AdapterSchema) -> None:
        self.stub = federation_pb2_grpc.FederationStub(channel)
        self.name = name
        self.spec = spec
        self.schema = schema
        self.token = ""
        self.held: dict[str, int] = {}
        self.told: list[federation_pb2.Outcome] = []

    async def enroll(
        self, protocol_version: int = PROTOCOL_VERSION, memory_bytes: int = 0
    ) -> federation_pb2.EnrollResponse:
        response = await self.stub.Enroll(
            federation_pb2.EnrollRequest(
                client=self.name,
                protocol_version=protocol_version,
                memory_bytes=memory_bytes,
                lease_token=self.token,
            ),
            timeout=10,
        )
        self.token = response.lease_token
        return response

    async def join(
        self,
        samples: int = 10,
        signature: Sequence[float] = (),
        signature_halves: Sequence[float] = (),
        **changes: Any,
    ) -> Any:
        request = federation_pb2.JoinRequest(
            client=self.name,
            lease_token=self.token,
            job=self.spec.name,
            schema_json=self.schema.to_json(),
            samples=samples,
            signature=signature,
            signature_halves=signature_halves,
        )
        for field, value in changes.items():
            setattr(request, field, value)
        return await self.stub.Join(request, timeout=10)

    async def refused(self, call: Awaitable[Any]) -> ErrorCode:
        """The code with which a call is refused."""
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return error_from_rpc(error).code
        raise AssertionError("not refused")

    async def enter(self, **changes: Any) -> None:
        await self.enroll()
        await self.join(**changes)

    async def next_task(self, wait_ms: int = 10_000) -> federation_pb2.NextTaskResponse:
        """The answer to a long poll, asked again until the time is over: one call may wait for less than it asks."""
        clock = asyncio.get_running_loop()
        until = clock.time() + wait_ms / 1000
        while True:
            left_ms = max(0, round(1000 * (until - clock.time())))
            request = federation_pb2.NextTaskRequest(
                client=self.name, lease_token=self.token, job=self.spec.name, wait_ms=left_ms
            )
            request.held.extend(federation_pb2.HeldScope(scope=s, version=v) for s, v in self.held.items())
            request.outcome_seen = self.told[-1].round if self.told else 0
            response = await self.stub.NextTask(request, timeout=left_ms / 1000 + 10)
            if response.HasField("outcome"):
                self.told.append(response.outcome)
            if response.WhichOneof("task") != "wait" or clock.time() >= until:
                return response

    async def train_task(self) -> federation_pb2.TrainTask:
        """The next training task. Fails if the job ends first."""
        for _ in range(10):
            response = await self.next_task()
            if response.WhichOneof("task") == "train":
                return response.train
            assert response.WhichOneof("task") == "wait", response
        raise AssertionError("no training task within ten long polls")

    async def pull(self, task: Any) -> dict[str, bytes]:
        """Every blob of a task's view, digests checked."""
        pulled = {}
        for ref in task.view.blobs:
            request = federation_pb2.PullBlobRequest(
                client=self.name, lease_token=self.token, job=self.spec.name, digest=ref.digest
            )
            data = b"".join([chunk.data async for chunk in self.stub.PullBlob(request, timeout=20)])
            assert hashlib.sha256(data).digest() == ref.digest
            pulled[f"{ref.scope}@{ref.version}"] = data
            self.held[ref.scope] = ref.version
        return pulled

    def update(self, task: federation_pb2.TrainTask, scale: float = 0.01) -> bytes:
        """A blob that fits the task's plan: seeded noise on the first allowed rows."""
        delta = light_delta(self.spec, self.schema, AdapterPlan.of(task.plan), f"{self.name} {task.round}", scale)
        return encode(
            delta,
            self.schema,
            kind=adapter_pb2.BLOB_KIND_UPDATE,
            encoding=self.spec.wire.up,
            version=task.view.version,
        )

    def header(self, task: federation_pb2.TrainTask, blob: bytes, **changes: Any) -> federation_pb2.UpdateHeader:
        header = federation_pb2.UpdateHeader(
            client=self.name,
            lease_token=self.token,
            job=self.spec.name,
            round=task.round,
            base_version=task.view.version,
            digest=hashlib.sha256(blob).digest(),
            size=len(blob),
        )
        for field, value in changes.items():
            setattr(header, field, value)
        return header

    async def push(
        self, header: federation_pb2.UpdateHeader, chunks: Sequence[tuple[int, bytes]] = ()
    ) -> federation_pb2.PushUpdateResponse:
        """A header and the given (offset, bytes) chunks."""

        async def messages() -> AsyncIterator[federation_pb2.PushUpdateRequest]:
            yield federation_pb2.PushUpdateRequest(header=header)
            for offset, data in chunks:
                yield federation_pb2.PushUpdateRequest(chunk=federation_pb2.BlobChunk(offset=offset, data=data))

        return await self.stub.PushUpdate(messages(), timeout=20)

    async def deliver(self, task: federation_pb2.TrainTask) -> federation_pb2.PushUpdateResponse:
        """Train (not really) and push in one chunk."""
        blob = self.update(task)
        return await self.push(self.header(task, blob), [(0, blob)])

    async def work(self, **joining: Any) -> str:
        """An honest client: enters, does every task until the job is over, and returns its final status.

        A round that closed while this client was busy is no fault of it: it asks for the next task.
        """
        await self.enter(**joining)
        while True:
            response = await self.next_task(2_000)
            kind = response.WhichOneof("task")
            if kind == "finished":
                return str(response.finished.status)
            try:
                if kind == "train":
                    await self.deliver(response.train)
                elif kind == "evaluate":
                    await self.report(response.evaluate)
            except grpc.aio.AioRpcError as error:
                if error_from_rpc(error).code not in (ErrorCode.ROUND_CLOSED, ErrorCode.JOB_NOT_RUNNING):
                    raise

    async def report(self, task: federation_pb2.EvaluateTask) -> federation_pb2.ReportEvaluationResponse:
        """Made-up scores of a final evaluation."""
        score = federation_pb2.Score
        scores = [
            score(split=score.SPLIT_PERSONAL, moment=moment, view=score.VIEW_OWN, value=0.5, loss=0.7, rows=4)
            for moment in (score.MOMENT_BEFORE, score.MOMENT_AFTER)
        ]
        request = federation_pb2.ReportEvaluationRequest(
            client=self.name,
            lease_token=self.token,
            job=self.spec.name,
            round=task.round,
            version=task.view.version,
            scores=scores,
        )
        return await self.stub.ReportEvaluation(request, timeout=20)
