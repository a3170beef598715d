"""The service's rules, for the commands that go by them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pourtier_grpc import failpoints
from pourtier_grpc.cli.configured import settings
from pourtier_grpc.devtools.database import with_database
from pourtier_grpc.wiring import Parts, build


@contextlib.contextmanager
def parts() -> Iterator[Parts]:
    """The service's rules on the settings' database, for one command."""
    with with_database(settings()) as effective:
        made = build(effective)
        # What is unsafe in production has stopped the command by here.
        failpoints.arm(effective.failpoints)
        try:
            yield made
        finally:
            made.close()
