"""Programs that some tests drive. Without one its tests are skipped; in CI they fail instead."""

import os
import shutil

import pytest


def tool(*names: str, package: str) -> str:
    """Return the path of the first of ``names`` that is installed; ``package`` is Debian's."""
    # Ordinary users do not have all of it in their PATH.
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    for name in names:
        if path := shutil.which(name, path=folders):
            return path
    reason = f"needs {names[0]}: on Debian and Ubuntu 'apt-get install {package}'"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
