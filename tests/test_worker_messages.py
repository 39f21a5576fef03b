"""What a worker says to its supervisor, and what is made of it when the application interferes."""

import socket

from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.process.worker.messages import (
    FAILED,
    MAX_LINE,
    READY,
    REPLACED,
    Channel,
    Lines,
    Message,
    encode,
)


@given(st.lists(st.lists(st.text(max_size=50), max_size=3), max_size=5), st.integers(1, 40))
def test_messages_arrive_however_the_bytes_are_split(said: list[list[str]], size: int) -> None:
    data = b"".join(encode(READY, *texts) for texts in said)
    lines = Lines()
    found = []
    for start in range(0, len(data), size):
        found += lines.feed(data[start : start + size])
    assert found == [Message(READY, tuple(texts)) for texts in said]


@given(st.binary(max_size=300))
def test_any_bytes_are_messages_or_nothing(data: bytes) -> None:
    lines = Lines()
    for message in lines.feed(data):
        assert isinstance(message, Message)
    # It goes on with the next line.
    assert lines.feed(b"\n" + encode(READY, "x"))[-1] == Message(READY, ("x",))


def test_a_line_without_an_end_is_left_out_and_takes_no_memory() -> None:
    lines = Lines()
    for _ in range(1000):
        assert lines.feed(b"x" * 65536) == []
        assert len(vars(lines)["_rest"]) <= MAX_LINE
    assert lines.feed(b"still\n" + encode(READY)) == [Message(READY, ())]


def test_a_long_text_loses_its_middle() -> None:
    text = "\N{SNOWMAN}" * 10_000 + "the end"
    (message,) = Lines().feed(encode(FAILED, text))
    assert message.texts[0].startswith("\N{SNOWMAN}" * 100)
    assert "[...]" in message.texts[0]
    assert message.texts[0].endswith("the end")
    assert len(encode(FAILED, text)) < MAX_LINE


def test_a_supervisor_reads_what_is_there_and_closes_what_is_at_its_end() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    lines = Lines()
    with ours, theirs:
        assert lines.receive(ours) == []
        theirs.send(encode(READY) + encode(FAILED)[:3])
        assert lines.receive(ours) == [Message(READY, ())]
        assert ours.fileno() >= 0
        theirs.send(encode(FAILED)[3:])
        theirs.close()
        assert lines.receive(ours) == [Message(FAILED, ())]
        assert lines.receive(ours) == []
        assert ours.fileno() == -1
        # As it is where the other end is gone with something unread.
        assert lines.receive(ours) == []


def test_a_supervisor_that_does_not_read_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(theirs)
        text = "x" * 4000
        for _ in range(10_000):
            if not channel.say(READY, text):
                break
        else:
            raise AssertionError("the socket takes everything")
        assert theirs.fileno() == -1
        assert not channel.say(READY, text)


def test_nobody_to_read_is_no_error() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    assert not Channel(theirs).say(READY)


def test_a_worker_hears_what_it_is_told_until_one_of_the_ends_is_closed() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(theirs)
    with ours, theirs:
        assert not channel.was_told(REPLACED)
        ours.send(encode(REPLACED))
        assert channel.was_told(REPLACED)
        ours.close()
        assert not channel.was_told(REPLACED)
        # Nobody reads any more, so it is closed here as well.
        assert not channel.say(READY)
        assert not channel.was_told(REPLACED)
