"""Where in the application threads are started and sockets opened, while it is loaded."""

import functools
import os
import socket
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_STANDARD_LIBRARY = os.path.join(os.path.dirname(os.__file__), "")
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(__file__))), "")
_INSTALLED = ("/site-packages/", "/dist-packages/")


class Origins:
    """Takes note of the lines of code that start threads and open sockets, between enter and exit.

    Two methods of the standard library are replaced for that time: those that every thread and
    every socket of Python passes. What libraries in C start themselves passes neither. Used on one
    thread; what other threads start is noted, too.
    """

    def __init__(self) -> None:
        # By the ``id`` of the thread: while it runs, no other object has it.
        self._threads: dict[int, str] = {}
        # By the number of the descriptor, together with what it was: the number may be used again.
        self._sockets: dict[int, tuple[str, str]] = {}
        self._is_watching = False
        self._start: Any = None
        self._init: Any = None
        self._watched_start: Any = None
        self._watched_init: Any = None

    def __enter__(self) -> Self:
        self._start, self._init = start, init = threading.Thread.start, socket.socket.__init__

        @functools.wraps(start)
        def watched_start(thread: threading.Thread) -> None:
            if self._is_watching:
                self._threads[id(thread)] = line_of(sys._getframe(1))
            start(thread)

        @functools.wraps(init)
        def watched_init(opened: socket.socket, *args: Any, **kwargs: Any) -> None:
            init(opened, *args, **kwargs)
            if self._is_watching:
                descriptor = opened.fileno()
                self._sockets[descriptor] = target_of(descriptor), line_of(sys._getframe(1))

        self._watched_start, self._watched_init = watched_start, watched_init
        self._is_watching = True
        threading.Thread.start = watched_start  # type: ignore[method-assign, assignment]
        socket.socket.__init__ = watched_init  # type: ignore[method-assign, assignment]
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_watching = False
        # Where the application has replaced one of them in its turn, and calls ours from there, it
        # stays as it is. From now on ours does nothing but pass the call on.
        if threading.Thread.start is self._watched_start:
            threading.Thread.start = self._start  # type: ignore[method-assign]
        if socket.socket.__init__ is self._watched_init:
            socket.socket.__init__ = self._init  # type: ignore[method-assign]

    def of_thread(self, thread: threading.Thread) -> str:
        """Return the line that has started a running thread; empty if it is not known."""
        return self._threads.get(id(thread), "")

    def of_socket(self, descriptor: int) -> str:
        """Return the line that has opened a socket; empty if it is not known."""
        target, line = self._sockets.get(descriptor, ("", ""))
        return line if target and target == target_of(descriptor) else ""


def target_of(descriptor: int) -> str:
    """Return what a descriptor of this process stands for, such as "socket:[123]" or a path.

    Empty if it is closed.
    """
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def line_of(frame: FrameType | None) -> str:
    """Return the line of the application that has led to ``frame``, as tracebacks write it.

    That is the innermost one that is neither in the standard library nor in an installed package;
    if there is none, the innermost one of a package. Empty if there is neither.
    """
    installed = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_PACKAGE):
            line = f'File "{file}", line {frame.f_lineno}'
            if any(folder in file for folder in _INSTALLED):
                installed = installed or line
            elif not file.startswith(("<", _STANDARD_LIBRARY)):
                return line
        frame = frame.f_back
    return installed
