"""What is shown of an exception: its text, the calls that led to it, and their source."""

import linecache
import os
import sysconfig
import traceback
from dataclasses import dataclass
from types import FrameType, TracebackType

# What more than these is left out, and counted. An endless recursion has a thousand frames.
_MOST_ERRORS = 10
_FIRST_FRAMES = 20
_LAST_FRAMES = 40
# Lines that are shown before and behind the one that was running.
_LINES_AROUND = 5
_LONGEST_LINE = 500

_PACKAGE = __name__.partition(".")[0]
_LIBRARIES = tuple(
    os.path.join(folder, "")
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (folder := sysconfig.get_path(name))
)


@dataclass(frozen=True, slots=True)
class ShownFrame:
    """One call: where it was, and the source around that."""

    file: str
    line: int
    function: str
    # Number and text of each line; none where there is no source.
    source: tuple[tuple[int, str], ...]
    # Whether the file is one of Python's own, or of an installed package.
    is_library: bool


@dataclass(frozen=True, slots=True)
class ShownError:
    """One exception. The calls are in the order of a traceback: the last one has raised it."""

    # What it has to do with one that is shown before it; empty for the first.
    relation: str
    # As Python prints it: "ValueError: no such thing", perhaps with notes.
    text: str
    # The calls, in two parts between which others were left out.
    first: tuple[ShownFrame, ...]
    left_out: int
    last: tuple[ShownFrame, ...]


def shown_errors(error: BaseException, place: tuple[str, int] | None) -> list[ShownError]:
    """Return an exception and those that it came from, at most ten.

    ``place`` is a file and a line to show where no call of the application led to the exception.
    """
    shown: list[ShownError] = []
    waiting: list[tuple[str, BaseException]] = [("", error)]
    seen: set[int] = set()  # They may form a circle.
    while waiting and len(shown) < _MOST_ERRORS:
        relation, current = waiting.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        shown.append(_shown_error(relation, current, None if shown else place))
        if current.__cause__ is not None:
            waiting.append(("It was raised from this exception", current.__cause__))
        elif current.__context__ is not None and not current.__suppress_context__:
            waiting.append(("It was raised while this exception was handled", current.__context__))
        if isinstance(current, BaseExceptionGroup):
            waiting += [("The group holds this exception", part) for part in current.exceptions]
    return shown


def _shown_error(relation: str, error: BaseException, place: tuple[str, int] | None) -> ShownError:
    frames = _frames(error.__traceback__)
    first, last = frames[:_FIRST_FRAMES], frames[_FIRST_FRAMES:][-_LAST_FRAMES:]
    shown = [_shown_frame(frame, line) for frame, line in first]
    if not shown and place is not None:
        file, line = place
        shown = [ShownFrame(file, line, "", _source(file, line), is_library=False)]
    return ShownError(
        relation,
        _text(error),
        tuple(shown),
        len(frames) - len(first) - len(last),
        tuple(_shown_frame(frame, line) for frame, line in last),
    )


def _text(error: BaseException) -> str:
    """Return an exception as Python prints it, without its traceback."""
    # With a frame: what a wrong name may have meant is looked for there.
    whole = traceback.TracebackException(
        type(error), error, error.__traceback__, limit=-1, lookup_lines=False, compact=True
    )
    return "".join(whole.format_exception_only()).rstrip()


def _frames(walked: TracebackType | None) -> list[tuple[FrameType, int]]:
    """Return the calls of a traceback, without those of the server."""
    found = []
    for frame, line in traceback.walk_tb(walked):
        module = str(frame.f_globals.get("__name__")).split(".")
        # The demo is an application like any other.
        if module[0] != _PACKAGE or module[1:2] == ["demo"]:
            found.append((frame, line))
    return found


def _shown_frame(frame: FrameType, line: int) -> ShownFrame:
    file = frame.f_code.co_filename
    # For modules that are in no file, such as those of a zip archive.
    linecache.lazycache(file, frame.f_globals)
    is_library = file.startswith(("<frozen ", *_LIBRARIES))
    return ShownFrame(file, line, frame.f_code.co_qualname, _source(file, line), is_library)


def _source(file: str, line: int) -> tuple[tuple[int, str], ...]:
    """Return the lines around one, as they are now; none where they cannot be read."""
    linecache.checkcache(file)
    lines = linecache.getlines(file)
    start = max(0, line - 1 - _LINES_AROUND)
    return tuple(
        (number, text.rstrip()[:_LONGEST_LINE])
        for number, text in enumerate(lines[start : line + _LINES_AROUND], start + 1)
    )
