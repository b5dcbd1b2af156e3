"""How large the pieces of a stream are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedhft.rpc.piece_size import PieceSize

DATA = bytes(range(256)) * 4096


class Link:
    """Carries so many bytes per second beyond those that lie in buffers."""

    def __init__(self, bytes_per_s: float, buffered: int = 64 * 1024) -> None:
        self.now_s = 0.0
        self._bytes_per_s = bytes_per_s
        self._buffered = buffered
        self._sent = 0

    def carry(self, size: PieceSize, data: bytes, offset: int = 0) -> list[int]:
        """Sizes of the pieces of `data`."""
        sizes = []
        self._sent = 0
        for _, piece in size.pieces(data, offset):
            sizes.append(len(piece))
            before = max(0, self._sent - self._buffered)
            self._sent += len(piece)
            self.now_s += (max(0, self._sent - self._buffered) - before) / self._bytes_per_s
        return sizes


def piece_size(link: Link) -> PieceSize:
    return PieceSize(32 * 1024, 4 * 1024, 256 * 1024, clock=lambda: link.now_s)


def test_a_fast_link_gets_large_pieces_once_it_has_shown_to_be_fast() -> None:
    link = Link(10e6)
    assert link.carry(piece_size(link), DATA[: 352 * 1024]) == [size * 1024 for size in (32, 32, 32, 256)]


def test_the_next_stream_over_a_fast_link_begins_with_large_ones() -> None:
    link = Link(10e6)
    size = piece_size(link)
    link.carry(size, DATA)
    assert link.carry(size, DATA)[0] == 256 * 1024


def test_a_slow_link_gets_pieces_that_take_seconds_not_minutes() -> None:
    link = Link(8e3)
    size = piece_size(link)
    sizes = link.carry(size, DATA)
    assert max(sizes) <= 32 * 1024
    assert sizes[-1] / 8e3 <= 3


def test_attempts_that_bring_nothing_make_pieces_smaller_down_to_the_least() -> None:
    size = piece_size(Link(1.0))
    seen = []
    for _ in range(4):
        seen.append(size.size)
        size.fruitless()
    assert seen == [32 * 1024, 8 * 1024, 4 * 1024, 4 * 1024]


def test_no_piece_is_larger_than_what_the_other_end_takes() -> None:
    link = Link(10e6)
    size = piece_size(link)
    size.bound(1000)
    assert set(link.carry(size, DATA[:5000])) == {1000}
    size.bound(2000)
    assert size.most == 1000


@given(st.binary(max_size=300), st.integers(1, 70), st.data())
def test_pieces_from_any_offset_join_to_the_rest_of_the_blob(data: bytes, most: int, draw: st.DataObject) -> None:
    offset = draw.draw(st.integers(0, len(data)))
    size = PieceSize(most, 1, most)
    pieces = list(size.pieces(data, offset))
    assert b"".join(piece for _, piece in pieces) == data[offset:]
    assert all(data[at : at + len(piece)] == piece for at, piece in pieces)
    assert all(0 < len(piece) <= most for _, piece in pieces)
