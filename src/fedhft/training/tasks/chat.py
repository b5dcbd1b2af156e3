"""Conversations as token ids, through the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedhft.errors import ErrorCode, FedhftError

Piece = tuple[list[int], bool]
"""Token ids, and whether they are to be predicted."""


def as_pieces(tokenizer: Any, turns: Sequence[tuple[str, str]]) -> list[Piece]:
    """The conversation as the template writes it; what the assistant says, with the template's end of it, counts.

    What people wrote is text even where it looks like a special token; a template's own are special.
    Raises FedhftError(INVALID_MODEL) when there is no template, or it cannot write the conversation turn by turn.
    """
    special = [str(token) for token in tokenizer.all_special_tokens]
    special += [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    pieces: list[Piece] = []
    done = ""
    for count, (role, content) in enumerate(turns, start=1):
        if role != "assistant":
            continue
        asked = _written(tokenizer, turns[: count - 1], asks=True)
        answered = _written(tokenizer, turns[:count], asks=False)
        if not answered.startswith(asked) or not asked.startswith(done):
            raise FedhftError(
                ErrorCode.INVALID_MODEL,
                f"tokenizer {type(tokenizer).__name__}: its chat template writes earlier turns otherwise once more "
                "follow, so answers cannot be found in it; use format = prompt",
            )
        said = [text for _, text in turns[:count]]
        pieces.append((_ids(tokenizer, asked.removeprefix(done), said, special), False))
        pieces.append((_ids(tokenizer, answered.removeprefix(asked), [content], special), True))
        done = answered
    return pieces


def _written(tokenizer: Any, turns: Sequence[tuple[str, str]], *, asks: bool) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asks)
    except Exception as error:
        raise FedhftError(
            ErrorCode.INVALID_MODEL,
            f"tokenizer {type(tokenizer).__name__}: its chat template cannot write this conversation "
            f"({type(error).__name__}: {str(error)[:200]}); check the order of roles, or use format = prompt",
        ) from error
    return text


def _ids(tokenizer: Any, text: str, said: Sequence[str], special: Sequence[str]) -> list[int]:
    """Token ids of a part of the conversation. said: what people wrote in it, which stays text."""
    ids: list[int] = []
    for words in said:
        start = text.find(words.strip()) if any(token in words for token in special) else -1
        if start < 0:
            continue
        end = start + len(words.strip())
        ids += tokenizer(text[:start], add_special_tokens=False)["input_ids"]
        ids += tokenizer(text[start:end], add_special_tokens=False, split_special_tokens=True)["input_ids"]
        text = text[end:]
    return ids + list(tokenizer(text, add_special_tokens=False)["input_ids"])
