"""The names that the package shows: they are there when they are asked for."""

import inspect
import subprocess
import sys

import pytest

import aiowsgi


@pytest.mark.parametrize("name", aiowsgi.__all__)
def test_a_name_is_there_when_it_is_asked_for(name: str) -> None:
    found = getattr(aiowsgi, name)
    assert inspect.isclass(found) or inspect.isfunction(found)
    assert found.__module__.partition(".")[0] == "aiowsgi"
    # The second time it is an ordinary attribute.
    assert vars(aiowsgi)[name] is found


def test_all_names_are_listed_before_they_are_asked_for() -> None:
    code = "import aiowsgi; print(*dir(aiowsgi)); from aiowsgi import *; print(serve)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    listed, found = done.stdout.splitlines()
    assert set(aiowsgi.__all__) <= set(listed.split())
    assert found.startswith("<function serve at ")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'aiowsgi' has no attribute 'Serve'$"):
        aiowsgi.Serve  # type: ignore[attr-defined]  # noqa: B018
