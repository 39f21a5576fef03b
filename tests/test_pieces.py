"""Bytes that arrive in pieces and are wanted in others. In memory."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.bridge.pieces import _SMALL, Pieces, unsent


@given(st.lists(st.integers(0, 2 * _SMALL), max_size=20))
def test_everything_is_there_in_order(sizes: list[int]) -> None:
    data = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    pieces = Pieces()
    for piece in data:
        pieces.append(piece)
    assert pieces.size == sum(sizes)
    assert b"".join(pieces.all()) == b"".join(data)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2 * _SMALL)), max_size=20))
def test_what_is_taken_has_arrived_and_was_not_taken_before(steps: list[tuple[bool, int]]) -> None:
    pieces = Pieces()
    arrived = taken = b""
    for number, (is_arrival, size) in enumerate(steps):
        if is_arrival:
            data = bytes([number + 1]) * size
            pieces.append(data)
            arrived += data
        else:
            buffer = bytearray(size)
            count = pieces.take_into(memoryview(buffer))
            assert count == min(size, len(arrived) - len(taken))
            taken += buffer[:count]
        assert pieces.size == len(arrived) - len(taken)
    assert arrived.startswith(taken)


def test_one_large_piece_is_not_copied() -> None:
    pieces = Pieces()
    data = b"x" * _SMALL
    pieces.append(data)
    (piece,) = pieces.all()
    assert piece is data


def test_what_was_taken_is_not_kept() -> None:
    tracemalloc.start()
    try:
        pieces = Pieces()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(10):
            pieces.append(bytes(1 << 18))
        buffer = bytearray(1 << 18)
        for _ in range(10):
            pieces.take_into(memoryview(buffer))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 1.1 * (1 << 18)


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


@given(st.lists(st.binary(max_size=8), max_size=8), st.integers(0, 64))
def test_what_is_unsent_is_what_follows_the_bytes_that_have_gone(
    pieces: list[bytes], sent: int
) -> None:
    whole = b"".join(pieces)
    left = unsent(pieces, sent)
    assert b"".join(left) == whole[sent:]
    # At most one is cut up, and copied for that.
    assert all(piece in pieces for piece in left[1:])


def test_nothing_is_left_of_what_was_sent() -> None:
    assert unsent([b"a", b"b"], 2) == []
