"""An agent's state files: what was written is read back, or found damaged; a full disk leaves the old files."""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from fedhft.adapter import SHARED, AdapterState, Part, TensorKey
from fedhft.errors import FedhftError
from fedhft.masking.rows import RowState
from fedhft.training.checked_file import DamagedFileError, read_checked, write_checked
from fedhft.training.state import DRAFT_FILE, STATE_FILE, Draft, StateFolder, WorkerState
from fedhft.v1 import federation_pb2 as pb
from fedhft.wire.digest import digest_of

KEY = TensorKey("layer.0.query", Part.B)


def ones(value: float) -> np.ndarray:
    return np.full((4, 2), value, np.float32)


def state_of(number: int) -> WorkerState:
    return WorkerState(
        round=number,
        adapters=AdapterState(3, 1, {SHARED: {KEY: ones(number)}}),
        held={SHARED: 3},
        carried={KEY: ones(0.5)},
        rows={KEY: RowState(np.ones(4, np.float64), np.zeros(4, np.int64))},
        signature=(0.6, 0.8),
        data_digest="d" * 64,
    )


def draft_of(number: int) -> Draft:
    blob = b"update %d" % number
    return Draft(
        number, 3, blob, digest_of(blob), [pb.Score(value=0.5)], pb.Measurements(steps=7), (), state_of(number)
    )


def folder_at(path: Path, client: str = "ash") -> StateFolder:
    return StateFolder(path, "job", client, "spec")


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with the state of round 1 and the draft of round 2."""
    folder = folder_at(tmp_path)
    assert folder.write_state(state_of(1))
    assert folder.write_draft(draft_of(2))
    return tmp_path / "job"


def same(one: WorkerState, other: WorkerState) -> bool:
    return (
        (one.round, one.held, one.signature, one.data_digest)
        == (other.round, other.held, other.signature, other.data_digest)
        and np.array_equal(one.carried[KEY], other.carried[KEY])
        and np.array_equal(one.adapters.scopes[SHARED][KEY], other.adapters.scopes[SHARED][KEY])
    )


def damages(whole: bytes) -> Iterator[bytes]:
    """Every byte changed, in a way that changes with its place; then every prefix of a few lengths, and added bytes."""
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        yield bytes(changed)
    yield from (whole[:length] for length in range(0, len(whole), 97))
    yield whole + b"\0"


def test_state_and_draft_are_read_back_as_written(kept: Path) -> None:
    state, draft = folder_at(kept.parent).read()
    assert same(state, state_of(1))
    assert draft is not None
    assert (draft.round, draft.blob, draft.measurements.steps) == (2, b"update 2", 7)
    with safe_open(str(kept / STATE_FILE), framework="np") as file:  # still what other tools can read
        assert file.metadata()["client"] == "ash"


def test_any_changed_byte_of_the_state_is_found_and_the_draft_outlives_it(kept: Path) -> None:
    whole = (kept / STATE_FILE).read_bytes()
    for damaged in damages(whole):
        (kept / STATE_FILE).write_bytes(damaged)
        state, draft = folder_at(kept.parent).read()
        assert (state.round, state.held) == (0, {})
        assert draft is not None
        assert draft.blob == b"update 2"


def test_any_changed_byte_of_the_draft_is_found_and_the_state_outlives_it(kept: Path) -> None:
    whole = (kept / DRAFT_FILE).read_bytes()
    for damaged in damages(whole):
        (kept / DRAFT_FILE).write_bytes(damaged)
        state, draft = folder_at(kept.parent).read()
        assert draft is None
        assert state.round == 1


def test_a_damaged_file_is_named_and_kept_aside_once(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    for content in (b"first", b"second"):
        (kept / STATE_FILE).write_bytes(content)
        with caplog.at_level(logging.ERROR):
            folder_at(kept.parent).read()
    assert not (kept / STATE_FILE).exists()
    assert (kept / "memory.safetensors.damaged").read_bytes() == b"second"
    assert [record.file for record in caplog.records] == [str(kept / STATE_FILE)] * 2  # type: ignore[attr-defined]
    assert caplog.records[0].message.startswith("state file damaged; the agent goes on from the server's state")
    folder_at(kept.parent).read()
    assert len(caplog.records) == 2


def test_a_file_of_an_earlier_release_is_read_without_a_checksum_and_whatever_is_in_it(tmp_path: Path) -> None:
    folder, old = folder_at(tmp_path), tmp_path / "job" / STATE_FILE
    folder.write_state(state_of(1))
    arrays, header = read_checked(old)
    del header["sha256"]
    save_file(arrays, str(old), {**header, "format": "1"})
    assert same(folder.read()[0], state_of(1))
    whole = old.read_bytes()
    for damaged in damages(whole):
        old.write_bytes(damaged)
        with suppress(FedhftError):  # it may say now that it is another client's
            folder.read()


def test_a_checksum_that_was_removed_is_missed(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    write_checked(file, {"a": ones(1)}, {"k": "v"})
    arrays, header = read_checked(file)
    assert header["k"] == "v"
    del header["sha256"]
    save_file(arrays, str(file), header)
    with pytest.raises(DamagedFileError, match="its checksum is missing"):
        read_checked(file)


def test_a_folder_of_another_client_is_refused_and_left_alone(kept: Path) -> None:
    before = (kept / STATE_FILE).read_bytes()
    with pytest.raises(FedhftError, match="belongs to client 'ash', this is 'birch'"):
        folder_at(kept.parent, "birch").read()
    assert (kept / STATE_FILE).read_bytes() == before


NO_ROOM = """
import json, resource, signal, sys
from pathlib import Path
from tests.unit.test_state_files import draft_of, folder_at, state_of
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = folder_at(Path(sys.argv[1]))
said = [folder.write_state(state_of(5)), folder.write_draft(draft_of(6))]
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
state, draft = folder.read()
said += [state.round, draft.round, sorted(path.name for path in Path(sys.argv[1], "job").iterdir())]
said += [folder.write_state(state_of(7)), folder.read()[0].round]
print(json.dumps(said))
"""


def test_without_room_the_old_files_stay_nothing_half_written_does_and_the_next_write_works(kept: Path) -> None:
    """A real limit on file sizes, in a process of its own: the kernel refuses the write as on a full disk."""
    done = subprocess.run(
        [sys.executable, "-c", NO_ROOM, str(kept.parent)], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == [False, False, 1, 2, [DRAFT_FILE, STATE_FILE], True, 7]
    assert done.stderr.count("state file cannot be written") == 2
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
