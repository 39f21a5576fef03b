"""The heaps of a process of our own: what glibc is told, and when it is not."""

import pytest

from aiowsgi import libc
from aiowsgi.process import run

ARENAS, MMAP, TRIM = -8, -3, -1
VARIABLES = ("MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The parameters that mallopt is told; the environment says nothing yet."""
    told: list[int] = []

    def mallopt(parameter: int, value: int) -> int:
        told.append(parameter)
        return 1

    monkeypatch.setattr(run.sys, "platform", "linux")
    monkeypatch.setattr(libc, "find", lambda name, *types: mallopt if name == "mallopt" else None)
    for variable in (*VARIABLES, "GLIBC_TUNABLES"):
        monkeypatch.delenv(variable, raising=False)
    return told


def test_glibc_is_told_what_the_environment_does_not_say(told: list[int]) -> None:
    run._set_up_heaps()
    assert told == [ARENAS, MMAP, TRIM]


@pytest.mark.parametrize(
    ("variable", "value", "left"),
    [
        ("MALLOC_ARENA_MAX", "4", [MMAP, TRIM]),
        ("MALLOC_TRIM_THRESHOLD_", "", [ARENAS, MMAP]),
        ("GLIBC_TUNABLES", "glibc.malloc.arena_max=4", [MMAP, TRIM]),
        (
            "GLIBC_TUNABLES",
            "glibc.malloc.trim_threshold=1:glibc.pthread.rseq=0:glibc.malloc.mmap_threshold=2",
            [ARENAS],
        ),
        ("GLIBC_TUNABLES", "glibc.malloc.arena_max_other=4", [ARENAS, MMAP, TRIM]),
        ("GLIBC_TUNABLES", "", [ARENAS, MMAP, TRIM]),
    ],
)
def test_what_the_environment_says_goes_first(
    told: list[int], monkeypatch: pytest.MonkeyPatch, variable: str, value: str, left: list[int]
) -> None:
    monkeypatch.setenv(variable, value)
    run._set_up_heaps()
    assert told == left


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libc, "find", lambda *asked: None)
    run._set_up_heaps()
    run.trim_heaps()
