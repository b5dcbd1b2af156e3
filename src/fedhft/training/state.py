"""What a worker remembers between rounds, in memory and on disk.

Two files in the worker's folder: `memory.safetensors`, the acknowledged state, and `draft.safetensors`, a trained
update with the state that becomes valid once the server acknowledges it. Each has a checksum and is replaced in one
step (write, fsync, rename), so a kill at any moment leaves the old one or the new one. A draft of a round that is
already committed is ignored.

The files are precious, not indispensable: one that is damaged is moved aside, one that cannot be written (a full disk)
is done without, and the worker goes on from what it has in memory or from the server's state.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from fedhft.adapter import AdapterState, Float32, Part, TensorKey
from fedhft.errors import ErrorCode, FedhftError
from fedhft.masking.rows import RowState
from fedhft.telemetry import metrics
from fedhft.training.checked_file import Arrays, DamagedFileError, read_checked, write_checked
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.digest import digest_of

log = logging.getLogger(__name__)

STATE_FILE = "memory.safetensors"
DRAFT_FILE = "draft.safetensors"

Stored = TypeVar("Stored")

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_UNREADABLE = (
    DamagedFileError,
    DecodeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    OverflowError,
)
"""What unpacking can raise on a file without a checksum in which anything may have changed."""


@dataclass(frozen=True, eq=False)
class WorkerState:
    """Everything a worker must not lose.

    round: last acknowledged round, 0 for none; the one before it once the server said that it left the update out.
    adapters, held: the sum of published blobs, and the version up to which each scope is complete. parts: of scopes
    whose layers are not all at the same version, which are not in `held`, the version of each layer, from the output to
    the input; -1 where it is not held. carried: error feedback. rows: scores and ages of the rows of each masked
    tensor.
    own: what stays with the client (all it trains, or B and the head), as differences from the job's start.
    signature, halves: the anchor signature of the data whose digest is `data_digest`, and those of its two halves.
    outcome_seen: round of the last outcome that the owner was told of, 0 for none.
    rank: columns of A and B left after the client gave up others (`training.pruning`); 0 for all of its plan's.
    """

    round: int = 0
    adapters: AdapterState = field(default_factory=lambda: AdapterState(0, 1))
    held: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    carried: Mapping[TensorKey, Float32] = field(default_factory=dict)
    rows: Mapping[TensorKey, RowState] = field(default_factory=dict)
    own: Mapping[TensorKey, Float32] = field(default_factory=dict)
    signature: tuple[float, ...] = ()
    halves: tuple[float, ...] = ()
    data_digest: str = ""
    outcome_seen: int = 0
    rank: int = 0

    def standing_where(self, other: WorkerState) -> WorkerState:
        """This state with the adapters of another."""
        return replace(self, adapters=other.adapters, held=other.held, parts=other.parts)


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
        self._identity = {"client": client, "spec": spec_digest}
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    return  # said when the first file cannot be written
                raise FedhftError(
                    ErrorCode.INVALID_ARGUMENT,
                    f"state directory {self._folder}: cannot be created: {error.strerror}; give another --state-dir",
                ) from error

    def read(self) -> tuple[WorkerState, Draft | None]:
        """State and draft as last written; a fresh state when there is none, or it belongs to another job of that name.

        A damaged file is moved aside, and counts as not there. Raises FedhftError(INVALID_ARGUMENT) when the folder
        belongs to another client or cannot be read.
        """
        state = self._read_file(STATE_FILE, _unpack_state) or WorkerState()
        draft = self._read_file(DRAFT_FILE, lambda arrays, meta: _unpack_draft(arrays, meta, state))
        if draft is None:
            return state, None
        if draft.round <= state.round:
            self.drop_draft()
            return state, None
        return state, draft

    def write_state(self, state: WorkerState) -> bool:
        """Replace the state on disk; False when that was not possible, which is logged."""
        return self._write(STATE_FILE, *_pack_state(state))

    def write_draft(self, draft: Draft) -> bool:
        """Replace the draft on disk; False when that was not possible, which is logged.

        Adapters are not written with it: they are in the state, or fetched again.
        """
        arrays, meta = _pack_state(replace(draft.after, adapters=AdapterState(0, 1), held={}, parts={}))
        report = pb.ReportEvaluationRequest(
            round=draft.round, version=draft.base_version, scores=draft.scores, measurements=draft.measurements
        )
        arrays["blob"] = np.frombuffer(draft.blob, np.uint8)
        arrays["report"] = np.frombuffer(report.SerializeToString(), np.uint8)
        meta["draft"] = {"signature": list(draft.signature), "digest": draft.digest}
        return self._write(DRAFT_FILE, arrays, meta)

    def drop_draft(self) -> None:
        """Forget the draft on disk."""
        if self._folder is not None:
            with suppress(OSError):  # one that stays is ignored: its round is committed, or it is delivered and refused
                (self._folder / DRAFT_FILE).unlink(missing_ok=True)

    def _write(self, name: str, arrays: Arrays, meta: dict[str, Any]) -> bool:
        if self._folder is None:
            return True
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_checked(self._folder / name, arrays, {**self._identity, "meta": json.dumps(meta)})
        except OSError as error:
            metrics.AGENT_STATE_FAULTS.labels(fault="unwritten").inc()
            log.error(
                "state file cannot be written; the agent goes on without it: a restart would train again what is not"
                " on disk; make room in the folder, or give another --state-dir",
                extra={"file": name, "folder": str(self._folder), "detail": error.strerror or str(error)},
            )
            return False
        return True

    def _read_file(self, name: str, unpack: Callable[[Arrays, dict[str, Any]], Stored]) -> Stored | None:
        if self._folder is None:
            return None
        path = self._folder / name
        try:
            if not path.is_file():
                return None
            arrays, header = read_checked(path)
            if header.get("client") == self._identity["client"]:
                if header.get("spec") != self._identity["spec"]:
                    return None  # left by another job of the same name: of no use here
                return unpack(arrays, json.loads(header["meta"]))
        except PermissionError as error:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "--state-dir", str(path), f"cannot be read ({error.strerror})",
                "let this user read it",
            ) from error  # fmt: skip
        except (*_UNREADABLE, OSError) as error:
            self._set_aside(path, f"{type(error).__name__}: {error}")
            return None
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "state-dir", str(path),
            f"belongs to client {header.get('client')!r}, this is {self._identity['client']!r}",
            "give each client a --state-dir of its own",
        )  # fmt: skip

    def _set_aside(self, path: Path, problem: str) -> None:
        """Keep a damaged file for people to look at, one of each name, out of the way of its successor."""
        kept = path.with_name(path.name + ".damaged")
        with suppress(OSError):  # where nothing can be written, it is found damaged again
            path.replace(kept)
        metrics.AGENT_STATE_FAULTS.labels(fault="damaged").inc()
        log.error(
            "state file damaged; the agent goes on from the server's state",
            extra={"file": str(path), "detail": problem[:500], "kept_as": kept.name},
        )


_SERVER_ONLY = ("samples", "fold_memory", "sample_cap", "clip", "opposed")


def spec_digest(canonical: str) -> str:
    """Identity of a job's spec, hex, without limits for the server alone, which jobs of the first release lack."""
    spec = json.loads(canonical)
    spec["limits"] = {name: value for name, value in spec["limits"].items() if name not in _SERVER_ONLY}
    return hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
        # Of their own group: an earlier release passes over it, where it would take a part for the whole.
        group = "part" if scope in state.parts else "state"
        for key, tensor in tensors.items():
            arrays[_name(f"{group}/{scope}", key)] = tensor
    meta = {
        "round": state.round,
        "version": state.adapters.version,
        "clusters": state.adapters.clusters,
        "scopes": sorted(state.adapters.scopes),
        "held": dict(state.held),
        "parts": {scope: list(versions) for scope, versions in state.parts.items()},
        "signature": list(state.signature),
        "halves": list(state.halves),
        "data_digest": state.data_digest,
        "outcome_seen": state.outcome_seen,
        "rank": state.rank,
    }
    return arrays, meta


def _unpack_state(arrays: Arrays, meta: dict[str, Any]) -> WorkerState:
    scopes: dict[str, dict[TensorKey, Float32]] = {scope: {} for scope in meta["scopes"]}
    groups: dict[str, dict[TensorKey, NDArray[Any]]] = {"carried": {}, "own": {}, "score": {}, "sent": {}}
    for name, array in arrays.items():
        group, _, rest = name.partition("/")
        if group in ("state", "part"):
            scope, part, key_name = rest.split("/", 2)
            scopes[scope][TensorKey(key_name, Part(part))] = array
        elif group in groups:
            part, key_name = rest.split("/", 1)
            groups[group][TensorKey(key_name, Part(part))] = array
    return WorkerState(
        round=int(meta["round"]),
        adapters=AdapterState(int(meta["version"]), int(meta["clusters"]), scopes),
        held={str(scope): int(version) for scope, version in meta["held"].items()},
        parts={  # earlier releases held whole scopes only
            str(scope): tuple(int(version) for version in versions) for scope, versions in meta.get("parts", {}).items()
        },
        carried=groups["carried"],
        rows={key: RowState(score, groups["sent"][key]) for key, score in groups["score"].items()},
        own=groups["own"],
        signature=tuple(float(value) for value in meta["signature"]),
        halves=tuple(float(value) for value in meta.get("halves", ())),  # earlier releases had none
        data_digest=str(meta["data_digest"]),
        outcome_seen=int(meta.get("outcome_seen", 0)),  # earlier releases were told of none
        rank=int(meta.get("rank", 0)),  # earlier releases gave up none
    )


def _unpack_draft(arrays: Arrays, meta: dict[str, Any], state: WorkerState) -> Draft:
    report = pb.ReportEvaluationRequest.FromString(arrays["report"].tobytes())
    blob, digest = arrays["blob"].tobytes(), str(meta["draft"]["digest"])
    if digest != (digest_of(blob) if blob else ""):
        raise DamagedFileError("its update has another digest")
    return Draft(
        round=int(report.round),
        base_version=int(report.version),
        blob=blob,
        digest=digest,
        scores=list(report.scores),
        measurements=report.measurements,
        signature=tuple(float(value) for value in meta["draft"]["signature"]),
        after=_unpack_state(arrays, meta).standing_where(state),
    )
