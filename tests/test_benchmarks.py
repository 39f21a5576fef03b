"""The benchmark without servers: what it makes of samples, reports, files and its command line."""

import contextlib
import dataclasses
import itertools
import json
import re
import socket
import ssl
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tools import tool
from waiting import eventually

from benchmarks import __main__ as command_line
from benchmarks import (
    certificate,
    client,
    footprint,
    handshakes,
    instructions,
    offered,
    page,
    pair,
    pair_report,
    publish,
    regress,
    report,
)
from benchmarks.apps import HELLO_BODY
from benchmarks.figures import RATE, Spread, number
from benchmarks.peers import PEERS, Peer
from benchmarks.process import ProcessError, ServerProcess, free_port
from benchmarks.results import RowResult, Run, Sample, summarise
from benchmarks.rows import ROWS, Row
from benchmarks.run import Benchmark, Conditions

ROOT = Path(__file__).parent.parent
HELLO = next(row for row in ROWS if row.name == "hello")
OURS = report.OURS[0]


def sample(round: int, rate: float, **more: object) -> Sample:
    figures = {"requests_per_second": rate, "p50": 0.001, "p99": 0.002, "resident_bytes": 2**20}
    values = {"errors": 0, "client_load": 0.5, "interference": 0.0, **more}
    return Sample(round, figures, **values)  # type: ignore[arg-type]


def run_of(**samples: list[Sample]) -> Run:
    facts = dict.fromkeys(
        ("kernel", "processor", "load", "python", "commit", "wrk", "server core", "client core"),
        "some",
    )
    result = RowResult(connections=64, threads=8, samples=samples, notes=["late: failed: why."])
    return Run(
        {"date": "2026-01-02 03:04 UTC", **facts}, {OURS: "1.0"}, [], 3, 5, {"hello": result}
    )


# Statistics.


def test_a_spread_is_the_median_and_the_range() -> None:
    assert Spread.of([9.0, 1.0, 3.0]) == Spread(3.0, 1.0, 9.0)
    assert Spread.of([9.0, 1.0, 3.0]).text(digits=0) == "3 (1-9)"


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (123.45, "123.5"), (1.234, "1.23")]
)
def test_numbers_keep_about_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_ratios_pair_the_rounds_and_leave_out_those_without_a_partner() -> None:
    theirs = [sample(1, 50), sample(2, 300), sample(4, 1)]
    ours = [sample(1, 100), sample(2, 100), sample(3, 100)]
    result = RowResult(64, 8, {OURS: ours, "other": theirs})
    ratio = summarise(result, [RATE], [OURS])["other"].ratios["requests_per_second", OURS]
    assert ratio == Spread(1.75, 0.5, 3.0)


def test_a_server_is_not_compared_with_itself_and_one_without_samples_is_left_out() -> None:
    summaries = summarise(RowResult(64, 8, {OURS: [sample(1, 100)], "late": []}), [RATE], [OURS])
    assert list(summaries) == [OURS]
    assert not summaries[OURS].ratios


# What clients print.

WRK = """\
Running 1s test @ http://127.0.0.1:1/
  Latency Distribution
     50%  250.00us
     75%    1.00ms
     99%    1.50s
  2000 requests in 1.00s, 3.00MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
  Non-2xx or 3xx responses: 5
Requests/sec:   1999.50
Transfer/sec:      2.50MB
"""


def test_what_wrk_prints_is_read_in_seconds_bytes_and_errors_of_all_kinds() -> None:
    assert client.parse(WRK) == client.Findings(
        {
            "requests_per_second": 1999.5,
            "bytes_per_second": 2.5 * 2**20,
            "p50": 0.00025,
            "p99": 1.5,
        },
        errors=15,
    )


@pytest.mark.parametrize(
    "text", [WRK.replace("2000 requests", "0 requests"), WRK.replace("99%", "98%"), ""]
)
def test_no_request_or_no_figure_is_an_error_and_not_the_best_server(text: str) -> None:
    with pytest.raises(client.ClientError):
        client.parse(text)


def test_what_the_client_of_the_row_cpu_prints_is_read() -> None:
    latencies = [number / 100 for number in range(100, 0, -1)]
    text = json.dumps(
        {"burned": 8, "burn_seconds": 4.0, "latencies": latencies, "failed": 1, "wrong": 2}
    )
    figures = {"requests_per_second": 2.0, "p50": 0.5, "p99": 0.99}
    assert client.parse_fairness(text) == client.Findings(figures, errors=3)


# Tables.


def test_a_table_marks_errors_and_a_client_at_its_limit_and_says_who_took_the_machine() -> None:
    run = run_of(
        **{
            OURS: [sample(1, 100)],
            "broken": [sample(1, 300, errors=7)],
            "fast": [sample(1, 200, client_load=0.99, interference=0.5)],
        }
    )
    text = report.table(HELLO, run.rows["hello"], rounds=1, duration=5)
    assert "| broken !" in text
    assert "| fast *" in text
    assert "others took up to 50% of a core" in text
    assert "the figures do not count: broken." in text
    assert "late: failed: why." in text
    # 100 to 200; the broken one is no comparison.
    assert f"requests/s of {OURS}, times that of others: 0.50 fast." in text


def test_every_line_of_a_table_has_as_many_cells_as_its_header() -> None:
    run = run_of(**{OURS: [sample(1, 100)], "other": [sample(2, 50)]})
    lines = [line for line in report.tables(run).splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1


# The file of a run.


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = run_of(**{OURS: [sample(1, 100), sample(2, 110)]})
    run.write(tmp_path / "run.json")
    assert Run.read(tmp_path / "run.json") == run


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": {"hello": {}}}'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.json|Expecting value"):
        Run.read(path)


# The pages that show a run.


def cells_of(block: str) -> list[list[str]]:
    lines = [line for line in block.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines]


def test_the_page_shows_ours_first_the_best_bold_and_no_broken_figure() -> None:
    run = run_of(
        quick=[sample(1, 300)], broken=[sample(1, 900, errors=1)], **{OURS: [sample(1, 2000)]}
    )
    lines = cells_of(page.block(run, link="r"))
    assert lines[0] == [OURS, "quick", "broken"]
    assert lines[2] == ["**2,000**", "300.0", "-"]


def test_a_run_replaces_what_stood_in_the_page(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "page.md"
    path.parent.mkdir()
    path.write_text("before\n<!-- benchmark -->\nlast\n<!-- end -->\nafter\n<!-- end -->\n")
    run = run_of(**{OURS: [sample(1, 100)]})
    for _ in range(2):
        page.write(run, result=tmp_path / "results" / "day.json", page=path)
    text = path.read_text()
    assert text.startswith("before\n<!-- benchmark -->\n")
    assert text.endswith("<!-- end -->\nafter\n<!-- end -->\n")
    assert "last" not in text
    assert "Measured on 2026-01-02 03:04 UTC" in text
    assert "(../results/day.json)" in text


def test_a_page_without_a_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("nothing\n")
    with pytest.raises(ValueError, match="has 0 places"):
        page.write(run_of(), result=tmp_path / "day.json", page=path)


def shown(path: Path, kind: str) -> str:
    """Return what stands in a page of this repository between the marks of a kind of result."""
    match = re.search(rf"<!-- {kind} -->\n(.*?)<!-- end -->", path.read_text(), re.DOTALL)
    assert match is not None
    return match[1]


def linked(text: str) -> str:
    """Return the file of results that a text leads to, without its suffix."""
    match = re.search(r"\((\S+/results/\S+)\.json\)", text)
    assert match is not None
    return match[1]


def test_the_page_of_this_repository_shows_a_run_as_it_was_taken() -> None:
    text = shown(publish.PAGE, "benchmark")
    run = Run.read(publish.PAGE.parent / f"{linked(text)}.json")
    assert text == page.block(run, link=linked(text))


def test_the_pages_of_this_repository_show_one_comparison() -> None:
    text = shown(publish.PAGE, "pair")
    link = f"{linked(text)}.json"
    found = pair_report.Pairs.read(publish.PAGE.parent / link)
    assert text == pair_report.block(found, link)
    assert shown(ROOT / "README.md", "benchmark") == pair_report.short_block(found)


# What is run.


class Counted(Benchmark):
    """Takes no samples, but notes whom it was asked for."""

    def __init__(self, rounds: int, broken: str = "") -> None:
        self._conditions = Conditions(rounds, 5, 64, 8, 1000, server_core=0, client_core=1)
        self._broken = broken
        self.visits: list[tuple[int, str]] = []

    def _measure(self, row: Row, peer: Peer, number: int) -> Sample:
        self.visits.append((number, peer.name))
        if peer.name == self._broken:
            raise ProcessError("ended\n    with a long log")
        figures = dict.fromkeys((figure.key for figure in (*row.headlines, *row.figures)), 100.0)
        return dataclasses.replace(sample(number, 100), figures=figures)


def test_each_round_visits_every_server_once_and_begins_with_another() -> None:
    benchmark = Counted(rounds=3)
    result, well = benchmark.run_row(HELLO, PEERS[:3])
    a, b, c = (peer.name for peer in PEERS[:3])
    assert well
    assert benchmark.visits == [
        *((1, a), (1, b), (1, c)),
        *((2, b), (2, c), (2, a)),
        *((3, c), (3, a), (3, b)),
    ]
    assert {name: len(taken) for name, taken in result.samples.items()} == {a: 3, b: 3, c: 3}


def test_a_server_that_fails_is_left_out_of_later_rounds_and_named() -> None:
    broken = PEERS[1].name
    benchmark = Counted(rounds=3, broken=broken)
    result, well = benchmark.run_row(HELLO, PEERS[:3])
    assert not well
    assert sum(name == broken for _, name in benchmark.visits) == 1
    assert result.notes == [f"{broken}: failed: ended."]


def test_servers_without_an_option_for_processes_are_left_out_of_that_row() -> None:
    row = next(row for row in ROWS if row.workers > 1)
    waitress = next(peer for peer in PEERS if peer.name == "waitress")
    result, well = Counted(rounds=1).run_row(row, [PEERS[0], waitress])
    assert well
    assert list(result.samples) == [PEERS[0].name]
    assert result.notes == ["Without an option for several processes: waitress."]


def test_servers_without_a_certificate_are_left_out_of_rows_with_tls() -> None:
    row = next(row for row in ROWS if row.tls)
    waitress = next(peer for peer in PEERS if peer.name == "waitress")
    result, well = Counted(rounds=1).run_row(row, [PEERS[0], waitress])
    assert well
    assert list(result.samples) == [PEERS[0].name]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_command_has_no_gaps_and_says_where_to_listen(peer: Peer) -> None:
    for workers in (1, 2):
        arguments = peer.arguments(
            port=4321, threads=5, workers=workers, application="a:b", many=True
        )
        assert not [part for part in arguments if re.search(r"\{\w*\}", part)]
        assert any("4321" in part for part in arguments)
        assert set(peer.many) <= set(arguments)
    if peer.tls:
        arguments = peer.arguments(
            port=4321, threads=5, workers=1, application="a:b", many=True, certificate=("/c", "/k")
        )
        assert not [part for part in arguments if re.search(r"\{\w*\}", part)]
        assert arguments.index("/c") < arguments.index("/k")
    # Notes stand in a page, where a test takes what begins with dashes for options of ours.
    assert "--" not in peer.note


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_no_figure_of_a_row_is_shown_twice(row: Row) -> None:
    shown = [figure.key for figure in (*row.headlines, *row.figures)]
    assert len(shown) == len(set(shown))
    assert row.script is None or row.script.is_file()


# The command line.


def test_rows_are_taken_in_their_own_order_and_all_means_every_one() -> None:
    assert [row.name for row in command_line.select("row", ["browser", "hello"], ROWS)] == [
        "hello",
        "browser",
    ]
    assert command_line.select("row", ["all"], ROWS) == list(ROWS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "no such row: nonsense (there are: hello, "),
        (["hello", "--peers", "apache"], "no such peer: apache (there are: "),
        (["hello", "--rounds", "0"], "'0' is not a whole number of at least 1"),
        ([], "required: ROW"),
    ],
)
def test_a_wrong_command_ends_with_a_message_and_status_2(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Accepted by mistake, it must not install and measure here.
    monkeypatch.setattr(command_line, "measure", lambda *_: 0)
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_report_prints_the_tables_of_a_run_and_draws_where_that_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "2026-01-02-0304.json"
    run_of(**{OURS: [sample(1, 100)], "other": [sample(1, 50)]}).write(path)
    assert command_line.main(["report", str(path)]) == 0
    printed = capsys.readouterr()
    assert "### hello:" in printed.out
    drawn = path.with_suffix(".png")
    assert (str(drawn) if drawn.exists() else "no pictures") in printed.err


def test_report_takes_the_newest_run_and_says_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(publish, "FOLDER", tmp_path)
    monkeypatch.setattr(publish, "draw", lambda run, path: None)
    assert command_line.main(["report"]) == 2
    assert "there is no result in" in capsys.readouterr().err
    for day, rate in (("2026-01-02-0304", 111.0), ("2026-02-02-0304", 222.0)):
        run_of(**{OURS: [sample(1, rate)]}).write(tmp_path / f"{day}.json")
    (tmp_path / "soak-uvloop.json").write_text("{}")
    assert command_line.main(["report"]) == 0
    assert "222.0" in capsys.readouterr().out


def test_report_of_another_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["report", str(tmp_path / "missing.json")]) == 2
    assert "missing.json" in capsys.readouterr().err


# The client that makes full handshakes.


@pytest.fixture
def certificate_of_a_run(tmp_path: Path) -> tuple[str, str]:
    tool("openssl", package="openssl")
    return certificate.made(tmp_path / "certificate")


@contextlib.contextmanager
def tls_server(paths: tuple[str, str], answer: bytes) -> Iterator[tuple[int, ssl.SSLContext]]:
    """Answer each connection on a port, until the block ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*paths)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            with sock, contextlib.suppress(OSError), context.wrap_socket(sock, True) as secure:
                secure.recv(65536)
                secure.sendall(answer)
                secure.unwrap()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1], context
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        listening.close()


def test_handshakes_are_full_ones_and_each_is_counted(
    certificate_of_a_run: tuple[str, str],
) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n" + HELLO_BODY
    with tls_server(certificate_of_a_run, answer) as (port, context):
        report = handshakes.main(port, 2, 0.2)
        assert not report.failed
        assert report.latencies
        assert context.session_stats()["accept_good"] == len(report.latencies)
        assert context.session_stats()["hits"] == 0
    findings = client.parse_handshakes(json.dumps(dataclasses.asdict(report)))
    assert findings.figures["requests_per_second"] == len(report.latencies) / 0.2
    assert findings.figures["p50"] <= findings.figures["p99"]


def test_a_wrong_answer_to_a_handshake_is_a_failure_and_none_at_all_an_error(
    certificate_of_a_run: tuple[str, str],
) -> None:
    with tls_server(certificate_of_a_run, b"HTTP/1.1 500 no\r\n\r\n") as (port, _):
        report = handshakes.main(port, 1, 0.05)
    assert report.failed
    with pytest.raises(client.ClientError):
        client.parse_handshakes(json.dumps(dataclasses.asdict(report)))


def test_a_certificate_is_made_once_for_a_run(certificate_of_a_run: tuple[str, str]) -> None:
    made = Path(certificate_of_a_run[0])
    before = made.read_text()
    assert certificate.made(made.parent) == certificate_of_a_run
    assert made.read_text() == before


# The client that offers requests at a fixed rate.


class Answering:
    """A server that answers each request with the same bytes, the first one late."""

    def __init__(self, answer: bytes, *, late: float = 0.0) -> None:
        self._answer = answer
        self._late = late
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.connections = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        # Closing alone does not end an accept() that waits.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=[sock], daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while sock.recv(65536):
                late, self._late = self._late, 0.0
                threading.Event().wait(late)
                sock.sendall(self._answer)
                if b"close" in self._answer:
                    # Serves nothing more, but leaves the end to the client.
                    while sock.recv(65536):
                        pass
                    break


@pytest.fixture
def answering() -> Iterator[Callable[..., Answering]]:
    with contextlib.ExitStack() as stack:

        def start(answer: bytes, *, late: float = 0.0) -> Answering:
            server = Answering(answer, late=late)
            stack.callback(server.close)
            return server

        yield start


def test_requests_that_are_due_while_the_server_stalls_are_timed_from_then(
    answering: Callable[..., Answering],
) -> None:
    server = answering(b"HTTP/1.1 200 OK\r\n\r\n" + HELLO_BODY, late=0.3)
    found = offered.measure(server.port, rate=200, seconds=0.2, connections=1)
    assert found.offered > 20
    assert len(found.latencies) == found.offered
    assert found.in_time == found.failed == 0
    # Not before 0.3 s, and the last one was due before 0.2 s.
    assert min(found.latencies) > 0.1


def test_a_server_that_announces_the_end_of_connections_fails_nothing(
    answering: Callable[..., Answering],
) -> None:
    server = answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + HELLO_BODY)
    found = offered.measure(server.port, rate=200, seconds=0.2, connections=2)
    assert found.failed == 0
    # One for each request, at least: the next one is begun before it is needed.
    assert server.connections >= found.offered


def test_wrong_answers_are_failures_and_no_latencies(answering: Callable[..., Answering]) -> None:
    server = answering(b"HTTP/1.1 500 Oops\r\n\r\n" + HELLO_BODY)
    found = offered.measure(server.port, rate=200, seconds=0.2, connections=2)
    assert found.failed == found.offered > 20
    assert not found.latencies


def test_requests_are_due_at_random_at_the_rate_and_always_at_the_same_times() -> None:
    due = list(offered.schedule(1000, 10))
    assert due == list(offered.schedule(1000, 10))
    assert due == sorted(due)
    assert due[0] > 0
    assert due[-1] < 10
    assert 9_700 < len(due) < 10_300
    gaps = [later - sooner for sooner, later in itertools.pairwise(due)]
    # A Poisson process: the gaps spread as much as they are long.
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)


def test_what_the_client_at_a_fixed_rate_prints_is_read() -> None:
    latencies = [number / 1000 for number in range(1000, 0, -1)]
    seen = offered.Report(
        2.0, offered=1010, in_time=600, latencies=latencies, delays=[0.5, 0.1], failed=10
    )
    found = client.parse_offered(json.dumps(dataclasses.asdict(seen)))
    assert found.errors == 10
    assert found.figures["p50"] == found.distribution["50"] == 0.5
    assert found.figures["p99"] == found.distribution["99"] == 0.99
    assert found.figures["p999"] == 0.999
    assert found.figures["requests_per_second"] == 300
    assert found.figures["sustained"] == 600 / 1010
    assert found.figures["client_delay"] == 0.5


def test_a_server_that_does_not_keep_up_is_named() -> None:
    slow, quick = sample(1, 100), sample(1, 100)
    slow.figures["sustained"], quick.figures["sustained"] = 0.97, 0.99
    result = run_of(slow=[slow], quick=[quick]).rows["hello"]
    text = report.table(HELLO, result, rounds=1, duration=5)
    assert "Could not serve the requests as fast as they came: slow." in text


# What is counted for the report on regressions.


def test_instructions_for_a_request_are_a_difference_of_two_counts() -> None:
    few, many = instructions.FEW, instructions.MANY
    counts = [
        *(9999, 70 + few * 3, 70 + many * 3),
        *(8888, 60 + few * 5, 60 + many * 5),
        *(7777, 50 + few * 7, 50 + many * 7),
    ]
    assert instructions.per_request(counts) == {"hello": 3, "browser": 5, "varied": 7}


def test_only_requests_of_the_row_varied_differ() -> None:
    for kind in instructions.KINDS:
        first, second = (instructions.request(kind, number) for number in (1, 2))
        assert (first != second) == (kind == "varied")
        assert first.endswith(b"\r\n\r\n")


def test_the_total_of_a_profile_is_found() -> None:
    assert instructions.read_total("events: Ir\nfn=(1)\n12 3456\nsummary: 789\n") == 789
    with pytest.raises(OSError, match="no total"):
        instructions.read_total("events: Ir\n")


def test_the_program_that_is_counted_serves_its_requests_and_marks_each_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marks: list[None] = []
    monkeypatch.setattr("os.getppid", lambda: marks.append(None))
    instructions._drive()
    assert len(marks) == 3 * len(instructions.KINDS)


def test_without_valgrind_the_report_says_so_in_one_line_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(instructions, "program", lambda name: None)
    monkeypatch.setattr(regress, "measure_ratios", lambda: {"hello": 2.5})
    assert command_line.main(["regress"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("not counted, valgrind is not installed")
    assert second.endswith("hello 2.5")


def test_a_report_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    valgrind = tmp_path / "valgrind"
    valgrind.write_text("#!/bin/sh\necho this is broken >&2\nexit 3\n")
    valgrind.chmod(0o755)
    monkeypatch.setattr(instructions, "program", lambda name: str(valgrind))
    assert command_line.main(["regress"]) == 1
    assert "this is broken" in capsys.readouterr().err


# What several workers weigh.


def test_each_variant_starts_as_many_workers_for_the_same_site() -> None:
    for variant in footprint.VARIANTS:
        line = footprint.command(variant, 4321)
        assert line[line.index("--workers") + 1] == str(footprint.WORKERS)
        assert line.count("--workers") == 1
        assert footprint.SITE.application in line
        assert ("preload" in variant.name) == ("--preload" in line)


class Weighed(footprint.Installation):
    """Installs nothing."""

    def __init__(self) -> None:
        super().__init__(ROOT, ROOT / "none")

    def prepare(self) -> None:
        pass

    def install(self, name: str, requirements: object) -> None:
        pass

    def versions(self, distributions: object) -> dict[str, str]:
        return {"django": "5.2"}


def weights(monkeypatch: pytest.MonkeyPatch, broken: str = "") -> footprint.Footprints:
    """Return what is found where each variant weighs as many MiB as there were before, and one."""
    count = itertools.count(1)

    def weigh(variant: footprint.Variant, *_: object) -> int:
        if variant.name == broken:
            raise ProcessError("ended")
        return next(count) << 20

    monkeypatch.setattr(footprint, "weigh", weigh)
    monkeypatch.setattr(footprint, "Client", lambda: None)
    return footprint.measure(Weighed(), 2)


def test_the_table_has_a_line_for_each_variant_and_the_least_is_bold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = footprint.table(weights(monkeypatch)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        variant.name for variant in footprint.VARIANTS
    ]
    assert "**4.0 (1.0-7.0)**" in lines[2]
    assert sum("**" in line for line in lines) == 1


def test_a_variant_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = weights(monkeypatch, broken="granian")
    assert list(found.samples) == [v.name for v in footprint.VARIANTS if v.name != "granian"]


def test_weights_replace_those_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = weights(monkeypatch)
    page, path = tmp_path / "page.md", tmp_path / "footprint.json"
    page.write_text("before\n<!-- footprint -->\nold\n<!-- end -->\nbehind\n")
    found.write(path)
    assert footprint.Footprints.read(path) == found
    footprint.show(found, path, page)
    text = page.read_text()
    assert text.startswith("before\n<!-- footprint -->\n| server ")
    assert text.endswith("<!-- end -->\nbehind\n")
    assert "(footprint.json)" in text
    page.write_text("nothing")
    with pytest.raises(ValueError, match="0 places"):
        footprint.show(found, path, page)


def test_the_page_shows_weights_as_they_were_taken() -> None:
    text = shown(footprint.PAGE, "footprint")
    link = f"{linked(text)}.json"
    assert text == footprint.block(footprint.Footprints.read(footprint.PAGE.parent / link), link)


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="nothing tells what is shared"
)
def test_a_page_that_processes_share_counts_once() -> None:
    # 64 MiB that the child shares with its parent.
    source = (
        "import mmap, os, socket, time\n"
        "page = mmap.mmap(-1, 64 << 20)\n"
        "for place in range(0, 64 << 20, 4096): page[place] = 1\n"
        "os.fork()\n"
        "sum(page[place] for place in range(0, 64 << 20, 4096))\n"
        "sock = socket.create_server(('127.0.0.1', {port}), reuse_port=True)\n"
        "time.sleep(600)\n"
    )
    port = free_port()
    command = [sys.executable, "-c", source.format(port=port)]
    with ServerProcess(command, port=port, cores=None, env={}) as server:
        eventually(lambda: server.resident_bytes() > 128 << 20, "both have all of it")
        assert 64 << 20 < server.proportional_bytes() < 128 << 20


# Servers in pairs.


WRK_BURST = """Running 60s test @ http://127.0.0.1:8765/
  719 requests in 200.13ms, 92.68KB read
  Socket errors: connect 1, read 0, write 0, timeout 2
Requests/sec:   3592.66
"""


def test_what_wrk_prints_of_a_burst_is_read_as_requests_or_as_bytes() -> None:
    burst = client.parse_burst(WRK_BURST, counts_bytes=False)
    assert (burst.amount, burst.errors) == (719, 3)
    assert burst.seconds == pytest.approx(0.20013)
    assert client.parse_burst(WRK_BURST, counts_bytes=True).amount == pytest.approx(92.68 * 1024)


def pairs_of(**servers: pair_report.Bursts) -> pair_report.Pairs:
    facts = dict.fromkeys(("kernel", "processor", "python", "commit", "wrk"), "some")
    rows = {"browser": servers}
    return pair_report.Pairs({"date": "2026-01-02 03:04 UTC", **facts}, {OURS: "1.0"}, 3, rows)


SLOW_AND_FAST = {
    "slow": pair_report.Bursts([10.0, 20.0, 10.0], [0.5, 0.5, 0.5]),
    "fast": pair_report.Bursts([20.0, 40.0, 30.0], [0.1, 0.0, 0.2]),
}


def test_bursts_are_compared_with_those_beside_them() -> None:
    found = pairs_of(**SLOW_AND_FAST)
    assert found.rate("browser", "slow") == pair_report.Quartiles(1.0, 1.0, 1.0)
    assert found.rate("browser", "fast") == pair_report.Quartiles(2.0, 2.0, 3.0)
    # A burst without an answer says nothing of what one costs.
    cost = found.cost("browser", "fast")
    assert cost is not None
    assert cost.median == pytest.approx(0.3)
    one = pair_report.Bursts([1.0, 1.0, 0.0], [0.5, 0.0, 0.0])
    assert pairs_of(one=one).cost("browser", "one") is None


def test_a_burst_adds_its_rate_and_what_it_has_cost() -> None:
    bursts = pair_report.Bursts()
    bursts.add(client.Burst(100, 0.5, errors=1), seconds=0.2)
    bursts.add(client.Burst(0, 0.5, errors=1), seconds=0.2)
    assert bursts == pair_report.Bursts([200.0, 0.0], [0.002, 0.0], errors=2)


def test_the_table_of_a_pair_marks_who_failed() -> None:
    row = next(row for row in ROWS if row.name == "browser")
    failing = pair_report.Bursts([10.0, 20.0, 10.0], [0.5, 0.5, 0.5], errors=1)
    text = pair_report.table(row, pairs_of(**SLOW_AND_FAST, failing=failing))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:6]]
    assert lines[2][:2] == ["slow", "1.00 (1.00-1.00)"]
    assert lines[3][:2] == ["fast", "2.00 (2.00-3.00)"]
    assert "| failing ! " in text
    assert text.endswith("! requests failed")


def test_a_comparison_is_read_as_it_was_written_and_replaces_that_in_the_pages(
    tmp_path: Path,
) -> None:
    failing = pair_report.Bursts([10.0, 20.0, 10.0], [0.5, 0.5, 0.5], errors=1)
    found = pairs_of(**SLOW_AND_FAST, failing=failing)
    path = tmp_path / "pair.json"
    found.write(path)
    assert pair_report.Pairs.read(path) == found
    pages = [tmp_path / "README.md", tmp_path / "docs" / "performance.md"]
    (tmp_path / "docs").mkdir()
    for file, mark in zip(pages, ("benchmark", "pair"), strict=True):
        file.write_text(f"before\n<!-- {mark} -->\nold\n<!-- end -->\nbehind\n<!-- end -->\n")
    pair_report.show(found, path, tmp_path)
    for file in pages:
        text = file.read_text()
        assert text.startswith("before\n<!-- ")
        assert text.endswith("<!-- end -->\nbehind\n<!-- end -->\n")
        assert "old" not in text
        assert text.count("**") >= 2
    assert cells_of(pages[0].read_text())[2] == ["1.00", "**2.00**", "-"]
    assert "(../pair.json)" in text
    pages[1].write_text("nothing")
    with pytest.raises(ValueError, match="no place, or several"):
        pair_report.show(found, path, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hello", "a"], "a: not NAME=SERVER with one of the servers aiowsgi-h11"),
        (["hello", "a=apache"], "a=apache: not NAME=SERVER"),
        (["hello", "a=granian@/nowhere"], "/nowhere is no checkout"),
        (["hello", "a=granian", "a=gunicorn"], "two servers have the same name"),
        (["nope", "a=granian"], "no such row: nope"),
        (["cpu", "a=granian"], "the row cpu is not made of bursts"),
        (["hello", "a=granian", "--bursts", "1"], "at least 2"),
    ],
)
def test_a_wrong_comparison_ends_with_a_message_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(["pair", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_all_rows_of_a_comparison_are_made_of_bursts() -> None:
    assert [row.name for row in pair.select_rows("all")] == list(pair.ALL)


class Bursting:
    """In the place of servers and client: answers a request for each time that it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    @contextlib.contextmanager
    def server(self, row: Row, peer: Peer, **_: object) -> Iterator[tuple["Bursting", int]]:
        yield self, PEERS.index(peer)

    def cpu_by_thread(self) -> dict[int, float]:
        # The first thread has ended before the second reading.
        return {1: 5.0} if len(self.asked) % 2 == 0 else {2: 0.25}

    def burst(self, row: Row, port: int, *_: object) -> client.Burst:
        self.asked.append(port)
        return client.Burst(len(self.asked), 1.0, errors=0)


def test_bursts_alternate_there_and_back() -> None:
    fake = Bursting()
    contenders = [pair.contender(f"{peer.name}={peer.name}") for peer in PEERS[:3]]
    found = pair.measure_row(HELLO, contenders, {ROOT: fake}, fake, 2, (0, 1))  # type: ignore[dict-item, arg-type]
    assert fake.asked == [0, 1, 2, *(0, 1, 2), *(2, 1, 0)]
    assert [bursts.rates for bursts in found.values()] == [[4.0, 9.0], [5.0, 8.0], [6.0, 7.0]]


def test_servers_without_a_certificate_are_left_out_of_pairs_with_tls() -> None:
    fake = Bursting()
    row = next(row for row in ROWS if row.tls)
    contenders = [pair.contender(f"{name}={name}") for name in ("granian", "waitress")]
    found = pair.measure_row(row, contenders, {ROOT: fake}, fake, 2, (0, 1))  # type: ignore[dict-item, arg-type]
    assert list(found) == ["granian"]


# What the page about the benchmark promises.


def test_the_page_names_every_row_server_and_option() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text()
    options = {
        string
        for action in command_line.build_parser()._actions
        for string in action.option_strings
        if string.startswith("--") and string != "--help"
    }
    for name in (*(row.name for row in ROWS), *(peer.name for peer in PEERS)):
        assert re.search(rf"^\|.*`{name}`.*\|", page, re.MULTILINE), name
    for option in options:
        assert f"`{option} " in page
