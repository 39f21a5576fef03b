"""How much the tests try: what represents the rest, or everything, as in CI.

The environment variable ``AIOWSGI_TESTS=exhaustive`` asks for everything. It is read here only.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

EXHAUSTIVE = os.environ.get("AIOWSGI_TESTS") == "exhaustive"

# Marks what is left out (deselected, see conftest.py) where not everything is asked for: what takes
# long, and fails rarely where the other tests pass.
exhaustive = pytest.mark.exhaustive


def examples(count: int) -> int:
    """Return how many examples of a property Hypothesis tries: ``count``, or a fifth of that."""
    return count if EXHAUSTIVE else -(-count // 5)


def sampled(values: Sequence[object], *, one_in: int) -> list[Any]:
    """Return the values of a parameter. Only one in so many is tried when not everything is."""
    return [
        pytest.param(value, marks=exhaustive if number % one_in else ())
        for number, value in enumerate(values)
    ]


def representative(values: Iterable[str], *names: str) -> list[Any]:
    """Return the values of a parameter. Only those named are tried when not everything is."""
    return [pytest.param(value, marks=() if value in names else exhaustive) for value in values]
