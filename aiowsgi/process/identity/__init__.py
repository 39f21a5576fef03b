"""Who a process is to others: its PID file, its user and group, its umask, its title."""
