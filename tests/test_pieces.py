"""Bytes that arrive in pieces and are wanted as a whole. In memory."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.bridge.pieces import _SMALL, Pieces


@given(st.lists(st.integers(0, 2 * _SMALL), max_size=20))
def test_everything_is_there_in_order(sizes: list[int]) -> None:
    data = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    pieces = Pieces()
    for piece in data:
        pieces.append(piece)
    assert pieces.size == sum(sizes)
    assert pieces.join() == b"".join(data)


def test_one_large_piece_is_not_copied() -> None:
    pieces = Pieces()
    data = b"x" * _SMALL
    pieces.append(data)
    assert pieces.join() is data


def test_many_small_pieces_take_hardly_more_memory_than_their_bytes() -> None:
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        pieces = Pieces()
        for _ in range(100_000):
            pieces.append(b"x" * 2)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1.5 * pieces.size
