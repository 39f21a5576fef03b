"""A program that is missing skips its tests here, and fails them in CI."""

from pathlib import Path

import pytest
from tools import tool


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip), ("1", pytest.fail)])
def test_a_missing_program_skips_here_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome.Exception, match=r"needs no-such-program: .* 'apt-get install it'"):
        tool("no-such-program", package="it")


def test_the_first_program_that_is_there_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "second"
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tool("first", "second", package="it") == str(program)
