"""The answer as a page for a browser. It needs nothing else: no script, no file, no network.

Every text that comes from elsewhere (the request, the exception, the source) goes through
``_text``, and nothing else is between two tags that is not written in this module.
"""

from collections.abc import Iterable
from html import escape

from ...wording import counted
from ...wsgi.headers import Fields
from .traces import ShownError, ShownFrame
from .view import View, visible

FIELDS: Fields = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    # Besides escaping: whatever a browser takes for a script, it does not run, and loads nothing.
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
)

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c1c1c; --soft: #6a6a6a; --line: #d8d8d8;
  --code: #f5f5f3; --mark: #ffe3e0; --red: #b3261e; --green: #e6f3e6; }
@media (prefers-color-scheme: dark) { :root { --back: #17181a; --text: #e8e8e8; --soft: #a0a0a0;
  --line: #3a3b3e; --code: #202225; --mark: #5a2a27; --red: #ff8f87; --green: #20342a; } }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; background: var(--back);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; color: var(--red); margin: 0 0 .5rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1rem 0 .5rem; white-space: pre-wrap; overflow-wrap: anywhere; }
p { margin: .5rem 0; overflow-wrap: anywhere; }
.advice { background: var(--green); padding: .75rem 1rem; border-radius: 6px; }
.soft { color: var(--soft); }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; }
summary { padding: .4rem .8rem; cursor: pointer; overflow-wrap: anywhere; }
summary code { font-size: .9rem; }
pre { margin: 0; padding: .5rem 0; background: var(--code); overflow-x: auto;
  font: 14px/1.45 ui-monospace, monospace; }
pre span { display: block; padding: 0 .8rem; width: max-content; min-width: calc(100% - 1.6rem); }
pre b { display: inline-block; min-width: 3rem; color: var(--soft); font-weight: normal;
  user-select: none; }
pre .here { background: var(--mark); }
table { border-collapse: collapse; width: 100%; font: 14px/1.45 ui-monospace, monospace; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: normal; color: var(--soft); white-space: nowrap; }
"""

# Where there is no exception that says more.
_SHORT_TITLE = "The application cannot be served"
# On the line that was running.
_HERE = ' class="here"'


def render(view: View) -> bytes:
    """Return the body of the answer."""
    return "\n".join(_page(view)).encode()


def _text(text: str) -> str:
    """Return a text from elsewhere as it may stand in the page."""
    return escape(visible(text), quote=True)


def _page(view: View) -> Iterable[str]:
    title = view.errors[0].text if view.errors else _SHORT_TITLE
    if view.broke_the_rules:
        title = "The application broke PEP 3333"
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{_text(title.splitlines()[0] if title else '500')}</title>"
    yield f"<style>{_STYLE}</style></head><body>"
    yield f"<h1>{_text(title)}</h1>"
    if view.advice:
        yield f'<p class="advice">{_text(view.advice)}</p>'
    yield "<h2>What the log says</h2>"
    yield f"<p>{_text(view.summary)}</p>"
    for number, error in enumerate(view.errors):
        yield from _error(error, is_first=number == 0)
    if view.request_line:
        yield from _request(view)
    yield (
        f'<p class="soft">This page is shown because {_text(view.reason)}. It is for development '
        "only: it shows source code and requests. Calls of the server itself are left out.</p>"
    )
    yield "</body></html>"


def _request(view: View) -> Iterable[str]:
    yield "<h2>The request</h2>"
    yield f"<p><code>{_text(view.request_line)}</code></p>"
    yield "<table>"
    for name, value in view.fields:
        yield f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>"
    yield "</table>"


def _error(error: ShownError, *, is_first: bool) -> Iterable[str]:
    frames = (*error.first, *error.last)
    if is_first and frames:
        yield "<h2>Where it happened (the last call is the newest)</h2>"
    elif not is_first:
        yield f"<h2>{_text(error.relation)}</h2>"
        yield f"<h3>{_text(error.text)}</h3>"
    for frame in error.first:
        yield from _frame(frame)
    if error.left_out:
        yield f'<p class="soft">… {counted(error.left_out, "call")} not shown …</p>'
    for frame in error.last:
        yield from _frame(frame)


def _frame(frame: ShownFrame) -> Iterable[str]:
    function = f" in <code>{_text(frame.function)}</code>" if frame.function else ""
    where = f"{_text(frame.file)}, line {frame.line}{function}"
    yield f"<details{'' if frame.is_library else ' open'}><summary>{where}</summary>"
    if frame.source:
        # On one line, because a line end between two of them would show.
        lines = (
            f"<span{_HERE if number == frame.line else ''}><b>{number}</b>{_text(text)}</span>"
            for number, text in frame.source
        )
        yield f"<pre>{''.join(lines)}</pre>"
    yield "</details>"
