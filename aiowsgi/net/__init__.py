"""Sockets: addresses, listeners, and the way of an accepted connection."""
