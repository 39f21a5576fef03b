"""The command line: options to ``Config``, messages for people, exit codes."""

from .command import main

__all__ = ["main"]
