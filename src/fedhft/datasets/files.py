"""Which files a source of data means: one file, or a folder with a file or numbered shards for every split.

train.jsonl                             a file, also in a folder
train-00000-of-00002.parquet            numbered shards, as hubs lay them out; all of them, or none
data/train-00000-of-00002.parquet       the same, a folder below
train/part-0.parquet                    a folder of its own for a split
"""

from __future__ import annotations

import re
from pathlib import Path

from fedhft.datasets.compressed import ENDINGS
from fedhft.errors import ErrorCode, FedhftError

DATASETS_PREFIX = "datasets:"
SUFFIXES = (*(f".{kind}{ending}" for kind in ("jsonl", "csv", "tsv") for ending in ENDINGS), ".parquet")
"""Endings of the files that are read, best first where a folder has several."""
MOST_SHARDS = 100_000
_SHOWN = ", ".join(SUFFIXES)
_SHARD = re.compile(r"-(\d{1,9})-of-(\d{1,9})$")


def find_files(path: Path, split: str) -> tuple[Path, ...]:
    """`path` itself; in a folder, the file or all shards of a split. Raises FedhftError(INVALID_DATA)."""
    if path.is_dir():
        return _in_folder(path, split)
    if not path.is_file():
        raise FedhftError(
            ErrorCode.INVALID_DATA,
            f"data {path}: no such file; give a file ({_SHOWN}), a folder with splits, or {DATASETS_PREFIX}<id>",
        )
    if not path.name.endswith(SUFFIXES):
        raise FedhftError(ErrorCode.INVALID_DATA, f"data {path}: unknown file format; use one of {_SHOWN}")
    return (path,)


def _in_folder(folder: Path, split: str) -> tuple[Path, ...]:
    for suffix in SUFFIXES:
        whole = folder / f"{split}{suffix}"
        if whole.is_file():
            return (whole,)
        for place in (folder, folder / "data"):
            shards = _shards(place, split, suffix)
            if shards:
                return shards
        inside = sorted(file for file in (folder / split).glob(f"*{suffix}") if file.is_file())
        if inside:
            return tuple(inside[:MOST_SHARDS])
    raise FedhftError(
        ErrorCode.INVALID_DATA, f"data {folder}: the folder has no split {split!r}; add {split} with one of {_SHOWN}"
    )


def _shards(folder: Path, split: str, suffix: str) -> tuple[Path, ...]:
    """All shards of a split, in order. Raises FedhftError(INVALID_DATA) when one is missing, or two sets are mixed."""
    numbered: dict[int, Path] = {}
    totals: set[int] = set()
    for file in folder.glob(f"{split}-*{suffix}"):
        found = _SHARD.search(file.name.removesuffix(suffix))
        if found is not None and found.start() == len(split):
            numbered[int(found[1])] = file
            totals.add(int(found[2]))
    if not numbered:
        return ()
    total = max(totals)
    missing = _first_missing(numbered, total)
    if len(totals) > 1 or missing is not None or len(numbered) != total:
        problem = (
            f"has shards of {len(totals)} different sets ({', '.join(map(str, sorted(totals)))} in all)"
            if len(totals) > 1
            else f"has {len(numbered)} of {total} shards, number {missing} is missing"
            if missing is not None
            else f"has {len(numbered)} shards where their names say {total}"
        )
        raise FedhftError(
            ErrorCode.INVALID_DATA, f"data {folder}: split {split!r} {problem}; download or copy the folder again"
        )
    return tuple(numbered[number] for number in sorted(numbered))


def _first_missing(numbered: dict[int, Path], total: int) -> int | None:
    return next((number for number in range(min(total, MOST_SHARDS)) if number not in numbered), None)
