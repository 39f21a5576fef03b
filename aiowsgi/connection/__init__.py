"""One connection: reading, sending, timeouts, and which clients are cut in a shortage."""
