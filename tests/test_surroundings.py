"""What a process gives to its one server."""

from wsgiref.types import StartResponse, WSGIEnvironment

from raw_client import connect

from aiowsgi.config import Config, ListenerConfig
from aiowsgi.net.bind.bind import bind
from aiowsgi.server.serving import Serving
from aiowsgi.server.surroundings import Surroundings


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]


async def test_a_server_accepts_on_the_sockets_that_it_is_given(
    no_descriptor_is_left: None,
) -> None:
    sockets = bind(ListenerConfig("127.0.0.1:0", backlog=16))
    # Nobody could bind this address.
    config = Config(bind=("192.0.2.1:1",))
    surroundings = Surroundings(sockets=tuple(sockets))
    async with Serving(hello, config, None, None, surroundings) as server:
        assert server.sockets == tuple(listening.socket for listening in sockets)
        async with await connect(server) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.receive()).body == b"hello"
    assert sockets[0].socket.fileno() == -1
