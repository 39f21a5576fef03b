"""The bridge between pool threads and the event loop. All locks between the two are here.

No asyncio, no sockets, no HTTP: what has to be called is passed in, so that every part is tested
with lists and plain threads.
"""
