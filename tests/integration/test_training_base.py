"""Base models: digests, and every path that is not a usable model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from fedhft.errors import ErrorCode, FedhftError
from fedhft.training.base import load_base
from fedhft.training.digest import base_digest, tokenizer_digest
from fedhft.training.stored_weights import stored_values
from tests.models import tiny_model
from tests.workers import job_for


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def refusal(path: Path | str, **sections: Any) -> str:
    with pytest.raises(FedhftError) as caught:
        load_base(job_for(Path(path), **sections))
    assert caught.value.code is ErrorCode.INVALID_MODEL
    return caught.value.message


def edit(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


def test_the_digest_follows_weights_and_architecture_but_not_names_and_versions(model: Path) -> None:
    first = base_digest(model)
    edit(model, transformers_version="0.0.0", _name_or_path="elsewhere", id2label={"0": "x"}, dtype="bfloat16")
    assert base_digest(model) == first
    edit(model, hidden_act="relu")
    assert base_digest(model) != first
    edit(model, hidden_act="gelu")
    assert base_digest(model) == first
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    assert base_digest(model) != first


def test_the_tokenizer_digest_follows_the_vocabulary(model: Path) -> None:
    first = tokenizer_digest(model)
    text = (model / "tokenizer.json").read_text()
    (model / "tokenizer.json").write_text(text.replace('"cat"', '"cut"'))
    assert tokenizer_digest(model) != first


def test_digests_need_no_torch(model: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from fedhft.training.digest import base_digest, tokenizer_digest; "
        "print(base_digest(Path(sys.argv[1]))); tokenizer_digest(Path(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True, timeout=60
    )
    assert out.stdout.strip() == base_digest(model)


def test_a_pinned_digest_must_match(model: Path) -> None:
    right = base_digest(model)
    assert load_base(job_for(model, model={"name": str(model), "digest": right})).digest == right
    message = refusal(model, model={"name": str(model), "digest": "0" * 64})
    assert right in message
    assert "use the same weights" in message


def test_an_agents_own_path_wins_over_the_jobs_name(model: Path) -> None:
    spec = job_for(model, model={"name": "some/hub-id"})
    assert load_base(spec, str(model)).path == model.resolve()


def test_paths_that_are_not_a_model_are_refused_by_what_is_missing(model: Path, tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "absent")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "config.json" in refusal(empty)
    (empty / "config.json").write_text("{")
    assert "is not JSON" in refusal(empty)
    (empty / "config.json").write_text("{}")
    assert "model_type" in refusal(empty)


def test_weights_in_pickles_are_not_read(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    message = refusal(model)
    assert "only safetensors are read" in message


def test_damaged_weights_are_refused(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    assert "model.safetensors: has a header that is not JSON" in refusal(model)


def test_a_missing_tokenizer_is_refused(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    assert "no tokenizer files" in refusal(model)


def test_an_architecture_that_cannot_classify_is_refused(model: Path) -> None:
    edit(model, model_type="vit")
    assert "cannot be loaded with AutoModelForSequenceClassification" in refusal(model)
    edit(model, model_type="no-such-thing")
    assert "cannot be loaded with AutoModelForSequenceClassification" in refusal(model)


def test_rows_longer_than_the_model_can_read_are_refused_before_training(model: Path) -> None:
    message = refusal(model, model={"name": str(model), "max_length": 129})
    assert "model.max_length = 129" in message
    assert "128" in message


def test_an_unknown_hub_id_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal("nobody/has-this-model")
    assert "not a local folder, and the hub does not have it" in message
    assert "--model" in message


def test_a_decoder_without_pad_token_pads_with_its_end_token(tmp_path: Path) -> None:
    base = load_base(job_for(tiny_model(tmp_path, "llama"), "llama"))
    assert base.tokenizer.pad_token_id == base.tokenizer.eos_token_id == 3
    assert base.model.config.pad_token_id == 3


def test_a_file_that_a_broken_download_cut_off_is_named(model: Path) -> None:
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    assert stored_values(model) == sum(tensor.numel() for tensor in load_file(weights).values())
    for length, said in (
        (len(whole) - 1, "its header describes"),
        (100, "inside its header"),
        (3, "inside its header"),
    ):
        weights.write_bytes(whole[:length])
        message = refusal(model)
        assert "model.safetensors: " in message
        assert said in message
    weights.write_bytes(whole + b"!")
    with pytest.raises(FedhftError, match="its header describes"):
        stored_values(model)


def test_a_model_in_several_files_is_whole_when_each_has_what_the_index_says(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, model / file)
    index = model / "model.safetensors.index.json"
    placed = {name: file for file, held in parts.items() for name in held}
    index.write_text(json.dumps({"weight_map": placed}))
    assert stored_values(model) == sum(tensor.numel() for tensor in tensors.values())
    index.write_text(json.dumps({"weight_map": {**placed, names[0]: "two.safetensors"}}))
    with pytest.raises(FedhftError, match=rf"two.safetensors: lacks '{names[0]}'"):
        stored_values(model)
    (model / "one.safetensors").unlink()
    assert "weights missing (one.safetensors)" in refusal(model)


@pytest.mark.parametrize(
    "header",
    [b"[]", b'{"a": 5}', b'{"a": {"data_offsets": [0, true]}}', b'{"a": {"data_offsets": [0, 0], "shape": [-1]}}'],
)
def test_a_header_that_says_nothing_of_use_is_refused(model: Path, header: bytes) -> None:
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(FedhftError) as refused:
        stored_values(model)
    assert refused.value.code is ErrorCode.INVALID_MODEL
