"""The asyncio protocol of one connection: everything about it that happens on the loop thread."""

import asyncio
import logging
from typing import cast

from ..bridge.response import Progress
from ..errors import ClientDisconnected, QueueFull, Refusal, RequestBodyError
from ..http.parser import Parser
from ..http.request import BodyData, EndOfMessage, Event, RequestHead
from ..http.response import CONTINUE, refusal_response
from .deadline import Deadline, Stall
from .exchange import Exchange
from .site import Site
from .sockets import host_and_port, reset
from .states import LINGER_TIMEOUT, LINGER_TOTAL, State

_log = logging.getLogger("aiowsgi.error")

# Parser events handled before other connections have their turn: a body in chunks of one byte must
# not hold the loop (CVE-2025-69229).
_EVENTS_PER_PASS = 128
# Bytes of further requests that are kept while one is being answered. Reading goes on until then,
# because a transport that does not read does not notice that the client has gone.
_PIPELINE_BYTES = 1 << 16
# An unread request body up to this size is read and dropped, so that the connection can be kept.
_DRAIN_BYTES = 1 << 18
# What a 503 asks of the client, in seconds.
_RETRY_AFTER = 5


class Protocol(asyncio.Protocol):
    """Owns a connection: parses, hands requests over, sends responses, keeps the time.

    The states and what bounds them are in ``states``.
    """

    __slots__ = (
        "_continue_due",
        "_deadline",
        "_drained",
        "_eof",
        "_exchange",
        "_gone",
        "_linger_until",
        "_parser",
        "_prefetch",
        "_reading",
        "_receiving",
        "_refusal",
        "_site",
        "_stall",
        "_state",
        "_transport",
        "_write_paused",
        "_yielding",
        "client_address",
        "server_address",
    )

    def __init__(self, site: Site) -> None:
        self._site = site
        self._state = State.IDLE
        self._parser = Parser(site.limits)
        self._deadline = Deadline(site.loop, self._on_deadline)
        self._exchange: Exchange | None = None
        self._prefetch = bytearray()
        # Whether the parser's next events have somewhere to go. Not so between the end of a
        # request and the end of its response: pipelined requests wait (RFC 9112 §9.3.2).
        self._receiving = True
        self._reading = True
        self._yielding = False
        self._write_paused = False
        self._eof = False
        # The client waits for a 100 before it sends the body.
        self._continue_due = False
        # Why the request was refused while its application was running already.
        self._refusal: Refusal | None = None
        self._gone = ClientDisconnected("the client closed the connection")
        # Bytes of an unread request body that were dropped.
        self._drained = 0
        self._linger_until = 0.0

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection over."""
        self._transport = cast(asyncio.Transport, transport)
        self._stall = Stall(self._transport, self._site.loop, self._site.config.timeout_write)
        host, port = host_and_port(transport.get_extra_info("sockname"))
        # A Unix socket has no host, and PEP 3333 wants one.
        self.server_address = (host or "localhost", port or "80")
        self.client_address = host_and_port(transport.get_extra_info("peername"))
        self._site.connections.add(self)
        self._enter(State.IDLE)
        if self._site.closing:
            self._close(linger=False)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._state is State.CLOSING:
            # Dropped, but the client is still there; for as long as it may be.
            if self._site.loop.time() < self._linger_until:
                self._enter(State.CLOSING)
            else:
                self._transport.abort()
            return
        self._parser.feed(data)
        self._advance()

    def eof_received(self) -> bool:
        """Take the client's end: it may only have said all it has to say, and wait for answers."""
        self._eof = True
        self._parser.feed_eof()
        if self._state is State.CLOSING or (self._state is State.IDLE and not self._parser.begun):
            self._transport.close()
            return True
        if self._exchange is not None:
            # Most clients that end their side are gone. A coroutine that waits for something else
            # would never find out.
            self._exchange.cancel_calls(self._gone)
        self._advance()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything that belongs to the connection."""
        if self._state is State.CLOSED:
            return
        self._enter(State.CLOSED)
        self._deadline.cancel()
        self._site.connections.discard(self)
        if (exchange := self._exchange) is not None:
            self._exchange = None
            if exchange.job is not None:
                exchange.job.cancel()
            exchange.disconnect(self._gone)
            self._site.log_access(self.client_address[0], exchange, exchange.encoder.status_code)
        self._site.on_disconnect()

    def pause_writing(self) -> None:
        """Stop sending: the transport is full."""
        self._write_paused = True
        self._stall.restart()
        self._arm_active()

    def resume_writing(self) -> None:
        """Go on sending."""
        self._write_paused = False
        self._arm_active()
        self._site.loop.call_soon(self._flush)

    # Called by the server.

    def shut_down(self) -> None:
        """Close as soon as nothing is in flight."""
        if self._state in (State.IDLE, State.DRAIN):
            self._close(linger=self._state is State.DRAIN)

    def abort(self, error: ClientDisconnected) -> None:
        """Cut the connection now. ``error`` is what a running application will see."""
        self._gone = error
        self._transport.abort()

    # Called by the bridge.

    def on_wake(self, exchange: Exchange) -> None:
        """Look after an exchange: its thread has written, or wants to read."""
        if exchange is not self._exchange:
            return
        body = exchange.body
        if body is not None and self._receiving:
            if self._continue_due and body.awaited:
                self._continue_due = False
                if not exchange.sent:
                    self._transport.write(CONTINUE)
            self._arm_active()
            self._update_reading()
        self._flush()
        # Most responses are complete by now, and the state is another already.
        if self._state is State.QUEUED and exchange is self._exchange:
            self._enter(State.ACTIVE)

    # Requests.

    def _advance(self) -> None:
        """Parse what has arrived, as far as there is something to do with it."""
        if self._yielding:
            return
        try:
            for _ in range(_EVENTS_PER_PASS):
                if not self._receiving:
                    break
                event = self._parser.next_event()
                if event is None:
                    if self._state is State.IDLE and self._parser.begun:
                        self._enter(State.HEAD)
                    break
                self._handle(event)
            else:
                self._yielding = True
                self._site.loop.call_soon(self._after_yield)
        except Refusal as refusal:
            self._refuse(refusal)
        self._update_reading()

    def _after_yield(self) -> None:
        self._yielding = False
        if self._state is State.CLOSING:
            self._update_reading()
        elif self._state is not State.CLOSED:
            self._advance()

    def _handle(self, event: Event) -> None:
        if isinstance(event, RequestHead):
            self._exchange = exchange = Exchange(self._site, self, event)
            if self._eof:
                exchange.cancel_calls(self._gone)
            if not (event.chunked or event.content_length):
                return
            if event.expect_continue and not self._parser.buffered:
                self._continue_due = True
                exchange.stream_body(b"")
                self._dispatch(exchange)
            else:
                self._enter(State.BODY)
        elif isinstance(event, BodyData):
            self._handle_body(event.data)
        else:
            assert isinstance(event, EndOfMessage)
            self._handle_end()

    def _handle_body(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            self._drained += len(data)
            if self._drained > _DRAIN_BYTES:
                self._close(linger=True)
        elif exchange.body is not None:
            self._continue_due = False
            exchange.body.feed(data)
            self._arm_active()
        else:
            self._prefetch += data
            if len(self._prefetch) < self._site.config.body_prefetch:
                self._enter(State.BODY)
                return
            exchange.stream_body(bytes(self._prefetch))
            self._prefetch = bytearray()
            self._dispatch(exchange)

    def _handle_end(self) -> None:
        exchange = self._exchange
        if exchange is None:
            self._next_request()
            return
        self._receiving = False
        self._continue_due = False
        if exchange.body is not None:
            exchange.body.finish()
            self._arm_active()
            return
        if self._prefetch:
            exchange.prefetched = bytes(self._prefetch)
            self._prefetch = bytearray()
        self._dispatch(exchange)

    def _dispatch(self, exchange: Exchange) -> None:
        self._enter(State.QUEUED)
        try:
            exchange.job = self._site.pool.start(exchange.run, wake=False)
        except QueueFull:
            self._refuse(_overload("the server is busy"))
        except RuntimeError as error:
            _log.error("The thread pool takes no more work: %s", error)
            self._refuse(_overload("the server is stopping"))
        else:
            self._site.wake_pool_soon()

    def _next_request(self) -> None:
        self._receiving = True
        self._continue_due = False
        self._enter(State.IDLE)
        if self._eof and not self._parser.begun:
            self._close(linger=False)

    # Responses.

    def _flush(self) -> None:
        """Send what the thread has written, as far as the transport takes it."""
        exchange = self._exchange
        if exchange is None or self._write_paused:
            return
        pieces, progress = exchange.writer.take()
        if pieces:
            exchange.sent = True
            # Not writelines(), which in some releases of Python 3.12 and 3.13 knows neither that
            # the connection is lost (gh-136234) nor when to pause (CVE-2024-12254).
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if progress is Progress.FINISHED:
            self._finish(exchange)
        elif progress is Progress.ABORTED:
            self._cut(exchange)

    def _finish(self, exchange: Exchange) -> None:
        """Go on behind a complete response: next request, or close."""
        self._exchange = None
        self._site.log_access(self.client_address[0], exchange, exchange.encoder.status_code)
        if exchange.body is not None:
            # Nobody feeds it from here on, should the application read on behind its answer.
            exchange.body.abort(RequestBodyError("the response to the request is complete"))
        if not exchange.encoder.keep_alive or self._site.closing or self._refusal is not None:
            # Only a client that may still be sending has to be waited for.
            unread = self._receiving or self._refusal or self._parser.buffered
            self._close(linger=bool(unread) or exchange.head.keep_alive)
        elif self._receiving:
            self._drained = 0
            self._enter(State.DRAIN)
            self._advance()
        else:
            self._next_request()
            if self._parser.buffered:
                self._advance()
            self._update_reading()

    def _cut(self, exchange: Exchange) -> None:
        """Go on behind a response that the application could not complete."""
        self._exchange = None
        if exchange.body is not None:
            exchange.body.abort(RequestBodyError("the response to the request was given up"))
        if not exchange.sent:
            # The application gave up because its request did.
            refusal = self._refusal or Refusal(500, "the request could not be served")
            self._answer(refusal, exchange)
            return
        self._site.log_access(self.client_address[0], exchange, exchange.encoder.status_code)
        if exchange.encoder.self_delimiting:
            self._close(linger=False)
        else:
            reset(self._transport)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with a 4xx or 5xx and close. Nothing behind it is parsed."""
        self._receiving = False
        if self._state is State.DRAIN:  # Answered already.
            self._close(linger=True)
            return
        exchange = self._exchange
        if exchange is not None and exchange.job is not None and not exchange.job.cancel():
            # The application is running. It learns of it when it reads, and what it answers goes
            # out; if it gives up, the refusal does.
            self._refusal = refusal
            if exchange.body is not None:
                exchange.body.abort(RequestBodyError(f"the request body is lost: {refusal.reason}"))
            self._enter(State.ACTIVE)
            return
        self._exchange = None
        self._answer(refusal, exchange)

    def _answer(self, refusal: Refusal, exchange: Exchange | None) -> None:
        method = "GET" if exchange is None else exchange.head.method
        _log.debug("Refused a request from %s: %s", self.client_address[0], refusal)
        self._transport.write(
            refusal_response(refusal, method=method, server=self._site.server_field)
        )
        self._site.log_access(self.client_address[0], exchange, refusal.status)
        self._close(linger=True)

    # The end of the connection.

    def _close(self, *, linger: bool) -> None:
        """Send what is buffered and close. With ``linger`` the client closes first, if it does.

        A socket that is closed while bytes of the client are unread makes the kernel send a reset,
        which can destroy the response on its way (RFC 9112 §9.6).
        """
        self._receiving = False
        self._linger_until = self._site.loop.time() + LINGER_TOTAL
        self._stall.restart()
        self._enter(State.CLOSING)
        if linger and not self._eof and self._transport.can_write_eof():
            self._update_reading()
            self._transport.write_eof()
        else:
            self._transport.close()

    # Time and flow.

    def _enter(self, state: State) -> None:
        """Change the state: the only place where that happens."""
        self._state = state
        self._deadline.set(self._site.timeouts[state])
        if state is State.ACTIVE:
            self._arm_active()

    def _arm_active(self) -> None:
        """Start the clock of what the application waits for, if it is the client."""
        if self._state is not State.ACTIVE:
            return
        exchange = self._exchange
        if self._write_paused:
            # What the client sends is no progress of what it takes.
            self._deadline.set(max(self._stall.left(), 0.0))
        elif (
            self._receiving
            and not self._continue_due
            and exchange is not None
            and exchange.body is not None
            and not exchange.body.full
        ):
            self._deadline.set(self._site.config.timeout_body)
        else:
            self._deadline.set(None)

    def _on_deadline(self) -> None:
        match self._state:
            case State.IDLE | State.DRAIN:
                self._close(linger=False)
            case State.HEAD:
                self._refuse(Refusal(408, "the request head took too long"))
            case State.BODY:
                self._refuse(Refusal(408, "the request body took too long"))
            case State.QUEUED:
                if self._exchange and self._exchange.job and self._exchange.job.cancel():
                    self._refuse(_overload("no thread became free in time"))
                else:
                    self._enter(State.ACTIVE)
            case State.ACTIVE if not self._write_paused:
                self._refuse(Refusal(408, "the request body took too long"))
            case State.ACTIVE:
                self._check_stall()
            case State.CLOSING:
                if self._transport.get_write_buffer_size():
                    self._check_stall()
                else:
                    self._transport.abort()

    def _check_stall(self) -> None:
        """Tell a client that takes few bytes from one that takes none, and cut the latter."""
        left = self._stall.left()
        if left <= 0:
            reset(self._transport)
        else:
            self._deadline.set(min(left, LINGER_TIMEOUT))

    def _update_reading(self) -> None:
        """Read from the client exactly while there is room for what it sends."""
        full = self._yielding
        if self._receiving:
            exchange = self._exchange
            if exchange is not None and exchange.body is not None:
                full = full or exchange.body.full
        elif self._state is not State.CLOSING:
            full = full or self._parser.buffered > _PIPELINE_BYTES
        if full is not self._reading:
            return
        if self._eof or self._state is State.CLOSED or self._transport.is_closing():
            return
        self._reading = not full
        if full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


def _overload(reason: str) -> Refusal:
    return Refusal(503, reason, retry_after=_RETRY_AFTER)
