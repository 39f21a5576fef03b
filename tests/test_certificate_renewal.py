"""Certificates that are renewed while a server runs, without one: looks are taken by the test."""

import asyncio
import contextvars
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from log_records import loud
from made_certificates import Issuer, Made, connected, server_context
from waiting import eventually

from aiowsgi.net.tls.certificates import renewal
from aiowsgi.net.tls.certificates.changes import Changes, look_at
from aiowsgi.net.tls.certificates.renewal import INTERVAL, Renewal
from aiowsgi.net.tls.certificates.served import Certificates, CertificateSource, KeyPair, load


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture(scope="module")
def made(issuer: Issuer) -> list[Made]:
    """Certificates for two hosts, by which one can tell what is served."""
    return [issuer.issue(host) for host in ("old.example", "new.example")]


class Timer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when, self.call = when, call
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Loop:
    """The little of an event loop that a renewal needs, on a clock that the test moves.

    Threads run when the test says so, and what they hand over is done at once.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Timer] = []
        self.threads: list[Callable[[], None]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None], *, context: object) -> Timer:
        self.timers.append(Timer(self.now + delay, call))
        return self.timers[-1]

    def call_soon_threadsafe(
        self, call: Callable[..., None], *args: object, context: object
    ) -> None:
        call(*args)

    def start_thread(self, run: Callable[[], None]) -> None:
        self.threads.append(run)

    def pass_time(self, seconds: float) -> None:
        """Run what is due in so many seconds."""
        self.now += seconds
        due = [timer for timer in self.timers if timer.when <= self.now]
        for timer in due:
            self.timers.remove(timer)
            if not timer.is_cancelled:
                timer.call()

    def look(self, times: int = 1) -> None:
        """Let the next look begin, and run it to its end."""
        for _ in range(times):
            self.pass_time(INTERVAL)
            self.threads.pop()()


class Stage:
    """A source of certificates, and the renewal that looks at it."""

    def __init__(self, pairs: list[KeyPair], *, speaks: bool = True) -> None:
        self.speaks = speaks
        paths = [path for pair in pairs for path in pair]
        self.source = CertificateSource(paths, lambda: load(pairs, server_context))
        self.loop = Loop()
        self.renewal = Renewal(
            self.source,
            loop=self.loop,  # type: ignore[arg-type]
            context=contextvars.copy_context(),
            start_thread=self.loop.start_thread,
            speaks=lambda: self.speaks,
        )

    def names(self) -> set[str]:
        return {name for leaf in self.source.served.leaves for name in leaf.names}


@pytest.fixture
def stage(made: list[Made], tmp_path: Path) -> Stage:
    return Stage([made[0].write(tmp_path, "site")])


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in loud(caplog)]


def test_files_that_stay_as_they_are_are_not_read_again(stage: Stage) -> None:
    before = stage.source.served
    stage.loop.look(times=5)
    assert stage.source.served is before


def in_place(made: Made, folder: Path) -> None:
    made.write(folder, "site")


def renamed(made: Made, folder: Path) -> None:
    pair = made.write(folder, "next")
    os.replace(pair.certfile, folder / "site.pem")
    os.replace(pair.keyfile, folder / "site.key")


def in_place_with_the_old_time(made: Made, folder: Path) -> None:
    times = os.stat(folder / "site.pem")
    made.write(folder, "site")
    for file in ("site.pem", "site.key"):
        os.utime(folder / file, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("change", [in_place, renamed, in_place_with_the_old_time])
def test_files_that_have_changed_are_read_at_the_second_look(
    stage: Stage, made: list[Made], tmp_path: Path, change: Callable[[Made, Path], None]
) -> None:
    change(made[1], tmp_path)
    stage.loop.look()
    assert stage.names() == {"old.example"}
    stage.loop.look()
    assert stage.names() == {"new.example"}
    assert stage.loop.now <= 10
    served = stage.source.served
    stage.loop.look(times=3)
    assert stage.source.served is served


def test_what_changes_while_a_server_starts_is_noticed(made: list[Made], tmp_path: Path) -> None:
    pair = made[0].write(tmp_path, "site")

    def load_and_change() -> Certificates:
        found = load([pair], server_context)
        in_place(made[1], tmp_path)
        return found

    loop = Loop()
    source = CertificateSource(pair, load_and_change)
    source.load = lambda: load([pair], server_context)
    Renewal(
        source,
        loop=loop,  # type: ignore[arg-type]
        context=contextvars.copy_context(),
        start_thread=loop.start_thread,
    )
    loop.look(times=2)
    assert source.served.leaves[0].names == {"new.example"}


def test_a_folder_that_is_swapped_as_kubernetes_does_it_is_noticed(
    made: list[Made], tmp_path: Path
) -> None:
    made[0].write(tmp_path / "..1", "site")
    made[1].write(tmp_path / "..2", "site")
    (tmp_path / "..data").symlink_to("..1")
    for file in ("site.pem", "site.key"):
        (tmp_path / file).symlink_to(f"..data/{file}")
    stage = Stage([KeyPair(str(tmp_path / "site.pem"), str(tmp_path / "site.key"))])
    assert stage.names() == {"old.example"}
    (tmp_path / "..next").symlink_to("..2")
    (tmp_path / "..next").rename(tmp_path / "..data")
    stage.loop.look(times=2)
    assert stage.names() == {"new.example"}


def test_links_that_are_swapped_one_by_one_as_certbot_does_it_are_noticed(
    made: list[Made], tmp_path: Path
) -> None:
    live = tmp_path / "live"
    live.mkdir()
    for number, each in enumerate(made, 1):
        each.write(tmp_path / "archive", f"site{number}")
    for ending in ("pem", "key"):
        (live / f"site.{ending}").symlink_to(f"../archive/site1.{ending}")
    stage = Stage([KeyPair(str(live / "site.pem"), str(live / "site.key"))])
    for ending in ("pem", "key"):
        (live / f"site.{ending}").unlink()
        (live / f"site.{ending}").symlink_to(f"../archive/site2.{ending}")
        stage.loop.look()
        assert stage.names() == {"old.example"}
    stage.loop.look()
    assert stage.names() == {"new.example"}


def test_a_file_that_is_being_written_is_waited_for(
    stage: Stage, made: list[Made], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "site.key").write_bytes(made[1].key)
    for size in range(100, len(made[1].certificate), 100):
        (tmp_path / "site.pem").write_bytes(made[1].certificate[:size])
        stage.loop.look()
    (tmp_path / "site.pem").write_bytes(made[1].certificate)
    stage.loop.look()
    assert stage.names() == {"old.example"}
    stage.loop.look()
    assert stage.names() == {"new.example"}
    assert texts(caplog) == []


def half_written(folder: Path, made: list[Made]) -> None:
    (folder / "site.pem").write_bytes(made[1].certificate[:200])


def of_another_key(folder: Path, made: list[Made]) -> None:
    (folder / "site.pem").write_bytes(made[1].certificate)


def gone(folder: Path, made: list[Made]) -> None:
    (folder / "site.pem").unlink()


def a_folder(folder: Path, made: list[Made]) -> None:
    (folder / "site.key").unlink()
    (folder / "site.key").mkdir()


@pytest.mark.parametrize("breaks", [half_written, of_another_key, gone, a_folder])
def test_what_cannot_be_used_leaves_the_old_ones_and_is_told_once(
    stage: Stage,
    made: list[Made],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    breaks: Callable[[Path, list[Made]], None],
) -> None:
    served = stage.source.served
    breaks(tmp_path, made)
    stage.loop.look(times=6)
    assert stage.source.served is served
    (text,) = texts(caplog)
    assert "cannot be used, and the ones before are still served" in text
    if (tmp_path / "site.key").is_dir():
        (tmp_path / "site.key").rmdir()
    caplog.clear()
    made[1].write(tmp_path, "site")
    stage.loop.look(times=2)
    assert stage.names() == {"new.example"}
    (text,) = texts(caplog)
    assert "can be read again" in text


def test_each_broken_change_is_told(
    stage: Stage, made: list[Made], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half_written(tmp_path, made)
    stage.loop.look(times=4)
    of_another_key(tmp_path, made)
    stage.loop.look(times=4)
    assert len(texts(caplog)) == 2


def test_a_change_in_the_midst_of_reading_is_no_half_of_it(
    stage: Stage, made: list[Made], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read = stage.source.load
    in_place(made[1], tmp_path)

    def load_while_the_key_changes() -> object:
        (tmp_path / "site.key").write_bytes(made[0].key)
        return read()

    stage.source.load = load_while_the_key_changes  # type: ignore[assignment]
    stage.loop.look(times=2)
    stage.source.load = read
    assert texts(caplog) == []
    in_place(made[1], tmp_path)
    stage.loop.look(times=2)
    assert stage.names() == {"new.example"}
    assert texts(caplog) == []


def test_a_connection_keeps_what_it_began_with(
    stage: Stage, issuer: Issuer, made: list[Made], tmp_path: Path
) -> None:
    began_with = stage.source.context("old.example")
    in_place(made[1], tmp_path)
    stage.loop.look(times=2)
    for context, host in (
        (began_with, "old.example"),
        (stage.source.context("new.example"), "new.example"),
    ):
        _, client = connected(context, issuer.client_context(), host)
        assert client.version() == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        connected(stage.source.context("new.example"), issuer.client_context(), "old.example")


def test_a_reading_that_is_asked_for_waits_for_no_second_look(
    stage: Stage, made: list[Made], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aiowsgi.error")
    in_place(made[1], tmp_path)
    stage.renewal.read_now("SIGHUP")
    stage.loop.threads.pop()()
    assert stage.names() == {"new.example"}
    assert "Asked by SIGHUP" in caplog.text
    assert str(tmp_path / "site.pem") in caplog.text
    # Also where nothing has changed.
    before = stage.source.served
    stage.renewal.read_now("SIGHUP")
    stage.loop.threads.pop()()
    assert stage.source.served is not before


def test_a_reading_that_is_asked_for_during_a_look_comes_behind_it(stage: Stage) -> None:
    stage.loop.pass_time(INTERVAL)
    stage.renewal.read_now("SIGHUP")
    before = stage.source.served
    (look,) = stage.loop.threads
    stage.loop.threads.clear()
    look()
    assert stage.source.served is before
    stage.loop.threads.pop()()
    assert stage.source.served is not before


def test_a_look_that_hangs_is_alone_and_told_once(
    stage: Stage, made: list[Made], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        stage.loop.pass_time(INTERVAL)
    (hanging,) = stage.loop.threads
    (text,) = texts(caplog)
    assert "takes more than 60 s" in text
    stage.loop.threads.clear()
    in_place(made[1], tmp_path)
    hanging()
    stage.loop.look()
    assert stage.names() == {"new.example"}


def test_nothing_happens_once_it_is_closed(stage: Stage, made: list[Made], tmp_path: Path) -> None:
    in_place(made[1], tmp_path)
    stage.loop.look()
    stage.loop.pass_time(INTERVAL)
    stage.renewal.close()
    stage.loop.threads.pop()()
    assert stage.names() == {"old.example"}
    stage.loop.pass_time(100)
    stage.renewal.read_now("SIGHUP")
    assert stage.loop.threads == []


def test_no_thread_to_be_had_is_no_end(stage: Stage, made: list[Made], tmp_path: Path) -> None:
    def no_thread(run: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    in_place(made[1], tmp_path)
    stage.renewal._start_thread = no_thread
    stage.renewal.read_now("SIGHUP")
    stage.renewal._start_thread = stage.loop.start_thread
    stage.loop.look()  # It is still asked for.
    assert stage.names() == {"new.example"}


def test_a_defect_leaves_the_old_ones(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ZeroDivisionError("defect")

    stage.source.load = fail  # type: ignore[assignment]
    stage.renewal.read_now("SIGHUP")
    stage.loop.threads.pop()()
    assert stage.names() == {"old.example"}
    assert "ZeroDivisionError: defect" in caplog.text
    stage.loop.look()


def test_an_end_that_is_near_is_told_at_the_start_and_once_a_day(
    issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = issuer.issue("a.example", days=(-1, 10.5)).write(tmp_path, "site")
    stage = Stage([pair])
    (text,) = texts(caplog)
    assert "site.pem expires on" in text
    assert "in 10 days" in text
    stage.loop.look(times=3)
    assert len(texts(caplog)) == 1


def test_of_several_processes_one_tells_of_an_end_and_another_once_that_is_gone(
    issuer: Issuer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = issuer.issue("a.example", days=(-1, 10.5)).write(tmp_path, "site")
    other = Stage([pair], speaks=False)
    other.loop.look(times=2)
    assert texts(caplog) == []
    other.speaks = True
    other.loop.look()
    (text,) = texts(caplog)
    assert "site.pem expires on" in text


async def test_a_look_on_a_real_thread_ends_on_the_loop(made: list[Made], tmp_path: Path) -> None:
    pairs = [made[0].write(tmp_path, "site")]
    source = CertificateSource(pairs[0], lambda: load(pairs, server_context))
    loop = asyncio.get_running_loop()
    renewal = Renewal(source, loop=loop, context=contextvars.copy_context())
    try:
        in_place(made[1], tmp_path)
        renewal.read_now("the test")
        await asyncio.to_thread(
            eventually, lambda: source.served.leaves[0].names == {"new.example"}, "the new one"
        )
    finally:
        renewal.close()


def test_where_there_are_no_daemon_threads_there_are_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Thread(threading.Thread):
        def __init__(self, *, daemon: bool | None = None, **options: Any) -> None:
            if daemon:
                raise RuntimeError("daemon threads are disabled in this interpreter")
            super().__init__(**options)

    monkeypatch.setattr(threading, "Thread", Thread)
    ran = threading.Event()
    renewal._start_thread(ran.set)
    assert ran.wait(60)


def test_a_look_tells_apart_what_may_be_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    looks = [look_at([str(file)])]
    file.write_text("a")
    looks.append(look_at([str(file)]))
    file.write_text("ab")
    looks.append(look_at([str(file)]))
    file.chmod(0o600)
    looks.append(look_at([str(file)]))
    looks.append(look_at([str(file / "below")]))
    looks.append(look_at(["\0"]))
    assert len(set(looks)) == len(looks)


def test_a_change_back_is_none() -> None:
    changes = Changes(((1,),))
    assert not changes.are_complete(((2,),))
    assert not changes.are_complete(((1,),))
    assert not changes.are_complete(((2,),))
    assert changes.are_complete(((2,),))
    changes.note(((2,),))
    assert not changes.are_complete(((2,),))
