"""Functions of the C library that Python's standard library does not offer.

A call does not release the interpreter lock, so only functions that return at once may be used.
"""

from collections.abc import Callable


def find(name: str, result: str, *arguments: str) -> Callable[..., int] | None:
    """Return a function of the C library, or None if it cannot be called.

    ``result`` and ``arguments`` are names of types in ``ctypes``. An interpreter may be built
    without that module, or be linked statically, so that it finds no function by its name. And a C
    library may lack the function.

    Without ``arguments``, ints are passed as an int of C, also where a wider type is expected, and
    bytes as a pointer. Such a call costs half as much.
    """
    try:
        import ctypes

        function = getattr(ctypes.PyDLL(None), name)
    except (ImportError, OSError, AttributeError):
        return None
    function.restype = getattr(ctypes, result)
    if arguments:
        function.argtypes = [getattr(ctypes, argument) for argument in arguments]
    found: Callable[..., int] = function
    return found
