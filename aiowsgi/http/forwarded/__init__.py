"""What proxies tell of the client: X-Forwarded-* and Forwarded (RFC 7239). No I/O."""
