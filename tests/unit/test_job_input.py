"""A job as a stranger may send it: absurd values are refused with INVALID_JOB, and with nothing else."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import LATER_FIELDS, MOST_SPEC_BYTES, JobSpec, load_canonical, parse_job, read_job, submitted_job
from fedhft.plan import AdapterPlan
from tests.light import light_job

RAW: dict[str, Any] = {"name": "x", "model": {"name": "m"}, "task": {"labels": ["a", "b"]}}


def refusal(raw: Any) -> str:
    with pytest.raises(FedhftError) as caught:
        parse_job(raw)
    assert caught.value.code is ErrorCode.INVALID_JOB
    assert len(caught.value.message) < 20 * 700
    return caught.value.message


def with_value(path: str, value: object) -> dict[str, Any]:
    raw = copy.deepcopy(RAW)
    *parents, last = path.split(".")
    section = raw
    for part in parents:
        section = section.setdefault(part, {})
    section[last] = value
    return raw


ABSURD = [
    ("limits.update_bytes", "1e400GiB"),
    ("limits.update_bytes", "9" * 400 + "GiB"),
    ("limits.update_bytes", "99999999999999999999GiB"),
    ("limits.update_bytes", 10**30),
    ("rounds.deadline", "9" * 5000 + "s"),
    ("rounds.deadline", float("nan")),
    ("rounds.deadline", float("inf")),
    ("method.preset", {}),
    ("method.preset", []),
    ("method.preset", ["fedhft"]),
    ("method.preset", "x" * 100_000),
    ("method", 7),
    ("method", []),
    ("tiers", {"": {}}),
    ("tiers", {"x" * 64: {}}),
    ("tiers", {"line\nbreak": {}}),
    ("tiers", {f"tier {i}": {} for i in range(33)}),
    ("tiers", []),
    ("client_tiers", {"Not An Id": "standard"}),
    ("clients", ["ok", "../../etc"]),
    ("clients", "abc"),
    ("adapter.alpha", float("inf")),
    ("adapter.alpha", 1e30),
    ("adapter.targets", ["q"] * 65),
    ("training.max_steps", 2**31),
    ("training.learning_rate", float("nan")),
    ("clustering.ridge", float("inf")),
    ("task.labels", ["a"] * 5000),
    ("task.labels", ["a", "x" * 300]),
    ("model.name", ""),
    ("model.name", "x" * 5000),
    ("seed", 2**60),
    ("seed", 1.5),
    ("rounds.min_clients", 10**12),
]


@pytest.mark.parametrize(("path", "value"), ABSURD, ids=lambda value: repr(value)[:40])
def test_an_absurd_value_is_refused_with_the_name_of_its_field(path: str, value: object) -> None:
    assert path.split(".")[0] in refusal(with_value(path, value))


def test_many_wrong_fields_make_a_message_of_bounded_length() -> None:
    message = refusal({**RAW, **{f"key{i}": "x" * 1000 for i in range(5000)}})
    assert message.endswith("and 4980 more")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 5000, "[]", "null", '{"seed": ' + "9" * 5000 + "}", '{"name": "a", "name": "b"}']
)
def test_text_that_is_not_a_job_is_refused_in_a_submission_and_in_the_store(text: str) -> None:
    for read in (submitted_job, load_canonical):
        with pytest.raises(FedhftError) as caught:
            read(text)
        assert caught.value.code is ErrorCode.INVALID_JOB


def test_a_submission_is_bounded_in_size() -> None:
    with pytest.raises(FedhftError, match=f"longer than {MOST_SPEC_BYTES} bytes"):
        submitted_job(json.dumps({**RAW, "model": {"name": "x" * MOST_SPEC_BYTES}}))


def test_a_job_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('\ufeffname = "x"\nmodel.name = "m"\ntask.labels = ["a", "b"]\n', encoding="utf-8")
    assert read_job(path) == parse_job(RAW)


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 3000, "a = nan", 'name = "\\ud800"', "\x00", "a" * MOST_SPEC_BYTES * 2]
)
def test_a_job_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FedhftError, match=r"job\.toml") as caught:
        read_job(path)
    assert caught.value.code is ErrorCode.INVALID_JOB


def test_the_largest_values_a_job_may_state_fit_the_messages_that_carry_them() -> None:
    spec = light_job("large", training={"max_steps": 2**31 - 1, "epochs": 100}, adapter={"rank": 4, "depth": 4096})
    plan = AdapterPlan("t", 4096, 1.0, spec.training.epochs, spec.training.max_steps, True, True)
    assert AdapterPlan.of(plan.message()) == plan


def test_the_text_of_a_job_does_not_change_with_fields_that_it_does_not_use() -> None:
    raw = json.loads(parse_job(RAW).canonical())
    assert all(field not in raw.get(section, {}) for section, field in LATER_FIELDS)
    assert not {"planning", "stopping"} & raw.keys()
    assert sorted(raw["server"]) == ["eta", "momentum", "publish_rank"]  # as the first release wrote it
    changed = parse_job(with_value("limits.samples", 5))
    assert json.loads(changed.canonical())["limits"]["samples"] == 5


def test_a_job_comes_back_from_its_stored_form() -> None:
    spec: JobSpec = parse_job(with_value("limits.update_bytes", "2GiB"))
    assert load_canonical(spec.canonical()) == spec


@pytest.mark.parametrize("kind", ["adagrad", "adam", "yogi"])
def test_an_adaptive_step_has_a_smaller_learning_rate_unless_one_is_given(kind: str) -> None:
    assert light_job("j", method={"server": kind}).server.eta == 0.01
    assert light_job("j", method={"server": kind}, server={"eta": 0.5}).server.eta == 0.5
    assert light_job("j", method={"server": "momentum"}).server.eta == 1.0
    with pytest.raises(FedhftError, match='server = "momentum"') as caught:
        light_job("j", method={"preset": "fedhft-paper", "server": kind})
    assert caught.value.code is ErrorCode.INVALID_JOB


def test_a_job_is_read_without_numpy() -> None:
    program = "import sys, fedhft.job; print(sorted(set(sys.modules) & {'numpy', 'torch', 'scipy'}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"  # commands that only submit one start at once
