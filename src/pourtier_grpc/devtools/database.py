"""The database of a command: the one that the settings name, or the embedded one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pourtier_grpc.config import Settings
from pourtier_grpc.devtools.postgres import embedded_database


@contextlib.contextmanager
def with_database(settings: Settings) -> Iterator[Settings]:
    """The settings, with the embedded database's URL where they name no other.

    The embedded server is started where it is not running, and then stopped again.
    """
    if settings.database_url is not None or settings.production:
        yield settings
        return
    with embedded_database(settings.pourtier_data_dir) as url:
        yield settings.with_database(url)
