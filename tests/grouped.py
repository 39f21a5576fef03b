"""Many small cases as one test: for tables of values, each of which takes less than pytest does.

A case of ``pytest.mark.parametrize`` costs a process that runs tests, and the one that is told of
it, some milliseconds, and every process that collects tests some more.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest


def in_one_test(
    names: str | tuple[str, ...],
    cases: Iterable[Any],
    *,
    ids: Callable[[Any], str] | Iterable[str] = ascii,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Call the test for each case, as ``pytest.mark.parametrize`` does, but in one test.

    It fails where any case does, once all were tried, and names those that do. They share the
    fixtures of the test, so it is for functions without traces. Several of these may be put on
    each other, and on or below ``pytest.mark.parametrize``.
    """
    table = list(cases)
    assert table, "a test without cases cannot fail"
    words = list(map(ids, table) if callable(ids) else ids)
    keys = (names,) if isinstance(names, str) else names

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        assert not inspect.iscoroutinefunction(test), "nobody would await it"

        @functools.wraps(test)
        def try_each(*args: Any, **others: Any) -> None:
            failures: list[BaseException] = []
            failed = []
            for word, case in zip(words, table, strict=True):
                values = (case,) if isinstance(names, str) else case
                try:
                    test(*args, **others, **dict(zip(keys, values, strict=True)))
                # What pytest.raises says is no Exception.
                except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - they are raised together
                    error.add_note(f"in the case {word}")
                    failures.append(error)
                    failed.append(word)
            if failures:
                summary = f"{len(failed)} of {len(table)} cases fail: {', '.join(failed)}"
                raise BaseExceptionGroup(summary, failures)

        signature = inspect.signature(test)
        left = [p for name, p in signature.parameters.items() if name not in keys]
        assert len(left) + len(keys) == len(signature.parameters), f"{test} does not take {keys}"
        # Pytest looks at it for the fixtures.
        try_each.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        return try_each

    return decorate
