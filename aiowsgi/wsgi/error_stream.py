"""``wsgi.errors`` (PEP 3333, "environ Variables"): the current standard error. On pool threads."""

import sys
from collections.abc import Iterable
from typing import Any


class ErrorStream:
    """A text stream that writes to whatever ``sys.stderr`` is at the time of the call.

    Standard error may be missing (frozen programs, ``pythonw``), may be replaced or closed at any
    time, and its reader may end. An application that reports an error must not fail because of
    that. So text that cannot be written is dropped.
    """

    def write(self, text: str) -> int:
        """Write text, or drop it if standard error takes none."""
        self._call("write", text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream, if it knows how to: ``print`` does not ask for that either."""
        if hasattr(_standard_error(), "flush"):
            self._call("flush")

    def __getattr__(self, name: str) -> Any:
        # encoding, isatty and all other attributes of a stream.
        return getattr(_standard_error(), name)

    def _call(self, method: str, *arguments: str) -> None:
        stream = _standard_error()
        try:
            if stream is not None:
                getattr(stream, method)(*arguments)
        except OSError:
            pass  # The reader has ended.
        except ValueError:
            if not getattr(stream, "closed", False):
                raise


def _standard_error() -> Any:
    stream = sys.stderr
    # Some applications set sys.stderr to wsgi.errors.
    return sys.__stderr__ if isinstance(stream, ErrorStream) else stream
