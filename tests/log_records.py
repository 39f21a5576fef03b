"""What a server has logged, for tests that want to see all of it."""

import logging

import pytest

# What it says where the machine has stood still for a second: that is not the test's concern.
_LATE = "Requests waited up to "


def loud(caplog: pytest.LogCaptureFixture, phase: str = "call") -> list[logging.LogRecord]:
    """Return the records above INFO, without those that say that requests had to wait."""
    return [
        record
        for record in caplog.get_records(phase)
        if record.levelno > logging.INFO and not record.getMessage().startswith(_LATE)
    ]
