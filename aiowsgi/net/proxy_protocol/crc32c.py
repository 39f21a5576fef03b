"""CRC32c, the checksum of RFC 4960, Appendix B. The standard library has only that of zip files."""

# Castagnoli's polynomial 0x1EDC6F41, with its bits in the reverse order.
_POLYNOMIAL = 0x82F63B78


def _step(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = tuple(map(_step, range(256)))


def crc32c(data: bytes) -> int:
    """Return the checksum, a number of 32 bits."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF
