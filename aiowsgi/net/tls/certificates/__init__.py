"""Certificates: which one a client gets, whether it can be used, and how it is renewed."""
