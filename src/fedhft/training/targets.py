"""Which linear modules carry adapters: those a job names, every one, or the usual ones of an architecture.

The usual ones are PEFT's, so that a job that names none trains what `LoraConfig` would; a test compares the tables. For
families that PEFT has no entry for they are the query and value projections of attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from fedhft.errors import ErrorCode, FedhftError

_WILD = frozenset("*?[")
"""What makes a target a pattern. Not a regular expression: a job must not be able to keep an agent busy for ever."""

_QV = ("q_proj", "v_proj")
_BERT = ("query", "value")
USUAL: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra", "layoutlm", "camembert", "ernie"), _BERT),
    **dict.fromkeys(
        (
            "bart", "gemma", "gemma2", "gemma3_text", "gpt_neo", "llama", "llama4", "mistral", "mixtral", "opt",
            "qwen2", "qwen3", "stablelm", "granite", "olmo", "olmo2", "smollm3", "qwen2_moe", "qwen3_moe", "cohere",
        ),
        _QV,
    ),
    **dict.fromkeys(("bloom", "gpt_neox", "falcon"), ("query_key_value",)),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn",)),
    **dict.fromkeys(("t5", "mt5"), ("q", "v")),
    "deberta": ("in_proj",),
    "deberta-v2": ("query_proj", "value_proj"),
    "distilbert": ("q_lin", "v_lin"),
    "gptj": _QV,
    "modernbert": ("Wqkv",),
    "mpnet": ("q", "v"),
    "mpt": ("Wqkv",),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "phi3": ("qkv_proj",),
    "xlnet": ("layer_1",),
}  # fmt: skip
"""model_type of a transformers configuration -> endings of module names."""


def chosen(targets: str | Sequence[str], model_type: str, linear: Sequence[str]) -> tuple[str, ...]:
    """The modules to adapt, of the names of all linear modules inside layers, in the model's order.

    targets: "auto", "all-linear", or endings of names and patterns. Raises FedhftError(INVALID_MODEL) when one of them
    matches no module, or the architecture has no usual ones.
    """
    if targets == "all-linear":
        return tuple(linear)
    wanted = targets
    if isinstance(wanted, str):
        wanted = USUAL.get(model_type, ())
        if not wanted:
            raise FedhftError.field(
                ErrorCode.INVALID_MODEL, "adapter.targets", targets, f"nothing is usual for a {model_type} model",
                f'name some of {_endings(linear)}, or use "all-linear"',
            )  # fmt: skip
    for target in wanted:
        if not any(_matches(name, target) for name in linear):
            raise FedhftError.field(
                ErrorCode.INVALID_MODEL, "adapter.targets", target,
                f"no linear module inside a layer of this {model_type} model has this name",
                f"choose from {_endings(linear)}",
            )  # fmt: skip
    return tuple(name for name in linear if any(_matches(name, target) for target in wanted))


def _matches(name: str, target: str) -> bool:
    if _WILD.intersection(target):
        return fnmatchcase(name, target)
    return name == target or name.endswith("." + target)


def _endings(linear: Sequence[str]) -> str:
    return ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear}))
