"""What is sent as a response, as the loop thread sees it."""

import enum
from abc import ABC, abstractmethod
from typing import Final, Protocol


class Progress(enum.Enum):
    """What follows the pieces that the loop thread has taken."""

    OPEN = "more will come"
    LEFT = "more is queued"
    FINISHED = "the response is complete"
    ABORTED = "the response cannot be completed"


# A global name is looked up several times faster than an attribute of the class, and these are used
# many times a request. One that is Final is not looked up at all by compiled modules.
OPEN: Final = Progress.OPEN
LEFT: Final = Progress.LEFT
FINISHED: Final = Progress.FINISHED
ABORTED: Final = Progress.ABORTED


class Tail(Protocol):
    """The end of a response that the loop thread sends by other means: a file."""

    def close(self) -> None:
        """Release what it holds, whether it was sent or not."""


class Source(ABC):
    """What is sent as a response: its bytes, and what follows them. On the loop thread."""

    # An abstract class, not a ``typing.Protocol``: compiled code finds its methods much faster.
    __slots__ = ()

    @abstractmethod
    def take(self, limit: int) -> tuple[list[bytes], Progress]:
        """Return what is there to be sent, about ``limit`` bytes at most, and what will follow.

        Where more is LEFT, it is taken in another pass of the loop. Where the response is still
        OPEN, whoever makes it wakes the loop thread when there is more.
        """

    @abstractmethod
    def resume_direct(self) -> None:
        """Let another thread send by itself again: what was taken is with the kernel."""

    @abstractmethod
    def take_tail(self) -> Tail | None:
        """Return what follows the bytes of a response that is FINISHED; it is the caller's."""
