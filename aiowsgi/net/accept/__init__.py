"""Accepting: when, by which process, and how many connections."""
