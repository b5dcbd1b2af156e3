"""Following a job's events: whatever happens between two looks is told once and in order, or a gap is told."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from fedhft.jobs.events import News, SeenEvents, follow_events
from fedhft.v1 import jobs_pb2

KEPT = 8
"""Events that the log below keeps of the job, and as many of its clients."""


def event(at_ms: int, kind: str = "opened", client: str = "", text: str = "") -> jobs_pb2.JobEvent:
    return jobs_pb2.JobEvent(at_ms=at_ms, kind=kind, client=client, text=text)


class Log:
    """A job's log as a server keeps it, that grows between the messages of a watch."""

    def __init__(self, batches: list[list[jobs_pb2.JobEvent]]) -> None:
        self._batches = batches
        self._own: deque[jobs_pb2.JobEvent] = deque(maxlen=KEPT)
        self._of_clients: deque[jobs_pb2.JobEvent] = deque(maxlen=KEPT)

    def watch(self, job: str, last: int | None) -> Iterator[jobs_pb2.Job]:
        for place, batch in enumerate(self._batches):
            for one in batch:
                (self._of_clients if one.client else self._own).append(one)
            over = place == len(self._batches) - 1
            yield jobs_pb2.Job(job=job, status="completed" if over else "running")

    def events(self, job: str) -> jobs_pb2.ListEventsResponse:
        told = sorted([*self._own, *self._of_clients], key=lambda one: one.at_ms)
        return jobs_pb2.ListEventsResponse(events=told)


def followed(log: Log, last: int = 0) -> list[News]:
    return list(follow_events(log, "j", last))  # type: ignore[arg-type]


def told(news: list[News]) -> list[jobs_pb2.JobEvent]:
    return [one for each in news for one in each.events]


@st.composite
def histories(draw: st.DrawFn) -> list[list[jobs_pb2.JobEvent]]:
    """Batches of events at times that never go back and are often the same within one: many are equal."""
    at_ms, batches = 1, []
    for size in draw(st.lists(st.integers(0, KEPT - 1), min_size=1, max_size=8)):
        batch = []
        for _ in range(size):
            batch.append(event(at_ms, draw(st.sampled_from(["opened", "joined"])), draw(st.sampled_from(["", "a"]))))
            at_ms += draw(st.integers(0, 2))
        batches.append(sorted(batch, key=lambda one: (one.at_ms, bool(one.client))))
        at_ms += 1
    return batches


@given(histories())
def test_every_event_is_told_once_and_in_order(batches: list[list[jobs_pb2.JobEvent]]) -> None:
    """No batch is longer than what is kept, so none can be lost."""
    news = followed(Log(batches))
    assert told(news) == [one for batch in batches for one in batch]
    assert not any(each.gap for each in news)


@given(histories(), st.integers(1, 2 * KEPT))
def test_it_begins_with_the_newest_of_those_that_are_there(batches: list[list[jobs_pb2.JobEvent]], last: int) -> None:
    assert told(followed(Log(batches), last)) == batches[0][-last:] + [one for batch in batches[1:] for one in batch]


def test_equal_events_of_one_moment_are_told_as_often_as_they_happened() -> None:
    twice = [event(5, "set_aside", "a", "gone"), event(5, "set_aside", "a", "gone")]
    news = followed(Log([[event(1)], twice, [event(6, "completed")]]))
    assert [one.kind for one in told(news)] == ["opened", "set_aside", "set_aside", "completed"]


def test_what_was_dropped_before_anybody_looked_is_said_to_be_missing() -> None:
    burst = [event(10 + number, text=str(number)) for number in range(3 * KEPT)]
    news = followed(Log([[event(1)], burst, [event(99, "completed")]]))
    assert [each.gap for each in news] == [False, True, False]
    assert [one.text for one in told(news)] == ["", *map(str, range(2 * KEPT, 3 * KEPT)), ""]


def test_a_burst_of_client_events_that_were_dropped_is_a_gap_although_the_job_s_own_are_all_there() -> None:
    burst = [event(10 + number, "joined", f"c{number}") for number in range(3 * KEPT)]
    news = followed(Log([[event(1), event(2, "joined", "a")], burst, [event(99, "completed")]]))
    assert [each.gap for each in news] == [False, True, False]


def test_a_look_without_news_tells_nothing_until_the_job_is_over() -> None:
    news = followed(Log([[event(1), event(2)], [], [], []]), last=1)
    assert [len(each.events) for each in news] == [1, 0]
    assert news[-1].job.status == "completed"


def test_nothing_is_remembered_beyond_one_answer() -> None:
    seen = SeenEvents()
    for start in range(0, 1000, 10):
        seen.new([event(start + place) for place in range(10)])
    assert sum(known.total() for known in seen.known.values()) == 10
