"""A client connection that does what no decent client does: breaks off, resets, dawdles.

It reads HTTP/1.1 itself, strictly: what does not look as it must raises `Wrong`. Nothing here waits
with a limit of its own; who calls sets one for the whole visit.
"""

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

_PIECE = 64 * 1024


class Wrong(Exception):
    """An answer is not what it must be."""


class Incomplete(Exception):
    """The connection ended inside a response, or before it."""


@dataclass(slots=True)
class Answer:
    """One response. Field names are in lower case."""

    status: int
    fields: dict[str, str]
    informational: list[int] = field(default_factory=list)
    """The 1xx answers before it."""
    body: bytes = b""


class Connection:
    """An open connection, closed by `async with`. Made by `open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.pause = 0.0
        """Seconds to wait behind each piece of a body that was read."""
        self.answers = 0
        """How many responses were received to their end."""

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int | None = None) -> Self:
        """Connect. A small `receive_buffer` makes the server feel early that nobody reads."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            return cls(*await asyncio.open_connection(sock=sock, limit=_PIECE))
        except BaseException:
            sock.close()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Whatever is left unsent, or fails while closing, is of no interest any more.
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        self._writer.write(data)
        await self._writer.drain()

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._writer.write_eof()

    def reset(self) -> None:
        """Break off with RST instead of FIN, without sending what is left."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def read(self, size: int) -> bytes:
        """Return what arrives next, at most `size` bytes; none at the end of the stream."""
        return await self._reader.read(size)

    async def read_until_eof(self) -> bytes:
        """Return everything up to the server's end."""
        return await self._reader.read()

    async def request(self, data: bytes) -> Answer:
        """Send a request and return its answer."""
        await self.send(data)
        return await self.receive()

    async def receive(self) -> Answer:
        """Return the next final answer. Raises `Wrong` or `Incomplete`."""
        informational = []
        while True:
            status, fields = await self.receive_head()
            if status >= 200:
                break
            informational.append(status)
        body = await self._body(fields)
        self.answers += 1
        return Answer(status, fields, informational, body)

    async def receive_head(self) -> tuple[int, dict[str, str]]:
        """Return the status and the fields of the next head, which may be an interim one."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as exc:
            raise Incomplete(f"{len(exc.partial)} bytes of a head") from exc
        except asyncio.LimitOverrunError as exc:
            raise Wrong("a head without an end") from exc
        line, *lines = head[:-4].decode("latin-1").split("\r\n")
        version, _, rest = line.partition(" ")
        if version != "HTTP/1.1" or not rest[:3].isdecimal() or rest[3:4] != " ":
            raise Wrong(f"the status line {line[:80]!r}")
        fields = {}
        for text in lines:
            name, colon, value = text.partition(":")
            if not colon or not name:
                raise Wrong(f"the header field {text[:80]!r}")
            fields[name.lower()] = value.strip()
        return int(rest[:3]), fields

    async def _body(self, fields: dict[str, str]) -> bytes:
        if fields.get("transfer-encoding") == "chunked":
            return await self._chunked()
        if "content-length" in fields:
            return await self._exactly(int(fields["content-length"]))
        # Framed by the end of the connection.
        pieces = []
        while piece := await self._piece(_PIECE):
            pieces.append(piece)
        return b"".join(pieces)

    async def _chunked(self) -> bytes:
        chunks = []
        while True:
            line = await self._exactly_line()
            try:
                size = int(line, 16)
            except ValueError:
                raise Wrong(f"the chunk size {line[:80]!r}") from None
            if size:
                chunks.append(await self._exactly(size))
            if await self._exactly_line():
                raise Wrong("a chunk longer than its size, or trailers")
            if not size:
                return b"".join(chunks)

    async def _exactly_line(self) -> bytes:
        try:
            return (await self._reader.readuntil(b"\r\n"))[:-2]
        except asyncio.IncompleteReadError as exc:
            raise Incomplete("no end of a chunk") from exc
        except asyncio.LimitOverrunError as exc:
            raise Wrong("a chunk size without an end") from exc

    async def _exactly(self, size: int) -> bytes:
        pieces = []
        missing = size
        while missing:
            piece = await self._piece(min(missing, _PIECE))
            if not piece:
                raise Incomplete(f"{missing} of {size} bytes of a body are missing")
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    async def _piece(self, size: int) -> bytes:
        piece = await self._reader.read(size)
        if piece and self.pause:
            await asyncio.sleep(self.pause)
        return piece
