"""``wsgi.errors`` (PEP 3333, "environ Variables"): standard error, whatever has become of that.

Called on pool threads.
"""

import sys
from collections.abc import Iterable
from typing import Any


class ErrorStream:
    """A text stream that writes to ``sys.stderr`` as it is at that moment.

    Standard error may be missing (frozen programs, ``pythonw``), be replaced or closed at any time,
    and lose its reader. An application that reports an error must not fail because of that: what
    cannot be written is dropped.
    """

    def write(self, text: str) -> int:
        """Write, if there is somebody to read."""
        self._call("write", text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand over what is buffered."""
        self._call("flush")

    def __getattr__(self, name: str) -> Any:
        # encoding, isatty and whatever else a stream may have.
        return getattr(_standard_error(), name)

    def _call(self, method: str, *arguments: str) -> None:
        stream = _standard_error()
        try:
            if stream is not None:
                getattr(stream, method)(*arguments)
        except OSError:
            pass  # The reader is gone.
        except ValueError:
            if not getattr(stream, "closed", False):
                raise


def _standard_error() -> Any:
    stream = sys.stderr
    # Some set sys.stderr to wsgi.errors.
    return sys.__stderr__ if isinstance(stream, ErrorStream) else stream
