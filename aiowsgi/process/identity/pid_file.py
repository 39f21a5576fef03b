"""The PID file: it says which process serves, for as long as it serves."""

import contextlib
import os
import re
import time

from ...errors import PidFileError
from ...folder_lock import locked

# What is longer, or something else, is a file of another kind, and is never replaced.
_CONTENT = re.compile(rb"\s*(?:[1-9][0-9]{0,9})?\s*")
_MOST_BYTES = 64
# Seconds by which the clock may have been set between two looks at it.
_CLOCK_TOLERANCE = 2.0


class PidFile:
    """The PID file of this process. With an empty path there is none, and nothing happens.

    Another process must not be running under it. Whether one is, ``check`` finds out before the
    application is loaded, and ``write`` again. ``remove`` leaves it alone where it is that of
    another process by now, and in a forked child.

    ``predecessor`` is a process that may be running: this one takes its place.
    """

    def __init__(self, path: str | os.PathLike[str], predecessor: int | None = None) -> None:
        self._predecessor = predecessor
        # Absolute, so that it is found again wherever the process has gone.
        self._path = os.path.abspath(path) if path else ""
        self._folder = os.path.dirname(self._path)

    def check(self) -> None:
        """Raise PidFileError where ``write`` would."""
        if self._path:
            self._refuse_living_process()
            if not os.access(self._folder, os.W_OK | os.X_OK):
                raise self._error(
                    "this process may not write to its folder; choose another one"
                    if os.path.isdir(self._folder)
                    else "its folder does not exist; make it, or choose another one"
                )

    def write(self) -> None:
        """Write the number of this process, at once and as a whole. Raises PidFileError."""
        if not self._path:
            return
        written = f"{self._path}.{os.getpid()}"
        try:
            with locked(self._folder):
                self._refuse_living_process()
                # Of a process that had the same number, and was killed here.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(written)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                with open(os.open(written, flags, 0o644), "w", encoding="ascii") as file:
                    file.write(f"{os.getpid()}\n")
                os.replace(written, self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(written)
            raise self._error(error.strerror or str(error)) from error

    def remove(self) -> None:
        """Remove the file, if it names this process."""
        if not self._path:
            return
        with contextlib.suppress(OSError, PidFileError), locked(self._folder):
            if self._read()[0] == os.getpid():
                os.unlink(self._path)

    def _refuse_living_process(self) -> None:
        pid, age = self._read()
        # A number is given again, in a container often to the next process that does the same.
        if pid is None or pid in (os.getpid(), self._predecessor):
            return
        if _is_running(pid, age):
            raise self._error(
                f"process {pid} is running, and the file is its; stop that process first, "
                "or choose another file"
            )

    def _read(self) -> tuple[int | None, float]:
        """Return the number in the file, and for how many seconds it has been there.

        None where there is no file, or nothing in it. Raises PidFileError for files of other kinds.
        """
        try:
            # Not one that has to be waited for, such as a pipe.
            with open(
                os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
            ) as file:
                content = file.read(_MOST_BYTES)
                age = time.time() - os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None, 0.0
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        if not _CONTENT.fullmatch(content):
            raise self._error("the file exists and is no PID file; choose another one")
        return int(content) if content.strip() else None, age

    def _error(self, reason: str) -> PidFileError:
        return PidFileError(f"cannot write the PID file {self._path}: {reason}")


def _is_running(pid: int, age: float) -> bool:
    """Return whether the process is running that has written its number ``age`` seconds ago."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # It is somebody else's.
    # If it began later than that, it is another one, which has got the number since then.
    return _age(pid) > age - _CLOCK_TOLERANCE


def _age(pid: int) -> float:
    """Return for how many seconds a process has been running; infinity where nothing tells.

    One that has ended, and whose parent has not taken note, has not been running at all.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # Its name, the second one, may hold anything.
            fields = file.read().rpartition(b")")[2].split()
        if fields[0] == b"Z":
            return float("-inf")
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - began
    except (OSError, ValueError, IndexError, AttributeError):
        return float("inf")
