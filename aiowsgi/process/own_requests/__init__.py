"""Requests that a process makes to its own application before it serves."""
