"""Keys of the specified generator."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedhft import seeds

PARTS = st.lists(st.text(max_size=8) | st.integers(), max_size=4)


@given(PARTS, st.lists(st.text(max_size=8) | st.integers(), min_size=1, max_size=4))
def test_a_key_is_the_same_whether_its_beginning_is_shared_or_not(
    parts: list[str | int], last: list[str | int]
) -> None:
    key = seeds.keyed(*parts)
    assert [key(one) for one in last] == [seeds.seed_of(*parts, one) for one in last]
