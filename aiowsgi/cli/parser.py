"""How arguments are read: errors name the remedy, and the help fits. It knows no option itself."""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NoReturn

from .messages import USAGE, print_error, print_text


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors name the remedy."""

    # What is being parsed.
    _typed: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Note the arguments, for errors."""
        self._typed = sys.argv[1:] if args is None else args
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Explain an error in one line, and exit. An option of another server goes first.

        Whatever else is wrong is likely to come from it: its value is taken for the application.
        """
        # Here, as below, because a server whose arguments are right need not keep it in memory.
        from .foreign_options import HINTS

        for typed in takewhile(lambda typed: typed != "--", self._typed):
            # "--name=value", and "-kvalue" behind a short one.
            option = typed.partition("=")[0] if typed.startswith("--") else typed[:2]
            if option in HINTS:
                self._exit(f"{option}: {HINTS[option]}")
        if message.startswith("argument --http:"):
            # What uWSGI calls so is an address.
            message += "; it chooses the parser, and an address is written --bind HOST:PORT"
        unknown = message.removeprefix("unrecognized arguments: ")
        self._exit(message if unknown == message else self._unknown(unknown.split()[0]))

    def _unknown(self, argument: str) -> str:
        """Say what is wrong with an argument that has no meaning."""
        import difflib

        option = argument.partition("=")[0]
        known = [string for action in self._actions for string in action.option_strings]
        if not option.startswith("-"):
            return f"one application is served, and {option!r} is a second argument"
        if close := difflib.get_close_matches(option, known, n=1, cutoff=0.8):
            return f"there is no option {option}; did you mean {close[0]}?"
        return f"there is no option {option}"

    def _exit(self, message: str) -> NoReturn:
        print_error(message)
        print_text("try: python -m aiowsgi --help\n")
        self.exit(USAGE)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help whose lines do not break inside the name of an option."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)
