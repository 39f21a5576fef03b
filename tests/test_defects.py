"""A defect that a server logs makes the test fail in which it shows."""

import logging
from http.client import HTTPConnection
from pathlib import Path

import pytest
from defects import no_defects
from served_process import PATIENCE, served

from aiowsgi.exchange.transitions import IllegalEvent, log_defect


def test_a_logged_defect_is_found_in_this_process(defects: list[str]) -> None:
    defect = IllegalEvent("a stream in OPEN got SENT")
    with pytest.raises(AssertionError, match="a stream in OPEN got SENT"), no_defects():
        log_defect(defect)
    # The fixture of all tests has found it, too.
    (message,) = defects
    assert message == "A defect of the server: a stream in OPEN got SENT; its connection is cut"
    defects.clear()


def test_what_else_is_logged_is_no_defect(defects: list[str]) -> None:
    logging.getLogger("aiowsgi.error").critical("Serving %s failed", "GET /")
    assert not defects


def test_a_defect_is_found_in_the_log_of_another_process(tmp_path: Path) -> None:
    source = """
        from aiowsgi.exchange.transitions import IllegalEvent, log_defect

        def application(environ, start_response):
            log_defect(IllegalEvent("a stream in OPEN got SENT"))
            start_response("204 No Content", [])
            return []
        """
    with pytest.raises(AssertionError, match="a stream in OPEN got SENT"):
        ask_and_stop(tmp_path, source)


def ask_and_stop(folder: Path, source: str) -> None:
    """Serve an application in a process of its own, for one request."""
    with served(folder, source) as server:
        client = HTTPConnection("127.0.0.1", server.port(), timeout=PATIENCE)
        client.request("GET", "/")
        assert client.getresponse().status == 204
        client.close()
        assert server.stop() == 0


# As a supervisor says it of a worker that its test knows nothing of.
KILLED = """
import sys
print("ERROR Worker 7 has not answered for 60 s (--timeout-worker)", file=sys.stderr, flush=True)
def application(environ, start_response):
    start_response("204 No Content", [])
    return []
"""


def test_a_worker_that_was_killed_is_found_where_nobody_waits_for_that(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Worker 7 has not answered for 60 s"):
        ask_and_stop(tmp_path, KILLED)
    with served(tmp_path, KILLED) as server:
        server.said("Worker 7 has not answered")
        server.port()
        assert server.stop() == 0
