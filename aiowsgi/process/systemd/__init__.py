"""A service of systemd: the sockets that it is given, and what it tells. Not used when embedded."""
