"""Connections on which nothing has come so far: how many, and what takes the place of protocols."""

import asyncio
from typing import cast

import pytest

from aiowsgi.net.accept.silence import MOMENT, Silence

START = 10**15


class Protocol(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append(transport)

    def data_received(self, data: bytes) -> None:
        self.calls.append(data)
        if data == b"bad":
            raise ValueError

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


class Transport:
    def __init__(self) -> None:
        self.protocol: asyncio.Protocol | None = None

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol


class House:
    """Watches connections, and notes each change of their number."""

    def __init__(self) -> None:
        self.changes: list[int] = []
        self.silence = Silence(lambda: self.changes.append(self.silence.count))

    def connect(self, now: int = START) -> tuple[asyncio.Protocol, Protocol, Transport]:
        protocol, transport = Protocol(), Transport()
        stand_in = self.silence.watch(protocol, now)
        stand_in.connection_made(cast(asyncio.Transport, transport))
        assert protocol.calls == [transport]
        return stand_in, protocol, transport


def test_a_connection_is_silent_until_something_comes() -> None:
    house = House()
    stand_in, protocol, transport = house.connect()
    house.connect()
    assert house.changes == [1, 2]
    stand_in.data_received(b"GET")
    assert protocol.calls[1:] == [b"GET"]
    # The rest does not pass through here.
    assert transport.protocol is protocol
    assert house.changes == [1, 2, 1]


def test_a_connection_is_not_silent_any_more_if_what_came_is_not_understood() -> None:
    house = House()
    stand_in, _, transport = house.connect()
    with pytest.raises(ValueError):  # noqa: PT011 - raised by the protocol above
        stand_in.data_received(b"bad")
    assert transport.protocol is not None
    assert house.changes == [1, 0]


def test_a_connection_that_is_lost_is_not_silent() -> None:
    house = House()
    stand_in, protocol, _ = house.connect()
    assert stand_in.eof_received() is True
    stand_in.pause_writing()
    stand_in.resume_writing()
    stand_in.connection_lost(None)
    stand_in.connection_lost(None)
    assert protocol.calls[1:] == ["eof", "pause", "resume", "lost", "lost"]
    assert house.changes == [1, 0]


def test_those_that_stay_silent_are_forgotten_a_moment_before_the_next_one() -> None:
    house = House()
    stand_in, protocol, _ = house.connect()
    house.connect(START + 1)
    house.connect(START + MOMENT + 1)
    assert house.changes == [1, 2, 2]
    stand_in.data_received(b"GET")
    assert protocol.calls[1:] == [b"GET"]
    assert house.silence.count == 2
