"""Restarts the workers when files of the application have changed, for ``--reload``.

The watcher is a process of its own, a child of the supervisor: so the supervisor keeps one thread,
and what a library for notifications starts stays apart.
"""
