"""A federation of one client is transformers and PEFT: same logits after two rounds, also from what is exported."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.equality import compare
from fedhft.training.targets import USUAL

RUNS = (
    ("bert", "classification"),
    ("bert", "multi-label"),
    ("roberta", "regression"),
    ("deberta-v2", "token-classification"),
    ("llama", "causal-lm"),
    ("gpt2", "token-classification"),
    ("mixtral", "causal-lm"),
)


@pytest.mark.parametrize(("family", "task"), RUNS)
def test_one_client_trains_what_a_plain_loop_trains(tmp_path: Path, family: str, task: str) -> None:
    found = compare(tmp_path, family, task)
    assert found.plain < 1e-5
    assert found.exported < 1e-5
    assert found.moved > 0.1  # something was learnt, so that equality of nothing would not pass


def test_usual_targets_are_those_of_peft() -> None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as THEIRS

    known = {model_type: tuple(targets) for model_type, targets in THEIRS.items() if model_type in USUAL}
    assert {model_type: USUAL[model_type] for model_type in known} == known
    assert len(known) > 25
