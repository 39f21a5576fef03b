"""Hand-over to one thread, with one wake-up for everything that is ready. In memory."""

import logging
import queue
import threading
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.bridge.mailbox import Mailbox

# Fail-safe only: no wait of these tests is meant to last.
TIMEOUT = 20.0


class Loop:
    """What an event loop is to a mailbox: callbacks that run when they are told to."""

    def __init__(self) -> None:
        self.callbacks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.wakes = 0
        self.closed = False

    def wake(self, callback: Callable[[], None]) -> None:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.wakes += 1
        self.callbacks.put(callback)

    def run_once(self) -> None:
        """Run one callback; fails with queue.Empty where none comes."""
        self.callbacks.get(timeout=TIMEOUT)()


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_delivers_in_the_order_of_posting(loop: Loop) -> None:
    delivered: list[int] = []
    mailbox = Mailbox(loop.wake, delivered.append)
    for item in range(10):
        mailbox.post(item)
    assert delivered == []  # Nothing is delivered on the thread that posts.
    loop.run_once()
    assert delivered == list(range(10))


def test_wakes_once_for_a_batch(loop: Loop) -> None:
    delivered: list[int] = []
    mailbox = Mailbox(loop.wake, delivered.append)
    for turn in range(1, 4):
        for item in range(5):
            mailbox.post(item)
        assert loop.wakes == turn
        loop.run_once()
    assert delivered == [*range(5)] * 3


def test_the_same_item_is_delivered_as_often_as_it_was_posted(loop: Loop) -> None:
    delivered: list[str] = []
    mailbox = Mailbox(loop.wake, delivered.append)
    for _ in range(3):
        mailbox.post("again")
    loop.run_once()
    assert delivered == ["again"] * 3


def test_what_is_posted_during_delivery_has_a_wake_up_of_its_own(loop: Loop) -> None:
    # One pass is bounded: an item that posts another must not hold the loop.
    delivered: list[int] = []

    def deliver(item: int) -> None:
        delivered.append(item)
        if item < 3:
            mailbox.post(item + 1)

    mailbox = Mailbox(loop.wake, deliver)
    mailbox.post(0)
    for item in range(4):
        loop.run_once()
        assert delivered == list(range(item + 1))
    assert loop.wakes == 4
    assert loop.callbacks.empty()


def test_wakes_while_the_lock_is_free() -> None:
    # A wake-up that runs on the spot may collect at once.
    delivered: list[int] = []
    mailbox = Mailbox(lambda collect: collect(), delivered.append)
    mailbox.post(1)
    mailbox.post(2)
    assert delivered == [1, 2]


def test_posts_of_many_threads_arrive_once_and_in_the_order_of_each(loop: Loop) -> None:
    threads, posts = 8, 200
    delivered: list[tuple[int, int]] = []
    mailbox = Mailbox(loop.wake, delivered.append)
    start = threading.Barrier(threads)

    def post(number: int) -> None:
        start.wait(TIMEOUT)
        for item in range(posts):
            mailbox.post((number, item))

    posters = [threading.Thread(target=post, args=(n,), daemon=True) for n in range(threads)]
    for poster in posters:
        poster.start()
    while len(delivered) < threads * posts:
        loop.run_once()
    for poster in posters:
        poster.join(TIMEOUT)
    assert loop.callbacks.empty()
    assert set(Counter(delivered).values()) == {1}
    for number in range(threads):
        assert [item for n, item in delivered if n == number] == list(range(posts))


@given(st.lists(st.one_of(st.integers(), st.just("collect"))))
def test_any_schedule_delivers_everything_and_keeps_at_most_one_wake_up(
    steps: list[int | str],
) -> None:
    loop = Loop()
    delivered: list[int | str] = []
    mailbox: Mailbox[int | str] = Mailbox(loop.wake, delivered.append)
    posted: list[int | str] = []
    for step in steps:
        if step != "collect":
            mailbox.post(step)
            posted.append(step)
        elif not loop.callbacks.empty():
            loop.run_once()
            assert delivered == posted
        assert loop.callbacks.qsize() == (len(delivered) < len(posted))


def test_every_post_to_a_closed_loop_raises(loop: Loop) -> None:
    mailbox: Mailbox[int] = Mailbox(loop.wake, lambda item: None)
    loop.closed = True
    for item in range(3):
        with pytest.raises(RuntimeError, match="closed"):
            mailbox.post(item)


def test_a_delivery_that_raises_is_logged_and_does_not_lose_the_others(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    delivered: list[int] = []

    def deliver(item: int) -> None:
        if item == 1:
            raise ValueError("a defect")
        delivered.append(item)

    mailbox = Mailbox(loop.wake, deliver)
    for item in range(4):
        mailbox.post(item)
    loop.run_once()
    assert delivered == [0, 2, 3]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("aiowsgi.error", logging.CRITICAL)
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError


@pytest.mark.parametrize("posted_meanwhile", [0, 1, 3])
def test_a_delivery_that_is_interrupted_does_not_lose_the_others(
    loop: Loop, posted_meanwhile: int
) -> None:
    delivered: list[int] = []

    def deliver(item: int) -> None:
        if item == 1:
            for number in range(posted_meanwhile):
                mailbox.post(10 + number)
            raise KeyboardInterrupt
        delivered.append(item)

    mailbox = Mailbox(loop.wake, deliver)
    for item in range(4):
        mailbox.post(item)
    with pytest.raises(KeyboardInterrupt):
        loop.run_once()
    assert delivered == [0]
    loop.run_once()
    assert delivered == [0, 2, 3, *range(10, 10 + posted_meanwhile)]
    assert loop.wakes == 2


def test_an_interruption_of_the_last_delivery_wakes_nobody(loop: Loop) -> None:
    def deliver(item: int) -> None:
        raise KeyboardInterrupt

    mailbox = Mailbox(loop.wake, deliver)
    mailbox.post(0)
    with pytest.raises(KeyboardInterrupt):
        loop.run_once()
    assert loop.wakes == 1
    mailbox.post(1)
    assert loop.wakes == 2
