"""One connection: reading, sending, timeouts, and which clients are cut in a shortage.

The way of the bytes of a request body, on the loop thread::

    SocketWire.data_received
      Connection.receive               drops them if the connection is closing
        Receiver.advance               asks for one event after the other
          Parser.feed                  keeps them
          Parser.next_event            -> BodyData
          Connection.on_body           knows whether the body is still of use
            Receiver.take_body         puts them where the body goes:
              Pieces.append              memory, up to ``body_prefetch``
              Spool.feed                 a temporary file, with ``body_spool``
              RequestBody.feed           the application, which reads it while it arrives

The receiver asks the connection, because only that has the stream; and the connection hands back to
the receiver, because only that has what has arrived before. The way back of a response is shorter:
``ResponseWriter`` (on the pool thread), ``Stream.wake_loop``, ``Connection.look_after``,
``Sender.flush``, ``SocketWire.write``.
"""
