"""Rules of RFC 9110 §5.6 as regular expressions, for text in latin-1; ``.encode()`` for bytes.

The time to match is proportional to what a client sends: a repeated character is possessive, and a
repeated group begins with a character that nothing before it takes, so that there is one way to
match at most. A group is never possessive: before Python 3.11.5 such a group also matches where it
ends half way (https://github.com/python/cpython/issues/106052).
"""

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_QUOTED_TEXT = r"[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]*+"
QUOTED_STRING = rf'"{_QUOTED_TEXT}(?:\\[\t\x20-\x7e\x80-\xff]{_QUOTED_TEXT})*"'
