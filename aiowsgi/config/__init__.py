"""Options by subject: what a listener has, what a server has, what a process has. Data only.

Every option is defined once, in a field: its name, type, default, unit, help and check. A field
``timeout_header`` is the option ``--timeout-header`` of the command line, and the docstring below
it, which editors show, is its help. ``Config`` is all of them together.
"""

from .config import Config
from .fields.option import Option
from .fields.origin import Origin
from .help_texts import help_texts
from .listener import ListenerConfig, ListenerOptions, ListenerProtocol
from .process import ProcessOptions
from .proxies import ProxyOptions
from .server import ServerOptions
from .tls import TlsOptions

__all__ = [
    "Config",
    "ListenerConfig",
    "ListenerOptions",
    "ListenerProtocol",
    "Option",
    "Origin",
    "ProcessOptions",
    "ProxyOptions",
    "ServerOptions",
    "TlsOptions",
    "help_texts",
]
