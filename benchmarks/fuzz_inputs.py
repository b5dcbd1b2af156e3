"""What a target of `benchmarks.fuzz` is, and how its inputs are drawn from valid ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from benchmarks.fuzz_mutations import mutate_message, mutated, mutated_json

Make = Callable[[random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """One decoder. `make` draws an input; `run` decodes it, and raises nothing but FedhftError, whatever it is."""

    name: str
    make: Make
    run: Callable[[bytes], None]


def from_bytes(seeds: Sequence[bytes]) -> Make:
    """By changing bytes."""
    return lambda rng: mutated(rng, rng.choice(seeds), seeds)


def from_messages(kind: type[Message], seeds: Sequence[bytes]) -> Make:
    """Half by changing fields, half by changing bytes."""

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return mutated(rng, rng.choice(seeds), seeds)
        message = kind.FromString(rng.choice(seeds))
        mutate_message(rng, message)
        return message.SerializeToString()

    return make


def from_json(values: Sequence[Any]) -> Make:
    """Half by changing values, half by changing characters."""
    texts = [json.dumps(value).encode() for value in values]

    def make(rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return mutated(rng, rng.choice(texts), texts)
        return mutated_json(rng, rng.choice(values)).encode()

    return make


def as_text(data: bytes) -> str:
    """As gRPC hands over strings: always UTF-8."""
    return data.decode("utf-8", "replace")
