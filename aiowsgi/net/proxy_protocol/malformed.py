"""The error of a header that is none."""


class Malformed(Exception):
    """The bytes are no header of the PROXY protocol. The text says why, and is for people."""
