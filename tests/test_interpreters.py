"""Interpreters that were built elsewhere, against older headers or without some library.

And those with faults that the code has to avoid.
"""

import ast
import ctypes
import re
import socket
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from grouped import in_one_test

import aiowsgi
from aiowsgi import libc

# Fail-safe, in seconds.
TIMEOUT = 60.0

SERVE = """
import asyncio

import aiowsgi

BODY = b"hello" * 100

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield BODY

async def main():
    async with aiowsgi.serve(app, "127.0.0.1", 0) as server:
        (listening,) = server.sockets
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(b"GET / HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n")
        answer = await reader.read()
        assert BODY in answer, answer
        writer.close()
        return listening.getsockopt(6, 25)  # IPPROTO_TCP, TCP_NOTSENT_LOWAT.

print(asyncio.run(main()))
"""


def serve_where(missing: str) -> str:
    """Return what ``SERVE`` prints in an interpreter that is made to miss something."""
    script = dedent(missing) + SERVE
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="the number is Linux'")
@pytest.mark.parametrize("has_name", [True, False])
def test_kernel_takes_little_at_once_whatever_the_interpreter_was_built_against(
    has_name: bool,
) -> None:
    if has_name and not hasattr(socket, "TCP_NOTSENT_LOWAT"):
        pytest.skip("this one was built against old headers")
    missing = """
        import socket
        vars(socket).pop("TCP_NOTSENT_LOWAT", None)
    """
    assert serve_where("" if has_name else missing) == str(1 << 17)


def test_interpreter_without_ctypes_serves() -> None:
    """One that was built where libffi was missing."""
    serve_where("""
        import sys
        sys.modules["ctypes"] = None
    """)


def test_interpreter_that_finds_no_functions_by_name_serves() -> None:
    """One that is linked statically."""
    serve_where("""
        import ctypes
        def refuse(*arguments):
            raise OSError("Dynamic loading not supported")
        ctypes.PyDLL = ctypes.CDLL = refuse
    """)


def test_function_of_the_c_library_is_found_with_its_types() -> None:
    labs = libc.find("labs", "c_long", "c_long")
    assert labs is not None
    assert labs(-(1 << 40)) == 1 << 40
    with pytest.raises(ctypes.ArgumentError):
        labs("text")


def test_function_of_the_c_library_takes_ints_and_bytes_where_no_types_are_given() -> None:
    strnlen = libc.find("strnlen", "c_size_t")
    assert strnlen is not None
    assert (strnlen(b"text", 100), strnlen(b"text", 2)) == (4, 2)


def test_function_that_the_c_library_lacks_is_none() -> None:
    assert libc.find("no_such_function", "c_int") is None


SOURCES = sorted(Path(aiowsgi.__file__).parent.rglob("*.py"))


def possessive_groups(source: str) -> list[str]:
    """Return the regular expressions in a module that have a group which is possessive or atomic.

    Of each, the text of one literal. A parenthesis in square brackets closes no group.
    """
    texts = [
        node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    ]
    return [
        text for text in texts if re.search(r"\)[*+?]\+|\(\?>", re.sub(r"\[[^\]]*\]", "[]", text))
    ]


def test_possessive_groups_are_found() -> None:
    assert possessive_groups('a = rb"(?:ab?c)*+"') == ["(?:ab?c)*+"]
    assert possessive_groups('a = "(?>ab)"') == ["(?>ab)"]
    assert possessive_groups("a = '[()*+,;]++(?:a*+b)*'") == []


@in_one_test("path", SOURCES, ids=lambda path: path.stem)
def test_no_group_is_possessive(path: Path) -> None:
    """Before Python 3.11.5 one may match where it ends half way (cpython issue 106052)."""
    assert possessive_groups(path.read_text(encoding="utf-8")) == []
