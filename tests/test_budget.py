"""The bytes that may be buffered for all clients together. In memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.bridge.budget import MIN_COUNTED, Budget

K = 1 << 10


class TestCounting:
    def test_nothing_is_held_at_first(self) -> None:
        budget = Budget(100 * K)
        assert budget.used == 0
        assert not budget.is_exceeded
        assert budget.limit == 100 * K

    def test_holders_are_added_up(self) -> None:
        budget = Budget(1000 * K)
        assert budget.update(0, 100 * K) == 100 * K
        assert budget.update(0, 200 * K) == 200 * K
        assert budget.used == 300 * K

    def test_a_holder_that_grows_or_shrinks_is_not_another_one(self) -> None:
        budget = Budget(1000 * K)
        held = budget.update(0, 100 * K)
        for size in (300 * K, 300 * K, 20 * K, 50 * K):
            held = budget.update(held, size)
            assert held == size
            assert budget.used == size

    def test_what_is_given_back_is_free(self) -> None:
        budget = Budget(1000 * K)
        first, second = budget.update(0, 100 * K), budget.update(0, 200 * K)
        assert budget.update(first, 0) == 0
        assert budget.used == 200 * K
        assert budget.update(second, 0) == 0
        assert budget.used == 0

    def test_a_little_counts_as_nothing(self) -> None:
        # Most requests are small: they take no lock.
        budget = Budget(1000 * K)
        assert budget.update(0, MIN_COUNTED - 1) == 0
        assert budget.used == 0
        assert budget.update(0, MIN_COUNTED) == MIN_COUNTED
        assert budget.used == MIN_COUNTED

    def test_a_holder_that_becomes_small_gives_everything_back(self) -> None:
        budget = Budget(1000 * K)
        held = budget.update(0, 100 * K)
        assert budget.update(held, MIN_COUNTED - 1) == 0
        assert budget.used == 0


class TestLimit:
    def test_is_exceeded_by_one_byte_more_and_not_when_it_is_reached(self) -> None:
        budget = Budget(100 * K)
        held = budget.update(0, 100 * K)
        assert not budget.is_exceeded
        held = budget.update(held, 100 * K + 1)
        assert budget.is_exceeded
        budget.update(held, 100 * K)
        assert not budget.is_exceeded

    def test_holders_may_exceed_it_because_bytes_that_are_here_are_here(self) -> None:
        budget = Budget(100 * K)
        assert budget.update(0, 500 * K) == 500 * K
        assert budget.used == 500 * K

    @pytest.mark.parametrize(("more", "room"), [(60 * K, True), (60 * K + 1, False)])
    def test_there_is_room_up_to_the_limit_and_asking_takes_nothing(
        self, more: int, room: bool
    ) -> None:
        budget = Budget(100 * K)
        budget.update(0, 40 * K)
        assert budget.has_room(0, more) is room
        assert budget.used == 40 * K

    def test_what_a_holder_has_is_not_counted_twice(self) -> None:
        budget = Budget(100 * K)
        held = budget.update(0, 80 * K)
        assert budget.has_room(held, 100 * K)
        assert not budget.has_room(held, 100 * K + 1)
        assert not budget.has_room(0, 80 * K)

    def test_there_is_always_room_for_a_little(self) -> None:
        budget = Budget(100 * K)
        budget.update(0, 500 * K)
        assert budget.has_room(0, MIN_COUNTED - 1)
        assert not budget.has_room(0, MIN_COUNTED)


@given(
    st.integers(1, 200 * K),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 100 * K)), max_size=40),
)
def test_any_holders_add_up_and_end_at_nothing(limit: int, steps: list[tuple[int, int]]) -> None:
    budget = Budget(limit)
    sizes, held = [0] * 5, [0] * 5
    for holder, size in steps:
        others = sum(held) - held[holder]
        assert budget.has_room(held[holder], size) == (size < MIN_COUNTED or others + size <= limit)
        sizes[holder] = size
        held[holder] = budget.update(held[holder], size)
        assert held[holder] == (size if size >= MIN_COUNTED else 0)
        assert budget.used == sum(held)
        assert budget.is_exceeded == (sum(held) > limit)
        # What is not counted has a bound.
        assert sum(sizes) - budget.used < len(sizes) * MIN_COUNTED
    for holder in range(5):
        held[holder] = budget.update(held[holder], 0)
    assert budget.used == 0
