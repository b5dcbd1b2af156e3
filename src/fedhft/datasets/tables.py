"""Raw rows from the files an agent may be given: JSON lines, CSV, TSV (also .gz and .zst), Parquet, a `datasets` id."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedhft.datasets.compressed import DAMAGED, open_text
from fedhft.datasets.files import DATASETS_PREFIX, find_files
from fedhft.documents import parse_json
from fedhft.errors import ErrorCode, FedhftError
from fedhft.paths import expanded

_LONGEST_SHOWN = 60
_MOST_SHOWN = 20
_SEPARATORS = (";", "\t", "|")
LONGEST_LINE = 4 << 20
"""Longest line, and longest field of a CSV row, in characters."""
csv.field_size_limit(LONGEST_LINE)  # the module's own limit, 128 KiB, is less than many a document


class NamedIndex(int):
    """A class index whose source also knows the class's name (a `ClassLabel` of the `datasets` library)."""

    name: str

    def __new__(cls, index: int, name: str) -> NamedIndex:
        """An index with its name."""
        made = super().__new__(cls, index)
        made.name = name
        return made


class RawRow(NamedTuple):
    """One row as it is in its source, and its place there."""

    where: str
    columns: Mapping[str, Any]

    @property
    def names(self) -> str:
        """Its columns, for a message."""
        shown = [repr(name[:_LONGEST_SHOWN]) for name in list(self.columns)[:_MOST_SHOWN]]
        return ", ".join(shown) + (", ..." if len(self.columns) > _MOST_SHOWN else "")

    def value(self, column: str, field: str) -> Any:
        """The value of a column that a field of the job names. Raises FedhftError(INVALID_DATA) when there is none."""
        if column not in self.columns:
            only = next(iter(self.columns), "") if len(self.columns) == 1 else ""
            apart = next((mark for mark in _SEPARATORS if mark in only and column in only), None)
            if apart is not None:
                raise FedhftError(
                    ErrorCode.INVALID_DATA,
                    f"data {self.where}: no column {column!r}, because its fields are separated by {apart!r}; save it "
                    "with commas, or with tabs as .tsv",
                )
            raise FedhftError(
                ErrorCode.INVALID_DATA,
                f"data {self.where}: no column {column!r} (it has {self.names}); rename the column or set {field}",
            )
        return self.columns[column]

    def text(self, column: str, field: str) -> str:
        """The same, for text."""
        value = self.value(column, field)
        if not isinstance(value, str):
            raise self.refused(column, "is missing; write a string" if value is None else "is not text; write a string")
        return value

    def refused(self, column: str, problem: str) -> FedhftError:
        """The refusal of one value, with file, line, column and value. problem: what is wrong with it, and the fix."""
        value = repr(self.columns.get(column))
        shown = value if len(value) <= _LONGEST_SHOWN else value[: _LONGEST_SHOWN - 3] + "..."
        return FedhftError(ErrorCode.INVALID_DATA, f"data {self.where}, column {column!r} = {shown}: {problem}")


def read_table(source: str | Path, split: str = "train") -> Iterator[RawRow]:
    """Rows of a source, in order.

    source: a file; a folder with the split (see `files`); or "datasets:<id>[:<configuration>]", whose `split` is read
    through the `datasets` library. Raises FedhftError(INVALID_DATA) that names file, line and fix.
    """
    if isinstance(source, str) and source.startswith(DATASETS_PREFIX):
        yield from _hub_rows(source.removeprefix(DATASETS_PREFIX), split)
        return
    for path in find_files(expanded(source), split):
        yield from _file_rows(path)


def _file_rows(path: Path) -> Iterator[RawRow]:
    try:
        if path.name.endswith(".parquet"):
            yield from _parquet_rows(path)
            return
        kind = next(part for part in reversed(path.suffixes) if part in _READERS)
        with open_text(path) as stream:
            yield from _READERS[kind](path, stream)
    except (OSError, *DAMAGED) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FedhftError(
            ErrorCode.INVALID_DATA, f"data {path}: cannot be read: {reason}; check path, permissions and file"
        ) from error
    except UnicodeDecodeError as error:
        raise FedhftError(
            ErrorCode.INVALID_DATA, f"data {path}: is not UTF-8 ({error}); convert it to UTF-8"
        ) from error


def _lines(path: Path, stream: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise FedhftError(
                ErrorCode.INVALID_DATA,
                f"data {path}, line {number}: has more than {LONGEST_LINE} characters; write one row per line",
            )
        yield line


def _jsonl_rows(path: Path, stream: io.TextIOWrapper) -> Iterator[RawRow]:
    for number, line in enumerate(_lines(path, stream), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = parse_json(
            line, f"data {where}", ErrorCode.INVALID_DATA, most_bytes=LONGEST_LINE, strict=False, unique=True
        )
        if not isinstance(row, dict):
            raise FedhftError(
                ErrorCode.INVALID_DATA, f"data {where}: is a {type(row).__name__}; write one JSON object per line"
            )
        yield RawRow(where, {column: _whole(value) for column, value in row.items()})


def _whole(value: object) -> object:
    """Text that was cut in the middle of a character (half of a surrogate pair) has U+FFFD there instead."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return value


def _csv_rows(path: Path, stream: io.TextIOWrapper, delimiter: str = ",") -> Iterator[RawRow]:
    reader = csv.DictReader(_lines(path, stream), delimiter=delimiter, strict=True)
    try:
        _check_columns(f"{path}, line 1", reader.fieldnames or ())
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or any(value is None for value in row.values()):
                apart = "commas" if delimiter == "," else "tabs"
                raise FedhftError(
                    ErrorCode.INVALID_DATA,
                    f"data {where}: does not have the header's {len(reader.fieldnames or ())} fields; "
                    f"quote {apart} in text",
                )
            yield RawRow(where, row)
    except csv.Error as error:
        raise FedhftError(
            ErrorCode.INVALID_DATA, f"data {path}, line {reader.line_num}: is not CSV: {error}; check the quotes"
        ) from error


def _tsv_rows(path: Path, stream: io.TextIOWrapper) -> Iterator[RawRow]:
    return _csv_rows(path, stream, "\t")


_READERS = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".tsv": _tsv_rows}


def _check_columns(where: str, names: Sequence[str]) -> None:
    """Refuse a name that two columns have: one of them would be dropped without a word."""
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise FedhftError(
            ErrorCode.INVALID_DATA,
            f"data {where}: has several columns named {doubled[0][:_LONGEST_SHOWN]!r}; rename all but one",
        )


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise FedhftError(
            ErrorCode.INVALID_DATA, f"data {path}: reading Parquet needs pyarrow; pip install 'fedhft[data]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            _check_columns(str(path), file.schema_arrow.names)
            classes = _class_names((file.schema_arrow.metadata or {}).get(b"huggingface", b""))
            number = 0
            for batch in file.iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    number += 1
                    yield RawRow(f"{path}, row {number}", _with_names(row, classes))
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise FedhftError(ErrorCode.INVALID_DATA, f"data {path}: is not Parquet: {error}; write it again") from error


def _class_names(metadata: bytes) -> dict[str, Sequence[str]]:
    """Names of the classes by column, from what the `datasets` library notes in the files that it writes."""
    if not metadata:
        return {}
    try:
        noted = parse_json(metadata, "metadata", ErrorCode.INVALID_DATA, most_bytes=LONGEST_LINE, strict=False)
        features = noted["info"]["features"]
        found = {column: feature.get("names") for column, feature in features.items() if isinstance(feature, dict)}
    except (FedhftError, KeyError, TypeError, AttributeError):
        return {}  # somebody else's note
    return {
        column: names
        for column, names in found.items()
        if isinstance(names, list) and all(isinstance(name, str) for name in names)
    }


def _with_names(row: dict[str, Any], classes: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    for column, names in classes.items():
        value = row.get(column)
        if type(value) is int and 0 <= value < len(names):
            row[column] = NamedIndex(value, names[value])
    return row


def _hub_rows(name: str, split: str) -> Iterator[RawRow]:
    try:
        import datasets
    except ImportError as error:
        raise FedhftError(
            ErrorCode.INVALID_DATA, f"data {name}: needs the `datasets` library; pip install 'fedhft[data]'"
        ) from error
    identifier, _, configuration = name.partition(":")
    try:
        table = datasets.load_dataset(identifier, configuration or None, split=split)
    except (OSError, ValueError, RuntimeError) as error:  # its own errors derive from these
        raise FedhftError(
            ErrorCode.INVALID_DATA,
            f"data {DATASETS_PREFIX}{name}, split {split!r}: cannot be loaded: {error}; "
            "check the id, the split and the network",
        ) from error
    named = {column: getattr(feature, "names", None) for column, feature in table.features.items()}
    classes = {column: names for column, names in named.items() if isinstance(names, list)}
    for number, row in enumerate(table, start=1):
        yield RawRow(f"{DATASETS_PREFIX}{name}[{split}], row {number}", _with_names(row, classes))
