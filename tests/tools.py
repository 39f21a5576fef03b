"""What some tests drive. Without it they are skipped; in CI they fail instead."""

import ctypes
import os
import shutil
from typing import Never

import pytest


def tool(*names: str, package: str) -> str:
    """Return the path of the first of ``names`` that is installed; ``package`` is Debian's."""
    # Ordinary users do not have all of it in their PATH.
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    for name in names:
        if path := shutil.which(name, path=folders):
            return path
    return _lack(names[0], package)


def library(name: str, *, package: str) -> ctypes.CDLL:
    """Return a library of C; ``package`` is Debian's."""
    try:
        return ctypes.CDLL(name)
    except OSError:
        return _lack(name, package)


def _lack(name: str, package: str) -> Never:
    reason = f"needs {name}: on Debian and Ubuntu 'apt-get install {package}'"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
