"""PEFT directories as warm starts read them: those of others are taken, what is not a sound adapter is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedhft.errors import ErrorCode, FedhftError
from fedhft.export.adapter_values import read_adapter

SLOT = "bert.layer.0.query"
A, B = f"base_model.model.{SLOT}.lora_A.weight", f"base_model.model.{SLOT}.lora_B.weight"
HEAD = "base_model.model.classifier.modules_to_save.default.weight"


def tensors(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """One slot of rank 2 and a head, of values that every dtype holds exactly."""
    return {
        A: torch.arange(6).reshape(2, 3).to(dtype) / 4,
        B: torch.arange(8).reshape(4, 2).to(dtype) / 4,
        HEAD: torch.ones(2, 3, dtype=dtype),
    }


def written(folder: Path, values: dict[str, torch.Tensor] | bytes, text: str | None = None, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    known = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, **config}
    (folder / "adapter_config.json").write_text(json.dumps(known) if text is None else text)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(values) if isinstance(values, bytes) else save_file(values, path)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_an_adapter_is_read_in_whatever_precision_it_was_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    found = read_adapter(written(tmp_path, tensors(dtype)))
    (pair,) = found.pairs.values()
    assert list(found.pairs) == [SLOT]
    np.testing.assert_array_equal(pair.a, np.arange(6, dtype=np.float32).reshape(2, 3) / 4)
    np.testing.assert_array_equal(pair.b, np.arange(8, dtype=np.float32).reshape(4, 2) / 4)
    assert (str(pair.a.dtype), pair.rank, pair.alpha) == ("float32", 2, 6.0)
    assert found.head["classifier.weight"].tolist() == [[1.0] * 3] * 2
    assert (found.base_digest, found.labels) == ("", None)


def test_alpha_is_the_slots_own_and_scaled_as_peft_scales_it(tmp_path: Path) -> None:
    own = read_adapter(written(tmp_path, tensors(), alpha_pattern={SLOT: 10}))
    assert own.pairs[SLOT].alpha == 10.0
    stabilised = read_adapter(written(tmp_path, tensors(), use_rslora=True))
    assert stabilised.pairs[SLOT].alpha / 2 == pytest.approx(6 / math.sqrt(2))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({A: None}, "does not have two factors that fit"),
        ({A: torch.ones(3, 3)}, "does not have two factors that fit"),
        ({A: torch.ones(0, 3), B: torch.ones(4, 0)}, "does not have two factors that fit"),
        ({B: torch.ones(2)}, "does not have two factors that fit"),
        ({B: torch.tensor(1.0)}, "does not have two factors that fit"),
        ({B: torch.ones(4, 5, 2)}, "does not have two factors that fit"),
        ({B: torch.full((4, 2), math.nan)}, "has values that are not finite"),
        ({B: torch.full((4, 2), 1e300, dtype=torch.float64)}, "has values that are not finite"),
        ({B: torch.ones(4, 2, dtype=torch.int8)}, "is I8, not floating-point"),
        ({A: None, B: None}, "holds no LoRA factors"),
    ],
)
def test_factors_that_do_not_fit_are_refused(
    tmp_path: Path, changed: dict[str, torch.Tensor | None], message: str
) -> None:
    values = {name: value for name, value in {**tensors(), **changed}.items() if value is not None}
    with pytest.raises(FedhftError, match=message) as refused:
        read_adapter(written(tmp_path / "adapter", values))
    assert refused.value.code is ErrorCode.INVALID_ARGUMENT
    assert refused.value.message.startswith(f"adapter.from = '{tmp_path}"[:60])  # long values are shortened


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, r"is not a plain LoRA adapter \(LORA, with DoRA\)"),
        ({"peft_type": "IA3"}, r"is not a plain LoRA adapter \(IA3"),
        ({"bias": "all"}, r"is not a plain LoRA adapter \(LORA, bias = 'all'\)"),
        ({"lora_alpha": "six"}, "the alpha of .* is not a number"),
        ({"lora_alpha": True}, "the alpha of .* is not a number"),
        ({"alpha_pattern": [1]}, "alpha_pattern is not an object"),
        ({"text": "{"}, "is not JSON"),
        ({"text": "[]"}, "is not an object"),
        ({"text": '{"peft_type": "LORA", "lora_alpha": NaN}'}, "NaN"),
    ],
)
def test_a_configuration_that_says_something_else_is_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(FedhftError, match=message) as refused:
        read_adapter(written(tmp_path, tensors(), **config))
    assert refused.value.code is ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize("data", [b"", b"\0" * 8, b"\xff" * 100])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FedhftError, match=r"adapter_model\.safetensors cannot be read"):
        read_adapter(written(tmp_path, data))


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    written(tmp_path, tensors())
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(FedhftError, match=r"cannot be read: .*No such file"):
        read_adapter(tmp_path)
