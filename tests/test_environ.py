"""The environ against PEP 3333, RFC 3875 and what applications have come to rely on."""

import contextlib
import io
import sys
import tracemalloc
from typing import Any, TextIO, cast
from urllib.parse import quote_from_bytes
from wsgiref.validate import check_environ

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.http.parser import Parser
from aiowsgi.http.readers.h11_reader import H11
from aiowsgi.http.request import Limits, RequestHead
from aiowsgi.http.sections import FieldSections
from aiowsgi.wsgi.environ import base_environ, build_environ
from aiowsgi.wsgi.file_wrapper import FileWrapper

BASE = base_environ(software="aiowsgi/1", multithread=True, multiprocess=False)


def head_of(target: str = "/", *fields: str, method: str = "GET") -> RequestHead:
    """Return the head of a request with a Host and these field lines, as the parser yields it."""
    lines = [f"{method} {target} HTTP/1.1", "Host: example.com", *fields, "", ""]
    return parsed("\r\n".join(lines).encode("latin-1"))


def parsed(block: bytes) -> RequestHead:
    limits = Limits(fields=3000, head=1 << 24, field_size=1 << 20)
    parser = Parser(FieldSections(limits, H11, header_map="drop"))
    parser.feed(block)
    head = parser.next_event()
    assert isinstance(head, RequestHead)
    return head


def environ_of(head: RequestHead, base: dict[str, Any] = BASE) -> dict[str, Any]:
    return build_environ(
        base,
        head,
        io.BytesIO(b""),
        scheme="http",
        server=("server.test", "8000"),
        client=("192.0.2.7", "54321"),
    )


def test_all_keys_of_a_plain_request() -> None:
    body = io.BytesIO(b"")
    environ = build_environ(
        BASE,
        head_of("/a?b=c"),
        body,
        scheme="http",
        server=("server.test", "8000"),
        client=("192.0.2.7", "5"),
    )
    assert type(environ) is dict
    assert environ == {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a",
        "QUERY_STRING": "b=c",
        "REQUEST_URI": "/a?b=c",
        "RAW_URI": "/a?b=c",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "aiowsgi/1",
        "SERVER_NAME": "server.test",
        "SERVER_PORT": "8000",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "5",
        "HTTP_HOST": "example.com",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": body,
        "wsgi.input_terminated": True,
        "wsgi.errors": BASE["wsgi.errors"],
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
    }


# wsgi.errors.


@pytest.fixture
def errors() -> Any:
    return environ_of(head_of())["wsgi.errors"]


def test_errors_go_to_standard_error_as_it_is_at_that_moment(
    errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        assert errors.write("one") == 3
        errors.writelines(["two", "three"])
        print("four", file=errors, flush=True)
        assert stream.getvalue() == "onetwothreefour\n"


@pytest.mark.parametrize("kind", ["missing", "closed", "without a reader"])
def test_errors_that_cannot_be_written_are_dropped(
    errors: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stream: Any = None
    with contextlib.ExitStack() as stack:
        if kind != "missing":
            stream = stack.enter_context(io.TextIOWrapper(io.BytesIO(), write_through=True))
        if kind == "closed":
            stream.close()
        elif kind == "without a reader":

            def fail(*_: object) -> None:
                raise BrokenPipeError

            monkeypatch.setattr(stream, "write", fail, raising=False)
            monkeypatch.setattr(stream, "flush", fail, raising=False)
            stack.callback(monkeypatch.undo)
        monkeypatch.setattr(sys, "stderr", stream)
        print("lost", file=errors, flush=True)
        errors.writelines(["lost"])


def test_errors_go_to_a_stream_that_knows_no_flush(errors: Any) -> None:
    class Plain:
        text = ""

        def write(self, text: str) -> None:
            self.text += text

    stream = Plain()
    with contextlib.redirect_stderr(cast(TextIO, stream)):
        print("one", file=errors, flush=True)
        errors.flush()
    assert stream.text == "one\n"


def test_what_a_stream_refuses_for_another_reason_is_an_error(
    errors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with io.TextIOWrapper(io.BytesIO(), "ascii") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with pytest.raises(UnicodeEncodeError):
            errors.write("\xe9")
        assert errors.encoding == "ascii"


def test_standard_error_may_be_set_to_errors(errors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", stream)
    monkeypatch.setattr(sys, "stderr", errors)
    print("once", file=errors, end="")
    assert stream.getvalue() == "once"


def test_multithread_and_multiprocess_tell_the_truth() -> None:
    environ = base_environ(software="x", multithread=False, multiprocess=True)
    assert (environ["wsgi.multithread"], environ["wsgi.multiprocess"]) == (False, True)


def test_each_request_has_an_environ_of_its_own() -> None:
    first = environ_of(head_of("/first", "X-Only: first"))
    first["wsgi.version"] = first["mine"] = "changed by the application"
    second = environ_of(head_of("/second"))
    assert second["wsgi.version"] == (1, 0)
    assert not {"mine", "HTTP_X_ONLY"} & set(second)


@pytest.mark.parametrize(
    ("target", "path_info"),
    [
        ("/", "/"),
        ("/a%20b", "/a b"),
        ("/a%2Fb", "/a/b"),
        ("/%61", "/a"),
        ("/%C3%A9", "/Ã©"),  # UTF-8 as latin-1: PEP 3333, "Unicode Issues".
        ("/%FF", "/ÿ"),
        ("/%25zz", "/%zz"),
        ("/%2525", "/%25"),  # Decoded once.
        # A percent sign that begins no escape stands for itself.
        ("/%zz", "/%zz"),
        ("/%", "/%"),
        ("/%4", "/%4"),
        ("/%%41", "/%A"),
        ("/a+b", "/a+b"),
        ("/a;b", "/a;b"),
        ("//double", "//double"),
        ("/a/../b", "/a/../b"),
        ("/?%41", "/"),
        ("http://other.test", "/"),
        ("http://other.test/%41", "/A"),
    ],
)
def test_path_info_is_decoded_and_the_raw_target_kept(target: str, path_info: str) -> None:
    environ = environ_of(head_of(target))
    assert environ["PATH_INFO"] == path_info
    assert environ["REQUEST_URI"] == environ["RAW_URI"] == target


@given(st.binary())
def test_any_bytes_of_a_path_arrive_as_latin_1(path: bytes) -> None:
    environ = environ_of(head_of("/" + quote_from_bytes(path, safe="")))
    assert environ["PATH_INFO"].encode("latin-1") == b"/" + path


@pytest.mark.parametrize(
    ("target", "query"),
    [("/", ""), ("/?", ""), ("/?a=%20&b", "a=%20&b"), ("/??", "?"), ("/?a?b", "a?b")],
)
def test_the_query_stays_encoded(target: str, query: str) -> None:
    assert environ_of(head_of(target))["QUERY_STRING"] == query


def test_asterisk_has_an_empty_path() -> None:
    environ = environ_of(head_of("*", method="OPTIONS"))
    assert (environ["PATH_INFO"], environ["QUERY_STRING"], environ["RAW_URI"]) == ("", "", "*")
    check_environ(environ)


def test_http_1_0_without_host_has_no_http_host() -> None:
    environ = environ_of(parsed(b"GET / HTTP/1.0\r\n\r\n"))
    assert "HTTP_HOST" not in environ
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    check_environ(environ)


def test_the_authority_of_an_absolute_form_wins_over_host() -> None:
    # RFC 9112 §3.2.2.
    assert environ_of(head_of("http://other.test:81/a"))["HTTP_HOST"] == "other.test:81"
    without_host = parsed(b"GET http://other.test/ HTTP/1.0\r\n\r\n")
    assert environ_of(without_host)["HTTP_HOST"] == "other.test"


@pytest.mark.parametrize(
    ("fields", "key", "value"),
    [
        (["Accept: a"], "HTTP_ACCEPT", "a"),
        (["X-One-Two: a"], "HTTP_X_ONE_TWO", "a"),
        (["x-lower: MiXed"], "HTTP_X_LOWER", "MiXed"),
        (["X-Empty:"], "HTTP_X_EMPTY", ""),
        (["X-Space:  \t a b \t "], "HTTP_X_SPACE", "a b"),
        (["X-Latin: \xe9\xff"], "HTTP_X_LATIN", "\xe9\xff"),
        (["Accept: a", "Accept: b"], "HTTP_ACCEPT", "a,b"),
        (["Accept: a", "X-Other: x", "ACCEPT: b", "accept: c"], "HTTP_ACCEPT", "a,b,c"),
        (["X-Empty:", "X-Empty:"], "HTTP_X_EMPTY", ","),
        # RFC 6265 §4.2.1: a comma would be a part of the cookie's value.
        (["Cookie: a=1", "Cookie: b=2", "Cookie: c=3"], "HTTP_COOKIE", "a=1; b=2; c=3"),
        (["Content-Type: text/plain"], "CONTENT_TYPE", "text/plain"),
        (["Content-Length: 0"], "CONTENT_LENGTH", "0"),
        # int() takes only so many digits.
        (["Content-Length: " + "0" * 5000 + "5"], "CONTENT_LENGTH", "5"),
    ],
)
def test_fields(fields: list[str], key: str, value: str) -> None:
    environ = environ_of(head_of("/", *fields))
    assert environ[key] == value
    assert {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"}.isdisjoint(environ)


def test_content_type_and_length_are_there_only_when_sent() -> None:
    assert {"CONTENT_TYPE", "CONTENT_LENGTH"}.isdisjoint(environ_of(head_of("/")))


def test_chunked_leaves_no_trace_of_its_framing() -> None:
    # The body is decoded; an application that sees the field decodes it a second time.
    environ = environ_of(head_of("/", "Transfer-Encoding: chunked", method="POST"))
    assert {"CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"}.isdisjoint(environ)
    assert environ["wsgi.input_terminated"] is True


@pytest.mark.parametrize(
    "name",
    [
        # Each would become the key of a field that proxies and applications trust.
        "X_Forwarded_For",
        "X-Forwarded_For",
        "Content_Length",
        "Content_Type",
        "Transfer_Encoding",
        "_",
        # CVE-2016-5385, "httpoxy".
        "Proxy",
        "PROXY",
    ],
)
def test_a_field_that_impersonates_another_is_dropped(name: str) -> None:
    keys = set(environ_of(head_of("/", f"{name}: x")))
    assert keys == set(environ_of(head_of("/")))


def test_a_dropped_field_does_not_touch_the_real_one() -> None:
    fields = ("X-Forwarded-For: real", "X_Forwarded_For: forged", "Proxy-Connection: x")
    environ = environ_of(head_of("/", *fields))
    assert environ["HTTP_X_FORWARDED_FOR"] == "real"
    assert environ["HTTP_PROXY_CONNECTION"] == "x"


class Counted(str):
    """A string that adds up the length of every longer string that is made from it."""

    __slots__ = ()
    copied = 0

    def _made(self, text: str) -> "Counted":
        Counted.copied += len(text)
        return Counted(text)

    def __add__(self, other: str) -> "Counted":
        return self._made(str.__add__(self, other))

    def __radd__(self, other: str) -> "Counted":
        return self._made(other + str(self))

    def __format__(self, spec: str) -> str:
        return self._made(str(self))

    def __mod__(self, values: Any) -> "Counted":
        return self._made(str.__mod__(self, values))


class CountedValue(bytes):
    """A field value that is decoded into a counted string."""

    def decode(self, *args: Any, **kwargs: Any) -> str:
        return Counted(super().decode(*args, **kwargs))


@pytest.mark.parametrize("name", [b"cookie", b"x-forwarded-for", b"accept"])
def test_repeated_fields_are_joined_in_linear_time(name: bytes) -> None:
    """CVE-2025-14550: joined pair by pair, equal fields cost the square of their number.

    Work is counted instead of time: no string may be made from a string that was joined already.
    """
    value = CountedValue(b"v" * 100)
    head = head_of()
    head.section.fields = [(name, value)] * 2000
    head.section.meta_variables = None
    Counted.copied = 0
    environ = environ_of(head)
    key = f"HTTP_{name.decode().upper().replace('-', '_')}"
    assert environ[key].count("v" * 100) == 2000
    assert Counted.copied <= len(environ[key])


def test_joining_in_pairs_would_have_been_counted() -> None:
    Counted.copied = 0
    joined: str = Counted("v")
    for _ in range(100):
        joined = joined + "," + Counted("v")
    assert Counted.copied > 100 * 100


@pytest.mark.parametrize(
    "head",
    [
        head_of("/%FF%00?q", "Content-Type: a", "Content-Length: 3", method="POST"),
        head_of("/", "Transfer-Encoding: chunked", method="PUT"),
        head_of("/", "Cookie: a", "Cookie: b", "X: \xff", "Content_Length: x", "Proxy: x"),
        head_of("http://other.test"),
    ],
)
def test_wsgiref_has_no_complaint(head: RequestHead) -> None:
    check_environ(environ_of(head))


field_names = st.text("abcXYZ-_!#$%&'*+.^`|~019", min_size=1, max_size=12)
field_values = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=12
)


@given(st.lists(st.tuples(field_names, field_values), max_size=8))
def test_any_fields_give_native_strings_that_wsgiref_accepts(fields: list[tuple[str, str]]) -> None:
    lines = [f"X{name}: {value}" for name, value in fields]
    environ = environ_of(head_of("/", *lines))
    check_environ(environ)
    for key, value in environ.items():
        if "wsgi." not in key:
            assert type(value) is str
            value.encode("latin-1")


def test_long_field_names_do_not_stay_in_memory() -> None:
    """A client can send as many as it likes, each another one."""

    def build(number: int) -> None:
        environ_of(head_of("/", f"X-{number:06}{'a' * 10_000}: 1"))

    build(0)
    tracemalloc.start()
    try:
        for number in range(1, 101):
            build(number)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 500_000
