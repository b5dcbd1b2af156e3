"""Tiny real architectures with random weights, for tests that need a model but not a good one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

SUBJECTS = ("the cat", "a dog", "my printer", "this screen", "our server", "the film", "a song", "that book")
GOOD = ("works", "shines", "is great", "is lovely", "sings", "is fast", "is a joy", "helps")
BAD = ("breaks", "fails", "is awful", "is broken", "burns", "is slow", "is a pain", "hurts")
ADVERBS = ("today", "again", "for me", "at home", "all day", "since monday", "every time", "as they said")
WORDS = sorted({word for phrase in (*SUBJECTS, *GOOD, *BAD, *ADVERBS) for word in phrase.split()})
TARGETS = {
    "bert": ("query", "value"),
    "roberta": ("query", "value"),
    "distilbert": ("q_lin", "v_lin"),
    "llama": ("q_proj", "v_proj"),
    "gpt2": ("c_attn",),
    "modernbert": ("Wqkv",),
}
DECODERS = ("llama", "gpt2")
ARCHITECTURES = ("bert", "roberta", "distilbert", "llama")
"""What most tests run on. The others have peculiarities: GPT-2's transposed weights, ModernBERT's norm in the head."""
SPREAD = 0.18
"""Standard deviation of weights, 1/sqrt(32): with the usual 0.02 so narrow a random network lets no signal through."""


def sentence(index: int, label: int) -> str:
    """The index-th sentence of class `label` (1 good, 0 bad); up to 512 distinct ones a class."""
    verbs = GOOD if label else BAD
    return f"{SUBJECTS[index % 8]} {verbs[index // 8 % 8]} {ADVERBS[index // 64 % 8]}"


def rows(count: int, offset: int = 0) -> list[dict[str, Any]]:
    """`count` labelled rows as a data file holds them, classes in turn, of unequal length."""
    return [
        {"text": " and ".join(sentence(offset + i + 7 * k, i % 2) for k in range(1 + i % 3)), "label": i % 2}
        for i in range(count)
    ]


def tiny_model(directory: Path, architecture: str = "bert", *, layers: int = 3, seed: int = 0) -> Path:
    """Save a random model of a real architecture (about 100k parameters, hidden 32) and its tokenizer; returns
    `directory`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(decoder=architecture in DECODERS)
    tokenizer.save_pretrained(directory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _MODELS[architecture](len(tokenizer), layers).save_pretrained(directory)
    return directory


def _bert(vocabulary: int, layers: int) -> torch.nn.Module:
    return BertModel(
        BertConfig(
            vocab_size=vocabulary,
            initializer_range=SPREAD,
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=128,
            pad_token_id=0,
        )
    )


def _roberta(vocabulary: int, layers: int) -> torch.nn.Module:
    config = RobertaConfig(
        vocab_size=vocabulary,
        initializer_range=SPREAD,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=130,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    return RobertaModel(config, add_pooling_layer=False)


def _distilbert(vocabulary: int, layers: int) -> torch.nn.Module:
    return DistilBertModel(
        DistilBertConfig(
            vocab_size=vocabulary,
            initializer_range=SPREAD,
            dim=32,
            hidden_dim=64,
            n_layers=layers,
            n_heads=4,
            max_position_embeddings=128,
            pad_token_id=0,
        )
    )


def _llama(vocabulary: int, layers: int) -> torch.nn.Module:
    return LlamaModel(
        LlamaConfig(
            vocab_size=vocabulary,
            initializer_range=SPREAD,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=2,
            eos_token_id=3,
        )
    )


def _gpt2(vocabulary: int, layers: int) -> torch.nn.Module:
    return GPT2Model(
        GPT2Config(
            vocab_size=vocabulary,
            initializer_range=SPREAD,
            n_embd=32,
            n_layer=layers,
            n_head=4,
            n_inner=64,
            n_positions=128,
            bos_token_id=2,
            eos_token_id=3,
        )
    )


def _modernbert(vocabulary: int, layers: int) -> torch.nn.Module:
    return ModernBertModel(
        ModernBertConfig(
            vocab_size=vocabulary,
            initializer_range=SPREAD,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=128,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            cls_token_id=2,
            sep_token_id=3,
        )
    )


_MODELS = {
    "gpt2": _gpt2,
    "modernbert": _modernbert,
    "bert": _bert,
    "roberta": _roberta,
    "distilbert": _distilbert,
    "llama": _llama,
}


def _tokenizer(decoder: bool) -> PreTrainedTokenizerFast:
    """Word-level tokenizer; a decoder's has no pad token, as is common."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*special, *WORDS, "and"])}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if decoder:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A", pair="[CLS] $A [SEP] $B", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, unk_token="[UNK]", bos_token="[CLS]", eos_token="[SEP]"
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def pieces_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of word pieces that knows `anna`, `berlin` and the two pieces of `unhappily`."""
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "anna", "berlin", "un", "##happily")
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
