"""What a supervisor decides, in memory: no process is started, and the clock is a number."""

import pytest
from extent import examples
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aiowsgi.process.supervisor.decisions.plan import (
    START_FAILED,
    Action,
    Announce,
    CloseSockets,
    End,
    Event,
    Kill,
    Phase,
    Plan,
    Start,
    Stop,
    StopNow,
    Terms,
)

LIMIT = 35.0


class Driver:
    """A plan, and the clock by which it decides."""

    def __init__(self, workers: int = 2, **terms: float) -> None:
        self.terms = Terms(workers=workers, stop_limit=LIMIT, **terms)
        self.plan = Plan(self.terms)
        self.now = 0.0

    def decide(self, *, after: float = 0.0) -> list[Action]:
        self.now += after
        return self.plan.decide(self.now)

    def started(self) -> "Driver":
        """Have all workers serve; they are numbered from 1."""
        for action in self.decide():
            assert isinstance(action, Start)
            self.plan.serves(action.number, self.now)
        assert self.decide() == [Announce(Event.STARTED)]
        assert self.decide() == []
        return self

    def serve(self, number: int) -> list[Action]:
        self.plan.serves(number, self.now)
        return self.decide()

    def die(self, *numbers: int) -> list[Action]:
        for number in numbers:
            self.plan.died(number, self.now)
        return self.decide()


def serving(plan: Plan) -> list[int]:
    return [m.number for m in plan.members.values() if m.phase is Phase.SERVING]


# The first start.


def test_all_workers_are_started_at_once() -> None:
    driver = Driver(3)
    assert driver.decide() == [Start(1, 1), Start(2, 1), Start(3, 1)]
    assert driver.decide() == []


def test_the_start_is_done_when_all_serve() -> None:
    driver = Driver()
    driver.decide()
    assert driver.serve(1) == []
    assert driver.serve(2) == [Announce(Event.STARTED)]
    assert driver.decide(after=1000) == []


def test_a_worker_that_cannot_start_ends_the_first_start() -> None:
    driver = Driver(3)
    driver.decide()
    driver.serve(2)
    assert driver.die(1) == [CloseSockets(), Stop(2), Stop(3)]
    assert driver.die(3) == []
    assert driver.die(2) == [End(START_FAILED)]


def test_a_worker_that_has_served_is_replaced_during_the_first_start() -> None:
    driver = Driver()
    driver.decide()
    driver.serve(1)
    assert driver.die(1) == [Start(3, 1)]


# Workers that die.


def test_a_worker_that_dies_is_replaced_at_once() -> None:
    driver = Driver().started()
    assert driver.die(1) == [Start(3, 1)]
    assert driver.serve(3) == []
    assert serving(driver.plan) == [2, 3]


def test_all_may_die_together_and_are_replaced_at_once() -> None:
    driver = Driver(3).started()
    assert driver.die(1, 2, 3) == [Start(4, 1), Start(5, 1), Start(6, 1)]


def test_workers_that_keep_dying_are_replaced_ever_later() -> None:
    driver = Driver(1).started()
    assert driver.die(1) == [Start(2, 1)]
    delays = []
    number = 2
    for _ in range(9):
        driver.serve(number)
        assert driver.die(number) == []
        delays.append(driver.plan.wake_at - driver.now)
        number += 1
        assert driver.decide(after=delays[-1] - 0.01) == []
        assert driver.decide(after=0.02) == [Start(number, 1)]
    assert delays == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30])


def test_a_worker_that_has_served_for_long_does_not_keep_dying() -> None:
    driver = Driver(1).started()
    for number in range(1, 20):
        driver.now += 11
        assert driver.die(number) == [Start(number + 1, 1)]
        driver.serve(number + 1)


def test_early_deaths_are_forgotten() -> None:
    driver = Driver(1).started()
    driver.die(1)
    driver.serve(2)
    assert driver.die(2) == []
    driver.decide(after=1)
    driver.serve(3)
    driver.now += 100
    # It has served for long. The next one has not.
    assert driver.die(3) == [Start(4, 1)]
    driver.serve(4)
    assert driver.die(4) == [Start(5, 1)]


def test_a_replacement_that_cannot_start_is_tried_again_later() -> None:
    driver = Driver().started()
    assert driver.die(1) == [Start(3, 1)]
    assert driver.die(3) == []
    assert driver.plan.wake_at == driver.now + 0.5
    assert driver.decide(after=0.5) == [Start(4, 1)]
    assert serving(driver.plan) == [2]


def test_a_worker_that_stops_by_itself_is_replaced_before_it_has_ended() -> None:
    driver = Driver().started()
    driver.plan.leaves(1, driver.now)
    assert driver.decide() == [Start(3, 1)]
    driver.serve(3)
    assert driver.decide(after=LIMIT) == [Kill(1)]
    assert driver.die(1) == []


def test_a_worker_that_is_condemned_is_killed_and_replaced() -> None:
    driver = Driver().started()
    driver.plan.condemn(1, driver.now + 2)
    assert driver.decide() == [Start(3, 1)]
    assert driver.plan.wake_at == driver.now + 2
    assert driver.decide(after=2) == [Kill(1)]
    # It may take the kernel a while; then it is killed again.
    assert driver.decide(after=4.9) == []
    assert driver.decide(after=0.1) == [Kill(1)]
    assert driver.die(1) == []


def test_what_an_unknown_worker_does_means_nothing() -> None:
    driver = Driver().started()
    plan = driver.plan
    plan.serves(77, 0.0)
    plan.wears(77, "old")
    plan.leaves(77, 0.0)
    plan.condemn(77, 0.0)
    plan.died(77, 0.0)
    # A worker says twice that it serves.
    plan.serves(1, 0.0)
    assert driver.decide() == []


# Replacement of workers that are worn.


def test_a_worn_worker_serves_until_its_successor_does() -> None:
    driver = Driver().started()
    driver.plan.wears(1, "it has answered 1000 requests")
    assert driver.decide() == [Start(3, 1)]
    assert driver.decide(after=50) == []
    assert driver.serve(3) == [Stop(1)]
    assert driver.decide(after=1) == []
    assert driver.die(1) == []
    assert serving(driver.plan) == [2, 3]


def test_worn_workers_are_replaced_one_at_a_time() -> None:
    driver = Driver(3).started()
    for number in (1, 2, 3):
        driver.plan.wears(number, "old")
    assert driver.decide() == [Start(4, 1)]
    assert driver.serve(4) == [Stop(1)]
    # The next one waits until the requests of this one have ended.
    assert driver.decide(after=20) == []
    assert driver.die(1) == [Start(5, 1)]
    assert driver.serve(5) == [Stop(2)]
    assert driver.die(2) == [Start(6, 1)]
    assert driver.serve(6) == [Stop(3)]
    assert driver.die(3) == []


def test_a_worn_worker_stays_as_long_as_no_successor_can_start() -> None:
    driver = Driver(1).started()
    driver.plan.wears(1, "old")
    assert driver.decide() == [Start(2, 1)]
    assert driver.die(2) == []
    assert driver.decide(after=0.5) == [Start(3, 1)]
    assert serving(driver.plan) == [1]
    assert driver.serve(3) == [Stop(1)]


# Reloading.


def test_a_reload_starts_a_new_worker_before_it_stops_an_old_one() -> None:
    driver = Driver().started()
    assert driver.plan.reload(driver.terms) == 2
    assert driver.decide() == [Start(3, 2)]
    assert driver.serve(3) == [Stop(1), Start(4, 2)]
    assert driver.serve(4) == [Stop(2), Announce(Event.RELOADED)]
    assert not driver.plan.is_reloading
    assert driver.die(1, 2) == []


def test_a_reload_does_not_start_more_than_twice_as_many() -> None:
    driver = Driver(1).started()
    driver.plan.reload(driver.terms)
    driver.decide()
    driver.serve(2)
    driver.plan.reload(driver.terms)
    # The first one still has requests.
    assert driver.decide() == []
    assert driver.die(1) == [Start(3, 3)]


def test_a_reload_that_fails_leaves_the_old_workers() -> None:
    driver = Driver().started()
    driver.plan.reload(driver.terms)
    driver.decide()
    assert driver.die(3) == [Announce(Event.RELOAD_FAILED)]
    assert driver.plan.generation == 1
    assert serving(driver.plan) == [1, 2]
    # The next one has a number that was never used.
    assert driver.plan.reload(driver.terms) == 3
    assert driver.decide() == [Start(4, 3)]
    assert driver.serve(4) == [Stop(1), Start(5, 3)]


def test_a_new_generation_that_has_proved_itself_is_tried_again() -> None:
    driver = Driver().started()
    driver.plan.reload(driver.terms)
    driver.decide()
    driver.serve(3)
    assert driver.die(4) == []
    assert driver.decide(after=0.5) == [Start(5, 2)]
    assert driver.serve(5) == [Stop(2), Announce(Event.RELOADED)]


def test_another_reload_takes_the_place_of_one_that_has_not_got_far() -> None:
    driver = Driver().started()
    driver.plan.reload(driver.terms)
    assert driver.decide() == [Start(3, 2)]
    driver.plan.reload(driver.terms)
    assert driver.decide() == [Stop(3), Start(4, 3)]
    assert driver.die(3) == []
    assert driver.serve(4) == [Stop(1), Start(5, 3)]


def test_an_old_worker_that_dies_during_a_reload_is_replaced_by_a_new_one() -> None:
    driver = Driver().started()
    driver.plan.reload(driver.terms)
    driver.decide()
    # The new one is on its way.
    assert driver.die(1) == []
    assert driver.serve(3) == [Start(4, 2)]
    assert driver.serve(4) == [Stop(2), Announce(Event.RELOADED)]


def test_a_reload_may_change_the_number_of_workers() -> None:
    driver = Driver().started()
    driver.plan.reload(Terms(workers=3, stop_limit=LIMIT))
    assert driver.decide() == [Start(3, 2)]
    assert driver.serve(3) == [Start(4, 2)]
    driver.plan.reload(Terms(workers=1, stop_limit=LIMIT))
    assert driver.decide() == [Stop(4), Stop(1), Stop(2)]
    assert driver.die(4, 1, 2) == [Start(5, 3)]
    assert driver.serve(5) == [Stop(3), Announce(Event.RELOADED)]


# Restarting, as --reload does.


def test_a_restart_starts_new_workers_once_all_old_ones_have_ended() -> None:
    driver = Driver().started()
    driver.plan.restart(driver.now)
    assert driver.decide() == [Stop(1), Stop(2)]
    assert driver.die(1) == []
    assert driver.die(2) == [Start(3, 1), Start(4, 1)]
    assert driver.serve(3) == []
    assert driver.plan.is_restarting
    assert driver.plan.state == "restarting, 1 worker"
    assert driver.serve(4) == [Announce(Event.RESTARTED)]
    assert not driver.plan.is_restarting
    assert driver.decide(after=1000) == []


def test_a_restart_waits_half_a_second_for_requests() -> None:
    driver = Driver(1).started()
    driver.plan.restart(driver.now)
    assert driver.decide() == [Stop(1)]
    assert driver.plan.wake_at == driver.now + 0.5
    assert driver.decide(after=0.5) == [StopNow(1)]
    assert driver.plan.wake_at == driver.now + 2
    assert driver.decide(after=2) == [Kill(1)]
    assert driver.die(1) == [Start(2, 1)]


def test_a_restart_hurries_workers_that_are_stopping() -> None:
    driver = Driver().started()
    driver.plan.resize(-1)
    assert driver.decide() == [Stop(1)]
    driver.plan.restart(driver.now)
    assert driver.decide() == [Stop(2)]
    assert driver.die(2) == []
    assert driver.decide(after=0.5) == [StopNow(1)]
    assert driver.die(1) == [Start(3, 1)]


def test_a_restart_during_another_begins_again() -> None:
    driver = Driver(1).started()
    driver.plan.restart(driver.now)
    driver.decide()
    assert driver.die(1) == [Start(2, 1)]
    driver.plan.restart(driver.now)
    assert driver.decide() == [Stop(2)]
    # That it serves, or ends before it was told, means nothing any more.
    assert driver.serve(2) == []
    assert driver.die(2) == [Start(3, 1)]
    assert driver.serve(3) == [Announce(Event.RESTARTED)]


def test_a_worker_that_ends_just_before_it_is_told_does_not_fail() -> None:
    driver = Driver(1)
    driver.decide()
    driver.plan.restart(driver.now)
    assert driver.die(1) == [Start(2, 1)]
    assert driver.serve(2) == [Announce(Event.STARTED)]


def test_a_restart_does_not_wait_for_the_back_off() -> None:
    driver = Driver(1).started()
    driver.die(1)
    assert driver.die(2) == []
    assert driver.plan.wake_at > driver.now
    driver.plan.restart(driver.now)
    assert driver.decide() == [Start(3, 1)]


def test_a_stop_ends_a_restart() -> None:
    driver = Driver(1).started()
    driver.plan.restart(driver.now)
    driver.decide()
    driver.plan.stop(driver.now, 0)
    assert driver.decide() == [CloseSockets()]
    assert driver.die(1) == [End(0)]


# More and fewer workers.


def test_there_may_be_more_workers() -> None:
    driver = Driver().started()
    assert driver.plan.resize(+1) == 3
    assert driver.decide() == [Start(3, 1)]
    assert driver.serve(3) == []


def test_there_may_be_fewer_workers_but_one() -> None:
    driver = Driver().started()
    assert driver.plan.resize(-1) == 1
    assert driver.decide() == [Stop(1)]
    assert driver.plan.resize(-1) == 1
    assert driver.decide() == []


# The end.


def test_everything_stops_gracefully() -> None:
    driver = Driver().started()
    driver.plan.stop(driver.now, 0)
    assert driver.decide() == [CloseSockets(), Stop(1), Stop(2)]
    assert driver.die(1) == []
    assert driver.die(2) == [End(0)]


def test_sockets_are_open_while_workers_accept() -> None:
    driver = Driver(1, drain_delay=10).started()
    driver.plan.stop(driver.now, 0)
    assert driver.decide() == [Stop(1)]
    assert driver.plan.wake_at == driver.now + 10
    assert driver.decide(after=10) == [CloseSockets()]


def test_a_worker_that_does_not_stop_is_killed() -> None:
    driver = Driver(1).started()
    driver.plan.stop(driver.now, 0)
    driver.decide()
    assert driver.plan.wake_at == driver.now + LIMIT
    assert driver.decide(after=LIMIT) == [Kill(1)]
    assert driver.die(1) == [End(0)]


def test_a_second_wish_stops_everything_now() -> None:
    driver = Driver(1, drain_delay=10).started()
    driver.plan.stop(driver.now, 0)
    driver.decide()
    driver.plan.stop(driver.now, 143, at_once=True)
    assert driver.decide() == [CloseSockets(), StopNow(1)]
    assert driver.decide(after=2) == [Kill(1)]
    assert driver.die(1) == [End(143)]


def test_nothing_is_started_during_the_end() -> None:
    driver = Driver().started()
    driver.plan.reload(driver.terms)
    driver.decide()
    driver.plan.stop(driver.now, 0)
    assert driver.decide() == [CloseSockets(), Stop(1), Stop(2), Stop(3)]
    driver.plan.resize(+1)
    assert driver.die(3) == []
    assert driver.die(1) == []
    assert driver.die(2) == [End(0)]


class Supervision(RuleBasedStateMachine):
    """Anything may happen to workers at any time; the plan keeps its word."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(3).started()
        self.living = {1, 2, 3}
        self.told: set[int] = set()
        self.ended = False

    def settle(self) -> None:
        for action in self.driver.decide():
            match action:
                case Start(number):
                    assert number not in self.living
                    self.living.add(number)
                case Stop(number):
                    assert number in self.living
                    assert number not in self.told
                    self.told.add(number)
                case StopNow(number) | Kill(number):
                    assert number in self.living
                    self.told.add(number)
                case End():
                    assert not self.living
                    self.ended = True

    def choose(self, index: int) -> int:
        return sorted(self.living)[index % len(self.living)]

    @precondition(lambda self: self.living)
    @rule(index=st.integers(0, 9))
    def serve(self, index: int) -> None:
        self.driver.plan.serves(self.choose(index), self.driver.now)
        self.settle()

    @precondition(lambda self: self.living)
    @rule(index=st.integers(0, 9))
    def die(self, index: int) -> None:
        number = self.choose(index)
        self.living.discard(number)
        self.driver.plan.died(number, self.driver.now)
        self.settle()

    @precondition(lambda self: self.living)
    @rule(index=st.integers(0, 9))
    def wear(self, index: int) -> None:
        self.driver.plan.wears(self.choose(index), "old")
        self.settle()

    @precondition(lambda self: not self.driver.plan.is_ending)
    @rule()
    def reload(self) -> None:
        self.driver.plan.reload(self.driver.plan.terms)
        self.settle()

    @precondition(lambda self: not self.driver.plan.is_ending)
    @rule()
    def restart(self) -> None:
        self.driver.plan.restart(self.driver.now)
        self.settle()

    @rule(change=st.sampled_from([-1, 1]))
    def resize(self, change: int) -> None:
        if self.driver.plan.terms.workers + change <= 5:
            self.driver.plan.resize(change)
        self.settle()

    @rule(seconds=st.sampled_from([0.1, 1.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.driver.now += seconds
        self.settle()

    @rule(at_once=st.booleans())
    def stop(self, at_once: bool) -> None:
        self.driver.plan.stop(self.driver.now, 0, at_once=at_once)
        self.settle()

    @invariant()
    def knows_who_lives(self) -> None:
        assert set(self.driver.plan.members) == self.living
        assert not self.ended or not self.living

    @invariant()
    def has_bounds(self) -> None:
        phases = [member.phase for member in self.driver.plan.members.values()]
        # Resizing may have made the bound smaller.
        assert phases.count(Phase.STARTING) + phases.count(Phase.SERVING) <= 6

    def teardown(self) -> None:
        """Whatever has happened: everybody comes to serve, or everything ends."""
        plan = self.driver.plan
        for _ in range(100):
            for number in sorted(self.living & self.told):
                self.living.discard(number)
                plan.died(number, self.driver.now)
            for number in sorted(self.living):
                plan.serves(number, self.driver.now)
            self.driver.now += 40
            self.settle()
        if plan.is_ending:
            assert self.ended
            assert not self.living
        else:
            assert plan.count(Phase.SERVING) == plan.terms.workers == len(self.living)
            assert all(m.generation == plan.generation for m in plan.members.values())
            assert not plan.is_reloading
            assert not any(m.worn for m in plan.members.values())


Supervision.TestCase.settings = settings(max_examples=examples(200), deadline=None)
TestSupervision = Supervision.TestCase
