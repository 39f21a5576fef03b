"""What takes the place of a callback that is over."""


def no_callback(*arguments: object) -> None:
    """Do nothing, in place of a callback that must not be called or kept any more.

    A callback usually is a method of the object that owns the one that calls it. The two refer to
    each other then. If nothing ended that, both would stay in memory, with all that they have,
    until the garbage collector comes.
    """
