"""Every log that a test run makes, searched for what no log may hold.

The service takes out what looks like a secret before it writes a line. What had to be
taken out is no less a fault than what was not: both are found here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path

from pourtier_grpc import logs

# Our processes' and the edge's; PostgreSQL and Redis log for themselves.
PATTERNS = ("serve*.log", "worker*.log", "envoy*.log", "passeur*.log")


class Watch:
    """Searches texts, and remembers the lines that should not be."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def search(self, source: str, text: str) -> None:
        """Searches what a source has written."""
        self.found += [
            f"{source}: {line}"
            for line in text.splitlines()
            if logs.REDACTED in line or logs.redacted(line) != line
        ]

    def search_folder(self, folder: Path) -> None:
        """Searches the logs in a folder that is about to go."""
        for pattern in PATTERNS:
            for path in folder.rglob(pattern):
                with suppress(OSError):
                    self.search(path.name, path.read_text(errors="replace"))


# Fixtures and helpers of all kinds make logs, and each process has one test run.
WATCH = Watch()


class _Stream(StringIO):
    """What servers in this process log: searched, and shown where a test fails."""

    def write(self, text: str) -> int:
        WATCH.search("this process", text)
        with suppress(ValueError):
            sys.stdout.write(text)
        return len(text)


@contextmanager
def watching() -> Iterator[None]:
    """Sees all logs from now on. Fails at its end where one held a secret."""
    logs.configure("debug", _Stream())
    yield
    assert WATCH.found == []
