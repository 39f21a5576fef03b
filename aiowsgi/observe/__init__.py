"""What can be seen of a running server: the access log. Knows data only."""
