"""Listening sockets: from the text of an address to a socket that is bound, and to its URL."""
