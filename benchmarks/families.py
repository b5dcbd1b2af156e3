"""Small random models of many architectures, with rows for every kind of task; for `benchmarks.models` and tests.

About 50,000 parameters each, hidden width 32, no dropout, weights wide enough that a signal gets through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fedhft.datasets.examples import Example
from fedhft.job_task import TaskSpec

WORDS = (
    "the",
    "cat",
    "dog",
    "printer",
    "works",
    "fails",
    "today",
    "again",
    "in",
    "paris",
    "berlin",
    "anna",
    "is",
    "slow",
)
SPREAD = 0.18
"""Standard deviation of weights, 1/sqrt(32): with the usual 0.02 so narrow a network lets no signal through."""
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}[SEP]{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TASKS: Mapping[str, TaskSpec] = {
    "classification": TaskSpec(labels=("bad", "good")),
    "multi-label": TaskSpec(kind="multi-label", labels=("animal", "device", "good")),
    "regression": TaskSpec(kind="regression", target_mean=2.0, target_std=1.5, metrics=("pearson", "rmse", "spearman")),
    "token-classification": TaskSpec(kind="token-classification", labels=("O", "B-LOC", "B-PER", "I-PER")),
    "causal-lm": TaskSpec(kind="causal-lm"),
}
_SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
_DECODER = {**_SMALL, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
_GEMMA = {**_DECODER, "head_dim": 8, "sliding_window": 16}
ENCODERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", _SMALL),
    "roberta": ("RobertaConfig", {**_SMALL, "bos_token_id": 2, "eos_token_id": 3}),
    "distilbert": ("DistilBertConfig", {"dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 4}),
    "electra": ("ElectraConfig", {**_SMALL, "embedding_size": 16}),
    "deberta-v2": ("DebertaV2Config", {**_SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "modernbert": (
        "ModernBertConfig", {**_SMALL, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    ),
}  # fmt: skip
DECODERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _DECODER),
    "qwen3": ("Qwen3Config", {**_DECODER, "head_dim": 8}),
    "gemma2": ("Gemma2Config", {**_GEMMA, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3TextConfig", {**_GEMMA, "query_pre_attn_scalar": 8}),
    "gpt2": (
        "GPT2Config", {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 64, "bos_token_id": 2, "eos_token_id": 3},
    ),
    "mixtral": ("MixtralConfig", {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2}),
}  # fmt: skip
BOTH: Mapping[str, tuple[str, dict[str, Any]]] = {
    "bart": (
        "BartConfig",
        {
            "d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4,
            "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "init_std": SPREAD,
            "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3, "forced_eos_token_id": 3,
        },
    ),
    "t5": (
        "T5Config",
        {
            "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_decoder_layers": 3, "num_heads": 4,
            "eos_token_id": 3, "decoder_start_token_id": 0,
        },
    ),
}  # fmt: skip
FAMILIES = (*ENCODERS, *DECODERS, *BOTH)
REFUSED = frozenset(
    {(family, "causal-lm") for family in (*ENCODERS, *BOTH)}
    | {("gemma3", "token-classification"), ("bart", "token-classification")}
)
"""(family, task) of which transformers has no model, or none that the task can be learned with."""


def write_family(directory: Path, family: str, task: str, seed: int = 0) -> Path:
    """Save a random model of a family and its tokenizer; the base network, or for text generation the whole model.

    Raises ValueError for a family that transformers has no such model of.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = word_tokenizer(encoder=family not in DECODERS)
    if family in BOTH:
        tokenizer.eos_token = tokenizer.sep_token
    tokenizer.save_pretrained(directory)
    name, values = {**ENCODERS, **DECODERS, **BOTH}[family]
    config = getattr(transformers, name)(
        vocab_size=len(tokenizer), max_position_embeddings=128, pad_token_id=0, initializer_range=SPREAD,
        classifier_dropout=0.0, **values,
    )  # fmt: skip
    for key, value in config.to_dict().items():
        if ("drop" in key or key.endswith("pdrop")) and isinstance(value, float):
            setattr(config, key, 0.0)
    made = transformers.AutoModelForCausalLM if task == "causal-lm" else transformers.AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made.from_config(config).save_pretrained(directory)
    return directory


def word_tokenizer(*, encoder: bool) -> Any:
    """A word-level tokenizer with a chat template; an encoder's puts a token before and after every text."""
    unknown, padding = "[UNK]", "[PAD]"
    special = [padding, unknown, "[CLS]", "[SEP]", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *WORDS])}, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    if encoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
        named = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
        names = ["input_ids", "token_type_ids", "attention_mask"]
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A", pair="[CLS] $A [SEP] $B", special_tokens=ends
        )
        named = {"bos_token": "[CLS]", "eos_token": "[SEP]"}
        names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token=unknown, pad_token=padding, model_input_names=names, chat_template=CHAT,
        additional_special_tokens=["<|user|>", "<|assistant|>"], **named,
    )  # fmt: skip


def example_rows(task: str, count: int, offset: int = 0) -> tuple[Example, ...]:
    """`count` rows of a kind of task, of unequal length, whose targets follow from their texts."""
    return tuple(_ROWS[task](offset + index) for index in range(count))


def _words(index: int) -> list[str]:
    subject = ("cat", "dog", "printer")[index % 3]
    verb = ("works", "fails")[index // 3 % 2]
    more = [("today", "again", "in", "slow")[(index // 6 + k) % 4] for k in range(index % 5)]
    return ["the", subject, verb, *more]


def _one_label(index: int) -> Example:
    return Example(" ".join(_words(index)), None, float("works" in _words(index)))


def _many_labels(index: int) -> Example:
    words = _words(index)
    present = ("cat" in words or "dog" in words, "printer" in words, "works" in words)
    return Example(" ".join(words), None, tuple(place for place, here in enumerate(present) if here))


def _number(index: int) -> Example:
    words = _words(index)
    return Example(" ".join(words), None, len(words) / 2 + 1.5 * ("works" in words))


def _tagged(index: int) -> Example:
    words = ["anna", "berlin" if index % 4 == 0 else "is", "in", ("paris", "berlin")[index % 2], *_words(index)[1:]]
    tags = [2, 3 if index % 4 == 0 else 0, 0, 1, *[0] * (len(words) - 4)]
    return Example(" ".join(words), None, tuple(tags), words=tuple(words))


def _completed(index: int) -> Example:
    words = _words(index)
    return Example(" ".join([*words, "is"]), "slow again" if "fails" in words else "again today", 0.0)


_ROWS: Mapping[str, Callable[[int], Example]] = {
    "classification": _one_label,
    "multi-label": _many_labels,
    "regression": _number,
    "token-classification": _tagged,
    "causal-lm": _completed,
}
