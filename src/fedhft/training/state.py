"""What a worker remembers between rounds, in memory and on disk.

Two safetensors files in the worker's folder: `memory.safetensors`, the acknowledged state, and `draft.safetensors`,
a trained update with the state that becomes valid once the server acknowledges it. Each is replaced in one step
(write, fsync, rename), so a kill at any moment leaves the old one or the new one. A draft of a round that is already
committed is ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedhft.adapter import AdapterState, Float32, Part, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.masking.rows import RowState
from fedhft.v1 import federation_pb2 as pb

FORMAT = "1"
STATE_FILE = "memory.safetensors"
DRAFT_FILE = "draft.safetensors"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class WorkerState:
    """Everything a worker must not lose.

    round: last acknowledged round, 0 for none. adapters, held: the sum of published blobs, and the version up to which
    each scope is complete. carried: error feedback. rows: scores and ages of the rows of each masked tensor.
    own: the client's own adapter (methods that share nothing).
    signature: the anchor signature of the data whose digest is `data_digest`.
    """

    round: int = 0
    adapters: AdapterState = field(default_factory=lambda: AdapterState(0, 1))
    held: Mapping[str, int] = field(default_factory=dict)
    carried: Mapping[TensorKey, Float32] = field(default_factory=dict)
    rows: Mapping[TensorKey, RowState] = field(default_factory=dict)
    own: Mapping[TensorKey, Float32] = field(default_factory=dict)
    signature: tuple[float, ...] = ()
    data_digest: str = ""


@dataclass(frozen=True, eq=False)
class Draft:
    """A trained update that waits for the server's acknowledgement.

    blob: serialised AdapterBlob, empty if nothing is shared; digest: its SHA-256 in hex, "" when empty.
    signature: of the update, if the method clusters by updates. after: the worker's state once this is acknowledged.
    """

    round: int
    base_version: int
    blob: bytes
    digest: str
    scores: list[pb.Score]
    measurements: pb.Measurements
    signature: tuple[float, ...]
    after: WorkerState

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return len(self.blob)


class StateFolder:
    """Keeps one worker's state and draft in a folder; without a folder it stores nothing."""

    def __init__(self, folder: Path | None, job: str, client: str, spec_digest: str) -> None:
        self._folder = None if folder is None else folder / job
        self._identity = {"format": FORMAT, "client": client, "spec": spec_digest}
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FedhftError(
                    ErrorCode.INVALID_ARGUMENT,
                    f"state directory {self._folder}: cannot be created: {error.strerror}; give another --state-dir",
                ) from error

    def read(self) -> tuple[WorkerState, Draft | None]:
        """State and draft as last written; a fresh state when there is none, or it belongs to another job of that name.

        Raises FedhftError(INVALID_ARGUMENT) when the folder belongs to another client or is damaged.
        """
        stored = self._read_file(STATE_FILE)
        state = WorkerState() if stored is None else _unpack_state(stored[0], stored[1])
        waiting = self._read_file(DRAFT_FILE)
        if waiting is None:
            return state, None
        draft = _unpack_draft(waiting[0], waiting[1], state)
        if draft.round <= state.round:
            self.drop_draft()
            return state, None
        return state, draft

    def write_state(self, state: WorkerState) -> None:
        """Replace the state on disk."""
        if self._folder is not None:
            arrays, meta = _pack_state(state)
            _write(self._folder / STATE_FILE, arrays, {**self._identity, "meta": json.dumps(meta)})

    def write_draft(self, draft: Draft) -> None:
        """Replace the draft on disk. Adapters are not written with it: they are in the state, or fetched again."""
        if self._folder is None:
            return
        arrays, meta = _pack_state(replace(draft.after, adapters=AdapterState(0, 1), held={}))
        report = pb.ReportEvaluationRequest(
            round=draft.round, version=draft.base_version, scores=draft.scores, measurements=draft.measurements
        )
        arrays["blob"] = np.frombuffer(draft.blob, np.uint8)
        arrays["report"] = np.frombuffer(report.SerializeToString(), np.uint8)
        meta["draft"] = {"signature": list(draft.signature), "digest": draft.digest}
        _write(self._folder / DRAFT_FILE, arrays, {**self._identity, "meta": json.dumps(meta)})

    def drop_draft(self) -> None:
        """Forget the draft on disk."""
        if self._folder is not None:
            (self._folder / DRAFT_FILE).unlink(missing_ok=True)

    def _read_file(self, name: str) -> tuple[Arrays, dict[str, Any]] | None:
        if self._folder is None or not (self._folder / name).is_file():
            return None
        path = self._folder / name
        try:
            with safe_open(str(path), framework="np") as file:
                header = file.metadata() or {}
                if header.get("client") != self._identity["client"]:
                    raise FedhftError.field(
                        ErrorCode.INVALID_ARGUMENT, "state-dir", str(path),
                        f"belongs to client {header.get('client')!r}, this is {self._identity['client']!r}",
                        "give each client a --state-dir of its own",
                    )  # fmt: skip
                if {key: header.get(key) for key in self._identity} != self._identity:
                    return None  # left by another job of the same name: of no use here
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return arrays, json.loads(header["meta"])
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise FedhftError(
                ErrorCode.INVALID_ARGUMENT, f"state file {path}: is damaged: {error}; delete it to start afresh"
            ) from error


def spec_digest(canonical: str) -> str:
    """Identity of a job's spec, hex."""
    return hashlib.sha256(canonical.encode()).hexdigest()


def _write(path: Path, arrays: Arrays, header: dict[str, str]) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, str(temporary), metadata=header)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, SafetensorError) as error:
        raise FedhftError(
            ErrorCode.INVALID_ARGUMENT, f"state file {path}: cannot be written: {error}; check the disk of --state-dir"
        ) from error


def _name(group: str, key: TensorKey) -> str:
    return f"{group}/{key.part.value}/{key.name}"


def _pack_state(state: WorkerState) -> tuple[Arrays, dict[str, Any]]:
    arrays: Arrays = {}
    for key, error in state.carried.items():
        arrays[_name("carried", key)] = error
    for key, own in state.own.items():
        arrays[_name("own", key)] = own
    for key, rows in state.rows.items():
        arrays[_name("score", key)] = rows.score
        arrays[_name("sent", key)] = rows.last_sent
    for scope, tensors in state.adapters.scopes.items():
        for key, tensor in tensors.items():
            arrays[_name(f"state/{scope}", key)] = tensor
    meta = {
        "round": state.round,
        "version": state.adapters.version,
        "clusters": state.adapters.clusters,
        "scopes": sorted(state.adapters.scopes),
        "held": dict(state.held),
        "signature": list(state.signature),
        "data_digest": state.data_digest,
    }
    return arrays, meta


def _unpack_state(arrays: Arrays, meta: dict[str, Any]) -> WorkerState:
    scopes: dict[str, dict[TensorKey, Float32]] = {scope: {} for scope in meta["scopes"]}
    groups: dict[str, dict[TensorKey, NDArray[Any]]] = {"carried": {}, "own": {}, "score": {}, "sent": {}}
    for name, array in arrays.items():
        group, _, rest = name.partition("/")
        if group == "state":
            scope, part, key_name = rest.split("/", 2)
            scopes[scope][TensorKey(key_name, Part(part))] = array
        elif group in groups:
            part, key_name = rest.split("/", 1)
            groups[group][TensorKey(key_name, Part(part))] = array
    return WorkerState(
        round=int(meta["round"]),
        adapters=AdapterState(int(meta["version"]), int(meta["clusters"]), scopes),
        held={str(scope): int(version) for scope, version in meta["held"].items()},
        carried=groups["carried"],
        rows={key: RowState(score, groups["sent"][key]) for key, score in groups["score"].items()},
        own=groups["own"],
        signature=tuple(float(value) for value in meta["signature"]),
        data_digest=str(meta["data_digest"]),
    )


def _unpack_draft(arrays: Arrays, meta: dict[str, Any], state: WorkerState) -> Draft:
    report = pb.ReportEvaluationRequest.FromString(arrays["report"].tobytes())
    return Draft(
        round=int(report.round),
        base_version=int(report.version),
        blob=arrays["blob"].tobytes(),
        digest=str(meta["draft"]["digest"]),
        scores=list(report.scores),
        measurements=report.measurements,
        signature=tuple(float(value) for value in meta["draft"]["signature"]),
        after=replace(_unpack_state(arrays, meta), adapters=state.adapters, held=state.held),
    )
