"""The generated corpus: varied, disjoint, repeatable, and labelled differently by every hidden group."""

from __future__ import annotations

import random
import re

import pytest

from fedhft.datasets.phrases import ASIDES, COMPLAINTS, FRAMES, RULES, TOPICS
from fedhft.datasets.tickets import QUEUES, generate, ticket, tickets
from fedhft.errors import ErrorCode, FedhftError

ROWS = (120, 120, 60, 60)


def texts_by_label(rows: tuple[object, ...]) -> dict[str, int]:
    return {row.text: row.label for row in rows}  # type: ignore[attr-defined]


def test_no_text_occurs_twice_anywhere() -> None:
    data = generate(ROWS, holdout=40, validation=90, groups=2, seed=0)
    texts = [row.text for client in data.clients for row in (*client.train, *client.holdout)]
    texts += [row.text for row in data.shared[0]]
    assert len(texts) == sum(ROWS) + 4 * 40 + 90
    assert len(set(texts)) == len(texts)


def test_equal_seeds_give_equal_data_and_others_do_not() -> None:
    first = generate(ROWS, holdout=10, validation=10, groups=2, seed=5)
    assert generate(ROWS, holdout=10, validation=10, groups=2, seed=5) == first
    assert generate(ROWS, holdout=10, validation=10, groups=2, seed=6) != first


def test_a_clients_rows_do_not_depend_on_who_comes_after_it() -> None:
    few = generate((60, 60), holdout=10, validation=10, groups=2, seed=1)
    many = generate((60, 60, 60), holdout=10, validation=10, groups=2, seed=1)
    assert few.clients == many.clients[:2]


def test_every_client_has_every_queue_about_equally_often() -> None:
    data = generate(ROWS, holdout=42, validation=90, groups=2, seed=0)
    for client in data.clients:
        rows = (*client.train, *client.holdout)
        counts = [sum(row.label == queue for row in rows) for queue in range(len(QUEUES))]
        assert max(counts) - min(counts) <= 1


def test_two_groups_never_send_a_ticket_to_the_same_queue() -> None:
    data = generate(ROWS, holdout=10, validation=90, groups=2, seed=3)
    one, other = data.shared
    assert [row.text for row in one] == [row.text for row in other]
    assert all(a.label != b.label for a, b in zip(one, other, strict=True))


def test_clients_of_a_group_agree_on_what_a_queue_means() -> None:
    data = generate((240,) * 4, holdout=10, validation=240, groups=2, seed=0)
    # A complaint without slots occurs with many clients; its queue is the group's.
    fixed = [c for topic in TOPICS for c in COMPLAINTS[topic] if "{" not in c]
    queue_of: dict[tuple[int, str], set[float]] = {}
    for client in data.clients:
        for row in client.train:
            for complaint in fixed:
                if complaint.lower() in row.text.lower():
                    queue_of.setdefault((client.group, complaint), set()).add(row.label)
    assert len(queue_of) > 20
    assert all(len(queues) == 1 for queues in queue_of.values())
    both = [complaint for group, complaint in queue_of if group == 0 and (1, complaint) in queue_of]
    assert both
    assert all(queue_of[0, complaint].isdisjoint(queue_of[1, complaint]) for complaint in both)


def test_sentences_are_varied() -> None:
    rows = tickets(600, random.Random(0), set())
    openings = {" ".join(text.split()[:4]) for text, _ in rows}
    assert len(openings) > 250


def test_no_slot_is_left_open_and_none_is_unknown() -> None:
    rng = random.Random(0)
    assert not any("{" in ticket(topic, rng) for topic in TOPICS for _ in range(200))
    clauses = [c for group in (COMPLAINTS, ASIDES) for topic in TOPICS for c in group[topic]]
    used = {
        slot
        for text in (*clauses, *(t for rule in RULES.values() for t in rule))
        for slot in re.findall(r"{(\w+)}", text)
    }
    assert used <= RULES.keys()
    assert {slot for frame in FRAMES for slot in re.findall(r"{(\w+)}", frame)} == {"aside", "complaint"}


def test_a_ticket_may_use_words_of_other_topics_but_complains_of_its_own() -> None:
    rng = random.Random(1)
    texts = [ticket("delivery", rng).lower() for _ in range(300)]
    assert sum("plan" in text or "password" in text or "invoice" in text for text in texts) > 10
    heads = {
        complaint.split("{")[0].strip().lower()
        for complaint in COMPLAINTS["access"]
        if len(complaint.split("{")[0]) > 12
    }
    assert not any(head in text for text in texts for head in heads)


@pytest.mark.parametrize("groups", [0, 5])
def test_more_groups_than_clients_are_refused(groups: int) -> None:
    with pytest.raises(FedhftError, match="groups") as caught:
        generate(ROWS, holdout=10, validation=10, groups=groups, seed=0)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
