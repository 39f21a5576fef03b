"""The PROXY protocol, versions 1 and 2: a proxy says for whom it connects, before anything else.

Imported only where a listener has it. The specification is HAProxy's ``proxy-protocol.txt``.
"""
