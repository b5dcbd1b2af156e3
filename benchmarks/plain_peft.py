"""The same training without fedhft: transformers, PEFT and a loop, with the loss that transformers computes.

What it shares with a federation of one client is what a comparison needs: where adapters and head start, and which rows
make a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model

from fedhft import seeds
from fedhft.adapter import AdapterSchema, Part, TensorKey
from fedhft.datasets.examples import Example
from fedhft.job import JobSpec
from fedhft.plan import steps_of
from fedhft.training.batches import training_batches

_IGNORED = -100
_CLASSES = {
    "token-classification": "AutoModelForTokenClassification",
    "causal-lm": "AutoModelForCausalLM",
}


class PlainPeft:
    """A model under plain PEFT, at a job's starting point."""

    def __init__(self, spec: JobSpec, schema: AdapterSchema) -> None:
        self._spec = spec
        self._kind = spec.task.kind
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(spec.model.name)
        auto = getattr(transformers, _CLASSES.get(self._kind, "AutoModelForSequenceClassification"))
        self.model = get_peft_model(
            auto.from_pretrained(spec.model.name, dtype=torch.float32, **self._arguments()),
            LoraConfig(
                r=spec.adapter.rank,
                lora_alpha=spec.adapter.alpha,
                target_modules=[slot.name for slot in schema.slots],
            ),
        )
        self.model.base_model.model.config.pad_token_id = self._tokenizer.pad_token_id
        with torch.no_grad():
            for slot in schema.slots:
                layer = self.model.base_model.model.get_submodule(slot.name)
                start = schema.start_of(spec.seed, TensorKey(slot.name, Part.A))
                layer.lora_A["default"].weight.copy_(torch.from_numpy(start.T.copy()))
            for parameter in schema.head:
                tensor = self.model.base_model.model.get_parameter(parameter.name)
                start = schema.start_of(spec.seed, TensorKey(parameter.name, Part.HEAD))
                tensor.copy_(torch.from_numpy(start).reshape(tensor.shape))
                tensor.requires_grad_(True)

    def train(self, rows: Sequence[Example], client: str, rounds: int) -> None:
        """As many rounds as a federation of this client alone makes; every round begins with a new optimiser."""
        settings = self._spec.training
        encoded = [self._encoded(row) for row in rows]
        lengths = np.array([len(ids) for ids, _ in encoded])
        steps = steps_of(len(rows), settings.batch_size, settings.epochs, 0)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.model.train()
        for number in range(1, rounds + 1):
            optimiser = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
            seed = seeds.seed_of("round", self._spec.seed, number, client)
            for batch in training_batches(lengths, settings.batch_size, seed, steps):
                optimiser.zero_grad()
                self.model(**self._batch([encoded[i] for i in batch])).loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
                optimiser.step()

    def logits(self, rows: Sequence[Example], model: torch.nn.Module | None = None) -> NDArray[np.float32]:
        """Outputs that count, row after row, (m x outputs); of `model`, where one is given."""
        batch = self._batch([self._encoded(row) for row in rows])
        labels = batch.pop("labels")
        with torch.no_grad():
            logits = (model or self.model).eval()(**batch).logits
        if self._kind == "causal-lm":
            logits, labels = logits[:, :-1], labels[:, 1:]
        if self._kind in _CLASSES:
            logits = logits[labels != _IGNORED]
        found: NDArray[np.float32] = logits.numpy()
        return found

    def _arguments(self) -> Mapping[str, Any]:
        if self._kind == "causal-lm":
            return {}
        problem = {
            "classification": "single_label_classification",
            "multi-label": "multi_label_classification",
            "regression": "regression",
        }.get(self._kind)
        return {"num_labels": len(self._spec.task.labels) or 1, **({"problem_type": problem} if problem else {})}

    def _encoded(self, row: Example) -> tuple[list[int], Any]:
        """Token ids, and what transformers calls labels."""
        task = self._spec.task
        if self._kind == "causal-lm":
            prompt = self._tokenizer(row.text)["input_ids"]
            answer = self._tokenizer(row.text_pair, add_special_tokens=False)["input_ids"]
            answer = [*answer, self._tokenizer.eos_token_id]
            return prompt + answer, [_IGNORED] * len(prompt) + answer
        if self._kind == "token-classification":
            encoded = self._tokenizer(list(row.words), is_split_into_words=True)
            tags = row.label if isinstance(row.label, tuple) else ()
            labels, last = [], None
            for word in encoded.word_ids():
                labels.append(_IGNORED if word is None or word == last else tags[word])
                last = word
            return list(encoded["input_ids"]), labels
        ids = list(self._tokenizer(row.text)["input_ids"])
        if isinstance(row.label, tuple):
            return ids, [float(place in row.label) for place in range(len(task.labels))]
        if self._kind == "regression":
            return ids, (row.label - task.target_mean) / task.target_std
        return ids, int(row.label)

    def _batch(self, rows: Sequence[tuple[list[int], Any]]) -> dict[str, torch.Tensor]:
        width = max(len(ids) for ids, _ in rows)
        pad = self._tokenizer.pad_token_id
        batch = {
            "input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows]),
        }
        if self._kind in _CLASSES:
            batch["labels"] = torch.tensor([[*wanted, *[_IGNORED] * (width - len(ids))] for ids, wanted in rows])
        else:
            batch["labels"] = torch.tensor([wanted for _, wanted in rows])
        return batch
