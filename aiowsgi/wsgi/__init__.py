"""PEP 3333: the environ, ``start_response``, iteration, ``close()``. No asyncio, no sockets.

Everything here runs on a pool thread. Only ``base_environ`` is called on the loop thread.
"""
