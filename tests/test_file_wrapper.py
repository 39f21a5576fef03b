"""``wsgi.file_wrapper``."""

import io
from typing import Any

import pytest
from test_task import run

from aiowsgi.wsgi.file_wrapper import FileWrapper


class Reads:
    """A file-like object without ``close`` that records the sizes it is asked for."""

    def __init__(self, *blocks: bytes) -> None:
        self.blocks = list(blocks)
        self.sizes: list[int] = []

    def read(self, size: int, /) -> bytes:
        self.sizes.append(size)
        return self.blocks.pop(0) if self.blocks else b""


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 1000])
def test_the_file_comes_in_blocks(size: int) -> None:
    data = bytes(range(250)) * 4
    blocks = list(FileWrapper(io.BytesIO(data[:size]), 4))
    assert b"".join(blocks) == data[:size]
    assert {len(block) for block in blocks[:-1]} <= {4}


def test_it_reads_with_the_block_size_until_nothing_comes() -> None:
    # A raw file may give less than it is asked for before its end.
    file = Reads(b"aa", b"b", b"cc")
    assert list(FileWrapper(file, 2)) == [b"aa", b"b", b"cc"]
    assert file.sizes == [2, 2, 2, 2]


def test_the_block_size_has_a_default() -> None:
    file = Reads()
    assert list(FileWrapper(file)) == []
    assert file.sizes == [1 << 16]


def test_it_starts_where_the_file_stands() -> None:
    file = io.BytesIO(b"0123456789")
    file.seek(7)
    assert list(FileWrapper(file)) == [b"789"]


def test_close_closes_the_file() -> None:
    file = io.BytesIO(b"a")
    wrapper = FileWrapper(file)
    assert not file.closed
    wrapper.close()
    assert file.closed


def test_close_without_a_close_does_nothing() -> None:
    file = Reads(b"a")
    FileWrapper(file).close()
    assert file.sizes == []


def test_an_application_may_return_it() -> None:
    file = io.BytesIO(b"a" * 10)

    def app(environ: Any, start_response: Any) -> FileWrapper:
        start_response("200 OK", [("Content-Length", "10")])
        return FileWrapper(file, 4)

    recorder = run(app)
    assert recorder.pieces == [b"aaaa", b"aaaa", b"aa"]
    assert file.closed


def test_a_text_file_is_named_as_the_mistake(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return FileWrapper(io.StringIO("text"))  # type: ignore[arg-type]

    assert run(app).is_500
    assert "it yielded str ('text'); encode it: .encode()" in caplog.text
