"""Which requests may read source code: those of this machine that no page of a website has made.

A website may have its own name resolve to this machine (DNS rebinding). The browser then takes our
answers for the website's own, and its scripts read them. The Host field still has that name.
"""

import re

# The names that are always this machine, and addresses. As Django has it while DEBUG is on.
_LOCAL = re.compile(r"(?:(?:.+\.)?localhost|[0-9.]+|\[[0-9a-f:.]+\])(?::[0-9]*)?", re.I | re.A)


_LOOPBACK = re.compile(r"127(?:\.[0-9]{1,3}){3}|::1", re.A)


def asks_for_this_machine(client: str, *hosts: str | None) -> bool:
    """Return whether a request of this machine was sent by a name that no website can take.

    Arguments: the address of the client, empty on a Unix socket, to which no browser connects;
    where a proxy in front has told another one, that one. And the Host of the request, and the one
    that a proxy has told, None or empty where there is none: no browser leaves it out.
    """
    if not client:
        return True
    return _LOOPBACK.fullmatch(client) is not None and all(
        not host or _LOCAL.fullmatch(host) for host in hosts
    )
