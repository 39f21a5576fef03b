"""Warnings about certificates that are over, or soon will be, on a clock that the test moves."""

import calendar

from aiowsgi.net.tls.certificates.expiry import ExpiryWarnings
from aiowsgi.net.tls.certificates.proof import Leaf

DAY = 86400.0
END = calendar.timegm((2026, 6, 30, 12, 0, 0))


def leaf(file: str = "site.pem", *, begin: float = END - 90 * DAY, end: float = END) -> Leaf:
    return Leaf(file, frozenset({"a.example"}), begin, end, b"", "")


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_one_that_has_its_time_is_no_matter() -> None:
    assert ExpiryWarnings(Clock(END - 15 * DAY)).due([leaf()]) == []


def test_one_that_ends_soon_is_named_with_its_end() -> None:
    clock = Clock(END - 14 * DAY)
    warnings = ExpiryWarnings(clock)
    assert warnings.due([leaf()]) == []
    clock.now += 1
    assert warnings.due([leaf()]) == [
        "The certificate site.pem expires on 2026-06-30 12:00 UTC, in 13 days"
    ]


def test_that_is_told_once_a_day() -> None:
    clock = Clock(END - 5.5 * DAY)
    warnings = ExpiryWarnings(clock)
    told = []
    for _ in range(4 * 4):  # Every six hours, for four days.
        told += warnings.due([leaf()])
        clock.now += DAY / 4
    assert [text.rpartition(" in ")[2] for text in told] == ["5 days", "4 days", "3 days", "2 days"]


def test_one_that_is_over_or_not_valid_yet_is_named() -> None:
    (text,) = ExpiryWarnings(Clock(END + 1)).due([leaf()])
    assert "site.pem has expired on 2026-06-30 12:00 UTC" in text
    (text,) = ExpiryWarnings(Clock(END - 91 * DAY)).due([leaf()])
    assert "site.pem is not valid before 2026-04-01 12:00 UTC" in text


def test_a_new_certificate_is_looked_at_at_once() -> None:
    clock = Clock(END - DAY)
    warnings = ExpiryWarnings(clock)
    assert len(warnings.due([leaf(), leaf("other.pem")])) == 2
    assert warnings.due([leaf(end=END + 90 * DAY), leaf("other.pem")]) == []
    assert len(warnings.due([leaf(end=END + DAY), leaf("other.pem")])) == 1


def test_a_clock_that_is_set_back_silences_nothing() -> None:
    clock = Clock(END - DAY)
    warnings = ExpiryWarnings(clock)
    assert warnings.due([leaf()])
    clock.now -= 10 * DAY
    assert warnings.due([leaf()])
    assert not warnings.due([leaf()])
