"""What the documents promise is what the code does: tables are compared, not copied by hand."""

import asyncio
import dataclasses
import re
import tomllib
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
from conftest import StartServer

from aiowsgi.cli.arguments import build_parser, default_text
from aiowsgi.cli.foreign_options import HINTS
from aiowsgi.config import Config, Option, help_texts
from aiowsgi.config.listener import PARAMETERS
from aiowsgi.connection.states import EVENT_MEANINGS as CONNECTION_EVENTS
from aiowsgi.connection.states import TRANSITIONS as CONNECTION_TRANSITIONS
from aiowsgi.connection.states import ConnectionEvent, table
from aiowsgi.exchange.states import EVENT_MEANINGS as STREAM_EVENTS
from aiowsgi.exchange.states import STATE_MEANINGS as STREAM_STATES
from aiowsgi.exchange.states import TRANSITIONS as STREAM_TRANSITIONS
from aiowsgi.exchange.states import StreamEvent
from aiowsgi.exchange.transitions import meanings
from aiowsgi.exchange.transitions import table as transition_table

ROOT = Path(__file__).parent.parent
# What PEP 3333 and RFC 3875 say about these is all there is to say.
PEP_3333 = {
    "REQUEST_METHOD",
    "SERVER_PROTOCOL",
    "wsgi.version",
    "wsgi.input",
    "wsgi.file_wrapper",
    "wsgi.run_once",
    "wsgi.multiprocess",
}
# Where options are those of other programs: their commands, and their column of a table.
OTHERS = (
    r"^.*\b(?:pip|curl|systemctl|systemd-socket-activate|useradd|docker)\b.*$"
    r"|^\| `--?[a-z].*?(?=\| )|^`(?:gunicorn|uwsgi|waitress-serve) -.*? becomes"
)
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]


def _between(path: Path, mark: str) -> str:
    match = re.search(rf"<!-- {mark} -->\n(.*?)<!-- end -->", path.read_text(), re.DOTALL)
    assert match is not None, f"{path.name} has no mark {mark!r}"
    return match[1].strip()


def _options_table() -> str:
    texts = help_texts()
    lines = ["| option | default | meaning |", "|---|---|---|"]
    group = None
    for field in dataclasses.fields(Config):
        option: Option = field.metadata["option"]
        if option.group != group:
            group = option.group
            lines.append(f"| **{group}** | | |")
        flag = f"--{field.name.replace('_', '-')}"
        names = f"`{option.short}`, `{flag}`" if option.short else f"`{flag}`"
        default = default_text(option, getattr(Config(), field.name))
        lines.append(f"| {names} | {default} | {texts[field.name]} |")
    return "\n".join(lines)


def test_table_of_the_parameters_of_addresses_has_each_of_them() -> None:
    table = _between(ROOT / "docs" / "running.md", "parameters")
    first_column = "".join(re.findall(r"^\|(.*?)\|", table, re.MULTILINE))
    assert re.findall(r"`(\w+)=", first_column) == list(PARAMETERS)


def test_page_of_options_shows_every_one_with_its_default() -> None:
    assert _between(ROOT / "docs" / "options.md", "options") == _options_table()


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        ("states", table()),
        ("connection transitions", transition_table(ConnectionEvent, CONNECTION_TRANSITIONS)),
        ("stream transitions", transition_table(StreamEvent, STREAM_TRANSITIONS)),
        ("connection events", meanings(CONNECTION_EVENTS)),
        ("stream states", meanings(STREAM_STATES)),
        ("stream events", meanings(STREAM_EVENTS)),
    ],
)
def test_architecture_page_shows_the_states_and_what_changes_them(mark: str, text: str) -> None:
    assert _between(ROOT / "docs" / "architecture.md", mark) == text


async def test_page_for_applications_shows_every_key_beyond_pep_3333(
    start_server: StartServer,
) -> None:
    environ: WSGIEnvironment = {}

    def application(given: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        environ.update(given)
        start_response("204 No Content", [])
        return []

    server = await start_server(application)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with asyncio.timeout(20):
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
    page = (ROOT / "docs" / "applications.md").read_text()
    named = set(re.findall(r"`([\w.]+)`", "".join(re.findall(r"^\|(.*?)\|", page, re.MULTILINE))))
    assert environ.keys() - named <= PEP_3333 | {"HTTP_HOST", "HTTP_CONNECTION"}


def test_every_option_named_for_the_command_line_exists() -> None:
    known = {string for action in build_parser()._actions for string in action.option_strings}
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        text = re.sub(OTHERS, "", page.read_text(), flags=re.MULTILINE)
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known, page.name


def test_options_of_gunicorn_and_uwsgi_in_the_tables_are_known_to_the_command_line() -> None:
    # That of uWSGI is behind it.
    page = (ROOT / "docs" / "deploy.md").read_text()
    _, _, table = page.partition("| gunicorn | aiowsgi |")
    theirs = set(re.findall(r"`(--?[a-z][\w-]*)`", "".join(re.findall(r"^\|(.*?)\|", table, re.M))))
    ours = {string for action in build_parser()._actions for string in action.option_strings}
    assert len(theirs) > 50
    assert theirs <= ours | HINTS.keys()


def test_readme_takes_three_minutes() -> None:
    text = (ROOT / "README.md").read_text()
    code = r"```.*?```"
    benchmark = r"<!-- benchmark -->.*?<!-- end -->"
    words = re.sub(rf"{code}|{benchmark}|\]\(.*?\)", "", text, flags=re.DOTALL).split()
    assert sum(bool(re.search(r"\w", word)) for word in words) <= 900


def test_readme_leads_to_every_page() -> None:
    _, _, table = (ROOT / "README.md").read_text().partition("## Read on")
    listed = re.findall(r"^\| \[.*?\]\(docs/(.*?)\)", table, re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in ROOT.glob("docs/*.md"))


def test_relative_links_lead_somewhere() -> None:
    for page in PAGES:
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
            path = page.parent / target if target else page
            assert path.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in _anchors(path), f"{page.name}: {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """Return what a link can name in a page: GitHub makes it from each heading."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_page_about_security_names_tests_that_exist() -> None:
    page, tests = (ROOT / "docs" / "security.md").read_text(), ROOT / "tests"
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", page)
    assert len(named) > 80
    for file, name in named:
        assert re.search(rf"\bdef {name}\(" if name else "", (tests / file).read_text()), name
    for path in re.findall(r"`(tests/[^`]*)`", page):
        assert (ROOT / path).exists(), path
    # Nothing that looks like one and was not found.
    assert len(named) == len(re.findall(r"test_\w+\.py", page))


def test_page_about_security_has_every_row_of_threats_held_by_tests() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    tables = re.findall(r"^\| asset \|.*\n\|-.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert len(tables) >= 6
    for row in "".join(tables).splitlines():
        assert "::test_" in row.split(" | ")[2], row


def test_page_about_security_has_the_advisories_that_became_tests() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    number = re.compile(r"CVE-[0-9]{4}-[0-9]+")
    texts = [path.read_text() for path in (ROOT / "tests").glob("*.py")]
    corpus = [path.read_text("latin-1") for path in (ROOT / "tests" / "corpus").rglob("*.http")]
    tried = set(number.findall("".join(texts + corpus)))
    assert len(tried) > 50
    assert set(number.findall(page)) == tried


def test_nothing_names_the_other_project_that_is_called_aiowsgi_on_the_package_index() -> None:
    # The distribution is aiowsgi-server; only the package and the command are called aiowsgi.
    other = re.compile(r"pip install (?:-\S+ )*['\"]?aiowsgi(?![\w.-])")
    assert other.search("pip install aiowsgi[speed]")
    folders = (ROOT / name for name in ("aiowsgi", "benchmarks", "docs"))
    files = [*ROOT.glob("*"), *(path for folder in folders for path in folder.rglob("*"))]
    texts = [path for path in files if path.suffix in {".py", ".md"}]
    assert ROOT / "README.md" in texts
    assert [path for path in texts if other.search(path.read_text())] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "aiowsgi-server"
    assert project["scripts"] == {"aiowsgi": "aiowsgi.cli:main"}
