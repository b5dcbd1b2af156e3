"""The file of rows, and the folder that bounds it: what survives, what is noticed, what is done without."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhft.telemetry import metrics
from fedhft.training.prefix.folder import SPARE_BYTES, PrefixFolder
from fedhft.training.prefix.rows import INDEX, VALUES, RowFile

WIDTH = 3
FLOAT = np.dtype(np.float32)
LIMIT = 1 << 20


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def row(number: int, tokens: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((tokens, WIDTH)).astype(np.float32)


def file_in(folder: Path) -> RowFile:
    return RowFile(folder, WIDTH, FLOAT, lambda count: True)


def read(file: RowFile, number: int, tokens: int) -> np.ndarray | None:
    out = np.zeros((tokens, WIDTH), np.float32)
    return out if file.read(key(number), out) else None


def faults(fault: str) -> float:
    return metrics.AGENT_PREFIX_FAULTS.labels(fault=fault)._value.get()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.data())
def test_what_was_added_is_read_back_also_by_another_process(lengths: list[int], data: st.DataObject) -> None:
    folder = Path(tempfile.mkdtemp())
    cut = data.draw(st.integers(0, len(lengths)))
    for numbers in (range(cut), range(cut, len(lengths))):
        file = file_in(folder)
        assert all(file.append(key(number), row(number, lengths[number])) for number in numbers)
    again = file_in(folder)
    assert len(again) == len(lengths)
    for number, tokens in enumerate(lengths):
        found = read(again, number, tokens)
        assert found is not None
        np.testing.assert_array_equal(found, row(number, tokens))
    shutil.rmtree(folder)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([VALUES, INDEX]), st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans())
def test_damage_anywhere_is_never_read_as_a_row(name: str, where: float, flip: int, cut: bool) -> None:
    folder = Path(tempfile.mkdtemp())
    file = file_in(folder)
    lengths = (4, 1, 5)
    for number, tokens in enumerate(lengths):
        file.append(key(number), row(number, tokens))
    content = bytearray((folder / name).read_bytes())
    place = int(where * len(content))
    content[place] ^= flip
    (folder / name).write_bytes(content[:place] if cut else content)
    again = file_in(folder)
    for number, tokens in enumerate(lengths):
        found = read(again, number, tokens) if key(number) in again else None
        if found is not None:
            np.testing.assert_array_equal(found, row(number, tokens))
        else:
            assert again.append(key(number), row(number, tokens))
            found = read(file_in(folder), number, tokens)
            assert found is not None
            np.testing.assert_array_equal(found, row(number, tokens))
    shutil.rmtree(folder)


def test_values_without_a_record_are_written_over(tmp_path: Path) -> None:
    """A kill between the two writes."""
    file = file_in(tmp_path)
    file.append(key(0), row(0, 2))
    with (tmp_path / VALUES).open("ab") as stream:
        stream.write(b"torn")
    with (tmp_path / INDEX).open("ab") as stream:
        stream.write(b"half a record")
    again = file_in(tmp_path)
    assert again.append(key(1), row(1, 3))
    assert [read(file_in(tmp_path), n, t) is not None for n, t in ((0, 2), (1, 3))] == [True, True]


def test_a_full_cache_keeps_what_it_has_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = PrefixFolder.open(tmp_path, 200)
    assert folder is not None
    file = folder.rows({"base": "x"}, WIDTH, FLOAT)
    assert file is not None
    before = faults("full")
    assert [file.append(key(n), row(n, 5)) for n in range(4)] == [True, True, False, False]
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "--cache-size" in caplog.text
    assert faults("full") == before + 1
    assert read(file, 0, 5) is not None


def test_room_is_made_by_what_was_used_longest_ago_and_by_nothing_in_use(tmp_path: Path) -> None:
    names = []
    for age, base in ((300, "old"), (200, "older-but-in-use"), (100, "young")):
        folder = PrefixFolder.open(tmp_path, LIMIT)
        assert folder is not None
        file = folder.rows({"base": base}, WIDTH, FLOAT)
        assert file is not None
        file.append(key(1), row(1, 10))
        names.append(file.folder)
        written = (file.folder / VALUES).stat().st_mtime - age
        os.utime(file.folder / VALUES, (written, written))
        folder.close()
    folder = PrefixFolder.open(tmp_path, 960)
    assert folder is not None
    held = folder.rows({"base": "older-but-in-use"}, WIDTH, FLOAT)
    new = folder.rows({"base": "new"}, WIDTH, FLOAT)
    assert held is not None
    assert new is not None
    assert new.append(key(1), row(1, 40))
    assert [name.exists() for name in names] == [False, True, True]
    assert read(held, 1, 10) is not None


def test_a_disk_that_is_nearly_full_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = [SPARE_BYTES + 100]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free[0]))  # type: ignore[attr-defined]
    folder = PrefixFolder.open(tmp_path, LIMIT)
    assert folder is not None
    file = folder.rows({"base": "x"}, WIDTH, FLOAT)
    assert file is not None
    assert file.append(key(0), row(0, 5))
    free[0] -= 92
    assert [file.append(key(n), row(n, 5)) for n in (1, 2)] == [False, False]
    assert caplog.text.count("nearly full") == 1


def test_two_agents_cannot_have_one_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = PrefixFolder.open(tmp_path, LIMIT)
    assert first is not None
    assert PrefixFolder.open(tmp_path, LIMIT) is None
    assert "a --cache of its own" in caplog.text
    first.close()
    assert PrefixFolder.open(tmp_path, LIMIT) is not None


def test_a_folder_that_is_a_file_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("")
    before = faults("unwritten")
    assert PrefixFolder.open(tmp_path / "taken", LIMIT) is None
    assert "give another folder with --cache, or off" in caplog.text
    assert faults("unwritten") == before + 1


def test_after_a_write_that_failed_nothing_is_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = PrefixFolder.open(tmp_path, LIMIT)
    assert folder is not None
    file = folder.rows({"base": "x"}, WIDTH, FLOAT)
    assert file is not None
    file.append(key(0), row(0, 2))
    folder.unwritten(OSError(errno.EIO, "Input/output error"))
    assert not file.append(key(1), row(1, 2))
    assert read(file, 0, 2) is not None
    assert caplog.text.count("cannot be written") == 1


def test_the_files_are_for_this_user_alone(tmp_path: Path) -> None:
    folder = PrefixFolder.open(tmp_path / "prefix", LIMIT)
    assert folder is not None
    file = folder.rows({"base": "x"}, WIDTH, FLOAT)
    assert file is not None
    assert {oct(p.stat().st_mode & 0o777) for p in (tmp_path / "prefix", file.folder)} == {"0o700"}
    assert oct((file.folder / VALUES).stat().st_mode & 0o777) == "0o600"
