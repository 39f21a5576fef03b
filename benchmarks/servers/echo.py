"""The least that an asyncio server can do, to compare with: `PORT`.

Answers every read with the bytes of one response, on asyncio's own event loop, and looks at nothing
that it reads.
"""

import asyncio
import sys
from typing import cast

from benchmarks.apps import HELLO_BODY

RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: echo\r\n\r\n%s" % (len(HELLO_BODY), HELLO_BODY)
)


class Echo(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(RESPONSE)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
