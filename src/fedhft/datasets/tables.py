"""Raw rows from the files an agent may be given: JSONL (also .gz), CSV (also .gz), Parquet, or a `datasets` id."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedhft.documents import parse_json
from fedhft.errors import ErrorCode, FedhftError

DATASETS_PREFIX = "datasets:"
SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet")
_SHOWN = ", ".join(SUFFIXES)
_LONGEST_SHOWN = 60
_MOST_SHOWN = 20
LONGEST_LINE = 4 << 20
"""Longest line, and longest field of a CSV row, in characters."""
csv.field_size_limit(LONGEST_LINE)  # the module's own limit, 128 KiB, is less than many a document


class RawRow(NamedTuple):
    """One row as it is in its source, and its place there."""

    where: str
    columns: Mapping[str, Any]

    @property
    def names(self) -> str:
        """Its columns, for a message."""
        shown = [repr(name[:_LONGEST_SHOWN]) for name in list(self.columns)[:_MOST_SHOWN]]
        return ", ".join(shown) + (", ..." if len(self.columns) > _MOST_SHOWN else "")

    def refused(self, column: str, problem: str) -> FedhftError:
        """The refusal of one value, with file, line, column and value. problem: what is wrong with it, and the fix."""
        value = repr(self.columns.get(column))
        shown = value if len(value) <= _LONGEST_SHOWN else value[: _LONGEST_SHOWN - 3] + "..."
        return FedhftError(ErrorCode.INVALID_DATA, f"data {self.where}, column {column!r} = {shown}: {problem}")


def read_table(source: str | Path, split: str = "train") -> Iterator[RawRow]:
    """Rows of a source, in order.

    source: a file; a folder with `<split>.jsonl.gz` (or another known suffix); or "datasets:<id>[:<configuration>]",
    whose `split` is read through the `datasets` library. Raises FedhftError(INVALID_DATA) that names file, line and
    fix.
    """
    if isinstance(source, str) and source.startswith(DATASETS_PREFIX):
        yield from _hub_rows(source.removeprefix(DATASETS_PREFIX), split)
        return
    path = find_file(Path(source).expanduser(), split)
    try:
        if path.name.endswith(".parquet"):
            yield from _parquet_rows(path)
        else:
            with _opened(path) as stream:
                yield from _csv_rows(path, stream) if ".csv" in path.suffixes else _jsonl_rows(path, stream)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FedhftError(
            ErrorCode.INVALID_DATA, f"data {path}: cannot be read: {reason}; check path, permissions and file"
        ) from error
    except UnicodeDecodeError as error:
        raise FedhftError(
            ErrorCode.INVALID_DATA, f"data {path}: is not UTF-8 ({error}); convert it to UTF-8"
        ) from error


def _opened(path: Path) -> io.TextIOWrapper:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


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


def find_file(path: Path, split: str, suffixes: Sequence[str] = SUFFIXES) -> Path:
    """`path` itself, or in a folder, `<split>` with the first suffix found. Raises FedhftError(INVALID_DATA)."""
    if path.is_dir():
        for suffix in suffixes:
            candidate = path / f"{split}{suffix}"
            if candidate.is_file():
                return candidate
        raise FedhftError(
            ErrorCode.INVALID_DATA, f"data {path}: the folder has no split {split!r}; add {split} with one of {_SHOWN}"
        )
    if not path.is_file():
        raise FedhftError(
            ErrorCode.INVALID_DATA,
            f"data {path}: no such file; give a file ({_SHOWN}), a folder with splits, or {DATASETS_PREFIX}<id>",
        )
    if not path.name.endswith(SUFFIXES):
        raise FedhftError(ErrorCode.INVALID_DATA, f"data {path}: unknown file format; use one of {_SHOWN}")
    return path


def _jsonl_rows(path: Path, stream: io.TextIOWrapper) -> Iterator[RawRow]:
    for number, line in enumerate(_lines(path, stream), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = parse_json(line, f"data {where}", ErrorCode.INVALID_DATA, most_bytes=LONGEST_LINE, strict=False)
        if not isinstance(row, dict):
            raise FedhftError(
                ErrorCode.INVALID_DATA, f"data {where}: is a {type(row).__name__}; write one JSON object per line"
            )
        yield RawRow(where, {column: _whole(value) for column, value in row.items()})


def _whole(value: object) -> object:
    """Text that was cut in the middle of a character (half of a surrogate pair) ends in U+FFFD instead."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _csv_rows(path: Path, stream: io.TextIOWrapper) -> Iterator[RawRow]:
    reader = csv.DictReader(_lines(path, stream), strict=True)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or any(value is None for value in row.values()):
                raise FedhftError(
                    ErrorCode.INVALID_DATA,
                    f"data {where}: does not have the header's {len(reader.fieldnames or ())} fields; "
                    "quote commas in text",
                )
            yield RawRow(where, row)
    except csv.Error as error:
        raise FedhftError(
            ErrorCode.INVALID_DATA, f"data {path}, line {reader.line_num}: is not CSV: {error}; check the quotes"
        ) from error


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
            number = 0
            for batch in file.iter_batches(batch_size=4096):
                for row in batch.to_pylist():
                    number += 1
                    yield RawRow(f"{path}, row {number}", row)
    except pyarrow.ArrowException as error:
        raise FedhftError(ErrorCode.INVALID_DATA, f"data {path}: is not Parquet: {error}; write it again") from error


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
    for number, row in enumerate(table, start=1):
        yield RawRow(f"{DATASETS_PREFIX}{name}[{split}], row {number}", row)
