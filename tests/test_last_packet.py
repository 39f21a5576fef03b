"""The last bytes of a response and the end of its connection travel together."""

import contextlib
import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from aiowsgi.net.sockets import send_last, shut_down

# Fail-safe, in seconds.
TIMEOUT = 20.0
# The kernel sends what it keeps back after 200 ms, which is shorter than some pauses of a machine.
ATTEMPTS = 10
# Where struct tcp_info has the number of segments that were received.
_SEGMENTS = 140


@contextlib.contextmanager
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give the server's end of a connection, and the client's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), TIMEOUT) as client,
        listening.accept()[0] as server,
    ):
        yield server, client


def received(client: socket.socket) -> int:
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SEGMENTS + 4)
    return int(struct.unpack_from("I", info, _SEGMENTS)[0])


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(4096), b""))


@pytest.mark.skipif(sys.platform != "linux", reason="segments are counted as Linux does")
@pytest.mark.parametrize("pieces", [[b"one"], [b"one", b"two"]])
def test_what_is_sent_last_and_the_end_are_one_packet(pieces: list[bytes]) -> None:
    for _ in range(ATTEMPTS):
        with ends() as (server, client):
            before = received(client)
            assert send_last(server, pieces) == sum(map(len, pieces))
            shut_down(server)
            assert read_all(client) == b"".join(pieces)
            if received(client) - before == 1:
                return
    pytest.fail("there were always several packets")


def test_what_cannot_be_sent_is_left() -> None:
    with ends() as (server, _):
        server.close()
        assert send_last(server, [b"one"]) == 0
        assert send_last(server, [b"one", b"two"]) == 0
