"""A part of the build: adds files to a wheel that are not in the package folder of a checkout.

These are the documentation, which the demo shows, and, if the build is told so by
``AIOWSGI_COMPILE=1 pip install .``, the compiled modules that most requests pass through. hatchling
calls this. Without the variable, and in an editable installation, everything is pure Python.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WheelHook(BuildHookInterface[Any]):
    """Puts the documentation into a wheel, and compiled modules beside their sources.

    pyproject.toml lists the modules.
    """

    def dependencies(self) -> list[str]:
        """Return what has to be installed for the build."""
        if not _is_asked_for():
            return []
        # mypy checks the types of what it compiles, and for that it reads the libraries as well.
        project = self.metadata.core
        libraries = [*project.dependencies, *project.optional_dependencies["speed"]]
        return ["mypy>=1.14", "setuptools", *libraries]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add files to the wheel. Called before the wheel is built."""
        if version == "editable":
            return
        build_data["force_include"][str(Path(self.root) / "docs")] = "aiowsgi/demo/docs"
        if not _is_asked_for():
            return
        self._folder = tempfile.TemporaryDirectory()
        build_data["force_include"].update(_compile(self.config["modules"], self._folder.name))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clean up. Called after the wheel was built."""
        if not build_data.get("pure_python", True):
            self._folder.cleanup()


def _is_asked_for() -> bool:
    return os.environ.get("AIOWSGI_COMPILE") == "1"


def _compile(modules: list[str], folder: str) -> dict[str, str]:
    """Compile modules in a folder. Return the path of each file, and its path in the wheel."""
    # These are installed only for a build that compiles.
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.errors import CCompilerError, PlatformError

    extensions = mypycify(
        [f"--cache-dir={folder}/checked", *(f"{name.replace('.', '/')}.py" for name in modules)],
        opt_level="2",
        debug_level="0",
        # All in one library, so that they call each other without the interpreter.
        group_name="aiowsgi.compiled",
        target_dir=f"{folder}/c",
    )
    command: Any = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib = f"{folder}/built"
    command.build_temp = f"{folder}/objects"
    command.ensure_finalized()
    try:
        command.run()
    except (CCompilerError, PlatformError) as error:
        raise SystemExit(
            f"{error}\nAIOWSGI_COMPILE=1 needs a C compiler and Python's headers (Debian: gcc, "
            "python3-dev). Without it aiowsgi is installed as pure Python."
        ) from error
    built = [Path(path) for path in command.get_outputs()]
    return {str(path): str(path.relative_to(command.build_lib)) for path in built}
