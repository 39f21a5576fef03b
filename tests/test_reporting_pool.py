"""What a pool with a row on the scoreboard says there of its threads and jobs. In memory."""

import threading
from collections.abc import Callable, Iterator

import pytest
from waiting import PATIENCE, eventually

from aiowsgi.bridge.pool.jobs import Job
from aiowsgi.bridge.pool.reporting_pool import ReportingPool
from aiowsgi.observe.scoreboard import Row, Scoreboard


class House:
    """A pool with two threads, its row, and jobs that end when they are told to."""

    def __init__(self) -> None:
        self.row: Row = Scoreboard(1, 4).row(0)
        self.gates: list[threading.Event] = []
        self.pool = ReportingPool(
            2,
            queue_size=2,
            spare_threads=1,
            max_lost_threads=1,
            queue_target=PATIENCE,
            scheduling=None,
            report=self.row,
            describe=self.describe,
        )
        self.names: dict[Callable[[], None], str] = {}

    def describe(self, run: Callable[[], None]) -> str:
        return self.names[run]

    def begin(self, name: str) -> tuple[Job, threading.Event]:
        gate = threading.Event()

        def run() -> None:
            assert gate.wait(PATIENCE)

        self.names[run] = name
        self.gates.append(gate)
        return self.pool.enqueue(run), gate

    def running(self) -> list[str]:
        return [request.text for request in self.row.requests()]

    def load(self) -> tuple[int, int, int]:
        reading = self.row.read()
        return reading.threads, reading.jobs, reading.lost


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    for gate in house.gates:
        gate.set()
    house.pool.stop(lambda: None)
    house.pool.join()
    assert house.running() == []
    assert house.load() == (2, 0, 0)


def test_jobs_that_run_are_told_until_they_end(house: House) -> None:
    assert house.load() == (2, 0, 0)
    _, first = house.begin("first")
    eventually(lambda: house.running() == ["first"])
    house.begin("second")
    eventually(lambda: house.running() == ["first", "second"])
    house.begin("third")
    assert house.load() == (2, 3, 0)
    first.set()
    eventually(lambda: house.running() == ["second", "third"])
    eventually(lambda: house.load() == (2, 2, 0))
    # The third has the slot of the first.
    assert house.row.read().slots == 2


def test_a_job_that_is_cancelled_in_the_queue_is_not_told(house: House) -> None:
    for name in ("first", "second"):
        house.begin(name)
    eventually(lambda: house.load() == (2, 2, 0))
    job, _ = house.begin("third")
    assert job.cancel()
    assert house.load() == (2, 2, 0)
    eventually(lambda: house.running() == ["first", "second"])


def test_a_lost_job_is_told_and_another_may_run_in_its_place(house: House) -> None:
    job, _ = house.begin("lost")
    eventually(lambda: house.running() == ["lost"])
    assert job.write_off()
    assert house.load() == (3, 1, 1)


def test_a_thread_that_waits_for_a_client_makes_room_for_another_job(house: House) -> None:
    begun, go_on, left = threading.Event(), threading.Event(), threading.Event()
    house.gates.append(go_on)

    def run() -> None:
        house.pool.release_slot()
        begun.set()
        go_on.wait(PATIENCE)
        house.pool.reclaim_slot()
        left.set()
        house.gates[-1].wait(PATIENCE)

    house.names[run] = "waits"
    house.pool.enqueue(run)
    assert begun.wait(PATIENCE)
    assert house.load() == (3, 1, 0)
    house.gates.append(threading.Event())
    go_on.set()
    assert left.wait(PATIENCE)
    assert house.load() == (2, 1, 0)


def test_jobs_that_are_queued_in_one_pass_are_told_once_the_pool_is_woken(house: House) -> None:
    for name in ("first", "second"):
        house.begin(name)
    # A thread that is still on its way would see the jobs that follow, and tell of them.
    eventually(lambda: house.running() == ["first", "second"])
    house.names[house.gates[0].set] = "woken"
    told: list[int] = []
    note_jobs = house.row.note_jobs

    def note(jobs: int) -> None:
        told.append(jobs)
        note_jobs(jobs)

    house.row.note_jobs = note  # type: ignore[method-assign]
    for _ in range(2):
        house.pool.enqueue(house.gates[0].set, wake=False)
    assert told == []
    house.pool.wake()
    assert told == [4]
