"""`make fuzz`: every target takes inputs, and what a decoder does wrong is found and shown."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.fuzz import Run, fuzz, main
from benchmarks.fuzz_inputs import Target
from benchmarks.fuzz_targets import targets
from fedhft.errors import ErrorCode, FedhftError


def test_every_decoder_stands_two_hundred_damaged_inputs(tmp_path: Path) -> None:
    runs = [Run(target) for target in targets(tmp_path)]
    fuzz(runs, 0.0, 11)
    assert {run.target.name: run.failures for run in runs if run.failures} == {}
    assert all(run.inputs >= 200 for run in runs)


def test_a_decoder_is_reached_by_some_inputs_and_refuses_others(tmp_path: Path) -> None:
    for target in targets(tmp_path):
        if target.name in ("rows", "entropy", "push", "join", "job-json", "evaluation", "blob"):
            run = Run(target)
            fuzz([run], 0.3, 5)
            assert 0 < run.refused < run.inputs, target.name


@pytest.mark.parametrize("seed", [1, 2])
def test_an_exception_is_found_with_its_input(seed: int) -> None:
    def fragile(data: bytes) -> None:
        if data.endswith(b"\x07"):
            raise ZeroDivisionError("nobody foresaw this")
        raise FedhftError(ErrorCode.INVALID_ARGUMENT, "as it should be")

    run = Run(Target("fragile", lambda rng: bytes((rng.randrange(16),)), fragile))
    fuzz([run], 0.1, seed)
    ((problem, data),) = run.failures.items()
    assert problem.startswith("ZeroDivisionError at ")
    assert data == b"\x07"


def test_memory_beyond_the_bound_is_found_in_every_input() -> None:
    def greedy(data: bytes) -> None:
        if data == b"big":
            bytearray(80 << 20)

    def seldom(rng: random.Random) -> bytes:
        return b"big" if rng.random() < 0.01 else b"small"

    run = Run(Target("greedy", seldom, greedy))
    fuzz([run], 0.5, 3)
    assert set(run.failures.values()) == {b"big"}


def test_the_command_shows_a_table_and_ends_with_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "0.2", "--target", "rows", "--seed", "1"]) == 0
    assert "rows" in capsys.readouterr().out
