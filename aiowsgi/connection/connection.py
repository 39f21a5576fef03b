"""The asyncio protocol of one connection: what is decided there, on the loop thread."""

import asyncio
import socket
from typing import cast

from ..bridge.response import ABORTED, FINISHED, LEFT
from ..errors import ClientDisconnected, Refusal, RequestBodyError
from ..exchange.report import request_info
from ..exchange.stream import Exchange
from ..http.request import RequestHead
from ..http.response import refusal_response
from ..net.sockets import addresses, half_close, reset
from ..observe.inspection import RequestInfo
from ..server.site import Site
from .receiver import Receiver
from .sender import Sender
from .shedding import overload
from .states import (
    ACTIVE,
    BODY,
    CLOSED,
    CLOSING,
    DRAIN,
    HEAD,
    IDLE,
    LINGER_TOTAL,
    QUEUED,
    State,
)
from .watchdog import Clock, Expiry


class Protocol(asyncio.Protocol):
    """Owns a connection, and decides what happens on it. For the states see ``states``."""

    __slots__ = (
        "_clock",
        "_exchange",
        "_gone",
        "_held",
        "_linger_until",
        "_receiver",
        "_refusal",
        "_requests",
        "_sender",
        "_site",
        "_socket",
        "_state",
        "_transport",
        "accepted_at",
        "client_address",
        "server_address",
    )

    def __init__(self, site: Site, sock: socket.socket) -> None:
        self._site = site
        self._socket = sock
        self._state = IDLE
        self._exchange: Exchange | None = None
        self._requests = 0
        # What the budget counts of what is kept here.
        self._held = 0
        # Why the request was refused while its application was running.
        self._refusal: Refusal | None = None
        self._gone = ClientDisconnected("the client closed the connection")
        self.accepted_at = site.clock()

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection over."""
        self._transport = cast(asyncio.Transport, transport)
        self._receiver = Receiver(self._site, self._transport, self)
        self._sender = Sender(self._site, self._transport, self._socket, self._on_file_end)
        self._clock = Clock(self._site, self._receiver, self._sender, self._on_expiry)
        self.server_address, self.client_address = addresses(transport)
        self._site.connections.add(self)
        self._enter(IDLE)
        if self._site.closing:
            self._close(linger=False)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._state is CLOSING:
            # Dropped, for as long as the client may be there.
            if self._site.loop.time() < self._linger_until:
                self._enter(CLOSING)
            else:
                reset(self._transport)
            return
        if self._exchange is not None and not self._receiver.receiving:
            self._flush()  # The thread may have sent it all.
        self._receiver.feed(data)

    def eof_received(self) -> bool:
        """Take the client's end: it may have said all it has to say, and wait for answers."""
        self._receiver.feed_eof()
        if self._state is CLOSING or (self._state is IDLE and not self._receiver.begun):
            self._transport.close()
            return True
        if self._exchange is not None:
            # Most clients that end their side are gone, which a coroutine would never find out.
            self._exchange.calls.cancel(self._gone)
        self.drain()
        self._receiver.advance()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything that belongs to the connection."""
        if self._state is CLOSED:
            return
        self._enter(CLOSED)
        self._clock.stop()
        self._site.connections.discard(self)
        self._site.relief.forget(self)
        if (exchange := self._exchange) is not None:
            self._exchange = None
            exchange.cancel()
            exchange.disconnect(self._gone)
            self._log_end(exchange)
        self._receiver.close()
        self._sender.close()
        self._held = self._site.budget.hold(self._held, 0)
        self._site.on_disconnect()

    def pause_writing(self) -> None:
        """Stop sending: the kernel takes no more."""
        self._sender.pause()
        self._clock.arm()
        self._account()

    def resume_writing(self) -> None:
        """Go on sending."""
        self._sender.resume()
        self._clock.arm()
        self._account()
        self._site.loop.call_soon(self._flush)

    # Called by the server.

    def shut_down(self) -> None:
        """Close as soon as nothing is in flight."""
        if self._state in (IDLE, DRAIN):
            self._close(linger=self._state is DRAIN)

    def drain(self) -> None:
        """Take no request behind those that are here."""
        if self._exchange is not None:
            self._exchange.last = self._is_last()

    def abort(self, error: ClientDisconnected) -> None:
        """Cut the connection now. ``error`` is what a running application will see."""
        self._gone = error
        if (exchange := self._exchange) is not None:
            exchange.disconnect(error)  # Its thread sends nothing from here on.
            if exchange.open_ended:
                reset(self._transport)
        self._transport.abort()

    def end(self, error: ClientDisconnected) -> None:
        """Release everything at once: the transport does not live on to say that it is lost."""
        self._gone = error
        self.connection_lost(None)

    def abandon(self, error: ClientDisconnected) -> list[int]:
        """Give up, in a forked child. Return the descriptors that are its parent's."""
        if self._exchange is not None:
            self._exchange.abandon(error)
        return self._sender.abandon()

    def inspect(self, stacks: dict[int, str]) -> RequestInfo | None:
        """Return what is in flight, if anything."""
        if self._exchange is not None:
            return request_info(self._exchange, stacks, self._site.clock())
        client = self.client_address[0]
        return RequestInfo.reading(self._clock.age, client) if self._state is HEAD else None

    # Called by the relief.

    @property
    def idle_since(self) -> float | None:
        """When the connection became idle, by the site's clock; None if it is not."""
        return self._clock.since if self._state is IDLE else None

    @property
    def blocks_thread(self) -> bool:
        """Whether a thread waits for the client."""
        return bool(self._exchange and self._exchange.blocked)

    @property
    def holds_memory(self) -> bool:
        """Whether buffered bytes count."""
        return self._held > 0 or bool(self._exchange and self._exchange.held)

    @property
    def holds_spool(self) -> bool:
        """Whether there is a spool."""
        return self._receiver.spool is not None

    def rate(self) -> float | None:
        """Return the client's pace. See ``Clock.rate``."""
        return self._clock.rate()

    def give_way(self) -> None:
        """Free what is held for a client that is too slow."""
        if self._sender.waiting or self._state >= DRAIN:
            reset(self._transport)
            self.end(ClientDisconnected("the client was too slow for a busy server"))
        else:
            self.refuse(Refusal(408, "the request comes too slowly for a busy server"))

    def on_wake(self, exchange: Exchange) -> None:
        """Look after an exchange: its thread has written, or wants to read."""
        if exchange is not self._exchange:
            return
        if self._receiver.spool is not None:
            self._receiver.on_spooled()
            self._clock.arm()
            return
        if exchange.body is not None and self._receiver.receiving:
            self._receiver.on_demand(answered=exchange.first_byte_at > 0)
            self._clock.arm()
        self._flush()
        # Most responses are complete by now, and the state is another.
        if self._state is QUEUED and exchange is self._exchange:
            self._enter(ACTIVE)

    # Called by the receiver.

    def on_left(self) -> None:
        """Count the bytes for which there is no use yet."""
        if self._state is IDLE and self._receiver.begun:
            self._enter(HEAD)
        self._account()

    def on_head(self, head: RequestHead) -> None:
        """Begin a request."""
        receiver = self._receiver
        self._requests += 1
        self._exchange = exchange = Exchange(self._site, self, head)
        if receiver.eof:
            exchange.calls.cancel(self._gone)
        if not (head.section.chunked or head.section.content_length):
            return
        if receiver.begin_body(head.section):
            self._stream(exchange)
        else:
            self._enter(BODY)

    def on_body(self, data: bytes) -> None:
        """Keep, hand over or drop bytes of the body."""
        exchange, receiver = self._exchange, self._receiver
        if exchange is None:
            if not receiver.drop(data):
                self._close(linger=True)
            return
        if receiver.take_body(data, exchange.wake):
            self._stream(exchange)
        else:
            self._clock.arm()
            if receiver.body is not None:
                self._account()

    def _stream(self, exchange: Exchange) -> None:
        """Have the application read the body while it arrives."""
        self._receiver.body = exchange.stream_body(self._receiver.take_prefetch())
        self._dispatch(exchange)

    def on_end(self) -> None:
        """Take the end of the request."""
        exchange, receiver = self._exchange, self._receiver
        if exchange is None:
            self._next_request()
            return
        receiver.end_body()
        if receiver.body is not None:
            exchange.last = self._is_last()
            self._clock.arm()
            return
        receiver.deliver(exchange)
        self._dispatch(exchange)

    def _is_last(self) -> bool:
        """Return whether the connection ends behind the request that is here."""
        site, receiver = self._site, self._receiver
        if 0 < site.config.max_keep_alive_requests <= self._requests:
            return True
        # What was sent before the client could know, or ended its side, is still answered.
        return (site.draining or receiver.eof) and (receiver.receiving or not receiver.begun)

    def _dispatch(self, exchange: Exchange) -> None:
        self._enter(QUEUED)
        exchange.ready_at = self._clock.since
        site, eof = self._site, self._receiver.eof
        if site.draining or site.config.max_keep_alive_requests or eof:
            exchange.last = self._is_last()
        if self._held or exchange.prefetched or exchange.body:
            self._account()
            if self._exchange is not exchange:
                return  # It was refused.
        if not self._receiver.interim:
            self._sender.allow_direct(exchange)
        try:
            exchange.queue()
        except Refusal as refusal:
            self.refuse(refusal)
        else:
            self._site.wake_pool_soon()

    def _next_request(self) -> None:
        self._receiver.next_request()
        self._enter(IDLE)
        if self._receiver.eof and not self._receiver.begun:
            self._close(linger=False)

    def _flush(self) -> None:
        """Send what the thread has written, as far as the client takes it."""
        if (exchange := self._exchange) is None:
            return
        progress = self._sender.flush(exchange)
        if progress is FINISHED:
            self._finish(exchange)
        elif progress is ABORTED:
            self._cut(exchange)
        elif progress is LEFT:
            self._site.loop.call_soon(self._flush)
        elif self._sender.waiting:
            self._clock.arm()

    def _on_file_end(self, complete: bool) -> None:
        exchange = self._exchange
        assert exchange is not None  # Its end closes the file.
        if complete:
            self._flush()
        else:
            self._cut(exchange)

    def _finish(self, exchange: Exchange) -> None:
        """Go on behind a complete response: next request, or close."""
        self._exchange = None
        receiver = self._receiver
        self._log_end(exchange)
        if exchange.queue_wait > self._site.config.queue_target:
            self._site.waits.note(exchange.queue_wait)
        if exchange.body is not None:
            # Nobody feeds it from here on.
            exchange.body.abort(RequestBodyError("the response to the request is complete"))
        over = self._site.draining and self._is_last()
        if over or not exchange.encoder.keep_alive or self._refusal is not None:
            # Only who may still be sending has to be waited for.
            unread = receiver.receiving or self._refusal or receiver.kept
            self._close(linger=bool(unread) or exchange.head.section.keep_alive)
        elif receiver.receiving:
            receiver.forget_body()
            self._enter(DRAIN)
            receiver.advance()
        else:
            self._next_request()
            if receiver.kept:
                receiver.advance()
            else:
                receiver.update_reading()
            if self._held:
                self._account()

    def _cut(self, exchange: Exchange) -> None:
        """Go on behind a response that the application could not complete."""
        self._exchange = None
        if exchange.body is not None:
            exchange.body.abort(RequestBodyError("the response to the request was given up"))
        if not exchange.first_byte_at:
            # The application gave up because its request did.
            refusal = self._refusal or Refusal(500, "the request could not be served")
            self._answer(refusal, exchange)
            return
        self._log_end(exchange)
        if exchange.open_ended:
            reset(self._transport)
        else:
            self._close(linger=False)

    def _log_end(self, exchange: Exchange) -> None:
        self._site.log_access(self.client_address[0], exchange, exchange.encoder.status_code)

    def refuse(self, refusal: Refusal) -> None:
        """Answer with a 4xx or 5xx and close. Nothing behind it is parsed."""
        if self._state >= CLOSING:
            return  # Who made room came first.
        self._receiver.stop()
        if self._state is DRAIN:  # Answered already.
            self._close(linger=True)
            return
        exchange = self._exchange
        line = self._receiver.request_line if exchange is None else exchange.request_line
        self._site.refusals.note(self.client_address[0], line, refusal)
        if exchange is not None and not exchange.cancel():
            # What the application answers goes out, if it answers.
            self._refusal = refusal
            exchange.last = True
            if exchange.body is not None:
                exchange.body.abort(RequestBodyError(f"the request body is lost: {refusal.reason}"))
            self._enter(ACTIVE)
            return
        self._exchange = None
        self._answer(refusal, exchange)

    def _answer(self, refusal: Refusal, exchange: Exchange | None) -> None:
        self._enter(CLOSING)
        client, line = self.client_address[0], self._receiver.request_line
        # RFC 9110 §9.3.2: HEAD gets no content, refused or not.
        method = line.partition(" ")[0] if exchange is None else exchange.head.method
        response = refusal_response(refusal, self._site.heads, method=method)
        self._transport.write(response)
        self._site.log_access(client, exchange, refusal.status, line)
        self._close(linger=True)

    # The end of the connection.

    def _close(self, *, linger: bool) -> None:
        """Send what is buffered and close. With ``linger`` the client closes first, if it does.

        A socket that is closed while bytes of the client are unread makes the kernel send a reset,
        which can destroy the response on its way (RFC 9112 §9.6).
        """
        self._receiver.stop()
        self._receiver.dropping = True
        self._linger_until = self._site.loop.time() + LINGER_TOTAL
        self._enter(CLOSING)
        if linger and not self._receiver.eof and self._transport.can_write_eof():
            self._receiver.update_reading()
            half_close(self._transport)
        else:
            self._transport.close()
        if self._held:
            self._account()

    def _enter(self, state: State) -> None:
        """Change the state, here only."""
        self._state = state
        self._clock.enter(state, self._exchange)

    def _on_expiry(self, expiry: Expiry) -> None:
        exchange = self._exchange
        match expiry:
            case Expiry.IDLE:
                self._close(linger=False)
            case Expiry.HEAD | Expiry.BODY:
                self.refuse(self._receiver.overdue(expiry.value))
            case Expiry.QUEUE if exchange is not None and exchange.cancel():
                self._site.waits.note(self._site.config.queue_timeout, refused=True)
                self.refuse(overload("no thread became free in time"))
            case Expiry.QUEUE:
                self._enter(ACTIVE)
            case Expiry.REQUEST if exchange is not None and exchange.give_up():
                self._exchange = None
                self._answer(Refusal(504, "the application took too long"), exchange)
            case Expiry.WRITE | Expiry.GONE:
                reset(self._transport)
            case Expiry.LINGER:
                self._transport.abort()

    # Memory.

    def _account(self) -> None:
        """Count what is buffered here; make room, or make do without this request."""
        size = self._receiver.held + self._sender.buffered
        if self._exchange is not None:
            size += len(self._exchange.prefetched)
        if size or self._held:
            self._held = self._site.budget.hold(self._held, size)
        arriving = HEAD <= self._state <= QUEUED
        if arriving and self.holds_memory and self._site.relief.is_memory_short():
            self.refuse(overload("the server is short of memory"))
