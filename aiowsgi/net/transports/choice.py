"""Which transports a server has."""

import asyncio
import select
from contextvars import Context

from .connector import Connector


def new_connector(loop: asyncio.AbstractEventLoop, context: Context) -> Connector:
    """Return what connects the sockets of a server; ``context`` is what callbacks run in.

    Only Linux has epoll. The transports of the loop do the same, for more.
    """
    if hasattr(select, "epoll"):
        from .poller import Poller

        return Poller(loop, context)
    from .loop_transports import LoopTransports

    return LoopTransports(loop)
