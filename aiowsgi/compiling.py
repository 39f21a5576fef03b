"""What the compiler of ``hatch_build.py`` has to be told of a class.

It looks for the decorator of its own package, and reads the types only. What is executed is here,
because that package need not be installed, and most installations compile nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**_):
        """Do nothing to a class."""
        return lambda decorated: decorated


__all__ = ["mypyc_attr"]
