"""A worker: a process with one server, below a supervisor."""
