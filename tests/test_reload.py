"""``--reload``, as a user has it: real processes, and files that are saved while they serve."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from processes import children_of, is_alive
from served_process import PATIENCE, ServedProcess, served
from waiting import eventually

from aiowsgi.process.supervisor.decisions.plan import Plan, Terms
from aiowsgi.process.watch.restarts import Restarts
from aiowsgi.process.worker.messages import CHANGED, NOTICE, WARNING, Message

# Without notifications: watchfiles cannot be imported.
POLLING = (
    sys.executable,
    "-c",
    "import sys; sys.modules['watchfiles'] = None; sys.argv[0] = 'aiowsgi'\n"
    "from aiowsgi.cli import main; sys.exit(main())",
    "app:application",
)
NOTIFIED = (sys.executable, "-m", "aiowsgi", "app:application")


def answering(text: str) -> str:
    return f"""
import os

def application(environ, start_response):
    body = b"{text} %d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def ask(port: int, **fields: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}/", headers=fields, timeout=PATIENCE, trust_env=False)


def answers(port: int, text: str) -> None:
    """Wait until it is what a client gets. No request may fail meanwhile."""
    seen: list[str] = []

    def is_there() -> bool:
        seen[:] = [ask(port).text]
        return text in seen[0]

    eventually(is_there, lambda: f"{text!r}, after {seen}")


@contextlib.contextmanager
def reloading(
    folder: Path, source: str, *options: str, command: tuple[str, ...] = NOTIFIED
) -> Iterator[tuple[ServedProcess, int]]:
    with served(folder, source, "--reload", *options, command=command) as process:
        yield process, process.port()
        assert process.stop() == 0


@pytest.mark.parametrize(("command", "machinery"), [(NOTIFIED, "watchfiles"), (POLLING, "polling")])
def test_a_changed_file_is_served(tmp_path: Path, command: tuple[str, ...], machinery: str) -> None:
    with served(tmp_path, answering("one"), "--reload", command=command) as process:
        process.said(rf"INFO \[{process.pid}\] Watching 1 file in .* \({machinery}\)$")
        port = process.port()
        answers(port, "one")
        (tmp_path / "app.py").write_text(answering("two"))
        process.said(r"INFO .* Restarting: app\.py has changed$")
        process.said(r"INFO .* Restarted in \d+\.\d\d s$")
        answers(port, "two")
        assert process.stop() == 0


def test_a_file_that_is_replaced_by_an_editor_is_served(tmp_path: Path) -> None:
    with reloading(tmp_path, answering("one")) as (process, port):
        (tmp_path / ".app.py.new").write_text(answering("two"))
        os.replace(tmp_path / "app.py", tmp_path / "app.py~")
        os.replace(tmp_path / ".app.py.new", tmp_path / "app.py")
        process.said(r"Restarted in ")
        answers(port, "two")


def test_a_syntax_error_is_shown_until_it_is_mended(tmp_path: Path) -> None:
    with reloading(tmp_path, answering("one")) as (process, port):
        (tmp_path / "app.py").write_text("if '<b>'\n")
        process.said(r"ERROR .* The application cannot be loaded, and requests are answered with ")
        process.said(r'File ".*app\.py", line 1$')
        process.said(r"SyntaxError: expected ':'$")
        answers(port, "SyntaxError: expected ':'")
        answer = ask(port, Accept="text/html")
        assert answer.status_code == 500
        assert "if &#x27;&lt;b&gt;&#x27;" in answer.text
        assert "<b>" not in answer.text
        (tmp_path / "app.py").write_text(answering("mended"))
        process.said(r"Restarted in ")
        answers(port, "mended")


def test_a_mistake_at_the_start_is_shown_until_it_is_mended(tmp_path: Path) -> None:
    # What proves an application proves nothing of this page.
    options = ("--warm-up", "/", "--ready-path", "/")
    with reloading(tmp_path, "import nothing_of_that_name", *options) as (process, port):
        assert "No module named 'nothing_of_that_name'" in ask(port).text
        (tmp_path / "nothing_of_that_name.py").write_text("")
        (tmp_path / "app.py").write_text(answering("mended"))
        process.said(r"Restarted in ")
        answers(port, "mended")


def test_many_files_at_once_are_one_restart(tmp_path: Path) -> None:
    with served(tmp_path, answering("one"), "--reload") as process:
        port = process.port()
        others = tmp_path.with_name("others")
        others.mkdir()
        for number in range(100):
            (others / f"{number}.py").write_text("")
        # In one step, so that this does not depend on how busy the machine is.
        others.rename(tmp_path / "others")
        process.said(r"Restarting: others/0\.py and 99 other files have changed$")
        process.said(r"Restarted in ")
        answers(port, "one")
        assert process.stop() == 0
        assert len([line for line in process.lines if "Restarting" in line]) == 1


def test_templates_are_watched_where_they_are_named(tmp_path: Path) -> None:
    page = tmp_path / "templates/page.html"
    page.parent.mkdir()
    page.write_text("one")
    source = """
    from flask import Flask, render_template
    application = Flask(__name__)

    @application.get("/")
    def index():
        return render_template("page.html")
    """
    with reloading(tmp_path, source, "--reload-include", "*.html") as (process, port):
        answers(port, "one")
        page.write_text("two")
        process.said(r"Restarting: templates/page\.html has changed$")
        process.said(r"Restarted in ")
        answers(port, "two")


def test_an_endless_response_does_not_hold_a_restart_up(tmp_path: Path) -> None:
    source = """
    import time
    def application(environ, start_response):
        start_response("200 OK", [])
        while True:
            yield b"x"
            time.sleep(0.01)
    """
    with reloading(tmp_path, source) as (process, port):
        with httpx.stream("GET", f"http://127.0.0.1:{port}/", trust_env=False) as endless:
            next(endless.iter_raw())
            (tmp_path / "app.py").write_text(answering("two"))
            process.said(r"Restarted in ")
        answers(port, "two")


def watcher_of(process: ServedProcess, port: int) -> int:
    """Return the child that does not serve."""
    worker = int(ask(port).text.split()[1])
    (watcher,) = [pid for pid in children_of(process.pid) if pid != worker]
    return watcher


def test_the_supervisor_stays_one_thread_and_the_watcher_holds_no_port(tmp_path: Path) -> None:
    with reloading(tmp_path, answering("one")) as (process, port):
        assert len(list(Path(f"/proc/{process.pid}/task").iterdir())) == 1
        watcher = watcher_of(process, port)
        opened = [os.readlink(path) for path in Path(f"/proc/{watcher}/fd").iterdir()]
        inode = Path("/proc/net/tcp").read_text()
        (line,) = [line for line in inode.splitlines() if f"0100007F:{port:04X} 00000000:" in line]
        assert f"socket:[{line.split()[9]}]" not in opened


def test_without_a_watcher_serving_goes_on(tmp_path: Path) -> None:
    with reloading(tmp_path, answering("one")) as (process, port):
        os.kill(watcher_of(process, port), signal.SIGKILL)
        process.said(r" [Tt]he watcher was killed by SIGKILL")
        answers(port, "one")


@pytest.mark.parametrize(("soon", "is_replaced"), [(0.0, True), (1e9, False)])
def test_a_watcher_that_dies_is_replaced_unless_it_would_die_again(
    monkeypatch: pytest.MonkeyPatch, soon: float, is_replaced: bool
) -> None:
    monkeypatch.setattr("aiowsgi.process.watch.restarts._SOON", soon)
    plan = Plan(Terms(workers=1, stop_limit=1.0))
    restarts = Restarts(plan)
    restarts.enable(())
    restarts.watched()
    assert restarts.is_beginning
    assert not restarts.is_due
    restarts.ended(signal.SIGKILL)
    assert not restarts.is_beginning
    assert restarts.is_due is is_replaced
    # What has changed meanwhile, nobody has seen.
    assert plan.is_restarting is is_replaced


def test_what_the_watcher_says_is_logged_and_changes_restart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "aiowsgi.error")
    plan = Plan(Terms(workers=1, stop_limit=1.0))
    restarts = Restarts(plan)
    for message in (
        *(Message(NOTICE, ("Watching",)), Message(WARNING, ("Too many",))),
        # No message of the watcher has such words.
        *(Message(NOTICE, ()), Message("other", ("word",))),
    ):
        restarts.hear(message)
    assert not plan.is_restarting
    restarts.hear(Message(CHANGED, ("app.py has changed",)))
    assert plan.is_restarting
    for _ in range(2):
        restarts.is_broken("SyntaxError\n")
    restarts.restarted()  # It answers with the reason.
    restarts.failed("Too many open files")
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("INFO", "Watching"),
        ("WARNING", "Too many"),
        ("INFO", "Restarting: app.py has changed"),
        (
            "ERROR",
            "The application cannot be loaded, and requests are answered with the reason until "
            "a file changes:\nSyntaxError",
        ),
        ("ERROR", "Cannot watch files: Too many open files; changes are not noticed"),
    ]


def test_nothing_restarts_while_the_supervisor_stops(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiowsgi.error")
    plan = Plan(Terms(workers=1, stop_limit=1.0))
    restarts = Restarts(plan)
    plan.stop(0.0, 0)
    restarts.hear(Message(CHANGED, ("app.py has changed",)))
    restarts.ended(signal.SIGKILL)
    assert not restarts.is_due
    assert not plan.is_restarting
    assert caplog.records == []


def test_signals_to_all_processes_do_not_end_the_watcher(tmp_path: Path) -> None:
    with reloading(tmp_path, answering("one")) as (process, port):
        watcher = watcher_of(process, port)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(watcher, number)
        (tmp_path / "app.py").write_text(answering("two"))
        process.said(r"Restarting: app\.py has changed$")
        process.said(r"Restarted in ")
        assert watcher in children_of(process.pid)


def test_a_killed_supervisor_leaves_no_watcher_behind(tmp_path: Path) -> None:
    with served(tmp_path, answering("one"), "--reload") as process:
        port = process.port()
        children = [watcher_of(process, port), *children_of(process.pid)]
        process.signal(signal.SIGKILL)
        eventually(lambda: not any(map(is_alive, children)), "all of them end")


def test_a_warning_says_that_other_machines_can_connect(tmp_path: Path) -> None:
    bind = ("--bind", "0.0.0.0:0")
    with served(tmp_path, answering("one"), "--reload", bind=bind) as process:
        process.said(r"WARNING .* --reload is for development, and other machines can connect to ")
        process.said(r"Serving")
        assert process.stop() == 0


def test_nothing_is_watched_without_the_option(tmp_path: Path) -> None:
    with served(tmp_path, answering("one"), "--workers", "1") as process:
        port = process.port()
        worker = int(ask(port).text.split()[1])
        assert children_of(process.pid) == {worker}
        assert process.stop() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--reload", "--preload"),
            "--preload keeps what it has loaded, and --reload loads it anew; give one of them",
        ),
        (
            ("--reload-include", "*.html"),
            "--reload-include names files that --reload watches; give both",
        ),
    ],
)
def test_options_that_contradict_are_one_message(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    with served(tmp_path, answering("one"), *options) as process:
        assert process.ended() == 2
        assert process.lines == [f"aiowsgi: error: {message}", "try: python -m aiowsgi --help"]


def test_a_program_that_serves_itself_is_told_of_the_command(tmp_path: Path) -> None:
    source = "import aiowsgi; aiowsgi.run(print, config=aiowsgi.Config(reload=True))"
    command = (sys.executable, "-c", source)
    with served(tmp_path, "", command=command, bind=()) as process:
        assert process.ended() == 1
        assert process.lines[-1].endswith(
            "reload is for the command line, because each worker loads the application itself: "
            "python -m aiowsgi MODULE:CALLABLE --reload"
        )
