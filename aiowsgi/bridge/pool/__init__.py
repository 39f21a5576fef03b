"""The threads that run the application."""
