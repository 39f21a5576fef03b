"""The libraries that read header fields and chunked bodies."""
