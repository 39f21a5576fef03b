"""Rules of RFC 9110 §5.6 as regular expressions, for text in latin-1; ``.encode()`` for bytes.

None of them backtracks, so the time to match is proportional to what a client sends.
"""

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
QUOTED_STRING = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
