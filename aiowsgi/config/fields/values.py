"""Values as people write them: durations, sizes, counts, ports, umasks. Pure functions of text."""

import re
from typing import Literal

from ...errors import ConfigError

_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s|m|h)?", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
_SIZE = re.compile(r"(?P<number>\d{1,18})(?P<unit>[KMG])?(?:i?B)?", re.ASCII | re.IGNORECASE)
_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_duration(text: str) -> float:
    """Return the seconds in "30", "1.5", "500ms", "2m" or "1h". Raise ConfigError."""
    if (match := _DURATION.fullmatch(text)) is None:
        raise ConfigError(f"{text!r} is not a duration; write seconds, or 500ms, 30s, 2m, 1h")
    return float(match["number"]) * _SECONDS[match["unit"] or "s"]


def parse_size(text: str) -> int:
    """Return the bytes in "4096", "64K", "1M" or "2G" (powers of 1024). Raise ConfigError."""
    if (match := _SIZE.fullmatch(text)) is None:
        raise ConfigError(f"{text!r} is not a size; write bytes, or 64K, 1M, 2G")
    return int(match["number"]) * (_BYTES[match["unit"].upper()] if match["unit"] else 1)


def parse_switch(text: str) -> bool:
    """Return whether "on" is written, and not "off". Raise ConfigError."""
    if text not in ("on", "off"):
        raise ConfigError(f"{text!r} is neither 'on' nor 'off'")
    return text == "on"


def parse_count(text: str) -> int:
    """Return a whole number. Raise ConfigError."""
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise ConfigError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def parse_port(text: str) -> int:
    """Return a port. Raise ConfigError."""
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or int(text) > 65535:
        raise ConfigError(f"{text!r} is not a port; a port is a number from 0 to 65535")
    return int(text)


def parse_workers(text: str) -> int | Literal["auto"]:
    """Return a number of processes, or "auto". Raise ConfigError."""
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"0*[1-9]\d{0,17}", text, re.ASCII):
        raise ConfigError(f"{text!r} is neither a whole number from 1 up nor 'auto'")
    return int(text)


def parse_umask(text: str) -> int:
    """Return the permissions in "027", an octal number. Raise ConfigError."""
    return _octal(text, "umask", "027")


def parse_mode(text: str) -> int:
    """Return the permissions in "660", an octal number. Raise ConfigError."""
    return _octal(text, "mode of a file", "660")


def _octal(text: str, what: str, example: str) -> int:
    if not re.fullmatch("(?:0o)?[0-7]{1,4}", text) or (mode := int(text, 8)) > 0o777:
        raise ConfigError(f"{text!r} is no {what}; write it in octal, such as {example}")
    return mode
