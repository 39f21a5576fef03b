"""One connection, one stream at a time: what is decided there, on the loop thread."""

from ..bridge.locks import make_lock
from ..bridge.source import ABORTED, FINISHED, LEFT
from ..errors import ClientDisconnected, Refusal, RequestBodyError, overload
from ..exchange.info import ConnectionInfo
from ..exchange.interfaces import Codec, Wire
from ..exchange.refusal import respond_with_refusal, stream_without_head
from ..exchange.states import ANSWERED, EXPECT_BODY, GIVE_UP, QUEUED, SENT, START
from ..exchange.stream import Stream
from ..http.request import RequestHead
from .receiver import Receiver
from .sender import Sender
from .shared import Shared
from .states import (
    BODY_END,
    BYTES,
    CLOSE,
    CLOSED,
    CLOSING,
    DROPPING,
    HEAD,
    IDLE,
    LINGER_TOTAL,
    LOST,
    REQUEST,
    STREAM_END,
    STREAM_END_EARLY,
    ConnectionEvent,
)
from .view import ConnectionView
from .watchdog import Expiry, Watchdog


class Connection(ConnectionView):
    """Decides what happens on a connection. For its states see ``states``.

    Arguments: what connections share; the wire, which calls the first methods below; the codec of
    the client's protocol; and what is known of the connection.

    Implements ``ConnectionHandle`` for load shedding and the server, ``StreamOwner`` for streams,
    and ``RequestHandler`` for what arrives.
    """

    __slots__ = ("_codec", "_linger_until", "_response_lock", "_send_now", "_shared", "wire")

    def __init__(self, shared: Shared, wire: Wire, codec: Codec, info: ConnectionInfo) -> None:
        receiver = Receiver(shared, wire, codec, info, self)
        sender = Sender(shared, wire, self._on_file_end)
        watchdog = Watchdog(shared, receiver, sender, self._on_expiry)
        super().__init__(shared.resources, info, receiver, sender, watchdog)
        self._shared = shared
        self.wire = wire
        self._codec = codec
        self._linger_until = 0.0
        # Of the writers of all streams.
        self._response_lock = make_lock()
        # What threads send with, if they do.
        self._send_now = wire.send_now if wire.is_plain else None
        shared.connections[self] = None
        self._watchdog.watch_connection(IDLE)
        if shared.is_closing:
            self._close(linger=False)

    # Called by the wire.

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._state is CLOSING:
            # Dropped. A client that goes on sending is reset after a while.
            if self._resources.clock() < self._linger_until:
                self._watchdog.watch_connection(CLOSING)
            else:
                self.wire.reset()
            return
        if self._stream is not None and not self.receiver.is_parsing:
            self._flush()  # The thread may have sent the whole response.
        self.receiver.advance(data)

    def receive_end(self) -> None:
        """Take the end of the client's side. It may still wait for answers."""
        self.receiver.feed_eof()
        if self._state is CLOSING or (self._state is IDLE and not self.receiver.has_begun):
            self.wire.close()
            return
        if self._stream is not None:
            # Most clients that end their side are gone. A coroutine would not notice that.
            self._stream.note_disconnect(self._disconnection())
        self.announce_close()
        self.receiver.advance()

    def on_lost(self) -> None:
        """Release everything: the connection is gone. Idempotent."""
        if self._state is CLOSED:
            return
        self._fire(LOST)
        self._watchdog.stop()
        self._shared.connections.pop(self, None)
        self._shared.shedding.forget(self)
        if (stream := self._stream) is not None:
            self._stream = None
            stream.fire(GIVE_UP)
            stream.cancel()
            stream.disconnect(self._disconnection())
        self.receiver.close()
        self.sender.close()
        self._held = self._resources.budget.update(self._held, 0)
        self._shared.on_disconnect()
        if stream is not None:
            self._shared.observers.note_end(stream)

    def pause_writing(self) -> None:
        """Stop sending: the kernel takes no more."""
        self.sender.pause()
        self._watchdog.rearm()
        self._account()

    def resume_writing(self) -> None:
        """Go on sending."""
        self.sender.resume()
        self._watchdog.rearm()
        self._account()
        self._shared.timers.call_soon(self._flush)

    # Called by the server.

    def close_if_idle(self) -> None:
        """See ``ConnectionHandle``."""
        if self._state in (IDLE, DROPPING):
            self._close(linger=self._state is DROPPING)

    def abort(self, error: ClientDisconnected) -> None:
        """See ``ConnectionHandle``."""
        self._disconnect_error = error
        if (stream := self._stream) is not None:
            stream.disconnect(error)  # Its thread sends nothing from here on.
            if stream.is_open_ended:
                self.wire.reset()
        self.wire.abort()

    def release(self, error: ClientDisconnected) -> None:
        """See ``ConnectionHandle``."""
        self._disconnect_error = error
        self.on_lost()

    # Called by load shedding.

    def shed(self) -> None:
        """See ``ConnectionHandle``."""
        if self.sender.waits_for_client or self._state >= DROPPING:
            self.wire.reset()
            self.release(ClientDisconnected("the client was too slow for a busy server"))
        else:
            self.refuse(Refusal(408, "the request comes too slowly for a busy server"))

    # Called for a stream.

    def look_after(self, stream: Stream) -> None:
        """See ``StreamOwner``."""
        if stream is not self._stream:
            return
        if self.receiver.spool is not None:
            # The disk has taken some of the body. No thread has the stream yet.
            self.receiver.on_spooled()
            self._watchdog.rearm()
            return
        if stream.body is not None and self.receiver.is_parsing:
            self.receiver.on_body_wanted(answered=stream.first_byte_at > 0)
            self._watchdog.rearm()
        self._flush()
        # Most responses are complete by now, and the stream has ended.
        if stream.state is QUEUED:
            self._watch_start(stream)

    # Called by the receiver.

    def on_buffer_change(self) -> None:
        """See ``RequestHandler``."""
        if self._state is IDLE and self.receiver.has_begun:
            self._fire(BYTES)
            self._watchdog.watch_connection(HEAD)
        self._account()

    def on_head(self, head: RequestHead) -> None:
        """See ``RequestHandler``."""
        receiver = self.receiver
        self._requests += 1
        if not self._fire(REQUEST):
            return  # Cut, and with it the stream that is there.
        encoder = self._codec.encoder(head)
        self._stream = stream = Stream(
            self._resources, self, self.info, head, encoder, self._response_lock
        )
        if receiver.eof:
            stream.disconnect_error = self._disconnection()
        if not receiver.is_parsing:
            self._dispatch(stream)
        elif receiver.expect_body(head.section):
            self._stream_body(stream)
        else:
            stream.fire(EXPECT_BODY)
            self._watchdog.watch_stream(stream)

    def on_body(self, data: bytes) -> None:
        """See ``RequestHandler``."""
        stream, receiver = self._stream, self.receiver
        if stream is None:
            if not receiver.drop(data):
                self._close(linger=True)
            return
        if receiver.take_body(data, stream.wake_loop):
            self._stream_body(stream)
        else:
            self._watchdog.rearm()
            if receiver.body is not None:
                self._account()

    def _stream_body(self, stream: Stream) -> None:
        """Have the application read the body while it arrives."""
        self.receiver.body = stream.stream_body(self.receiver.take_prefetch())
        self._dispatch(stream)

    def on_end(self) -> None:
        """See ``RequestHandler``."""
        stream = self._stream
        if stream is None:
            self._expect_request(BODY_END)
        elif self.receiver.end_body(stream):
            self._dispatch(stream)
        else:
            stream.is_last = self._is_last()
            self._watchdog.rearm()

    def _dispatch(self, stream: Stream) -> None:
        """Have the request answered."""
        resources, receiver = self._resources, self.receiver
        if resources.is_draining or resources.max_keep_alive_requests or receiver.eof:
            stream.is_last = self._is_last()
        if self._held or stream.prefetched or stream.body:
            self._account()
            if self._stream is not stream:
                return  # It was refused.
        if not receiver.has_interim_response:
            stream.writer.send_now = self._send_now
        try:
            self._shared.answerer.answer(stream)
        except Refusal as refusal:
            self.refuse(refusal)
            return
        if self._stream is not stream:
            return  # Load shedding has refused it, to free threads.
        self._watchdog.watch_stream(stream)
        if stream.state is ANSWERED:
            # Not at once: many requests may have come together.
            self._shared.timers.call_soon(self._flush)

    def _expect_request(self, event: ConnectionEvent) -> None:
        receiver = self.receiver
        if receiver.body is not None:
            receiver.forget_body()
        receiver.has_interim_response = False
        receiver.is_parsing = True
        self._fire(event)
        self._watchdog.watch_connection(IDLE)
        if receiver.eof and not receiver.has_begun:
            self._close(linger=False)

    def _flush(self) -> None:
        """Send what there is of the response, as far as the client takes it."""
        if (stream := self._stream) is None:
            return
        progress = self.sender.flush(stream)
        if progress is FINISHED:
            self._finish(stream)
        elif progress is ABORTED:
            self._on_aborted(stream)
        elif progress is LEFT:
            self._shared.timers.call_soon(self._flush)
        elif self.sender.waits_for_client:
            self._watchdog.rearm()

    def _on_file_end(self, complete: bool) -> None:
        stream = self._stream
        assert stream is not None  # Its end closes the file.
        if complete:
            self._flush()
        else:
            self._on_aborted(stream)

    def _finish(self, stream: Stream) -> None:
        """Go on after a complete response: next request, or close."""
        self._stream = None
        stream.fire(SENT)
        receiver, observers = self.receiver, self._shared.observers
        if observers.has_access_log:
            observers.note_end(stream)
        if stream.started_at - stream.ready_at > observers.queue_target:
            observers.note_late_start(stream)
        if stream.body is not None:
            # No more bytes are fed to it.
            stream.body.abort(RequestBodyError("the response to the request is complete"))
        refused = stream.refusal is not None
        over = self._resources.is_draining and self._is_last() and not self._may_ask_again()
        if over or refused or not stream.encoder.keep_alive:
            # A client may still be sending: the rest of this request, or another one, if it
            # wanted to keep the connection.
            unread = receiver.is_parsing or refused or receiver.leftover > 0
            self._close(linger=unread or stream.head.section.keep_alive)
        elif receiver.is_parsing:
            receiver.forget_body()
            self._fire(STREAM_END_EARLY)
            self._watchdog.watch_connection(DROPPING)
            receiver.advance()
        else:
            self._expect_request(STREAM_END)
            if receiver.leftover:
                receiver.advance()
            elif not receiver.is_reading:
                receiver.update_reading()
            if self._held:
                self._account()

    def _may_ask_again(self) -> bool:
        """Return whether a client that was not told of the end may send another request."""
        return self._resources.is_replaced and not self._shared.is_closing

    def _on_aborted(self, stream: Stream) -> None:
        """Go on after a response that the application could not complete."""
        if stream.body is not None:
            stream.body.abort(RequestBodyError("the response to the request was given up"))
        if not stream.first_byte_at:
            # The application may have given up because its request was refused.
            refusal = stream.refusal or Refusal(500, "the request could not be served")
            self._send_refusal(refusal, stream)
            return
        self._stream = None
        stream.fire(GIVE_UP)
        self._shared.observers.note_end(stream)
        if stream.is_open_ended:
            self.wire.reset()
        else:
            self._close(linger=False)

    def refuse(self, refusal: Refusal) -> None:
        """Answer with a 4xx or 5xx and close. Nothing after it is parsed."""
        if self._state >= CLOSING:
            return  # Load shedding came first.
        self.receiver.stop()
        if self._state is DROPPING:  # Answered already.
            self._close(linger=True)
            return
        stream = self._stream
        if stream is not None and stream.state is ANSWERED and stream.refusal:
            return
        known = stream or self._unknown_stream()
        self._shared.observers.note_refusal(known.client, known.request_line, refusal)
        if stream is None or (not stream.first_byte_at and stream.cancel()):
            self._send_refusal(refusal, known)
            return
        # What was answered goes out, and what the application answers, if it does.
        stream.refusal = refusal
        stream.is_last = True
        if stream.body is not None:
            stream.body.abort(RequestBodyError(f"the request body is lost: {refusal.reason}"))
        if stream.state is QUEUED:
            stream.fire(START)
        self._watchdog.watch_stream(stream)

    def _unknown_stream(self) -> Stream:
        """Return a stream for a request whose head could not be read."""
        line, client = self.receiver.request_line, self.receiver.told_client
        stream = stream_without_head(self._resources, self, self.info, self._codec, line, client)
        if self._state is HEAD:
            stream.head_at = self._watchdog.since  # Its first byte; it has no last one.
        return stream

    def _send_refusal(self, refusal: Refusal, stream: Stream) -> None:
        """Answer on a stream that no thread has: another one, if this was not made for that."""
        self.receiver.drop_rest()
        self.receiver.update_reading()
        if self._stream is None:
            self._fire(REQUEST)
        else:
            stream.fire(GIVE_UP)
            stream = stream.make_replacement(self._codec.encoder(stream.head))
        self._stream = stream
        respond_with_refusal(stream, refusal)
        self._watchdog.watch_stream(stream)
        self._flush()

    # The end of the connection.

    def _close(self, *, linger: bool) -> None:
        """Send what is buffered and close. With ``linger`` the client closes first, if it does.

        A socket that is closed while bytes of the client are unread makes the kernel send a reset,
        which can destroy the response on its way (RFC 9112 §9.6).
        """
        self.receiver.drop_rest()
        self._linger_until = self._resources.clock() + LINGER_TOTAL
        self._fire(CLOSE)
        self._watchdog.watch_connection(CLOSING)
        if linger and not self.receiver.eof and self.wire.can_half_close:
            self.receiver.update_reading()
            self.wire.half_close()
        else:
            self.wire.close()
        if self._held:
            self._account()

    def _on_expiry(self, expiry: Expiry) -> None:
        match expiry:
            case Expiry.IDLE | Expiry.DROPPING:
                self._close(linger=False)
            case Expiry.HEAD:
                self.refuse(Refusal(408, "the request head took too long"))
            case Expiry.BODY:
                self.refuse(self.receiver.body_timeout())
            case Expiry.WRITE | Expiry.GONE:
                self.wire.reset()
            case Expiry.LINGER:
                self.wire.abort()
            case Expiry.STARTED | Expiry.QUEUE | Expiry.REQUEST:
                assert self._stream is not None  # It has a job.
                self._on_job_expiry(expiry, self._stream)

    def _on_job_expiry(self, expiry: Expiry, stream: Stream) -> None:
        if expiry is Expiry.REQUEST:
            if stream.time_out():
                self._send_refusal(Refusal(504, "the application took too long"), stream)
            # Otherwise the thread was quicker, and its answer wakes the loop.
        elif expiry is Expiry.QUEUE and stream.cancel():
            timeout = self._resources.config.queue_timeout
            self._shared.observers.waits.note(timeout, refused=True)
            self.refuse(overload("no thread became free in time"))
        else:  # A thread has it, perhaps only now.
            self._watch_start(stream)

    def _watch_start(self, stream: Stream) -> None:
        stream.fire(START)
        self._watchdog.watch_stream(stream)

    def _account(self) -> None:
        """Count what is buffered. Where memory is short, cut clients, or refuse this request."""
        stream = self._stream
        size = self.receiver.kept + self.sender.buffered
        if stream is not None and stream.prefetched is not None:
            size += stream.prefetched.size
        if size or self._held:
            self._held = self._resources.budget.update(self._held, size)
        arriving = self._state is HEAD if stream is None else stream.state <= QUEUED
        if not (arriving and self.holds_memory and self._shared.shedding.free_memory()):
            return
        if stream is None or not stream.has_begun:
            self.refuse(overload("the server is short of memory"))
