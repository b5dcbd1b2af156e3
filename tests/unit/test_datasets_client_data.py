"""Reading a client's files: every format, and every way they can be wrong."""

from __future__ import annotations

import csv
import gzip
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fedhft.datasets.client_data import load_client_data, load_rows
from fedhft.datasets.examples import Example
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import parse_job
from fedhft.job_sections import TaskSpec

TASK = TaskSpec(labels=("bad", "good"))
ROWS: list[dict[str, Any]] = [
    {"text": "it works", "label": 1},
    {"text": 'it "fails", again', "label": "bad"},
    {"text": "grün\nund gut", "label": "good"},
]
PARSED = (Example("it works", None, 1.0), Example('it "fails", again', None, 0.0), Example("grün\nund gut", None, 1.0))


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def refusal(source: str | Path, task: TaskSpec = TASK, split: str = "train") -> str:
    with pytest.raises(FedhftError) as caught:
        load_rows(source, task, split)
    assert caught.value.code is ErrorCode.INVALID_DATA
    return caught.value.message


def test_jsonl_is_read_plain_and_compressed(tmp_path: Path) -> None:
    plain = jsonl(tmp_path / "train.jsonl", ROWS)
    packed = tmp_path / "other.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert load_rows(plain, TASK) == PARSED
    assert load_rows(str(packed), TASK) == PARSED


@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz"])
def test_csv_is_read_with_quoted_commas_line_breaks_and_a_byte_order_mark(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["text", "label"])
    writer.writeheader()
    writer.writerows(ROWS)
    data = text.getvalue().encode("utf-8-sig")
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert load_rows(path, TASK) == PARSED


def test_parquet_is_read(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    path = tmp_path / "train.parquet"
    rows = [{**row, "label": str(row["label"])} for row in ROWS]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    assert load_rows(path, TASK) == PARSED


def test_a_datasets_id_is_read_through_the_library(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the data extra is not installed")
    jsonl(tmp_path / "train.jsonl", [{"text": "it works", "label": "good"}])
    assert load_rows(f"datasets:{tmp_path}", TASK) == (Example("it works", None, 1.0),)


def test_a_folder_gives_the_split_asked_for(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", ROWS)
    jsonl(tmp_path / "validation.jsonl", ROWS[:1])
    assert load_rows(tmp_path, TASK) == PARSED
    assert load_rows(tmp_path, TASK, "validation") == PARSED[:1]
    assert "no split 'test'" in refusal(tmp_path, split="test")


def test_columns_are_those_the_job_names(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"a": "x", "b": "y", "target": 0}])
    task = TaskSpec(labels=("no", "yes"), text="a", text_pair="b", label="target")
    assert load_rows(path, task) == (Example("x", "y", 0.0),)


def test_regression_targets_are_numbers(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"text": "x", "label": 1.5}, {"text": "y", "label": "-2"}])
    task = TaskSpec(kind="regression")
    assert [row.label for row in load_rows(path, task)] == [1.5, -2.0]
    for wrong in ("much", None, float("nan"), True):
        message = refusal(jsonl(tmp_path / "w.jsonl", [{"text": "x", "label": wrong}]), task)
        assert "line 1" in message
        assert "finite number" in message


def test_a_label_name_wins_over_an_index_that_looks_alike(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"text": "x", "label": "1"}, {"text": "y", "label": 1}])
    assert [row.label for row in load_rows(path, TaskSpec(labels=("1", "2")))] == [0.0, 1.0]


@pytest.mark.parametrize("label", ["goood", 2, -1, 0.5, True, None, [1], float("nan"), float("inf")])
def test_an_unknown_label_is_refused_with_its_line_and_the_labels_there_are(tmp_path: Path, label: Any) -> None:
    message = refusal(jsonl(tmp_path / "t.jsonl", [ROWS[0], {"text": "x", "label": label}]))
    assert "line 2" in message
    assert "unknown label" in message
    assert "'bad', 'good'" in message


def test_a_missing_column_is_refused_with_its_line_and_the_columns_there_are(tmp_path: Path) -> None:
    message = refusal(jsonl(tmp_path / "t.jsonl", [ROWS[0], {"sentence": "x", "label": 1}]))
    assert "t.jsonl, line 2: no column 'text'" in message
    assert "'sentence', 'label'" in message
    assert "task.text" in message
    assert "task.label" in refusal(jsonl(tmp_path / "u.jsonl", [{"text": "x"}]))


def test_a_text_that_is_not_a_string_is_refused(tmp_path: Path) -> None:
    assert "is not text" in refusal(jsonl(tmp_path / "t.jsonl", [{"text": 5, "label": 1}]))


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n\n")
    assert "the train split is empty" in refusal(path)
    header_only = tmp_path / "t.csv"
    header_only.write_text("text,label\n")
    assert "is empty" in refusal(header_only)


def test_a_line_that_is_not_a_json_object_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "x", "label": 1}\n{"text": "y", \n')
    assert "line 2: is not JSON" in refusal(path)
    assert "line 1: is a list" in refusal(jsonl(tmp_path / "u.jsonl", [["x", 1]]))


def test_a_csv_line_with_too_many_or_too_few_fields_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\nfine,1\none, two,1\n")
    assert "line 3: does not have the header's 2 fields" in refusal(path)
    path.write_text("text,label\nfine\n")
    assert "line 2: does not have the header's 2 fields" in refusal(path)


def test_unreadable_paths_say_why(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.jsonl")
    strange = tmp_path / "train.xlsx"
    strange.write_bytes(b"x")
    assert "unknown file format" in refusal(strange)
    broken = tmp_path / "train.jsonl.gz"
    broken.write_bytes(b"this is no gzip file")
    assert "cannot be read" in refusal(broken)
    whole = gzip.compress(b'{"text": "x", "label": 1}\n' * 2000)
    broken.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refusal(broken)
    latin = tmp_path / "train.jsonl"
    latin.write_bytes('{"text": "grün", "label": 1}'.encode("latin-1"))
    assert "is not UTF-8" in refusal(latin)
    fake = tmp_path / "train.parquet"
    fake.write_bytes(b"PAR0")
    assert "is not Parquet" in refusal(fake)


def test_a_clients_own_split_is_used_when_there_is_one_and_drawn_when_there_is_none(tmp_path: Path) -> None:
    spec = parse_job({"name": "j", "model": {"name": "m"}, "task": {"labels": ["bad", "good"]}})
    rows = [{"text": f"row {i}", "label": i % 2} for i in range(20)]
    train, own = jsonl(tmp_path / "train.jsonl", rows), jsonl(tmp_path / "own.jsonl", rows[:3])
    given = load_client_data(spec, "a", train, own)
    assert (len(given.train), len(given.holdout), given.shared) == (20, 3, None)
    drawn = load_client_data(spec, "a", train, shared=own)
    assert (len(drawn.train), len(drawn.holdout)) == (16, 4)
    assert drawn.shared is not None
    assert len(drawn.shared) == 3
    assert drawn == load_client_data(spec, "a", train, shared=own)
    assert drawn.holdout != load_client_data(spec, "b", train).holdout


def test_the_data_digest_follows_texts_and_labels(tmp_path: Path) -> None:
    spec = parse_job({"name": "j", "model": {"name": "m"}, "task": {"labels": ["bad", "good"]}})

    def digest(rows: list[dict[str, Any]]) -> str:
        path = jsonl(tmp_path / "t.jsonl", rows)
        return load_client_data(spec, "a", path, path).digest

    first = digest(ROWS)
    assert first == digest(ROWS)
    assert first != digest([{**ROWS[0], "label": 0}, *ROWS[1:]])
    assert first != digest([{**ROWS[0], "text": "it work"}, *ROWS[1:]])


def test_a_damaged_archive_is_refused_by_name(tmp_path: Path) -> None:
    plain = "".join(json.dumps({"text": f"row {i} {i * i}", "label": i % 2}) + "\n" for i in range(400)).encode()
    whole = gzip.compress(plain)
    path = tmp_path / "train.jsonl.gz"
    for place in range(0, len(whole), 7):
        for bit in (1, 128):
            damaged = bytearray(whole)
            damaged[place] ^= bit
            path.write_bytes(damaged)
            with suppress(FedhftError):
                load_rows(path, TASK)  # a flipped bit of the header's time or name is harmless
    for end in range(0, len(whole) - 1, 11):
        path.write_bytes(whole[:end])
        assert "train.jsonl.gz" in refusal(path) or end == 0


def test_a_row_that_is_nested_beyond_reason_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "fine", "label": 0}\n' + '{"text": ' + "[" * 100_000 + "\n", encoding="utf-8")
    assert "line 2: is nested deeper than" in refusal(path)


def test_a_text_that_was_cut_inside_a_character_ends_in_a_replacement(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(r'{"text": "so happy \ud83d", "label": 0}' + "\n", encoding="utf-8")
    (row,) = load_rows(path, TASK)
    assert row.text == "so happy \ufffd"


def test_a_long_text_is_read_from_csv_as_from_jsonl(tmp_path: Path) -> None:
    long = "word " * 40_000
    path = tmp_path / "train.csv"
    path.write_text(f'text,label\n"{long}",1\n', encoding="utf-8")
    assert load_rows(path, TASK) == load_rows(jsonl(tmp_path / "train.jsonl", [{"text": long, "label": 1}]), TASK)


@pytest.mark.parametrize("name", ["train.csv", "train.jsonl"])
def test_a_line_without_end_is_refused_with_its_number(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('text,label\n"' + "x" * 5_000_000, encoding="utf-8")
    assert ": has more than 4194304 characters" in refusal(path) or "line 1: is not JSON" in refusal(path)


def test_a_number_too_large_for_any_index_is_an_unknown_label(tmp_path: Path) -> None:
    for label in ("9" * 5000, int("9" * 30), 1e300):
        assert "unknown label" in refusal(jsonl(tmp_path / "train.jsonl", [{"text": "x", "label": label}]))
