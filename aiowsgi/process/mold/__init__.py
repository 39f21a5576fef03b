"""The process that loads the application once, and of which the workers are forked: the mold.

With ``--preload``. What all workers need is in memory once, as long as nobody writes to it, and a
new worker is there in milliseconds. A fork copies the memory only, not what it stands for: so the
mold first looks for what a fork would break.
"""
