"""The parent of workers: it starts, watches and replaces them, and runs no application.

It has one thread and no event loop. What it decides is in ``decisions``, which is pure; what it
does to processes is in ``children``; what it does on signals is in ``operations``; ``supervisor``
waits for what happens and tells the one of the other.
"""
