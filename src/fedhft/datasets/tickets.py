"""The demo's own data: generated support tickets, sorted into queues that mean something different to each group.

Several firms share one ticket system. All tickets are about the same six topics, but each *hidden group* of firms
decided for itself which topic goes to which queue: the label is the queue, and groups permute it. So no single model
can serve all firms, while one model per group can. The federation is not told which firms belong together.

A ticket names its topic once, among asides that use other topics' words, greetings and typing errors, so a firm with
few tickets cannot learn the topics alone.
"""

from __future__ import annotations

import random
import re

from fedhft.datasets.examples import Example
from fedhft.datasets.federated import ClientRows, FederatedData
from fedhft.datasets.partition import group_permutations
from fedhft.datasets.phrases import ASIDES, COMPLAINTS, FRAMES, RULES, TOPICS
from fedhft.errors import ErrorCode, FedhftError
from fedhft.seeds import seed_of

QUEUES = tuple(f"queue-{letter}" for letter in "abcdef")
"""Label names, which say nothing about the topic."""

_ASIDES = 0.5
_GREETINGS = 0.3
_MISTAKES = 0.25
"""Shares of tickets with an aside, with a greeting (before and, as often, after), with typing errors."""

_SLOT = re.compile(r"\{(\w+)\}")


def ticket(topic: str, rng: random.Random) -> str:
    """One ticket about `topic`: a complaint about it, asides on other topics, and noise independent of the label."""
    others = [name for name in TOPICS if name != topic]

    def clause(match: re.Match[str]) -> str:
        return rng.choice(COMPLAINTS[topic] if match[1] == "complaint" else ASIDES[rng.choice(others)])

    frame = rng.choice(FRAMES) if rng.random() < _ASIDES else "{complaint}."
    text = _fill(_SLOT.sub(clause, frame), rng)
    if rng.random() < _GREETINGS:
        text = f"{_fill(rng.choice(RULES['open']), rng)} {text}"
    if rng.random() < _GREETINGS:
        text = f"{text} {_fill(rng.choice(RULES['close']), rng)}"
    return _mistype(text, rng) if rng.random() < _MISTAKES else text


def tickets(count: int, rng: random.Random, taken: set[str]) -> list[tuple[str, int]]:
    """`count` (text, topic index) pairs, topics as even as possible; texts are not in `taken` and are added to it."""
    rows: list[tuple[str, int]] = []
    while len(rows) < count:
        topic = len(rows) % len(TOPICS)
        text = ticket(TOPICS[topic], rng)
        if text not in taken:
            taken.add(text)
            rows.append((text, topic))
    rng.shuffle(rows)
    return rows


def generate(train_rows: tuple[int, ...], *, holdout: int, validation: int, groups: int, seed: int) -> FederatedData:
    """A federation's data: client i has train_rows[i] training rows and `holdout` held-out rows, in group i % groups.

    `validation` texts are shared by all, labelled for each group with its own queues. No text occurs twice. The same
    arguments give the same data everywhere. Raises FedhftError(INVALID_ARGUMENT) for more groups than clients.
    """
    if not 1 <= groups <= len(train_rows):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "groups", groups, f"there are {len(train_rows)} clients",
            "use 1 to that many groups",
        )  # fmt: skip
    queue_of = group_permutations(len(TOPICS), groups, seed)
    taken: set[str] = set()
    clients = []
    for number, count in enumerate(train_rows):
        group = number % groups
        rows = tickets(count + holdout, random.Random(seed_of("tickets", seed, number)), taken)
        labelled = [Example(text, None, queue_of[group][topic]) for text, topic in rows]
        clients.append(ClientRows(f"firm-{number + 1:02d}", group, tuple(labelled[:count]), tuple(labelled[count:])))
    common = tickets(validation, random.Random(seed_of("tickets", seed, "validation")), taken)
    shared = tuple(
        tuple(Example(text, None, queue_of[group][topic]) for text, topic in common) for group in range(groups)
    )
    return FederatedData("support tickets", QUEUES, tuple(clients), shared, has_groups=groups > 1)


def _fill(template: str, rng: random.Random) -> str:
    while _SLOT.search(template):
        template = _SLOT.sub(lambda match: rng.choice(RULES[match[1]]), template)
    return re.sub(r"(^|[.:!?] )([a-z])", lambda match: match[1] + match[2].upper(), template)


def _mistype(text: str, rng: random.Random) -> str:
    """One or two typing errors: neighbouring letters swapped, one doubled, or one dropped."""
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(1, len(text) - 2)
        kind = rng.randrange(3)
        if kind == 0:
            text = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        elif kind == 1:
            text = text[:at] + text[at] + text[at:]
        else:
            text = text[:at] + text[at + 1 :]
    return text
