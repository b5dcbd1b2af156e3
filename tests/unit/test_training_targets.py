"""Which modules carry adapters: endings, patterns, all of them, the usual ones."""

from __future__ import annotations

import time

import pytest

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import parse_job
from fedhft.training.targets import chosen

LINEAR = tuple(
    f"model.layers.{layer}.{name}" for layer in range(12) for name in ("attn.q_proj", "attn.v_proj", "mlp.up_proj")
)


def test_the_usual_modules_are_those_of_the_architecture() -> None:
    assert chosen("auto", "llama", LINEAR) == tuple(name for name in LINEAR if "mlp" not in name)


def test_all_linear_modules_are_all() -> None:
    assert chosen("all-linear", "whatever", LINEAR) == LINEAR


def test_a_target_is_a_name_an_ending_or_a_pattern_of_the_whole_name() -> None:
    assert chosen(["model.layers.3.attn.q_proj"], "x", LINEAR) == ("model.layers.3.attn.q_proj",)
    assert chosen(["attn.q_proj"], "x", LINEAR) == LINEAR[::3]
    assert chosen(["*.1[01].*_proj"], "x", LINEAR) == LINEAR[30:]
    assert chosen(["*.1?.attn.*", "up_proj"], "x", LINEAR) == tuple(
        name for name in LINEAR if "mlp" in name or (".1" in name[12:15] and "layers.1." not in name)
    )


@pytest.mark.parametrize("targets", [["proj"], ["*.proj"], ["q_proj", "k_proj"], ["attn"]])
def test_a_target_without_a_module_is_refused_with_those_there_are(targets: list[str]) -> None:
    with pytest.raises(FedhftError, match="choose from q_proj, up_proj, v_proj") as caught:
        chosen(targets, "llama", LINEAR)
    assert caught.value.code is ErrorCode.INVALID_MODEL


def test_an_architecture_without_usual_modules_is_refused_with_the_ways_out() -> None:
    with pytest.raises(FedhftError, match=r'nothing is usual for a novel model.*q_proj.*"all-linear"'):
        chosen("auto", "novel", LINEAR)


def test_no_pattern_keeps_an_agent_busy() -> None:
    started = time.perf_counter()
    with pytest.raises(FedhftError):
        chosen(["*a" * 100 + "*?b"], "x", ("a" * 250,) * 50)
    assert time.perf_counter() - started < 2.0


def test_a_job_may_name_targets_in_every_form_and_its_text_says_so_only_where_it_does() -> None:
    def text(**adapter: object) -> str:
        return parse_job(
            {"name": "x", "model": {"name": "m"}, "task": {"labels": ["a", "b"]}, "adapter": adapter}
        ).canonical()

    assert '"targets"' not in text()
    assert '"targets"' not in text(targets="auto")  # as an agent of an earlier release reads it
    assert '"targets":"all-linear"' in text(targets="all-linear")
    assert '"targets":["*.q"]' in text(targets=["*.q"])
    for wrong in ("query", [], "", 5):
        with pytest.raises(FedhftError, match=r"adapter\.targets"):
            text(targets=wrong)
