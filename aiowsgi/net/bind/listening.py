"""A socket to accept on."""

import contextlib
import socket
import sys

from ...config import ListenerConfig
from ...errors import BindError
from .places import address_of, place_of, url_of
from .socket_file import SocketFile

# Linux has it since 3.12, under this number. Interpreters that were built against older headers, as
# many are so that they run everywhere, do not know the name.
_NOTSENT_LOWAT: int | None = getattr(
    socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None
)
_NOTSENT_BYTES = 1 << 17


class ListeningSocket:
    """A socket to accept on, and the file that it made, if it is a Unix socket of this process."""

    def __init__(
        self,
        sock: socket.socket,
        file: SocketFile | None = None,
        *,
        listener: ListenerConfig | None = None,
        inherited: bool = False,
        reuses_port: bool = False,
    ) -> None:
        sock.setblocking(False)
        # A socket that was inherited, or made by another program, may be inheritable. No child may
        # keep the port.
        sock.set_inheritable(False)
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Connections inherit these options. What runs Linux programs need not be Linux.
            with contextlib.suppress(OSError):
                # Else the end of a response in several pieces waits until the client has confirmed
                # the piece before, which takes 40 ms. asyncio sets it only where the number of the
                # protocol was given to ``socket.socket``.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if _NOTSENT_LOWAT is not None:
                    # Else the kernel queues megabytes for a slow client, and says so late that
                    # there is room again that the client looks as if it took nothing.
                    sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, _NOTSENT_BYTES)
        self.socket = sock
        # What its connections are, too.
        self._family, self._type, self._proto = int(sock.family), int(sock.type), sock.proto
        # What is done on its connections.
        self.listener = listener or ListenerConfig(f"fd:{sock.fileno()}")
        # Whether other processes may accept on it, too.
        self.inherited = inherited
        # Whether it is one of several of its address, among which the kernel spreads connections.
        # It is bound, and does not listen before ``listen``.
        self.reuses_port = reuses_port
        self._file = file

    def accept(self) -> tuple[socket.socket, object]:
        """Return a connection, which does not block either, and the name of its peer.

        Raises OSError.
        """
        # What ``accept`` of the standard library is made of, too. That asks the socket for its kind
        # each time, and makes members of enumerations of the answer.
        accepted: tuple[int, object] = self.socket._accept()  # type: ignore[attr-defined]
        descriptor, peer = accepted
        connection = socket.socket(self._family, self._type, self._proto, descriptor)
        connection.setblocking(False)
        return connection, peer

    @property
    def file(self) -> SocketFile | None:
        """The file that it made; None where it has none, or that is another program's."""
        return self._file

    @property
    def url(self) -> str:
        """Where programs on this machine find it. See ``url_of``."""
        return url_of(self.socket, self.listener)

    @property
    def place(self) -> str:
        """The URL, and whether others than this machine reach it."""
        return place_of(self.socket, self.url)

    def listen(self) -> None:
        """Have the kernel take connections, if it does not yet. Raises BindError."""
        if not self.reuses_port:
            return
        try:
            self.socket.listen(self.listener.backlog)
        except OSError as error:
            address = address_of(*self.socket.getsockname()[:2])
            raise BindError(f"cannot listen on {address}: {error.strerror}") from error

    def own_file(self) -> None:
        """Remove its file from now on, in place of the process that has made it."""
        if self._file is not None:
            self._file.own()

    def disown_file(self) -> None:
        """Leave its file to another process."""
        if self._file is not None:
            self._file.disown()

    def give_to(self, uid: int, gid: int) -> None:
        """Make its file that of a user and a group, as far as the listener names none.

        Raises ConfigError where this may not be.
        """
        if self._file is not None:
            keep = -1
            self._file.give_to(
                keep if self.listener.owner else uid, keep if self.listener.group else gid
            )

    def close(self) -> None:
        """Close the socket; its file goes with it, unless it is that of another by now."""
        if self._file is not None:
            self._file.remove()
        self.socket.close()
