"""Fixtures of tests that look at one service from outside and from behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pourtier_grpc.config import Settings
from pourtier_grpc.devtools.redis import EmbeddedRedis
from pourtier_grpc.passeur import patience
from pourtier_grpc.server import Server
from support.api import Api
from support.clock import ManualClock
from support.events import Outbox, outbox_on
from support.servers import Databases, redis
from support.service import Service, service
from support.sql import Sql


@pytest.fixture(scope="module")
def shared(databases: Databases) -> Iterator[Service]:
    """A service for all tests of a module: for those that leave nothing behind."""
    with service(databases) as running:
        yield running


@pytest.fixture
def sql(database_url: str) -> Iterator[Sql]:
    """A connection of the test's own to the database of `server`."""
    with Sql(database_url) as connection:
        yield connection


@pytest.fixture
def own(
    settings: Settings, server: Server, clock: ManualClock, api: Api, sql: Sql
) -> Service:
    """A service for this test alone."""
    return Service(settings=settings, server=server, clock=clock, api=api, sql=sql)


@pytest.fixture(scope="module")
def own_redis() -> Iterator[EmbeddedRedis]:
    """A module's own Redis: its tests pause it, fill it, and take it away."""
    with redis() as made:
        yield made


@pytest.fixture
def box(database_url: str, own_redis: EmbeddedRedis) -> Iterator[Outbox]:
    """An outbox, and a Redis that has none of its events."""
    with outbox_on(database_url, own_redis) as made:
        yield made


@pytest.fixture
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Passeur fails at is not tried again in the call: nobody has so much time."""
    monkeypatch.setattr(patience, "WAITS", (100.0,))
