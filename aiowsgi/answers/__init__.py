"""What answers requests: the WSGI application on a pool thread, or the loop itself."""
