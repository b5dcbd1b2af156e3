"""Which rounds of a history an answer brings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedhft.rounds.paging import HISTORY_PAGE, page_of

sizes = st.integers(0, 60)
pages = st.integers(1, 9)


def test_a_request_that_wants_nothing_particular_gets_the_oldest_page() -> None:
    assert page_of(1000) == range(1, HISTORY_PAGE + 1)
    assert page_of(3) == range(1, 4)
    assert list(page_of(0)) == []


def test_the_newest_rounds_come_as_many_as_were_asked_for_and_at_most_a_page() -> None:
    assert page_of(1000, last=20) == range(981, 1001)
    assert page_of(1000, last=10**6) == range(1001 - HISTORY_PAGE, 1001)
    assert page_of(7, last=20) == range(1, 8)
    assert page_of(1000, last=2000, most=None) == range(1, 1001)


def test_pages_lie_between_what_the_caller_has() -> None:
    assert page_of(1000, after=990, last=20) == range(991, 1001)
    assert page_of(1000, before=500, last=20) == range(480, 500)
    assert page_of(1000, after=490, before=500, last=20) == range(491, 500)
    assert list(page_of(1000, after=1000)) == list(page_of(1000, before=1, last=9)) == []
    assert list(page_of(1000, after=5000, before=3, last=9)) == []


def test_rounds_that_are_no_longer_kept_are_skipped() -> None:
    assert page_of(1000, 400) == range(400, 400 + HISTORY_PAGE)
    assert page_of(1000, 400, after=10) == range(400, 400 + HISTORY_PAGE)
    assert page_of(1000, 400, before=410, last=20) == range(400, 410)
    assert list(page_of(1000, 400, before=300, last=20)) == []


@given(sizes, st.data())
def test_pages_back_from_the_newest_bring_every_kept_round_once(published: int, data: st.DataObject) -> None:
    kept_from = data.draw(st.integers(1, published + 1))
    got: list[int] = []
    before = 0
    while page := page_of(published, kept_from, before=before, last=data.draw(pages), most=data.draw(pages)):
        got = [*page, *got]
        before = page.start
    assert got == list(range(kept_from, published + 1))


@given(sizes, st.data())
def test_pages_on_from_the_oldest_bring_every_kept_round_once_while_rounds_come_and_go(
    published: int, data: st.DataObject
) -> None:
    kept_from, after = 1, 0
    missed: set[int] = set()
    got: list[int] = []
    while page := page_of(published, kept_from, after=after, most=data.draw(pages)):
        got.extend(page)
        after = page[-1]
        published += data.draw(st.sampled_from([0, 0, 0, 1]))
        kept_from = data.draw(st.integers(kept_from, published + 1))
        missed |= set(range(after + 1, kept_from))
    assert got == [number for number in range(1, published + 1) if number not in missed]


@given(sizes, sizes, sizes, st.integers(0, 70), st.integers(0, 9), pages)
def test_a_page_is_part_of_what_was_asked_for_and_as_large_as_it_may_be(
    published: int, kept_from: int, after: int, before: int, last: int, most: int
) -> None:
    kept_from = 1 + min(kept_from, published)
    page = page_of(published, kept_from, after=after, before=before, last=last, most=most)
    between = [n for n in range(kept_from, published + 1) if n > after and (not before or n < before)]
    size = min(most, last or most)
    assert list(page) == (between[-size:] if last else between[:size])
