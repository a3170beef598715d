"""The store's tests run on every PostgreSQL that the service supports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pourtier_grpc.config import load
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.opening import open_database
from support.servers import Databases, postgres


@pytest.fixture(scope="session")
def oldest() -> Iterator[Databases]:
    """Of the oldest version that is supported; it stays while the other is asked."""
    with postgres(16) as server:
        made = Databases(server.url_for("postgres"))
        yield made
        made.close()


# One is enough for coverage.
VERSIONS = [18, pytest.param(16, marks=pytest.mark.no_cover)]


@pytest.fixture(scope="session", params=VERSIONS, ids="PostgreSQL {}".format)
def version(request: pytest.FixtureRequest) -> int:
    """Which one.

    Parameters of `databases` would be those of the run's own `databases` too, whose
    server would then be ended, and begun anew, between them.
    """
    return int(request.param)


@pytest.fixture(scope="session")
def databases(
    version: int, databases: Databases, request: pytest.FixtureRequest
) -> Databases:
    """The run's own server, and one of the oldest version that is supported."""
    if version == 18:
        return databases
    older: Databases = request.getfixturevalue("oldest")
    return older


@pytest.fixture(scope="module")
def database_url(databases: Databases) -> Iterator[str]:
    """A migrated database of the module's own; each test has wallets of its own."""
    with databases.fresh() as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The module's database, by connections of the test's own."""
    opened = open_database(load(database_url=database_url))
    yield opened
    opened.close()


@pytest.fixture
def tx(database: Database) -> Iterator[Transaction]:
    """An open transaction, which is rolled back unless the test commits it."""
    with database.transaction() as opened:
        yield opened
