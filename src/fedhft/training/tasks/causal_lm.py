"""Text that goes on: prompts and completions, plain text, conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedhft.adapter import Float32
from fedhft.datasets.examples import Example
from fedhft.datasets.tables import RawRow
from fedhft.errors import ErrorCode, FedhftError
from fedhft.scoring.likelihood import Likelihood
from fedhft.training.tasks.chat import as_pieces
from fedhft.training.tasks.interface import Tally, Targets, Tokens, flat, place_targets, sizes_of
from fedhft.training.tasks.packing import pack
from fedhft.training.tasks.places import PlaceTask

if TYPE_CHECKING:
    import torch

_ASSISTANT = "assistant"
_PROBE = 8
"""Tokens of the text on which a model is tried."""


class CausalLM(PlaceTask):
    """Cross entropy of the next token, on completions only. Targets: token ids; there is no head to train.

    A row is the prompt's tokens, then those of its completion, tokenised apart as they are when a model is asked to go
    on, then the end token. Rows that are too long lose the beginning of their prompt.
    """

    auto_class = "AutoModelForCausalLM"
    pipeline_tag = "text-generation"
    peft_task_type = "CAUSAL_LM"
    outputs = 0
    auto_arguments: Mapping[str, Any] = {}

    def parse(self, raw: RawRow) -> Example:
        """A prompt and its completion, a text, or a conversation, as task.format says."""
        columns = self.spec
        if columns.format == "text":
            text = raw.text(columns.text, "task.text")
            if not text:
                raise raw.refused(columns.text, "is empty; leave the row out")
            return Example(text, None, 0.0)
        if columns.format == "prompt":
            prompt = raw.text(columns.prompt, "task.prompt")
            completion = raw.text(columns.completion, "task.completion")
            if not completion:
                raise raw.refused(columns.completion, "is empty; write what the model is to answer, or leave it out")
            return Example(prompt, completion, 0.0)
        return Example("", None, 0.0, turns=_turns(raw, columns.messages))

    def configure(self, config: Any) -> None:
        """Nothing: the model is used as it is."""

    def head(self, model: torch.nn.Module, new_parameters: frozenset[str]) -> tuple[str, ...]:
        """None: the output layer is part of the base model."""
        return ()

    def check_model(self, model: torch.nn.Module) -> None:
        """Refuse a model whose outputs depend on later tokens: it would be trained to copy what it is asked for."""
        import torch

        ids = torch.arange(_PROBE) % 3
        other = torch.cat([ids[:-1], 3 - ids[-1:]])
        places = torch.ones((2, _PROBE), dtype=torch.bool)
        device = next(model.parameters()).device
        inputs = {"input_ids": torch.stack([ids, other]).to(device)}
        with torch.no_grad():
            logits = self.logits(model, inputs, places.to(device))
        one, two = logits.reshape(2, _PROBE, -1)[:, :-1].float()
        if not torch.allclose(one, two, atol=1e-3, rtol=1e-3):
            raise FedhftError(
                ErrorCode.INVALID_MODEL,
                f"{type(model).__name__}: reads the text on both sides, so it would learn to copy the next token; use "
                "a decoder, or a config with is_decoder = true",
            )

    def tokenize(
        self, tokenizer: Any, rows: Sequence[Example], max_length: int, with_types: bool, *, training: bool
    ) -> tuple[list[Tokens], Targets]:
        """Rows as above; with task.packing, training rows several to a sequence.

        Raises FedhftError(INVALID_MODEL) for conversations where the tokenizer has no chat template.
        """
        tokens: list[Tokens] = []
        targets: list[NDArray[np.int32]] = []
        for row in rows:
            ids, wanted = self._row(tokenizer, row)
            ids, wanted = ids[-max_length:], wanted[-max_length:]
            ids = ids if len(ids) else np.array([tokenizer.pad_token_id], np.int32)
            places = np.flatnonzero(wanted[1:]).astype(np.int32)  # the output of a token is about the next one
            tokens.append(Tokens(ids, None, places))
            targets.append(ids[places + 1])
        if training and self.spec.packing:
            tokens, targets = pack(tokens, targets, max_length)
        return tokens, place_targets(targets)

    def _row(self, tokenizer: Any, row: Example) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Token ids, and which of them are to be predicted."""
        if row.turns:
            pieces = as_pieces(tokenizer, row.turns)
        elif row.text_pair is None:
            pieces = [(_opened(tokenizer, row.text), True), (_end(tokenizer), True)]
        else:
            pieces = [
                (_opened(tokenizer, row.text), False),
                (_ids(tokenizer, row.text_pair), True),
                (_end(tokenizer), True),
            ]
        ids = np.array([token for piece, _ in pieces for token in piece], np.int32)
        wanted = np.array([counts for piece, counts in pieces for _ in piece], np.bool_)
        return ids, wanted

    def logits(self, model: torch.nn.Module, inputs: Mapping[str, Any], places: torch.Tensor | None) -> torch.Tensor:
        """Outputs at `places`, (m x vocabulary); the output layer computes no others.

        Raises FedhftError(INVALID_MODEL) for a model whose output layer is not its last step.
        """
        layer = model.get_output_embeddings()  # type: ignore[operator]
        if places is None or layer is None:
            raise FedhftError(
                ErrorCode.INVALID_MODEL, f"{type(model).__name__}: has no output layer over its vocabulary; use another"
            )
        hook = layer.register_forward_pre_hook(lambda module, given: (given[0][places].unsqueeze(0),))
        try:
            logits: torch.Tensor = model(**{"use_cache": False, **inputs}).logits
        finally:
            hook.remove()
        if logits.ndim != 3 or logits.shape[:2] != (1, int(places.sum())):
            raise FedhftError(
                ErrorCode.INVALID_MODEL, f"{type(model).__name__}: changes its outputs after the output layer"
            )
        return logits[0]

    def tally(self, logits: Float32, targets: Targets, sizes: NDArray[np.int64]) -> Tally:
        """Likelihood and hits of tokens; rows right in every token."""
        return Likelihood.of(logits, targets, sizes)

    def floor(self, train_targets: Targets, targets: Targets) -> Mapping[str, float]:
        """Of the training targets' unigram distribution (one added to every token that either has), and of always
        answering the commonest token.
        """
        known, wanted = flat(train_targets), flat(targets)
        tokens, place = np.unique(np.concatenate([known, wanted]), return_inverse=True)
        counts = np.bincount(place[: len(known)], minlength=len(tokens)) + 1.0
        losses = -np.log(counts / counts.sum())
        asked = place[len(known) :]
        right = asked == (counts.argmax() if len(counts) else 0)
        counted = Likelihood.of_tokens(losses[asked], right, sizes_of(targets))
        return {name: counted.metric(name) for name in self.metrics}

    @property
    def writes(self) -> bool:
        """It goes on from a prompt, or from a conversation before its last answer."""
        return self.spec.format != "text"

    def labels_line(self) -> str:
        """There are none, because the target is text."""
        return "none (text)"


def _turns(raw: RawRow, column: str) -> tuple[tuple[str, str], ...]:
    value = raw.value(column, "task.messages")
    fix = 'write a list of {"role": ..., "content": ...} with an answer of the assistant'
    turns = []
    for item in value if isinstance(value, list | tuple) else ():
        role, content = (item.get("role"), item.get("content")) if isinstance(item, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise raw.refused(column, f"holds something other than a role and its content; {fix}")
        turns.append((role, content))
    while turns and turns[-1][0] != _ASSISTANT:
        turns.pop()  # nothing after the last answer is learned from
    if not turns:
        raise raw.refused(column, f"has no answer of the assistant; {fix}")
    return tuple(turns)


def _opened(tokenizer: Any, text: str) -> list[int]:
    """A text with the tokens that begin a sequence, and without those that end one."""
    ids = list(tokenizer(text, split_special_tokens=True)["input_ids"])
    plain = _ids(tokenizer, text)
    while ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id) and ids[-len(plain) :] != plain:
        ids.pop()
    return ids


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _end(tokenizer: Any) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
