"""Functions of the C library that the interpreter does not offer, or not as they are needed.

They are called without letting go of the interpreter: only what returns at once belongs here.
"""

from collections.abc import Callable


def find(name: str, result: str, *arguments: str) -> Callable[..., int] | None:
    """Return a function of the C library, or None where it cannot be called.

    Types are named as in ``ctypes``. An interpreter may be built without that module, or linked so
    that it finds no function by its name (a static one); nor has every C library every function.
    """
    try:
        import ctypes

        function = getattr(ctypes.PyDLL(None), name)
    except (ImportError, OSError, AttributeError):
        return None
    function.restype = getattr(ctypes, result)
    function.argtypes = [getattr(ctypes, argument) for argument in arguments]
    found: Callable[..., int] = function
    return found
