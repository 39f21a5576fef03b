"""The parent of workers: it starts, watches and replaces them, and runs no application.

It has one thread and no event loop. What it decides is in ``plan``, which is pure; what it does to
processes is in ``children``; ``supervisor`` waits for what happens and tells the one of the other.
"""
