"""Small random models of many families, for tests of what must hold for any of them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

WORDS = 90
_ENCODER = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
}
_DECODER = {**_ENCODER, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 2, "eos_token_id": 3}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": _ENCODER,
    "roberta": _ENCODER,
    "distilbert": {
        "vocab_size": WORDS, "dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 96,
    },
    "electra": {**_ENCODER, "embedding_size": 16},
    "deberta-v2": {
        **_ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8,
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False,
    },
    "modernbert": {**_ENCODER, "global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 2,
                   "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "llama": _DECODER,
    "qwen3": _DECODER,
    "gemma2": {**_DECODER, "sliding_window": 8},
    "gemma3_text": {**_DECODER, "sliding_window": 8,
                    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]},
    "gpt2": {"vocab_size": WORDS, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_inner": 48, "n_positions": 96,
             "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    "mixtral": {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2},
}  # fmt: skip
TARGETS = {
    "bert": ("query", "value"),
    "roberta": ("query", "value"),
    "electra": ("query", "value"),
    "distilbert": ("q_lin", "v_lin"),
    "deberta-v2": ("query_proj", "value_proj"),
    "modernbert": ("Wqkv",),
    "gpt2": ("c_attn",),
}
"""LoRA targets; of the others q_proj and v_proj."""


def family_model(family: str, seed: int = 0, **changes: Any) -> torch.nn.Module:
    """A random sequence classifier of 4 layers with 3 labels, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(family, **{**FAMILIES[family], **changes}, num_labels=3)
        config.pad_token_id = 0
        for name in ("initializer_range", "init_std"):
            if hasattr(config, name):
                setattr(config, name, 0.15)
        model: torch.nn.Module = AutoModelForSequenceClassification.from_config(config)
    model.requires_grad_(False)
    return model.eval()


def targets_of(family: str) -> tuple[str, ...]:
    """Names of the modules that a job on this family would adapt."""
    return TARGETS.get(family, ("q_proj", "v_proj"))
