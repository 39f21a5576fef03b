"""A process that serves and does nothing else: loading, event loop, signals, logging, its end."""
