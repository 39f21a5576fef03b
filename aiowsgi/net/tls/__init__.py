"""TLS by the standard library's ``ssl``. Nothing of it is imported where no listener speaks TLS."""
