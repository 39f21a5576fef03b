"""What a service tells systemd: that it is ready, what it does, that it is alive.

The protocol is that of sd_notify(3): datagrams to the socket that NOTIFY_SOCKET names. Nobody has
to listen, and the service goes on as it would without. This module needs no event loop.
"""

import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping

from ...observe.loggers import error_log
from ...wording import counted

# Seconds between two looks at what is to be told. systemd passes each change on to others.
_INTERVAL = 5.0
# Messages about the state that wait for room in the socket. There are a few in the life of a
# service; a reader that takes none of them gets the latest.
_MOST_UNSENT = 16


class Notifier:
    """Tells systemd about this process, if that is a service which is listened to.

    Arguments: ``address``, where to send, empty where nobody listens; ``watchdog``, after how many
    seconds of silence systemd ends the process, or infinity.

    A message that finds no room waits for the next one: nothing here blocks, and nothing raises.
    What keeps all of them from being sent is logged once. Everything is called on one thread, in
    the process that has made it.
    """

    def __init__(self, address: str, watchdog: float) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        self._has_failed = False
        # The messages about the state that could not be sent, the oldest first.
        self._unsent: deque[str] = deque(maxlen=_MOST_UNSENT)
        # What systemd shows of the service.
        self._status = ""
        self._watchdog = watchdog

    @classmethod
    def of_process(cls, environment: MutableMapping[str, str]) -> "Notifier":
        """Return what the environment of this process asks for, and remove it from there.

        Then nothing that the application starts speaks for it.
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        pid, period = (environment.pop(f"WATCHDOG_{name}", "") for name in ("PID", "USEC"))
        watchdog = float("inf")
        if address and pid in ("", str(os.getpid())) and period.isdecimal() and int(period):
            watchdog = int(period) / 1e6
        return cls(address, watchdog)

    def environment(self) -> dict[str, str]:
        """Return the variables that let another process of the service speak in place of this."""
        if not self._address:
            return {}
        found = {"NOTIFY_SOCKET": self._address}
        if self._watchdog < float("inf"):
            found["WATCHDOG_USEC"] = str(round(self._watchdog * 1e6))
        return found

    @property
    def interval(self) -> float:
        """After how many seconds ``look`` is due again; infinity where nobody listens."""
        # More often than sd_watchdog_enabled(3) asks for: a message may be late, or find no room.
        return min(_INTERVAL, self._watchdog / 4) if self._address else float("inf")

    @property
    def patience(self) -> float:
        """For how many seconds what is watched may be silent before ``is_alive`` is False.

        Together with the interval, it is never ended for a pause shorter than the watchdog's.
        """
        return self._watchdog / 2

    def ready(self, status: str) -> None:
        """Say that the service answers, after a start or after a reload."""
        self._tell("READY=1", status)

    def reloading(self, status: str) -> None:
        """Say that a reload begins, whose end is ``ready``."""
        # The time tells systemd which of its orders this is about (Type=notify-reload).
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", status)

    def stopping(self, status: str) -> None:
        """Say that the service begins to stop."""
        self._tell("STOPPING=1", status)

    def hand_over(self, pid: int) -> None:
        """Say that another process is the service from now on."""
        self._tell(f"MAINPID={pid}", self._status)

    def look(self, status: str, *, is_alive: bool) -> None:
        """Say what the service does, where that has changed, and that it is alive.

        If it is not, systemd hears nothing, and ends the process when the time is over.
        """
        lines = []
        if status != self._status:
            lines.append(f"STATUS={status}")
        if is_alive and self._watchdog < float("inf"):
            lines.append("WATCHDOG=1")
        if self._flush() and lines and self._send("\n".join(lines)):
            self._status = status

    def close(self) -> None:
        """Say nothing any more."""
        if self._socket is not None:
            self._socket.close()
        self._address = ""

    def _tell(self, state: str, status: str) -> None:
        self._status = status
        self._unsent.append(f"{state}\nSTATUS={status}")
        self._flush()

    def _flush(self) -> bool:
        """Send what could not be sent before. Return whether nothing is left."""
        while self._unsent and self._send(self._unsent[0]):
            self._unsent.popleft()
        return not self._unsent

    def _send(self, text: str) -> bool:
        """Send a message. Return whether it was taken."""
        if not self._address:
            return True
        try:
            if self._socket is None:
                self._socket = self._open()
            self._socket.sendto(text.encode(), self._target())
        except BlockingIOError:  # systemd has not read what it has.
            return False
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                error_log.warning(
                    "systemd cannot be told what the service does, through %s (NOTIFY_SOCKET): %s",
                    self._address,
                    error.strerror or error,
                )
            return False
        return True

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)
        return sock

    def _target(self) -> str:
        if self._address[0] == "@":
            return f"\0{self._address[1:]}"
        if self._address[0] == "/":
            return self._address
        raise OSError("it is neither a path nor an abstract socket (@)")


def load(who: str, busy: int, threads: int, queued: int) -> str:
    """Return what ``systemctl status`` shows: who serves, and how much there is to do."""
    status = f"{who}, {busy}/{threads} threads busy"
    return f"{status}, {counted(queued, 'request')} queued" if queued else status
