"""What TLS adds to the environ of each request."""

from collections.abc import Mapping


class TlsVariables:
    """What is known of a connection because of TLS. Implements ``TlsInfo``; never changes."""

    def variables(self) -> Mapping[str, str]:
        """See ``TlsInfo``."""
        return _VARIABLES


# As mod_ssl of Apache has it, and what frameworks look for.
_VARIABLES = {"HTTPS": "on"}
