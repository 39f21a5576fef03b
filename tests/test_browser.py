"""The demo page in a real browser: headless Chromium, driven over its DevTools pipe.

The pipe (and not ``--dump-dom``) because a streamed page has no moment at which it is complete:
each test says what it waits for, and the browser answers when that has happened.
"""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
import os
import signal
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import datetime
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from certificates import Certificates
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tools import tool

import aiowsgi
from aiowsgi.demo import application

# A browser needs seconds to start on a busy machine; each test still ends within pytest's limit.
START_TIMEOUT = 30.0
ANSWER_TIMEOUT = 15.0


class Browser:
    """One tab of one browser, and the few commands of the DevTools protocol that the tests need."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}
        self.problems: list[str] = []

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and return its result; note the problems reported meanwhile."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **self._session}
        self._writer.write(json.dumps(message).encode() + b"\0")
        await self._writer.drain()
        while True:
            answer = json.loads((await self._reader.readuntil(b"\0"))[:-1])
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(str(event["params"]["exceptionDetails"]))
            # A breach of the Content-Security-Policy and a missing resource arrive here.
            case "Log.entryAdded" if event["params"]["entry"]["level"] == "error":
                self.problems.append(str(event["params"]["entry"]["text"]))

    async def open(self, url: str) -> None:
        """Open a tab at ``url``."""
        target = await self.command("Target.createTarget", url="about:blank")
        attached = await self.command(
            "Target.attachToTarget", targetId=target["targetId"], flatten=True
        )
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Runtime", "Log", "Page"):
            await self.command(f"{domain}.enable")
        answer = await self.command("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def evaluate(self, expression: str) -> Any:
        """Return what a JavaScript expression, or the promise it gives, comes to."""
        async with asyncio.timeout(ANSWER_TIMEOUT):
            answer = await self.command(
                "Runtime.evaluate",
                expression=expression,
                awaitPromise=True,
                returnByValue=True,
                userGesture=True,
            )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def until(self, condition: str) -> None:
        """Wait in the page until a JavaScript condition is true."""
        await self.evaluate(
            "new Promise((done) => { const look = () => "
            f"({condition}) ? done(true) : setTimeout(look, 10); look(); }})"
        )


def chromium() -> str:
    """Return the path of Chromium."""
    return tool("chromium", "chromium-browser", "google-chrome", package="chromium")


def pin_of(certificates: Certificates) -> str:
    """Return the SHA-256 of the public key of the tests' server, by which Chromium can know it."""
    certificate = x509.load_pem_x509_certificate(certificates.local.cert_chain_pems[0].bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


@pytest.fixture
async def browser(certificates: Certificates) -> AsyncIterator[Browser]:
    """Start Chromium with an empty profile; stop it, with all its processes, after the test.

    It accepts the certificate of the tests' server, as if it knew their CA, and no other.
    """
    path = chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium reads commands from descriptor 3 and answers on 4; the shell ties them to the
        # pipes that asyncio makes for standard input and output.
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            'exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1',
            "sh",
            path,
            "--headless",
            "--remote-debugging-pipe",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-proxy-server",
            f"--user-data-dir={profile}",
            f"--ignore-certificate-errors-spki-list={pin_of(certificates)}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=16 * 1024 * 1024,
            start_new_session=True,
            # What a browser leaves lying about, it leaves in what is removed below.
            env={**os.environ, "HOME": profile, "TMPDIR": profile},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        tab = Browser(process.stdout, process.stdin)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await tab.command("Browser.getVersion")
            yield tab
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.stdin.close()
            async with asyncio.timeout(ANSWER_TIMEOUT):
                # To its end: otherwise the pipe's transport outlives the loop of the test.
                while await process.stdout.read(65536):
                    pass
                await process.wait()


class Recorded:
    """An application around another: tells when the response to one path was closed."""

    def __init__(self, app: WSGIApplication, path: str) -> None:
        self._app = app
        self._path = path
        self._loop = asyncio.get_running_loop()
        self.chunks = 0
        self.closed = asyncio.Event()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = self._app(environ, start_response)
        return self._watch(body) if environ["PATH_INFO"] == self._path else body

    def _watch(self, body: Iterable[bytes]) -> Iterator[bytes]:
        try:
            for chunk in body:
                self.chunks += 1
                yield chunk
        finally:
            close: Callable[[], object] = getattr(body, "close", lambda: None)
            close()
            self._loop.call_soon_threadsafe(self.closed.set)


async def test_page_shows_every_line_of_the_streamed_clock(start_server, browser):
    server = await start_server(application, threads=4)

    await browser.open(f"{server.url}/?ticks=3&interval=0.05")
    await browser.until("document.getElementById('clock').dataset.state === 'done'")

    lines = await browser.evaluate(
        "Array.from(document.querySelectorAll('#ticks li'), (item) => item.textContent)"
    )
    assert [line.split()[0] for line in lines] == ["1/3", "2/3", "3/3"]
    # On a busy machine two of them may be made in the same millisecond.
    times = [datetime.fromisoformat(line.split()[1]) for line in lines]
    assert times == sorted(times)
    assert browser.problems == []


async def test_page_shows_lines_while_the_stream_goes_on_and_stopping_closes_it(
    start_server, browser
):
    watched = Recorded(application, "/clock")
    server = await start_server(watched, threads=4)

    await browser.open(f"{server.url}/?ticks=300&interval=0.2")
    await browser.until("Number(document.getElementById('clock').dataset.ticks) >= 2")
    # The page shows lines of a response of which nearly all is still to be made: it is streamed.
    assert not watched.closed.is_set()
    assert await browser.evaluate("document.getElementById('clock').dataset.state") == "streaming"

    await browser.evaluate("document.getElementById('clock-button').click()")
    await browser.until("document.getElementById('clock').dataset.state === 'stopped'")
    async with asyncio.timeout(5):
        await watched.closed.wait()
    assert watched.chunks < 300
    assert browser.problems == []


async def test_page_says_that_the_clock_ended_because_the_server_stops(start_server, browser):
    server = await start_server(application, threads=4, timeout_graceful=60)

    await browser.open(f"{server.url}/?ticks=300&interval=0.2")
    await browser.until("Number(document.getElementById('clock').dataset.ticks) >= 2")
    server.close()
    await browser.until("document.getElementById('clock').dataset.state === 'ended'")

    status = await browser.evaluate("document.getElementById('clock-status').textContent")
    assert "stopping" in status
    assert browser.problems == []


async def test_page_uploads_and_agrees_with_the_server_on_the_hash(start_server, browser):
    server = await start_server(application, threads=4)

    await browser.open(f"{server.url}/?ticks=1")
    await browser.evaluate("document.getElementById('sample').click()")
    await browser.until("document.querySelector('#upload-result dl') !== null")

    report = await browser.evaluate("document.getElementById('upload-result').innerText")
    assert "8,388,608 bytes" in report
    assert "the same as here in the browser" in report
    assert browser.problems == []


async def test_page_shows_the_slow_answer_and_the_servers_500(start_server, browser):
    server = await start_server(application, threads=4)
    slow, error = (
        f"document.querySelector('[data-try][href*=\"/{name}\"]')" for name in ("slow", "error")
    )

    await browser.open(f"{server.url}/?ticks=1")
    await browser.evaluate(f"{slow}.search = '?seconds=0.05', {slow}.click()")
    await browser.evaluate(f"{error}.click()")
    await browser.until("document.querySelectorAll('.try output:is(.good, .bad)').length === 2")

    shown = await browser.evaluate(
        "Array.from(document.querySelectorAll('.try output'), (item) => item.textContent)"
    )
    assert shown[0].startswith("200 ")
    assert "slept 0.05 s" in shown[0]
    assert shown[1].startswith("500 ")


async def test_page_streams_and_uploads_over_https(browser, certificates):
    config = aiowsgi.Config(threads=4)
    context = certificates.server_context()
    async with aiowsgi.serve(application, "127.0.0.1", 0, config=config, ssl=context) as server:
        await browser.open(f"{server.url}/?ticks=3&interval=0.05")
        await browser.until("document.getElementById('clock').dataset.state === 'done'")
        await browser.evaluate("document.getElementById('sample').click()")
        await browser.until("document.querySelector('#upload-result dl') !== null")

        report = await browser.evaluate("document.getElementById('upload-result').innerText")
        assert "the same as here in the browser" in report
        assert await browser.evaluate("isSecureContext && location.protocol") == "https:"
        spoken = "performance.getEntriesByType('navigation')[0].nextHopProtocol"
        assert await browser.evaluate(spoken) == "http/1.1"
        assert browser.problems == []


async def test_browser_refuses_a_certificate_that_nobody_vouches_for(browser, certificates):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.issue("127.0.0.1").configure_cert(context)
    asked = []

    def app(environ, start_response):
        asked.append(environ)
        return application(environ, start_response)

    async with aiowsgi.serve(app, "127.0.0.1", 0, ssl=context) as server:
        with pytest.raises(AssertionError, match="ERR_CERT_AUTHORITY_INVALID"):
            await browser.open(f"{server.url}/")
    assert asked == []
