"""All options together, as one flat object."""

from dataclasses import dataclass

from .listener import ListenerOptions
from .process import ProcessOptions
from .server import ServerOptions


# The fields of the last base come first.
@dataclass(frozen=True, kw_only=True)
class Config(ProcessOptions, ServerOptions, ListenerOptions):
    """All options: of listeners, of a server, of a process. Durations are seconds, sizes are bytes.

    The options of a process are for ``aiowsgi.run`` and the command line: ``aiowsgi.serve`` refuses
    them. Raises ConfigError where a value is out of its range.
    """
