"""The modules that can be compiled: they are there, and run in the form that was asked for."""

import os
import tomllib
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def build_options() -> dict[str, Any]:
    """Return the part of pyproject.toml that is about wheels."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    options: dict[str, Any] = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    return options


@pytest.mark.parametrize("name", build_options()["hooks"]["custom"]["modules"])
def test_a_module_is_compiled_where_that_is_asked_for_and_only_there(name: str) -> None:
    file = import_module(name).__file__
    assert file is not None
    compiled = file.endswith(tuple(EXTENSION_SUFFIXES))
    assert compiled is (os.environ.get("AIOWSGI_COMPILE") == "1")
