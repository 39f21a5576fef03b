"""The process: loading the application, the event loop, signals, logging for people."""
