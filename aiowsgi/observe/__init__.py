"""What people see of a running server: logs, warnings, and what it is doing now. Data only."""
