"""Which requests may read source code: those that no page of another site can have made.

A website may have its own name resolve to this machine (DNS rebinding). The browser then takes our
answers for the website's own, and its scripts read them. The Host field still has that name.
"""

import re

# The names that are always this machine, and addresses. As Django has it while DEBUG is on.
_LOCAL = re.compile(r"(?:(?:.+\.)?localhost|[0-9.]+|\[[0-9a-f:.]+\])(?::[0-9]*)?", re.I | re.A)


def asks_for_this_machine(host: str | None, client: str) -> bool:
    """Return whether a request was sent to this machine by a name that no website can take.

    Arguments: the Host of the request, None or empty where there is none; and the address of the
    client, empty on a Unix socket. No browser connects there, or leaves out the Host.
    """
    return not client or not host or _LOCAL.fullmatch(host) is not None
