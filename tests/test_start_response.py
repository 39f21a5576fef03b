"""``start_response``: what it takes, what it refuses, and when it may be called again."""

import gc
import logging
import sys
import weakref
from typing import Any

import pytest
from grouped import in_one_test
from hypothesis import given
from hypothesis import strategies as st
from test_task import REQUEST, Recorder, run

from aiowsgi.errors import ApplicationError
from aiowsgi.wsgi.headers import check_fields, check_status

HOP_BY_HOP = (
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "TE",
    "Trailers",
    "Transfer-Encoding",
    "Upgrade",
)
# HTAB is the one control character of a field value (RFC 9110 §5.5).
CONTROLS = [chr(code) for code in (*range(0x20), 0x7F) if chr(code) != "\t"]
TOKEN_PUNCTUATION = "!#$%&'*+-.^_`|~"


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "aiowsgi.error")


# The status.


@pytest.mark.parametrize(
    "status",
    [
        "200 OK",
        "404 Not Found",
        "999 Whatever",
        "100 Continue",
        "200 ",
        "200  two spaces",
        "200 Sch\xf6n\xff",
        "200 tab\tin it",
        # obs-text: no line break for HTTP, though str.splitlines sees one.
        "200 NEL\x85",
    ],
)
def test_a_status_is_taken_as_it_is(status: str) -> None:
    assert check_status(status) == status


@in_one_test(
    "status",
    [
        "",
        "200",
        "OK",
        "20 OK",
        "2000 OK",
        "099 Low",
        "000 Zero",
        " 200 OK",
        "200OK",
        "200\tOK",
        "+20 OK",
        "2x0 OK",
        "٢٠٠ OK",  # Digits of another script: \d of a str pattern takes them.
        "200 snow☃man",
        "200 OK\r\nSet-Cookie: a=b",
        "200 OK\n",
        "200 OK\r",
        *(f"200 a{control}b" for control in CONTROLS),
    ],
    ids=ascii,
)
def test_a_malformed_status_is_refused(status: str) -> None:
    with pytest.raises(ApplicationError, match="such as '200 OK'"):
        check_status(status)


@pytest.mark.parametrize(
    ("status", "fix"),
    [
        (b"200 OK", r"decode it: .decode\('latin-1'\)"),
        (200, "write a str such as '200 OK'"),
        (None, "write a str such as '200 OK'"),
        (("200 OK",), "write a str such as '200 OK'"),
    ],
)
def test_a_status_that_is_no_str_is_refused(status: Any, fix: str) -> None:
    with pytest.raises(ApplicationError, match=fix):
        check_status(status)


# The header fields.


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Content-Type", "text/plain")],
        [("X", "")],
        [("X", "tab\tand space")],
        [("X", "latin-1 \xa0\xe9\xff")],
        [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")],
        [("Content-Length", "0")],
        [("content-LENGTH", "9" * 18)],
        [(TOKEN_PUNCTUATION, "x")],
        [("X", '"quoted\\"')],
    ],
    ids=ascii,
)
def test_fields_are_taken_as_they_are(headers: list[tuple[str, str]]) -> None:
    fields = list(check_fields(headers))
    assert fields == headers
    # A copy: PEP 3333 lets the server change it, and the application reuse its own.
    assert fields is not headers


def test_a_tuple_of_fields_is_taken() -> None:
    assert check_fields((("X", "a"),)) == (("X", "a"),)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        (None, "headers as NoneType; write a list of"),
        ({"X": "a"}, "headers as dict; write a list of"),
        ("X: a", "headers as str; write a list of"),
        pytest.param(
            iter([("X", "a")]), "headers as list_iterator; write a list of", id="an iterator"
        ),
        (["X: a"], r"'X: a' is not a \(name, value\) tuple"),
        ([["X", "a"]], r"\['X', 'a'\] is not a \(name, value\) tuple"),
        ([("X",)], r"\('X',\) is not a \(name, value\) tuple"),
        ([("X", "a", "b")], r"is not a \(name, value\) tuple"),
        ([None], r"None is not a \(name, value\) tuple"),
        ([(b"X", "a")], r"holds bytes; decode it: .decode\(\)"),
        ([("X", b"a")], r"holds bytes; decode it: .decode\(\)"),
        ([("Content-Length", 5)], r"holds int; convert it: str\(...\)"),
        ([("X", None)], r"holds NoneType; convert it: str\(...\)"),
        ([(1, "a")], r"holds int; convert it: str\(...\)"),
    ],
    ids=ascii,
)
def test_headers_of_a_wrong_shape_are_refused_with_the_fix(headers: Any, message: str) -> None:
    with pytest.raises(ApplicationError, match=message):
        check_fields(headers)


@in_one_test("control", [*CONTROLS, "☃", "\u0100", "\ud800"], ids=ascii)
@in_one_test("template", ["{}", "a{}b", "{}b", "a{}"])
def test_a_value_that_could_end_its_line_is_refused(control: str, template: str) -> None:
    """CVE-2026-42545, and what CR and LF do to a response."""
    with pytest.raises(ApplicationError, match="remove or encode it"):
        check_fields([("X", template.format(control))])


@in_one_test(
    "name",
    ["", " ", "X Y", "X:", "X\t", "X\r\n", "X\n", "Ü", "☃", "(X)", "X/Y", "X@", "X=", '"X"', "X,Y"]
    + [f"X{control}" for control in CONTROLS],
    ids=ascii,
)
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    with pytest.raises(ApplicationError, match="not a token"):
        check_fields([(name, "a")])


@pytest.mark.parametrize("name", HOP_BY_HOP)
@pytest.mark.parametrize("change", [str, str.lower, str.upper], ids=["plain", "lower", "upper"])
def test_a_hop_by_hop_field_is_refused(name: str, change: Any) -> None:
    # PEP 3333, "Other HTTP Features": these belong to the connection, which is the server's.
    with pytest.raises(ApplicationError, match=r"hop-by-hop.*remove it"):
        check_fields([("X", "a"), (change(name), "close")])


@pytest.mark.parametrize(
    "values",
    [
        *([value] for value in ("-1", "+1", "1.0", "", " 1", "1 ", "0x10", "1,1", "1_0", "9" * 19)),
        # Digits for str.isdigit, the first one outside latin-1.
        ["٣"],
        ["²"],
        ["5", "5"],
        ["5", "6"],
    ],
    ids=ascii,
)
def test_a_content_length_that_is_no_number_or_comes_twice_is_refused(values: list[str]) -> None:
    with pytest.raises(ApplicationError, match=r"give it once|outside latin-1"):
        check_fields([("Content-Length", value) for value in values])


latin = st.text(st.characters(max_codepoint=0xFF), max_size=8)


@given(latin, latin)
def test_fields_that_pass_give_one_line_each(name: str, value: str) -> None:
    try:
        fields = list(check_fields([(name, value)]))
    except ApplicationError:
        return
    line = f"{fields[0][0]}: {fields[0][1]}".encode("latin-1")
    assert not {0, 10, 13} & set(line)
    assert line.partition(b":")[0].decode("latin-1") == name


# When it is called.


def test_a_refused_call_leaves_the_first_one_in_force(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X", "first")])
        try:
            raise ValueError("something went wrong")
        except ValueError:
            with pytest.raises(ApplicationError):
                start_response("500 Bad", [("X", "a\nb")], sys.exc_info())
        return [b"a"]

    recorder = run(app)
    assert (recorder.status, recorder.fields) == ("200 OK", [("X", "first")])
    assert caplog.records == []


def test_headers_changed_after_the_call_change_nothing() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        headers = [("X", "first")]
        start_response("200 OK", headers)
        headers.append(("Y", "a\r\nb"))
        return [b"a"]

    assert run(app).fields == [("X", "first")]


@pytest.mark.parametrize("no_error", [None, (None, None, None)])
def test_a_second_call_without_an_exception_is_refused(
    no_error: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        start_response("404 Not Found", [], no_error)
        return [b"a"]

    assert run(app).is_500
    message = caplog.records[0].getMessage()
    assert "it called start_response twice" in message
    assert "with exc_info" in message
    assert f'(File "{__file__}", line {app.__code__.co_firstlineno + 2})' in message


def test_a_second_call_is_refused_after_the_head_too() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"a"
        start_response("200 OK", [])

    assert run(app).calls == ["start", "send", "abort"]


def test_exc_info_before_the_head_replaces_it() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X", "first")])
        try:
            raise ValueError("something went wrong")
        except ValueError:
            start_response("503 Sorry", [("X", "second")], sys.exc_info())
        return [b"sorry"]

    recorder = run(app)
    assert (recorder.status, recorder.fields) == ("503 Sorry", [("X", "second")])
    assert recorder.body == b"sorry"


def test_exc_info_may_come_with_the_first_call() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            raise ValueError("something went wrong")
        except ValueError:
            start_response("503 Sorry", [], sys.exc_info())
        return []

    assert run(app).status == "503 Sorry"


def test_write_of_an_empty_string_does_not_send_the_head() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])(b"")
        try:
            raise ValueError("something went wrong")
        except ValueError:
            start_response("503 Sorry", [], sys.exc_info())
        return []

    assert run(app).status == "503 Sorry"


@pytest.mark.parametrize("error", [ValueError("late"), SystemExit(1)], ids=ascii)
def test_exc_info_after_the_head_raises_what_it_holds(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"a"
        try:
            _fails(error)
        except (ValueError, SystemExit):
            start_response("503 Sorry", [], sys.exc_info())
        raise AssertionError("not reached: start_response raises")

    recorder = run(app)
    assert (recorder.status, recorder.calls) == ("200 OK", ["start", "send", "abort"])
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    # With the traceback of its beginnings.
    assert "in _fails" in caplog.text
    assert REQUEST in caplog.text


def _fails(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("after_head", [False, True])
def test_exc_info_leaves_no_circle_of_references(after_head: bool) -> None:
    class Watched:
        pass

    seen: list[weakref.ref[Watched]] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        watched = Watched()
        seen.append(weakref.ref(watched))
        write = start_response("200 OK", [])
        if after_head:
            write(b"a")
        try:
            raise ValueError("something went wrong")
        except ValueError:
            start_response("503 Sorry", [], sys.exc_info())
        return []

    logger = logging.getLogger("aiowsgi.error")
    gc.collect()
    gc.disable()
    # Log records keep the traceback, and with it the frames.
    logger.disabled = True
    try:
        run(app, Recorder())
        assert seen[0]() is None
    finally:
        logger.disabled = False
        gc.enable()
