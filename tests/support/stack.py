"""A service and its edge, for many tests of one module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from support import callers, service
from support.edge import edge
from support.json_api import JsonApi
from support.ports import free_port
from support.servers import Databases, state_folder
from support.service import Service


@dataclass(frozen=True, kw_only=True)
class Stack(Service):
    """A running server behind a running Envoy, and a client of each listener."""

    public: JsonApi
    internal: JsonApi

    def admin(self) -> tuple[str, str]:
        """The user id and the access token of a new administrator."""
        made = callers.admin(self)
        return made.user_id, made.bearer

    def api_key(self, *scopes: str, days: float | None = None) -> str:
        """A new API key of the service `chevalier`."""
        expires_in = None if days is None else timedelta(days=days)
        return self.server._parts.api_keys.create(
            "chevalier", scopes, expires_in=expires_in, overlap=None
        )

    @property
    def database_url(self) -> str:
        assert self.settings.database_url is not None
        return self.settings.database_url.get_secret_value()

    @property
    def native(self) -> str:
        """The native listener."""
        return f"127.0.0.1:{self.server.ports[0]}"


@contextmanager
def stack(databases: Databases, redis_url: str, **changes: Any) -> Iterator[Stack]:
    """Everything, on a database of its own; `changes` are of the settings."""
    with databases.fresh() as url, running(url, redis_url, **changes) as made:
        yield made


@contextmanager
def running(database_url: str, redis_url: str, **changes: Any) -> Iterator[Stack]:
    """Everything, on a database that is there."""
    values = {
        "redis_url": redis_url,
        "redis_timeout_seconds": 1.0,
        "pourtier_http_port": free_port(),
        "pourtier_internal_http_port": free_port(),
        **changes,
    }
    with (
        service.running(database_url, **values) as behind,
        state_folder() as folder,
        edge(behind.settings, folder) as front,
        JsonApi(front.public) as public,
        JsonApi(front.internal) as internal,
    ):
        yield Stack(
            settings=behind.settings,
            server=behind.server,
            clock=behind.clock,
            api=behind.api,
            sql=behind.sql,
            public=public,
            internal=internal,
        )
