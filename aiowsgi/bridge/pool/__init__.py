"""The threads that run the application, and whose turn it is."""
