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
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedhft.datasets.client_data import load_client_data, load_rows
from fedhft.datasets.examples import Example
from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import parse_job
from fedhft.job_task import TaskSpec
from fedhft.training.tasks.labels import class_of

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


def test_a_class_of_a_datasets_id_is_read_by_its_name(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the data extra is not installed")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["good", "bad"])}
    )
    made = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    made.to_parquet(str(tmp_path / "train.parquet"))
    for source in (tmp_path, f"datasets:{tmp_path}"):  # by this project's reader, and by the library
        assert [row.label for row in load_rows(source, TASK)] == [1.0, 0.0]
        other = TaskSpec(labels=("no", "yes"))
        assert [row.label for row in load_rows(source, other)] == [0.0, 1.0]  # names the job does not have: indices


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


@pytest.mark.parametrize("value", ["1", 1, 1.0, "1.0", " 1"])
def test_a_label_means_the_same_however_a_file_writes_it_and_a_name_wins_over_an_index(value: Any) -> None:
    stars = ("1", "2", "3", "4", "5")
    assert class_of(value, stars) == 0
    assert class_of(value, ("no", "yes")) == 1
    with pytest.raises(ValueError, match="could be taken for a label"):
        class_of(0, stars)  # an index, from a file that counts from 0


def test_stars_are_the_same_classes_in_every_kind_of_file(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    task = TaskSpec(labels=("1", "2", "3", "4", "5"))
    rows = [{"text": f"t{stars}", "label": stars} for stars in (1, 2, 3, 4)]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"t{stars},{stars}\n" for stars in (1, 2, 3, 4)))
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"t{stars}\t{stars}.0\n" for stars in (1, 2, 3, 4)))
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    jsonl(tmp_path / "a.jsonl", rows)
    for name in ("a.csv", "a.tsv", "a.parquet", "a.jsonl"):
        assert [row.label for row in load_rows(tmp_path / name, task)] == [0.0, 1.0, 2.0, 3.0], name


def test_a_class_name_that_a_parquet_file_notes_wins_over_its_index(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    note = {"info": {"features": {"label": {"names": ["good", "bad"], "_type": "ClassLabel"}}}}
    table = pyarrow.Table.from_pylist([{"text": "x", "label": 0}]).replace_schema_metadata(
        {"huggingface": json.dumps(note)}
    )
    parquet.write_table(table, tmp_path / "train.parquet")
    assert load_rows(tmp_path, TASK)[0].label == 1.0  # "good" is 1 in the job


@given(st.lists(st.integers(0, 12), min_size=2, max_size=6, unique=True), st.integers(0, 12))
def test_a_number_means_the_same_class_in_every_notation_or_none_in_any(names: list[int], value: int) -> None:
    labels = tuple(map(str, names))
    found = set()
    for written in (value, float(value), str(value), f"{value}.0", f" {value} ", f"{value}.00"):
        try:
            found.add(class_of(written, labels))
        except ValueError:
            found.add(None)
    assert len(found) == 1
    assert found == {names.index(value) if value in names else None}


def test_labels_that_are_each_others_indices_are_refused_at_submission() -> None:
    with pytest.raises(ValidationError, match="also the index of another label"):
        TaskSpec(labels=("1", "0"))
    assert TaskSpec(labels=("0", "1")).labels == ("0", "1")


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


@pytest.mark.parametrize("name", ["train.jsonl.zst", "train.csv.zst", "train.tsv.zst"])
def test_zstandard_is_read_and_an_archive_that_was_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    plain = tmp_path / name.removesuffix(".zst")
    if name.startswith("train.jsonl"):
        jsonl(plain, [{"text": f"row {i}", "label": i % 2} for i in range(2000)])
    else:
        apart = "," if "csv" in name else "\t"
        plain.write_text(f"text{apart}label\n" + "".join(f"row {i}{apart}{i % 2}\n" for i in range(2000)))
    whole = zstandard.ZstdCompressor().compress(plain.read_bytes())
    packed = tmp_path / "packed" / name
    packed.parent.mkdir()
    packed.write_bytes(whole)
    assert load_rows(packed, TASK) == load_rows(plain, TASK)
    packed.write_bytes(whole + whole if name.startswith("train.jsonl") else whole)
    assert len(load_rows(packed, TASK)) in (2000, 4000)  # frames may follow one another
    for end in range(1, len(whole), len(whole) // 7):
        packed.write_bytes(whole[:end])
        assert name in refusal(packed)


@pytest.mark.parametrize("place", [".", "data"])
def test_a_folder_of_shards_is_read_in_order_and_only_whole(tmp_path: Path, place: str) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    for number in range(2):
        rows = [{"text": f"{number}-{row}", "label": row} for row in range(2)]
        parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"train-0000{number}-of-00002.parquet")
    assert [row.text for row in load_rows(tmp_path, TASK)] == ["0-0", "0-1", "1-0", "1-1"]
    (folder / "train-00000-of-00002.parquet").unlink()
    assert "1 of 2 shards, number 0 is missing" in refusal(tmp_path)


def test_a_folder_for_each_split_is_read(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    jsonl(tmp_path / "train" / "part-1.jsonl", ROWS[1:])
    jsonl(tmp_path / "train" / "part-0.jsonl", ROWS[:1])
    assert load_rows(tmp_path, TASK) == PARSED


def test_two_columns_of_one_name_are_refused_in_every_kind_of_file(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    (tmp_path / "a.csv").write_text("text,label,label\nx,0,1\n")
    assert "several columns named 'label'" in refusal(tmp_path / "a.csv")
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": 0, "label": 1}\n')
    assert "line 1: gives the key 'label' twice" in refusal(tmp_path / "a.jsonl")
    columns = [pyarrow.array(["x"]), pyarrow.array([0]), pyarrow.array([1])]
    parquet.write_table(pyarrow.Table.from_arrays(columns, names=["text", "label", "label"]), tmp_path / "a.parquet")
    assert "several columns named 'label'" in refusal(tmp_path / "a.parquet")


@pytest.mark.parametrize("apart", [";", "\t"])
def test_a_file_that_is_separated_by_something_else_than_its_name_says_is_refused_with_the_reason(
    tmp_path: Path, apart: str
) -> None:
    (tmp_path / "a.csv").write_text(f"text{apart}label\nx{apart}0\n")
    assert f"its fields are separated by {apart!r}; save it with commas" in refusal(tmp_path / "a.csv")


def test_a_second_text_that_the_job_does_not_read_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = jsonl(tmp_path / "t.jsonl", [{"text": "x", "text_pair": "y", "label": 0}])
    assert 'set text_pair = "text_pair"' in refusal(path)
    jsonl(path, [{"premise": "x", "hypothesis": "y", "label": 0}] * 2)
    assert len(load_rows(path, TaskSpec(labels=("no", "yes"), text="premise"))) == 2
    assert [record.getMessage().count("task.text_pair") for record in caplog.records] == [1]
