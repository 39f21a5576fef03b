"""A client that speaks TLS over a socket, and may leave as it likes."""

import contextlib
import ssl

from raw_client import RawClient, connect

import aiowsgi


class TlsClient(RawClient):
    """A ``RawClient`` on which everything is encrypted. Use ``connect_tls``."""

    def __init__(self, plain: RawClient, context: ssl.SSLContext, name: str) -> None:
        super().__init__(plain.socket)
        self.plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    async def flush(self) -> None:
        """Send what TLS has to say."""
        if self._outgoing.pending:
            await self.plain.send(self._outgoing.read())

    async def _more(self) -> None:
        data = await self.plain.read(1 << 16)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def handshake(self) -> None:
        """Complete the handshake. Raises ssl.SSLError."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.flush()
                await self._more()
            except ssl.SSLError:
                await self.flush()
                raise
            else:
                await self.flush()
                return

    async def send(self, data: bytes) -> None:
        """Send all of ``data``, encrypted."""
        self.tls.write(data)
        await self.flush()

    async def read(self, size: int) -> bytes:
        """Return what arrives next; none behind close_notify. Raises ssl.SSLError without one."""
        while True:
            try:
                return self.tls.read(size)
            except ssl.SSLWantReadError:
                await self.flush()
                await self._more()
            except ssl.SSLZeroReturnError:
                return b""

    async def close_notify(self) -> None:
        """Say that nothing more will be sent. Reading goes on."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        await self.flush()


class LikeRawClient(TlsClient):
    """The same for tests that know nothing of TLS: they see what they would see on a socket.

    That the server's end comes without a close_notify is a reset.
    """

    def __init__(self, plain: RawClient, context: ssl.SSLContext, name: str) -> None:
        super().__init__(plain, context, name)
        # What is encrypted, and the kernel has not taken.
        self._unsent = b""

    async def flush(self) -> None:
        unsent, self._unsent = self._unsent, b""
        if unsent:
            await self.plain.send(unsent)
        await super().flush()

    def _send_some(self, data: bytes, sent: int) -> int:
        # What was encrypted counts as sent: it can only be followed by more.
        count = 0
        if not self._unsent:
            count = self.tls.write(data)
            self._unsent = self._outgoing.read()
        self._unsent = self._unsent[self.socket.send(self._unsent) :]
        return count

    async def read(self, size: int) -> bytes:
        try:
            return await super().read(size)
        except ssl.SSLEOFError as error:
            raise ConnectionResetError("cut: that is no end of TLS") from error

    def half_close(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        assert not self._unsent
        self.socket.send(self._outgoing.read())
        super().half_close()


async def connect_tls(
    server: aiowsgi.Server,
    context: ssl.SSLContext,
    *,
    name: str = "localhost",
    receive_buffer: int | None = None,
) -> TlsClient:
    """Connect to a server, and complete the handshake. Raises ssl.SSLError."""
    client = TlsClient(await connect(server, receive_buffer=receive_buffer), context, name)
    await client.handshake()
    return client
