"""Protocols that clients speak: for each, what turns their bytes into requests."""
