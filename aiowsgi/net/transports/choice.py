"""Which transports a server has."""

import asyncio
import select
from contextvars import Context

from .connector import Connector
from .loop_transports import LoopTransports

if hasattr(select, "epoll"):
    # Not where a server is made: workers have it from the process that they are forked from.
    from .poller import Poller


def new_connector(loop: asyncio.AbstractEventLoop, context: Context) -> Connector:
    """Return what connects the sockets of a server; ``context`` is what callbacks run in.

    Only Linux has epoll. The transports of the loop do the same, for more.
    """
    return Poller(loop, context) if hasattr(select, "epoll") else LoopTransports(loop)
