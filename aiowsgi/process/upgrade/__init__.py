"""The upgrade of a supervisor: another one takes its place, and its sockets, while it serves.

The old supervisor starts the new one as a child, with the command that it was started with itself
(``successor``), and waits until all of its workers serve (``upgrade``). The new one finds what it
is given in its environment (``inheritance``), and takes over when the old one says so
(``predecessor``).
"""

# What they say to each other, as messages of ``worker.messages``. The new one says READY, and is
# told to take over, or to stop; it says FAILED, with the reason, where it could not even begin.
TAKE_OVER, STOP = "take over", "stop"
