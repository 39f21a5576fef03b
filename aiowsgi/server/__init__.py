"""The server that is embedded: how its parts are put together, how it starts, and how it stops.

What happens here happens on the loop thread, unless a docstring names another one. Listeners and
sockets are in ``net``, what is decided on a connection in ``connection``.
"""
