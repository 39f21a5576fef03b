"""Which workers are found stuck: the decisions alone."""

import math

from aiowsgi.process.supervisor.decisions.patience import Beat, Patience


def test_a_worker_is_stuck_when_its_time_is_over() -> None:
    patience = Patience()
    beats = {1: Beat(100.0, 60.0), 2: Beat(130.0, 60.0)}
    assert patience.next_look(beats) == 155.0
    assert patience.stuck(beats, 154.9) == []
    assert patience.stuck(beats, 155.0) == []
    assert patience.next_look(beats) == 160.0
    assert patience.stuck(beats, 159.9) == []
    assert patience.stuck(beats, 160.0) == [1]


def test_one_that_runs_again_is_not_stuck() -> None:
    patience = Patience()
    assert patience.stuck({1: Beat(100.0, 60.0)}, 155.0) == []
    assert patience.stuck({1: Beat(159.9, 60.0)}, 160.0) == []
    assert patience.next_look({1: Beat(159.9, 60.0)}) == 214.9


def test_after_a_pause_in_which_nothing_ran_workers_have_time_to_run() -> None:
    patience = Patience()
    beats = {1: Beat(100.0, 60.0), 2: Beat(100.0, 2.0)}
    assert patience.stuck(beats, 100.5) == []
    # An hour in which all processes were stopped.
    assert patience.stuck(beats, 3700.0) == []
    assert patience.next_look(beats) == 3701.0
    beats[1] = Beat(3700.2, 60.0)
    assert patience.stuck(beats, 3701.0) == [2]


def test_a_worker_that_is_gone_is_forgotten() -> None:
    patience = Patience()
    beats = {1: Beat(100.0, 60.0)}
    assert patience.stuck(beats, 155.0) == []
    assert patience.stuck({}, 160.0) == []
    assert patience.next_look({}) == math.inf
    assert patience.stuck(beats, 160.0) == []
