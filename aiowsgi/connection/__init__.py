"""One connection: reading, sending, timeouts, and who has to go when something runs short."""
