"""The error tree, with an error for each kind of failure of clients, applications and users.

Wrong calls of the Python interface raise TypeError, ValueError and RuntimeError, as is usual.

    AiowsgiError
    ├── Refusal                    the client broke HTTP, or a limit; carries the status to answer
    │   ├── IncompleteRequest      the client ended the connection in the middle of a request
    │   └── ForeignProtocol        the client speaks what is not spoken there
    ├── ApplicationError           the application broke PEP 3333; the message names the fix
    ├── ConfigError                the user misconfigured; the message names the fix
    │   ├── BindError              an address cannot be listened on (also an OSError)
    │   ├── PidFileError           the PID file cannot be written, or names a running process
    │   ├── LoadError              the application's own code failed while it was loaded
    │   │   └── HookError          a hook failed, or its module; the process must not serve
    │   ├── WarmUpError            the application failed in a request of ``warm_up``
    │   └── NotReadyError          the application did not answer ``ready_path`` as it should
    ├── QueueFull                  no room for another request before the pool
    └── ClientDisconnected         the client went away (also a ConnectionError)
        ├── RequestBodyError       the rest of the request body will never come
        ├── RequestTimeout         timeout_request is over, and the client has been told
        └── ServerStopped          the server was stopped while the application was working

Exceptions of dependencies are translated in the module that imports the dependency.
"""


class AiowsgiError(Exception):
    """Root of the tree."""


class Refusal(AiowsgiError):
    """A request that is refused before it reaches the application.

    Arguments: the status code of the answer (4xx or 5xx); the reason, a sentence for the client;
    for a 503, the seconds after which the client may try again.
    """

    def __init__(self, status: int, reason: str, *, retry_after: int | None = None) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        # The host of the client that a proxy has named; empty where it has named none.
        self.told_client = ""

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


class IncompleteRequest(Refusal):
    """The client ended the connection in the middle of a request. That is no mistake."""


class ForeignProtocol(Refusal):
    """The client speaks another protocol, and would not understand a status.

    Arguments: the status for the logs, the reason, and what is sent in place of an answer.
    """

    def __init__(self, status: int, reason: str, *, answer: bytes) -> None:
        super().__init__(status, reason)
        self.answer = answer


# What a 503 asks of the client, in seconds.
_RETRY_AFTER = 5


def overload(reason: str) -> Refusal:
    """Return what a client is answered whose request would be too much at the moment."""
    return Refusal(503, reason, retry_after=_RETRY_AFTER)


class ApplicationError(AiowsgiError):
    """The application broke PEP 3333. Answered with a 500. The message says how to repair it."""


class ConfigError(AiowsgiError):
    """An option, an address or an import path is wrong. The message says what to do."""


class BindError(ConfigError, OSError):
    """An address cannot be listened on: it is in use, forbidden, or not of this machine."""


class PidFileError(ConfigError):
    """The PID file cannot be written, or names a process that is running."""


class LoadError(ConfigError):
    """The application's module or factory raised. ``__cause__`` is what it raised."""


class HookError(LoadError):
    """A hook of the user raised, or its module did. ``__cause__`` is what it raised."""


class WarmUpError(ConfigError):
    """The application failed in a request of ``warm_up``. The error log has what it raised."""


class NotReadyError(ConfigError):
    """The application did not answer ``ready_path`` with 2xx or 3xx, or not in time."""


class QueueFull(AiowsgiError):
    """The queue before the thread pool is full. Answered with a 503 and Retry-After."""


class ClientDisconnected(AiowsgiError, ConnectionError):
    """The client went away: nothing can be read from it or written to it."""

    def copy(self) -> "ClientDisconnected":
        """Return a copy to raise.

        If one object were raised several times, or on several threads, its traceback would grow
        each time.
        """
        return type(self)(*self.args)


class RequestBodyError(ClientDisconnected):
    """The request body is incomplete: the client left, stalled, or broke the framing."""


class RequestTimeout(ClientDisconnected):
    """The application took longer than ``timeout_request``; the client was answered with a 504."""


class ServerStopped(ClientDisconnected):
    """The server stopped, and the time for graceful shutdown is over."""
