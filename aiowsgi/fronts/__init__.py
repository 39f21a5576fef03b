"""Protocols towards clients: each turns bytes into request events, and responses into bytes."""
