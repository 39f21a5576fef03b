"""Which molds are made, and which workers are forked from them: the decisions alone."""

import math

from aiowsgi.process.supervisor.decisions.molds import (
    ANSWER_TIMEOUT,
    MOST_ORDERED,
    EndMold,
    ForkWithout,
    MakeMold,
    Molds,
    Order,
    Phase,
)


def test_workers_wait_until_the_mold_is_ready() -> None:
    molds = Molds()
    molds.start(1, 1)
    molds.start(2, 1)
    assert molds.decide({1}, 0.0) == [MakeMold(1)]
    assert molds.decide({1}, 0.0) == []
    molds.loaded(1, 0.0)
    assert molds.decide({1}, 0.0) == [Order(1, 1), Order(2, 1)]
    assert molds.decide({1}, 0.0) == []


def test_a_mold_gets_some_orders_at_once_and_further_ones_as_it_answers() -> None:
    molds = Molds()
    for number in range(MOST_ORDERED + 2):
        molds.start(number, 1)
    molds.decide({1}, 0.0)
    molds.loaded(1, 0.0)
    assert molds.decide({1}, 0.0) == [Order(number, 1) for number in range(MOST_ORDERED)]
    assert molds.decide({1}, 0.0) == []
    assert molds.answered(7, 1, 0.0)
    assert molds.decide({1}, 0.0) == [Order(MOST_ORDERED, 1)]
    assert molds.cancel(MOST_ORDERED + 1, 1)
    assert molds.answered(8, 1, 0.0)
    assert molds.decide({1}, 0.0) == []


def test_a_worker_is_there_once_the_mold_has_answered() -> None:
    molds = Molds()
    molds.start(1, 1)
    molds.decide({1}, 0.0)
    assert not molds.answered(1, 1, 0.0)
    molds.loaded(1, 0.0)
    molds.decide({1}, 0.0)
    assert not molds.cancel(1, 1)
    assert molds.answered(1, 1, 0.0)
    assert not molds.answered(1, 1, 0.0)
    assert molds.ended(1, 1.0) == []


def test_workers_load_the_application_themselves_where_a_fork_would_break_it() -> None:
    molds = Molds()
    molds.start(1, 1)
    molds.decide({1}, 0.0)
    molds.unfit(1)
    assert molds.decide({1}, 0.0) == [ForkWithout(1, 1)]
    # Its process ends; that is no loss.
    assert molds.ended(1, 1.0) == []
    molds.start(2, 1)
    assert molds.decide({1}, 0.0) == [ForkWithout(2, 1)]


def test_a_mold_that_ends_while_it_loads_takes_its_workers_along() -> None:
    molds = Molds()
    molds.start(1, 1)
    molds.start(2, 1)
    molds.decide({1}, 0.0)
    assert molds.ended(1, 100.0) == [1, 2]
    assert molds.decide({1}, 0.0) == []
    molds.start(3, 1)
    assert molds.decide({1}, 0.0) == [MakeMold(1)]


def test_a_mold_that_has_proven_itself_is_made_again_at_once() -> None:
    molds = Molds()
    molds.start(1, 1)
    molds.decide({1}, 0.0)
    molds.loaded(1, 0.0)
    molds.decide({1}, 0.0)
    molds.answered(1, 1, 0.0)
    assert molds.ended(1, 10.0) == []
    assert molds.decide({1}, 0.0) == [MakeMold(1)]
    molds.loaded(1, 10.0)
    assert molds.ended(1, 11.0) == []
    # It would end again.
    assert molds.decide({1}, 0.0) == []


def test_a_worker_that_waits_can_be_given_up() -> None:
    molds = Molds()
    molds.start(1, 1)
    molds.decide({1}, 0.0)
    assert molds.cancel(1, 1)
    assert not molds.cancel(1, 1)
    molds.loaded(1, 0.0)
    assert molds.decide({1}, 0.0) == []


def test_a_mold_ends_when_no_worker_of_it_will_be_started() -> None:
    molds = Molds()
    molds.start(1, 1)
    molds.decide({1}, 0.0)
    molds.loaded(1, 0.0)
    molds.start(2, 2)
    assert molds.decide({1, 2}, 0.0) == [Order(1, 1), MakeMold(2)]
    # Not as long as it has something to do.
    assert molds.decide({2}, 0.0) == []
    molds.answered(1, 1, 0.0)
    assert molds.decide({2}, 0.0) == [EndMold(1)]
    assert molds.ended(1, 1.0) == []
    assert molds.phase(1) is Phase.ABSENT
    assert molds.decide({2}, 0.0) == []


def test_what_is_heard_of_a_mold_that_is_gone_means_nothing() -> None:
    molds = Molds()
    molds.loaded(1, 0.0)
    molds.unfit(1)
    assert molds.ended(1, 0.0) == []
    assert not molds.answered(1, 1, 0.0)
    assert not molds.cancel(1, 1)
    assert molds.decide({1}, 0.0) == []


def test_a_mold_that_does_not_answer_is_ended() -> None:
    molds = Molds()
    molds.start(1, 1)
    molds.start(2, 1)
    molds.decide({1}, 0.0)
    # It may load for as long as it needs.
    assert molds.wake_at == math.inf
    molds.loaded(1, 100.0)
    assert len(molds.decide({1}, 100.0)) == 2
    assert molds.wake_at == 100.0 + ANSWER_TIMEOUT
    # Each answer is a sign of life.
    molds.answered(1, 1, 105.0)
    assert molds.decide({1}, 100.0 + ANSWER_TIMEOUT) == []
    assert molds.wake_at == 105.0 + ANSWER_TIMEOUT
    assert molds.decide({1}, 105.0 + ANSWER_TIMEOUT) == [EndMold(1, is_stuck=True)]
    assert molds.decide({1}, 105.0 + ANSWER_TIMEOUT) == []
    assert molds.ended(1, 120.0) == [2]
    assert molds.wake_at == math.inf


def test_a_mold_that_has_nothing_to_answer_is_left_alone() -> None:
    molds = Molds()
    molds.start(1, 1)
    molds.decide({1}, 0.0)
    molds.loaded(1, 0.0)
    molds.decide({1}, 0.0)
    molds.answered(1, 1, 0.0)
    assert molds.decide({1}, 1000.0) == []
    molds.start(2, 1)
    assert molds.decide({1}, 1000.0) == [Order(2, 1)]
    assert molds.wake_at == 1000.0 + ANSWER_TIMEOUT
