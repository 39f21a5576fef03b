"""Which changes of files are noticed, and what counts as one change."""

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import sysconfig
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import watchfiles
from served_process import PATIENCE

from aiowsgi.process import import_path
from aiowsgi.process.watch.changes import LONGEST_BURST, MOST_OFTEN, PERIOD, SETTLE_TIME, Changes
from aiowsgi.process.watch.selection import code_folders, find_roots, folder_of
from aiowsgi.process.watch.tree import MAX_ENTRIES, Snapshot, Tree
from aiowsgi.process.watch.waiters import Notifications, Poller
from aiowsgi.process.watch.watcher import Watcher
from aiowsgi.process.worker.messages import Channel, Lines, Message


def write(path: Path, text: str = "x = 1\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def tree_of(folder: Path, *include: str, max_entries: int = MAX_ENTRIES) -> Tree:
    return Tree(find_roots(str(folder), include, []), max_entries)


def names(snapshot: Snapshot, folder: Path) -> set[str]:
    return {os.path.relpath(path, folder) for path in snapshot.files}


class TestWhatCounts:
    @pytest.mark.parametrize(
        ("include", "path", "counts"),
        [
            ((), "app.py", True),
            ((), "shop/web/views.py", True),
            ((), "page.html", False),
            ((), "app.pyc", False),
            ((), "app.py~", False),
            ((), ".#app.py", False),  # A lock of Emacs.
            ((), ".git/hooks/hook.py", False),
            ((), "shop/.cache/x.py", False),
            ((), "__pycache__/x.py", False),
            ((), "web/node_modules/gyp/x.py", False),
            ((), "lib/python3.11/site-packages/x.py", False),
            (("*.html",), "page.html", True),
            (("*.html",), "shop/templates/page.html", True),
            (("*.html",), "page.html~", False),
            (("*.html",), ".page.html", False),
            (("*.html",), "node_modules/page.html", False),
            (("*.html", "*.yaml"), "settings.yaml", True),
            ((".env",), ".env", True),
            ((".env",), "x.env", False),
            (("conf/*.ini",), "conf/a.ini", True),
            (("conf/*.ini",), "conf/deep/a.ini", False),
            (("conf/**/*.ini",), "conf/very/deep/a.ini", True),
            (("conf/**/*.ini",), "conf/a.ini", True),
            (("conf/?.ini",), "conf/ab.ini", False),
            (("a.b",), "axb", False),
            (("./conf/a.ini",), "conf/a.ini", True),
            ((".conf/*.ini",), ".conf/a.ini", True),
            (("templates",), "templates/deep/page.jinja", True),
            (("templates/",), "templates/page", True),
            (("templates",), "templates/page~", False),
            (("templates",), "other/page.jinja", False),
        ],
    )
    def test_by_name(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        include: tuple[str, ...],
        path: str,
        counts: bool,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "templates").mkdir()
        write(tmp_path / path)
        seen = names(tree_of(tmp_path, *include).look(), tmp_path)
        assert seen == ({path} if counts else set())

    def test_patterns_may_lead_out_of_the_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path / "app/app.py")
        write(tmp_path / "other/a.ini")
        write(tmp_path / "other/deep/a.ini")
        write(tmp_path / "third/a.ini")
        monkeypatch.chdir(tmp_path / "app")
        include = ("../other/*.ini", str(tmp_path / "third/*.ini"))
        seen = names(tree_of(tmp_path / "app", *include).look(), tmp_path)
        assert seen == {"app/app.py", "other/a.ini", "third/a.ini"}

    def test_an_environment_in_the_folder_does_not(self, tmp_path: Path) -> None:
        write(tmp_path / "app.py")
        write(tmp_path / "env/pyvenv.cfg")
        write(tmp_path / "env/bin/tool.py")
        assert names(tree_of(tmp_path).look(), tmp_path) == {"app.py"}

    def test_the_folder_may_be_an_environment_itself(self, tmp_path: Path) -> None:
        write(tmp_path / "app.py")
        write(tmp_path / "pyvenv.cfg")
        assert names(tree_of(tmp_path).look(), tmp_path) == {"app.py"}

    def test_folders_and_broken_links_do_not(self, tmp_path: Path) -> None:
        (tmp_path / "folder.py").mkdir()
        (tmp_path / "link.py").symlink_to("nothing")
        (tmp_path / "circle").symlink_to(".")
        assert names(tree_of(tmp_path).look(), tmp_path) == set()

    def test_what_is_imported_from_elsewhere_does(self, tmp_path: Path) -> None:
        write(tmp_path / "app/app.py")
        write(tmp_path / "library/code.py")
        folders = [str(tmp_path / "library"), str(tmp_path / "app")]
        roots = find_roots(str(tmp_path / "app"), (), folders)
        assert [os.path.basename(root.folder) for root in roots] == ["app", "library"]
        assert names(Tree(roots).look(), tmp_path) == {"app/app.py", "library/code.py"}

    def test_a_folder_that_is_gone_counts_again_when_it_is_back(self, tmp_path: Path) -> None:
        file = write(tmp_path / "library/code.py")
        tree = tree_of(tmp_path / "library")
        before = tree.look()
        shutil.rmtree(tmp_path / "library")
        gone = tree.look()
        assert gone.files == {}
        assert before.changes(gone) == {str(file)}
        write(file)
        assert gone.changes(tree.look()) == {str(file)}

    def test_folders_that_would_be_too_much_are_left_out(self, tmp_path: Path) -> None:
        write(tmp_path / "app.py")
        write(tmp_path / "near/code.py")
        for number in range(20):
            write(tmp_path / f"near/data/{number}.txt")
        write(tmp_path / "near/data/code.py")
        tree = tree_of(tmp_path, max_entries=10)
        before = tree.look()
        assert names(before, tmp_path) == {"app.py", "near/code.py"}
        assert tree.left_out == {str(tmp_path / "near/data")}
        # They stay so.
        shutil.rmtree(tmp_path / "near/data")
        write(tmp_path / "near/data/code.py")
        assert before.changes(tree.look()) == set()


class TestFoldersOfCode:
    @pytest.mark.parametrize(
        ("path", "folder"),
        [
            ("app:application", "."),
            ("shop.web", "."),
            ("src/app.py", "src"),
            ("app.py:application", "."),
            ("src/shop/web/app.py:make('/')", "src"),
        ],
    )
    def test_that_of_the_application_is_what_it_is_imported_from(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, folder: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        write(tmp_path / "src/shop/__init__.py")
        write(tmp_path / "src/shop/web/__init__.py")
        assert folder_of(path) == os.path.normpath(tmp_path / folder)

    def test_installed_packages_and_python_are_none(self, tmp_path: Path) -> None:
        library = tmp_path / "library"
        library.mkdir()
        installed = tmp_path / "lib/site-packages"
        installed.mkdir(parents=True)
        python = sysconfig.get_path("stdlib")
        folders = [
            *(str(library), str(installed), python, f"{python}/lib-dynload"),
            *(sysconfig.get_path("scripts"), import_path.ROOT, str(tmp_path / "gone")),
        ]
        assert list(code_folders(folders)) == [str(library)]


class TestChangesOfFiles:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Tree:
        write(tmp_path / "app.py")
        return tree_of(tmp_path)

    @pytest.mark.parametrize(
        "change",
        [
            lambda file: write(file, "x = 2345\n"),
            lambda file: file.unlink(),
            lambda file: write(file.with_name("other.py")),
            lambda file: os.utime(file, (1, 1)),
            lambda file: os.replace(write(file.with_name("other"), file.read_text()), file),
        ],
        ids=["written", "deleted", "created", "touched", "replaced"],
    )
    def test_are_seen(self, tree: Tree, tmp_path: Path, change: Callable[[Path], Any]) -> None:
        before = tree.look()
        change(tmp_path / "app.py")
        changed = before.changes(tree.look())
        assert len(changed) == 1
        assert changed <= {str(tmp_path / "app.py"), str(tmp_path / "other.py")}

    def test_a_replacement_is_seen_although_size_and_time_are_the_same(
        self, tree: Tree, tmp_path: Path
    ) -> None:
        before = tree.look()
        app, other = tmp_path / "app.py", write(tmp_path / "other", "x = 2\n")
        shutil.copystat(app, other)
        os.replace(other, app)
        assert before.changes(tree.look()) == {str(app)}

    def test_reading_is_none(self, tree: Tree, tmp_path: Path) -> None:
        before = tree.look()
        (tmp_path / "app.py").read_text()
        write(tmp_path / "app.log")
        assert before.changes(tree.look()) == set()


class Story:
    """What a series of looks sees, on a clock that moves only while somebody waits.

    ``states`` are the contents of one file, by the second from which on they are there; None is no
    file.
    """

    def __init__(self, states: Mapping[float, int | None]) -> None:
        self.states = states
        self.now = 0.0
        self.looks = 0

    def look(self) -> Snapshot:
        self.looks += 1
        last = max(moment for moment in self.states if moment <= self.now)
        state = self.states[last]
        return Snapshot(files={} if state is None else {"app.py": (state, 0, 0)})

    def pass_time(self, seconds: float) -> None:
        if self.now > max(self.states) + 60:
            raise TimeoutError
        self.now += seconds

    def changes(self) -> list[float]:
        """Return when changes are told."""
        changes = Changes(
            self.look,
            lambda cost: self.pass_time(0.1),
            pause=self.pass_time,
            clock=lambda: self.now,
        )
        found = []
        while True:
            try:
                assert changes.next() == {"app.py"}
            except TimeoutError:
                return found
            found.append(self.now)


class TestABurst:
    def test_of_one_change_is_told_soon(self) -> None:
        (moment,) = Story({0: 1, 10: 2}).changes()
        assert 10 <= moment <= 10 + 0.1 + 2 * SETTLE_TIME

    def test_of_many_changes_is_told_once(self) -> None:
        states: dict[float, int | None] = {10 + n / 50: n for n in range(50)}
        (moment,) = Story({0: -1} | states).changes()
        assert moment > 10.98

    def test_without_end_is_told_nevertheless(self) -> None:
        states: dict[float, int | None] = {10 + n / 50: n for n in range(500)}
        moments = Story({0: -1} | states).changes()
        assert len(moments) > 10 / (LONGEST_BURST + 0.3)
        assert moments[0] <= 10 + LONGEST_BURST + 0.3

    def test_after_many_others_is_told_later(self) -> None:
        states: dict[float, int | None] = {10 + n / 2: n for n in range(60)}
        moments = Story({0: -1} | states).changes()
        assert moments[MOST_OFTEN - 1] < 10 + MOST_OFTEN / 2 + 0.3
        for first, last in zip(moments, moments[MOST_OFTEN:], strict=False):
            assert last - first >= PERIOD
        # The last one is told, too.
        assert moments[-1] >= 39.5

    def test_now_and_then_is_told_at_once(self) -> None:
        states: dict[float, int | None] = {10 + 3.0 * n: n for n in range(20)}
        moments = Story({0: -1} | states).changes()
        assert len(moments) == 20
        assert all(moment - when < 0.3 for when, moment in zip(states, moments, strict=True))

    def test_that_ends_where_it_began_is_no_change(self) -> None:
        assert Story({0: 1, 10: None, 10.04: 1}).changes() == []
        assert Story({0: None, 10: 1, 10.04: None}).changes() == []

    def test_does_not_hide_the_next_change(self) -> None:
        assert len(Story({0: 1, 10: 2, 20: 3, 30: 3, 40: None}).changes()) == 3

    def test_is_not_seen_where_nothing_changes(self) -> None:
        assert Story({0: 1}).changes() == []


class TestWaiting:
    @pytest.mark.parametrize(("cost", "seconds"), [(0.0, 0.1), (0.001, 0.1), (0.1, 1.0)])
    def test_without_notifications_looking_takes_little_of_a_core(
        self, cost: float, seconds: float
    ) -> None:
        waits: list[float] = []
        Poller(waits.append).wait(cost, {})
        assert waits == [pytest.approx(seconds)]

    def notifications(self, *batches: set[tuple[int, str]]) -> tuple[Notifications, list[Any]]:
        """Return notifications in batches, one a second, and what is done."""
        done: list[Any] = []
        now = 0.0

        def watch(*folders: str, **options: object) -> Iterator[set[tuple[int, str]]]:
            nonlocal now
            done.append(folders)
            yield set()
            for batch in batches:
                now += 1
                yield batch
            raise OSError("no more inotify watches")

        def pause(seconds: float) -> None:
            assert seconds in (0.0, 0.1)

        waiter = Notifications(
            watch, lambda path: path.endswith(".py"), pause, done.append, clock=lambda: now
        )
        return waiter, done

    def test_looks_again_once_notifications_have_begun(self) -> None:
        waiter, done = self.notifications()
        waiter.wait(0.0, {"/a": 1, "/b": 2})
        assert done == [("/a", "/b")]

    def test_what_cannot_count_is_not_looked_at(self) -> None:
        batches = [{(1, "/a/app.log")}, {(1, "/a/x.txt"), (2, "/a/app.py")}, {(1, "/a/b.py")}]
        waiter, done = self.notifications(*batches)
        waiter.wait(0.0, {"/a": 1})
        waiter.wait(0.1, {"/a": 1})
        # The second batch has ended this wait, and the third one ends the next.
        waiter.wait(0.1, {"/a": 1})
        assert done == [("/a",)]

    def test_looks_rarely_without_notifications(self) -> None:
        waiter, done = self.notifications(*[set()] * 12)
        waiter.wait(0.0, {"/a": 1})
        waiter.wait(0.0, {"/a": 1})  # Two seconds,
        waiter.wait(0.1, {"/a": 1})  # and ten.
        assert done == [("/a",)]
        waiter.wait(0.1, {"/a": 1})
        assert done == [("/a",), "no more inotify watches"]

    def test_ends_where_nobody_needs_it(self) -> None:
        def pause(seconds: float) -> None:
            raise ConnectionResetError

        waiter = Notifications(lambda *folders, **options: iter([set()]), bool, pause, print)
        waiter.wait(0.0, {"/a": 1})
        with pytest.raises(ConnectionResetError):
            waiter.wait(0.0, {"/a": 1})

    def test_begins_again_where_folders_have_changed(self, tmp_path: Path) -> None:
        waiter, done = self.notifications()
        waiter.wait(0.0, {"/a": 1})
        waiter.wait(0.0, {"/a": 2})
        waiter.wait(0.0, {"/a": 2, "/b": 3})
        assert done == [("/a",), ("/a",), ("/a", "/b")]

    def test_does_not_fail_where_a_folder_is_gone(self, tmp_path: Path) -> None:
        failures: list[str] = []
        waiter = Notifications(watchfiles.watch, bool, lambda seconds: None, failures.append)
        waiter.wait(0.0, {str(tmp_path / "gone"): 1})
        waiter.wait(0.0, {str(tmp_path): 1})
        assert failures == []

    def test_polls_where_the_system_gives_no_notifications(self) -> None:
        waiter, done = self.notifications()
        waiter.wait(0.0, {"/a": 1})
        waiter.wait(0.0, {"/a": 1})
        waiter.wait(0.0, {"/a": 1})
        assert done == [("/a",), "no more inotify watches"]


class Watched:
    """A folder and its watcher, which runs on a thread."""

    def __init__(self, folder: Path, watch: Callable[..., Any] | None, **more: Any) -> None:
        self.folder = folder
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(PATIENCE)
        self._lines = Lines()
        self._messages: deque[Message] = deque()
        roots = find_roots(str(folder), (), [])

        def run() -> None:
            with theirs:
                Watcher(Channel(theirs), theirs.fileno(), roots, watch, **more).run()

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def said(self) -> str:
        """Wait for the next message."""
        while not self._messages:
            self._messages += self._lines.feed(self._ours.recv(4096))
        word, texts = self._messages.popleft()
        return " ".join([word, *texts])

    def close(self) -> None:
        self._ours.close()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@pytest.fixture(params=[None, watchfiles.watch], ids=["polling", "watchfiles"])
def watch(request: pytest.FixtureRequest) -> Callable[..., Any] | None:
    function: Callable[..., Any] | None = request.param
    return function


@pytest.fixture
def watched(tmp_path: Path, watch: Callable[..., Any] | None) -> Iterator[Watched]:
    folder = tmp_path / "project"
    write(folder / "app.py")
    write(folder / "shop/views.py")
    machinery = "watchfiles" if watch else "polling"
    with contextlib.closing(Watched(folder, watch)) as watched:
        assert watched.said() == f"notice Watching 2 files in {folder} ({machinery})"
        yield watched


class TestTheWatcher:
    def test_tells_what_is_written(self, watched: Watched) -> None:
        for number in range(2):
            write(watched.folder / "shop/views.py", f"x = {number}\n")
            assert watched.said() == "changed shop/views.py has changed"

    def test_tells_what_is_created_and_deleted(self, watched: Watched) -> None:
        write(watched.folder / "new.py")
        assert watched.said() == "changed new.py has changed"
        (watched.folder / "new.py").unlink()
        assert watched.said() == "changed new.py has changed"

    def test_tells_what_is_replaced(self, watched: Watched) -> None:
        for number in range(2):
            new = write(watched.folder / "app.py.new", f"x = {number}\n")
            os.replace(new, watched.folder / "app.py")
            assert watched.said() == "changed app.py has changed"

    def test_tells_what_happens_in_new_folders(self, watched: Watched) -> None:
        write(watched.folder / "deep/deeper/new.py")
        assert watched.said() == "changed deep/deeper/new.py has changed"
        write(watched.folder / "deep/deeper/new.py", "x = 2345\n")
        assert watched.said() == "changed deep/deeper/new.py has changed"
        shutil.rmtree(watched.folder / "deep")
        assert watched.said() == "changed deep/deeper/new.py has changed"
        write(watched.folder / "deep/deeper/new.py")
        assert watched.said() == "changed deep/deeper/new.py has changed"

    def test_tells_many_changes_at_once(self, watched: Watched) -> None:
        other = watched.folder.with_name("other")
        for number in range(200):
            write(other / f"{number}.py")
        # In one step, so that this does not depend on how busy the machine is.
        os.rename(other, watched.folder / "many")
        assert watched.said() == "changed many/0.py and 199 other files have changed"

    def test_says_that_there_is_too_much(
        self, tmp_path: Path, watch: Callable[..., Any] | None
    ) -> None:
        app = write(tmp_path / "app.py")
        for number in range(10):
            write(tmp_path / f"data/{number}.py")
        with contextlib.closing(Watched(tmp_path, watch, max_entries=5)) as watched:
            assert re.match("warning Not watched: 1 folder, .* more than 5 files", watched.said())
            assert watched.said().startswith("notice Watching 1 file in ")
            write(app, "x = 2345\n")
            assert watched.said() == "changed app.py has changed"

    def test_says_where_files_change_all_the_time(
        self,
        tmp_path: Path,
        watch: Callable[..., Any] | None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("aiowsgi.process.watch.changes.PERIOD", 10_000.0)
        app = write(tmp_path / "app.py")
        with contextlib.closing(Watched(tmp_path, watch)) as watched:
            watched.said()
            for number in range(MOST_OFTEN):
                write(app, f"x = {10**number}\n")
                said = watched.said()
            assert said == (
                "changed app.py has changed; files change all the time, "
                "so the next restart will be later"
            )

    def test_a_name_with_a_line_feed_is_one_message(self, watched: Watched) -> None:
        write(watched.folder / "a\nchanged\tb.py")
        assert watched.said() == "changed a\nchanged\tb.py has changed"

    def test_bytecode_of_what_has_changed_is_removed(self, watched: Watched) -> None:
        app = watched.folder / "app.py"
        bytecode = write(Path(importlib.util.cache_from_source(str(app))))
        write(app, "x = 2\n")
        assert watched.said() == "changed app.py has changed"
        assert not bytecode.exists()
