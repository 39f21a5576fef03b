"""PEP 3333: the environ, ``start_response``, iteration, ``close()``. No asyncio, no sockets.

Everything here runs on a pool thread, except for making the base environ of a server.
"""
