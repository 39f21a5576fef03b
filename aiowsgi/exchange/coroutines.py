"""What a stream knows of the coroutines that an application has the loop run."""

from typing import Protocol

from ..errors import ClientDisconnected


class Coroutines(Protocol):
    """The coroutines that the application has the loop run for one request."""

    def cancel(self, error: ClientDisconnected) -> None:
        """End them; ``error`` is what the application will see. On the loop thread."""

    def abandon(self, error: ClientDisconnected) -> None:
        """Refuse further ones: this is a forked child."""
