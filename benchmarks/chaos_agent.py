"""A light agent of `benchmarks.chaos`: the real agent's connection, transfers and state files, without a model.

`python -m benchmarks.chaos_agent SERVER CLIENT FOLDER` serves every job on offer until it is killed. Its "training" is
noise that depends on the client, the round and every byte of the adapters it holds, so one wrong byte anywhere shows in
what is published. It writes a line to FOLDER/acknowledged for every update that the server has acknowledged.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from fedhft_agent.connection import Connection, Peer
from fedhft_agent.transfers import PayloadCount, pull_blob, push_update

from benchmarks.load_clients import Shape
from fedhft import seeds
from fedhft.adapter import MaskedDelta, MaskedMatrix
from fedhft.clustering.signature import DIMENSIONS
from fedhft.errors import ErrorCode, FedhftError
from fedhft.ids import ClientId
from fedhft.job import JobSpec, load_canonical
from fedhft.plan import AdapterPlan
from fedhft.process.signals import StopSignal
from fedhft.rounds.acceptance import expected_keys
from fedhft.rpc.retry import Backoff
from fedhft.telemetry import logs
from fedhft.training.held import complete_at, is_ahead, with_blob
from fedhft.training.state import Draft, StateFolder, WorkerState, spec_digest
from fedhft.v1 import adapter_pb2
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.codec import encode
from fedhft.wire.digest import digest_of

SMALL = Shape(layers=4, width=256, rank=8)
"""Updates of about 16 KB, which travel inside their headers."""
LARGE = Shape(layers=6, width=1024, rank=8)
"""Updates of about 100 KB, which come in chunks and are resumed when a stream broke."""
WAIT_MS = 5_000
NAMES = tuple(f"client-{number}" for number in range(6))
"""The clients of every job."""


def samples_of(client: str) -> int:
    """Training rows of a client."""
    return 20 + 10 * NAMES.index(client)


class LightAgent:
    """One client; serves one job after another."""

    def __init__(self, connection: Connection, client: str, folder: Path) -> None:
        self._connection = connection
        self._client = client
        self._folder = folder
        self._acknowledged = os.open(folder / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def serve(self) -> None:
        """Take the jobs on offer, oldest first, for ever."""
        while True:
            for offer in self._connection.enroll():
                try:
                    self._serve(load_canonical(self._connection.offer(offer.job).spec_json))
                except FedhftError as error:
                    if not _is_end(error):
                        raise
            time.sleep(random.uniform(0.1, 0.3))

    def _serve(self, spec: JobSpec) -> None:
        self._schema = (LARGE if spec.method.is_clustered else SMALL).schema()
        files = StateFolder(self._folder, spec.name, self._client, spec_digest(spec.canonical()))
        self._join(spec)
        state, draft = files.read()
        if draft is not None:
            state = self._deliver(spec, files, state, draft, resume=True)
        while True:
            held = sorted(state.held.items())
            answer = self._connection.next_task(spec.name, held, wait_ms=WAIT_MS)
            match answer.WhichOneof("task"):
                case "finished":
                    return
                case "train":
                    state = self._fetched(spec, state, answer.train.view)
                    draft = self._trained(spec, state, answer.train)
                    files.write_draft(draft)
                    state = self._deliver(spec, files, state, draft, resume=False)

    def _join(self, spec: JobSpec) -> None:
        self._connection.join(
            pb.JoinRequest(
                job=spec.name,
                schema_json=self._schema.to_json(),
                samples=samples_of(self._client),
                signature=_signature(self._client) if spec.method.clusters_by_anchors else (),
                data_digest=digest_of(self._client.encode()),
            )
        )

    def _fetched(self, spec: JobSpec, state: WorkerState, view: pb.ViewSource) -> WorkerState:
        if is_ahead(state, int(view.version), view.memberships):
            raise FedhftError(ErrorCode.INTERNAL, f"holds {dict(state.held)}, the server is at {view.version}")
        for ref in view.blobs:
            state = with_blob(state, self._schema, ref, pull_blob(self._connection, spec.name, ref, PayloadCount()))
        return complete_at(state, view, view.memberships, self._schema, needed=0)

    def _trained(self, spec: JobSpec, state: WorkerState, task: pb.TrainTask) -> Draft:
        held = hashlib.sha256()
        for scope, tensors in sorted(state.adapters.scopes.items()):
            for key, tensor in sorted(tensors.items(), key=lambda item: (item[0].name, item[0].part.value)):
                held.update(f"{scope} {key.name} {key.part.value}".encode() + tensor.tobytes())
        random_numbers = np.random.default_rng(
            seeds.seed_of("chaos", spec.seed, self._client, task.round, held.hexdigest())
        )
        tensors = {}
        for key in expected_keys(spec, self._schema, AdapterPlan.of(task.plan)):
            noise = random_numbers.standard_normal(self._schema.shape(key), np.float32)
            tensors[key] = MaskedMatrix.full(noise * np.float32(1e-3))
        blob = encode(
            MaskedDelta(tensors),
            self._schema,
            kind=adapter_pb2.BLOB_KIND_UPDATE,
            encoding=spec.wire.up,
            version=task.view.version,
        )
        return Draft(
            round=int(task.round),
            base_version=int(task.view.version),
            blob=blob,
            digest=digest_of(blob),
            scores=[],
            measurements=pb.Measurements(steps=1),
            signature=(),
            after=replace(state, round=int(task.round)),
        )

    def _deliver(
        self, spec: JobSpec, files: StateFolder, state: WorkerState, draft: Draft, *, resume: bool
    ) -> WorkerState:
        header = pb.UpdateHeader(
            job=spec.name,
            round=draft.round,
            base_version=draft.base_version,
            digest=bytes.fromhex(draft.digest),
            size=len(draft.blob),
            measurements=draft.measurements,
        )
        push_update(self._connection, header, draft.blob, PayloadCount(), resume=resume)
        os.write(self._acknowledged, f"{spec.name} {draft.round} {draft.digest}\n".encode())
        os.fsync(self._acknowledged)
        after = draft.after.standing_where(state)
        files.write_state(after)
        files.drop_draft()
        return after


def _signature(client: str) -> list[float]:
    """Unit vectors in two groups, by whether the client's number is even."""
    group = NAMES.index(client) % 2
    values = np.random.default_rng(NAMES.index(client)).standard_normal(DIMENSIONS) * 0.02
    values[group] += 1.0
    return [float(value) for value in (values / np.linalg.norm(values)).astype(np.float32)]


def _is_end(error: FedhftError) -> bool:
    """Whether a refusal only says that a job ended, or that the server forgot something that is sent again."""
    return error.code in (ErrorCode.JOB_NOT_RUNNING, ErrorCode.UNKNOWN_JOB, ErrorCode.NOT_JOINED)


def main() -> None:
    """Entry point."""
    server, client, folder = sys.argv[1:]
    logs.configure("json", "warning")
    Path(folder).mkdir(parents=True, exist_ok=True)
    peer = Peer(server, ClientId(client), backoff=Backoff(first_s=0.1, longest_s=1.0))
    with StopSignal() as stop, Connection(peer, stop) as connection:
        LightAgent(connection, client, Path(folder)).serve()


if __name__ == "__main__":
    main()
