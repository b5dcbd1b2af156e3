"""Whether a base model, its tokenizer and a job fit each other, found before a row is read.

check_plain         weights are plain numbers, not packed by a quantiser
check_vocabulary    every token id that text can become has a row in the embedding
check_length        rows of model.max_length tokens have positions
check_complete      no weight of the base network was drawn at random because the files lack it
check_head          a head that is kept is whole, and for the job's labels
padding_side        where padding may stand
added_prefix        what a wrapper put before every name (torch.compile, DataParallel)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from fedhft.errors import ErrorCode, FedhftError
from fedhft.job import JobSpec
from fedhft.training.stored_weights import WRAPPERS
from fedhft.training.tasks import Task

_UNLIMITED = 1 << 30
_POSITIONS = ("position_embeddings", "embed_positions", "wpe", "position_embedding")
_ALWAYS = ("pad_token_id", "eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id", "unk_token_id")
_SHOWN = 3
_NAMELESS = re.compile(r"LABEL_\d+")
_TRIED, _SHORT = 7, 3
"""Tokens of the longer and of the shorter row on which padding is tried."""
_ALIKE = 1e-3
_ALIKE_IN_16_BITS = 3e-2
"""bf16 has 8 bits: two orders of summing differ by some 1e-2 of the largest logit."""
_CPU = torch.device("cpu")


def check_plain(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a quantised base. Raises FedhftError(INVALID_MODEL)."""
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "unknown") if isinstance(quantised, dict) else "unknown"
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"model {path}: its weights are quantised ({str(method)[:40]}), and nothing shows that adapters get right "
            "gradients through them on this device; use the model's plain weights (fp32, bf16 or fp16)",
        )


def check_vocabulary(path: Path, tokenizer: Any, rows: int) -> None:
    """Refuse a tokenizer that makes token ids beyond the embedding's rows. Raises FedhftError(INVALID_MODEL).

    Special tokens that text never becomes, and that nothing adds by itself, may lie beyond: some models have them.
    """
    special = {
        index for index, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if getattr(token, "special", 0)
    }
    used = {name: getattr(tokenizer, name, None) for name in _ALWAYS}
    for name, index in used.items():
        if isinstance(index, int) and index >= rows:
            raise FedhftError(
                ErrorCode.INVALID_MODEL,
                f"model {path}: the tokenizer's {name} is {index}, but the vocabulary of the model ends at {rows - 1}; "
                "resize the model's embedding to the tokenizer, or name a token that the model knows",
            )
    beyond = [
        (index, token) for token, index in tokenizer.get_vocab().items() if index >= rows and index not in special
    ]
    if beyond:
        index, token = min(beyond)
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"model {path}: the tokenizer's token {token[:40]!r} has the id {index}, but the vocabulary of the model "
            f"ends at {rows - 1}; use the tokenizer that the model was trained with",
        )


def check_length(spec: JobSpec, path: Path, tokenizer: Any, model: torch.nn.Module) -> None:
    """Refuse a model.max_length beyond what has positions; a row that long would fail deep inside the model.

    A position table may keep its first rows for itself: RoBERTa's those up to its padding id, OPT's and BART's two.
    Raises FedhftError(INVALID_MODEL).
    """
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    stated = getattr(config, "max_position_embeddings", None)
    limits = [int(min(getattr(tokenizer, "model_max_length", _UNLIMITED), _UNLIMITED))]
    tables = [_usable(table) for table in position_tables(model)]
    limits += tables or ([stated] if isinstance(stated, int) and stated > 0 else [])
    if spec.model.max_length > min(limits):
        raise FedhftError.field(
            ErrorCode.INVALID_MODEL, "model.max_length", spec.model.max_length,
            f"{path.name} reads at most {min(limits)} tokens", f"set it to {min(limits)} or less",
        )  # fmt: skip


def position_tables(model: torch.nn.Module) -> list[torch.nn.Embedding]:
    """Embeddings of positions; none where positions are rotary or relative."""
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding) and name.rsplit(".", 1)[-1] in _POSITIONS
    ]


def counts_from_padding(model: torch.nn.Module) -> bool:
    """Whether the model itself numbers positions, from its padding id on (RoBERTa and its kin)."""
    return any(table.padding_idx is not None for table in position_tables(model))


def _usable(table: torch.nn.Embedding) -> int:
    if table.padding_idx is not None:
        return table.num_embeddings - table.padding_idx - 1
    return table.num_embeddings - int(getattr(table, "offset", 0) or 0)


def added_prefix(stored: Collection[str]) -> str:
    """What stands before the name of every stored weight and is no part of the model; empty for nothing."""
    prefix = ""
    while stored:
        wrapper = next((w for w in WRAPPERS if all(name.startswith(prefix + w) for name in stored)), None)
        if wrapper is None:
            break
        prefix += wrapper
    return prefix


def check_complete(path: Path, model: torch.nn.Module, absent: Collection[str], head: Collection[str]) -> None:
    """Refuse a model some of whose weights were drawn at random, its head and pooler apart.

    absent: parameters that the files lack or hold in another shape. Raises FedhftError(INVALID_MODEL).
    """
    base = str(getattr(model, "base_model_prefix", "")) + "."
    lost = sorted(
        name for name in absent if not (name in head and not name.startswith(base)) and "pooler" not in name.split(".")
    )
    if lost:
        shown = ", ".join(lost[:_SHOWN]) + (f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else "")
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"model {path}: its files lack {shown}, or hold them in another shape, so they would be drawn at random; "
            f"use weights saved from a whole {type(model).__name__}, or from its base model, by save_pretrained",
        )


def check_head(
    path: Path, spec: JobSpec, config: Mapping[str, Any], head: Collection[str], absent: Collection[str]
) -> None:
    """Refuse to keep a head that the files do not hold, or that is for other labels.

    config: the files' own. Names like LABEL_0 say nothing and fit any labels. Raises FedhftError(INVALID_MODEL).
    """
    if spec.task.head != "keep":
        return

    def refuse(problem: str) -> FedhftError:
        return FedhftError.field(
            ErrorCode.INVALID_MODEL, "task.head", "keep", f"{path.name} {problem}", 'use another base, or head = "new"'
        )

    lost = sorted(name for name in head if name in absent)
    if lost:
        raise refuse(f"holds no {lost[0]} of the job's shape")
    stored = config.get("id2label")
    if isinstance(stored, dict) and spec.task.labels:
        names = [str(stored.get(str(index), "")) for index in range(len(stored))]
        if not all(_NAMELESS.fullmatch(name) for name in names) and tuple(names) != spec.task.labels:
            raise refuse(f"has a head for {names[:12]}, the job for {list(spec.task.labels[:12])}")


def padding_side(
    path: Path,
    task: Task,
    model: torch.nn.Module,
    tokenizer: Any,
    *,
    device: torch.device = _CPU,
    counts: bool,
) -> str:
    """The side on which padding changes no answer: the tokenizer's if it can be, else the other.

    XLNet reads its answer off the last place, so that its rows have to end there. counts: whether the model takes
    position ids and does not number positions by itself. Raises FedhftError(INVALID_MODEL) when padding changes the
    answer on either side: then a row's score would depend on the rows beside it.
    """
    asked = str(getattr(tokenizer, "padding_side", "right"))
    pad, end = int(tokenizer.pad_token_id), tokenizer.eos_token_id
    # Encoder-decoders read their answer off the token that ends a text.
    ends = [] if end is None or end == pad else [int(end)]
    plain = [index for index in range(_TRIED + 2) if index not in (pad, *ends)][: _TRIED - len(ends)]
    short, long = plain[: _SHORT - len(ends)] + ends, plain + ends
    try:
        for side in (asked, "left" if asked == "right" else "right"):
            if _answers_alike(task, model, short, long, pad, device, left=side == "left", counts=counts):
                return side
    except (ValueError, RuntimeError, IndexError, TypeError) as error:
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"model {path}: cannot read a text: {str(error).strip() or type(error).__name__}; use another model, or "
            "the tokenizer that it was trained with",
        ) from error
    raise FedhftError(
        ErrorCode.INVALID_MODEL,
        f"model {path}: its answer to a text depends on the padding beside it, on either side; use another model",
    )


def _answers_alike(
    task: Task,
    model: torch.nn.Module,
    short: list[int],
    long: list[int],
    pad: int,
    device: torch.device,
    *,
    left: bool,
    counts: bool,
) -> bool:
    """Whether a short row is answered alone as beside a longer one."""
    width = len(long)
    empty = [0] * (width - len(short))
    always = {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}

    def logits(rows: list[list[int]], attention: list[list[int]]) -> torch.Tensor:
        inputs = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(attention)}
        if left and counts:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        places = inputs["attention_mask"].bool() if task.counts_places else None
        on_device = {name: tensor.to(device) for name, tensor in inputs.items()}
        with torch.no_grad():
            return (
                task.logits(model, {**on_device, **always}, None if places is None else places.to(device)).float().cpu()
            )

    padding, mask = [pad] * len(empty), [1] * len(short)
    alone = logits([short], [mask])
    row, attention = (padding + short, empty + mask) if left else (short + padding, mask + empty)
    beside = logits([row, long], [attention, [1] * width])[: len(alone)]
    exact = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    alike = _ALIKE if exact else _ALIKE_IN_16_BITS
    return torch.allclose(alone, beside, rtol=alike, atol=alike * float(alone.abs().max()))
