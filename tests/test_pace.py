"""How fast a client moves bytes while it is waited for."""

import pytest

from aiowsgi.connection.pace import Pace

PATIENCE, RATE = 10.0, 100


def left(pace: Pace, now: float, rate: int = RATE) -> float:
    return pace.time_left(PATIENCE, rate, now)


def test_client_may_be_silent_for_its_patience() -> None:
    pace = Pace(1000.0)
    assert left(pace, 1000.0) == left(pace, 1000.0, rate=0) == 10
    assert left(pace, 1009.0) == left(pace, 1009.0, rate=0) == 1
    pace.add(5000, 1009.0)
    assert left(pace, 1009.0) == left(pace, 1009.0, rate=0) == 10


def test_rate_is_asked_for_on_average_once_the_patience_is_over() -> None:
    pace = Pace(1000.0)
    for second in range(1, 16):
        pace.add(50, 1000.0 + second)
    # 750 bytes are worth 7.5 seconds behind the first ten.
    assert left(pace, 1015.0) == 2.5
    assert left(pace, 1015.0, rate=0) == 10


def test_bytes_that_have_not_moved_are_no_sign_of_life() -> None:
    pace = Pace(1000.0)
    pace.add(0, 1005.0)
    pace.add(-3, 1006.0)
    assert left(pace, 1006.0) == 4


@pytest.mark.parametrize("pause", [1.0, 100_000.0])
def test_pauses_are_not_the_clients(pause: float) -> None:
    pace = Pace(1000.0)
    pace.add(200, 1005.0)
    before = left(pace, 1005.0, rate=RATE)
    pace.pause(1005.0)
    pace.resume(1005.0 + pause)
    assert left(pace, 1005.0 + pause) == before
    # Two seconds' worth of bytes in all, and five seconds that it was waited for before.
    assert left(pace, 1011.0 + pause) == 1


def test_rate_is_not_known_in_the_first_moments() -> None:
    pace = Pace(1000.0)
    pace.add(1000, 1000.1)
    assert pace.rate(1000.4) is None
    assert pace.rate(1002.0) == 500


def test_rate_is_that_since_the_last_pause() -> None:
    pace = Pace(1000.0)
    pace.add(1_000_000, 1001.0)
    pace.pause(1001.0)
    pace.resume(1005.0)
    assert pace.rate(1005.1) is None
    pace.add(20, 1006.0)
    assert pace.rate(1007.0) == 10


def test_short_waits_are_counted_together() -> None:
    pace = Pace(1000.0)
    pace.pause(1000.0)
    rates = []
    for now in (1001.0, 1002.0, 1003.0, 1004.0):
        pace.resume(now - 0.125)
        pace.add(10, now)
        rates.append(pace.rate(now))
        pace.pause(now)
    # Four times 0.125 s are enough to say something.
    assert rates == [None, None, None, 80]
