"""Many cases in one test hide no failure, and none is left out."""

import pytest
from grouped import in_one_test


@pytest.mark.parametrize("more", ["x", "y"])
def test_each_case_is_tried(more: str) -> None:
    tried = []

    @in_one_test("value", [1, 2, 3])
    @in_one_test(("one", "other"), [("a", "b"), ("c", "d")])
    def check(one: str, other: str, value: int, more: str) -> None:
        tried.append((one, other, value, more))

    check(more=more)
    assert tried == [(*pair, n, more) for n in (1, 2, 3) for pair in (("a", "b"), ("c", "d"))]


@in_one_test("value", [1, 2])
@pytest.mark.parametrize("more", ["x", "y"])
def test_other_parameters_are_those_of_pytest(
    value: int, more: str, request: pytest.FixtureRequest
) -> None:
    assert value in (1, 2)
    assert request.node.name == f"test_other_parameters_are_those_of_pytest[{more}]"


class TestMethods:
    @in_one_test("value", ["a"], ids=["name"])
    def test_may_be_tried_so(self, value: str) -> None:
        assert isinstance(self, TestMethods)
        assert value == "a"


def test_all_that_fail_are_named_each_with_its_reason() -> None:
    tried = []

    @in_one_test("value", range(5), ids=lambda value: f"number-{value}")
    def check(value: int) -> None:
        tried.append(value)
        if value == 3:
            with pytest.raises(ValueError, match="three"):
                pass
        assert value not in (0, 4)

    with pytest.raises(BaseExceptionGroup, match="3 of 5 cases fail: number-0, number-3, number-4"):
        check()
    assert tried == [0, 1, 2, 3, 4]
    try:
        check()
    except BaseExceptionGroup as group:
        first, second, third = group.exceptions
        assert first.__notes__ == ["in the case number-0"]
        assert "assert 0 not in (0, 4)" in str(first)
        assert "DID NOT RAISE" in str(second)
        assert isinstance(third, AssertionError)


def test_a_table_without_cases_is_told() -> None:
    with pytest.raises(AssertionError, match="cannot fail"):
        in_one_test("value", [])


def test_a_name_that_the_test_does_not_have_is_told() -> None:
    def check(value: int) -> None: ...

    with pytest.raises(AssertionError, match="does not take"):
        in_one_test("vlaue", [1])(check)


def test_a_coroutine_is_refused_because_nobody_would_await_it() -> None:
    async def check(value: int) -> None: ...

    with pytest.raises(AssertionError, match="await"):
        in_one_test("value", [1])(check)  # type: ignore[arg-type]
