"""Reading a folder of real data: every format, named or numbered classes, and every way a row can be wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from fedhft.datasets.examples import Example
from fedhft.datasets.source import read_source
from fedhft.errors import ErrorCode, FedhftError


def write_folder(folder: Path, train: list[str], validation: list[str], names: list[str] | None) -> Path:
    with gzip.open(folder / "train.jsonl.gz", "wt") as lines:
        lines.write("\n".join(train) + "\n")
    (folder / "validation.jsonl").write_text("\n".join(validation) + "\n")
    if names is not None:
        (folder / "meta.json").write_text(json.dumps({"label_names": names}))
    return folder


GOOD = ['{"text": "a", "label": 0}', '{"text": "b", "label": 1}']
PAIRS = ['{"text": "a", "text_pair": "b", "label": 0}', '{"text": "b", "text_pair": "c", "label": 1}']


def test_a_folder_is_read_compressed_or_not(tmp_path: Path) -> None:
    found = read_source(write_folder(tmp_path, GOOD, GOOD[:1], ["no", "yes"]))
    assert found.labels == ("no", "yes")
    assert found.train == (Example("a", None, 0.0), Example("b", None, 1.0))
    assert found.validation == (Example("a", None, 0.0),)


def test_a_folder_of_tables_is_read_like_one_of_json_lines(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    rows = [{"text": "a, b", "label": 1}, {"text": "c", "label": 0}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "train.parquet")
    (tmp_path / "validation.csv").write_text('text,label\n"a, b",1\nc,0\n')
    found = read_source(tmp_path)
    assert found.train == found.validation == (Example("a, b", None, 1.0), Example("c", None, 0.0))
    assert found.labels == ("0", "1")


def test_pairs_are_read_where_rows_have_them_and_a_row_without_its_second_text_is_refused(tmp_path: Path) -> None:
    found = read_source(write_folder(tmp_path, PAIRS, PAIRS[:1], ["no", "yes"]))
    assert found.train == (Example("a", "b", 0.0), Example("b", "c", 1.0))
    with pytest.raises(FedhftError, match=r"line 1: no column 'text_pair'.*task\.text_pair"):
        read_source(write_folder(tmp_path, [GOOD[0], PAIRS[1]], PAIRS, ["no", "yes"]))
    with pytest.raises(FedhftError, match=r"line 2, column 'text_pair' = 1: is not text"):
        read_source(
            write_folder(tmp_path, [PAIRS[0], '{"text": "a", "text_pair": 1, "label": 0}'], PAIRS, ["no", "yes"])
        )


def test_without_meta_indices_are_classes_and_other_numbers_are_not(tmp_path: Path) -> None:
    assert read_source(write_folder(tmp_path, GOOD, GOOD, None)).labels == ("0", "1")
    for other in ('{"text": "a", "label": 0.25}', '{"text": "a", "label": -1}'):
        assert read_source(write_folder(tmp_path, GOOD, [other], None)).labels == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a", "label": 0', "is not JSON"),
        ('["a", 0]', "is a list"),
        ('{"label": 0}', "no column 'text'"),
        ('{"text": 3, "label": 0}', "column 'text' = 3: is not text"),
        ('{"text": "a"}', "no column 'label'"),
        ('{"text": "a", "label": "maybe"}', "column 'label' = 'maybe': unknown label; use 0..1 or one of 'no', 'yes'"),
        ('{"text": "a", "label": true}', "column 'label' = True: unknown label"),
        ('{"text": "a", "label": NaN}', "column 'label' = nan: unknown label"),
        ('{"text": "a", "label": 2}', "column 'label' = 2: unknown label; use 0..1"),
        ('{"text": "a", "label": 0.5}', "column 'label' = 0.5: unknown label; use 0..1"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_fix(tmp_path: Path, line: str, said: str) -> None:
    folder = write_folder(tmp_path, [GOOD[0], line], GOOD, ["no", "yes"])
    with pytest.raises(FedhftError) as caught:
        read_source(folder)
    assert caught.value.code is ErrorCode.INVALID_DATA
    assert f"{folder / 'train.jsonl.gz'}, line 2" in caught.value.message
    assert said in caught.value.message
    assert ";" in caught.value.message  # the fix


def test_a_missing_folder_split_or_an_empty_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FedhftError, match="is not a folder"):
        read_source(tmp_path / "nowhere")
    with pytest.raises(FedhftError, match="no split 'train'"):
        read_source(tmp_path)
    with pytest.raises(FedhftError, match=r"the validation split has no rows") as caught:
        read_source(write_folder(tmp_path, GOOD, [""], ["no", "yes"]))
    assert caught.value.code is ErrorCode.INVALID_DATA


@pytest.mark.parametrize("meta", ["{", "[]", "{}", '{"label_names": 5}', '{"label_names": ["a", "a"]}'])
def test_meta_without_readable_distinct_names_is_refused(tmp_path: Path, meta: str) -> None:
    folder = write_folder(tmp_path, GOOD, GOOD, None)
    (folder / "meta.json").write_text(meta)
    with pytest.raises(FedhftError, match=r"meta\.json") as caught:
        read_source(folder)
    assert caught.value.code is ErrorCode.INVALID_DATA
