"""The answer as plain text: for curl, for tests, for whoever does not ask for HTML."""

from collections.abc import Iterable

from ...wording import counted
from ...wsgi.headers import Fields
from .traces import ShownError, ShownFrame
from .view import View, visible

FIELDS: Fields = (
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
)


def render(view: View) -> bytes:
    """Return the body of the answer."""
    lines = ["500 Internal Server Error", "", view.summary]
    for number, error in enumerate(view.errors):
        lines += _error(error, is_known=number == 0 and view.broke_the_rules)
    if view.request_line:
        lines += ["", "The request:", f"  {view.request_line}"]
        lines += [f"  {name}: {value}" for name, value in view.fields]
    lines += ["", f"This is shown because {view.reason}. It is for development only.", ""]
    return visible("\n".join(lines)).encode()


def _error(error: ShownError, *, is_known: bool) -> Iterable[str]:
    """Yield the lines of an exception. Where it ``is_known``, only the calls are left to show."""
    yield ""
    if error.relation:
        yield f"{error.relation}:"
    if not is_known:
        yield error.text
    for frame in error.first:
        yield from _frame(frame)
    if error.left_out:
        yield f"  … {counted(error.left_out, 'call')} not shown …"
    for frame in error.last:
        yield from _frame(frame)


def _frame(frame: ShownFrame) -> Iterable[str]:
    yield f'  File "{frame.file}", line {frame.line}{frame.function and f", in {frame.function}"}'
    if frame.is_library:
        yield from (f"    {text.strip()}" for number, text in frame.source if number == frame.line)
        return
    for number, text in frame.source:
        yield f"  {'>' if number == frame.line else ' '} {number:5} {text}".rstrip()
