"""The asyncio side: listeners, the protocol of a connection, the server that is embedded.

Only the loop thread touches a parser, a transport or a counter.
"""
