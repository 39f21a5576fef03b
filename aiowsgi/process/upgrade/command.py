"""The command that starts the server once more. Pure, but for the first line of a script."""

from collections.abc import Sequence


def starting_command(arguments: Sequence[str], script: str) -> list[str]:
    """Return the command that a process was started with, from ``sys.orig_argv``.

    ``script`` is ``sys.argv[0]``. A script that was started by its name is started so again. Its
    first line names an interpreter, and in another version perhaps another one. So this is called
    while the script is still the one that was started.
    """
    command = list(arguments)
    if script in command[1:]:
        index = command.index(script, 1)
        if _first_words(script) == command[:index]:
            return command[index:]
    return command


def _first_words(script: str) -> list[str]:
    """Return the interpreter in the first line of a script, with its argument; [] without one."""
    try:
        with open(script, "rb") as file:
            line = file.readline(4096)
    except OSError:
        return []
    # execve(2): all behind the interpreter is one argument.
    return (
        line[2:].decode(errors="surrogateescape").strip().split(maxsplit=1)
        if line[:2] == b"#!"
        else []
    )
