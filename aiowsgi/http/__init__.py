"""RFC 9110 and RFC 9112 without I/O: request head, framing, parser, response head.

No asyncio, no threads, no sockets. Decisions are functions from data to data; a request that is not
acceptable raises ``Refusal`` with the status to answer. Each library that reads HTTP is known to
one module, its reader.
"""
