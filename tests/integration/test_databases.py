"""The databases that tests are given: empty, and as the migrations left them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from pourtier_grpc.devtools.wallet import DevWallet
from support.servers import Databases
from support.service import running
from support.sql import Sql

MEDDLING = [
    "ALTER TABLE sessions RENAME TO lost",
    "ALTER TABLE users RENAME COLUMN email TO lost",
    "ALTER TABLE users ALTER COLUMN email DROP NOT NULL",
    "CREATE TABLE more ()",
    "DROP INDEX wallets_user_id_idx",
    "DROP TRIGGER audit_events_append_only ON audit_events",
    "UPDATE pourtier_revision SET version_num = 'none'",
    "ALTER DATABASE {} SET lock_timeout = '100ms'",
    "ALTER DATABASE {} WITH ALLOW_CONNECTIONS false",
]


@pytest.fixture
def alone(databases: Databases) -> Iterator[Databases]:
    """Databases that no other test has had."""
    kept, databases._idle = databases._idle, []
    yield databases
    databases._idle += kept


def everything(url: str) -> dict[str, list[dict[str, Any]]]:
    with Sql(url) as sql:
        return sql.everything()


def test_one_that_was_used_is_given_again_and_is_empty(alone: Databases) -> None:
    with alone.fresh() as url:
        new = everything(url)
        with running(url) as service:
            service.api.register(DevWallet.generate())
        assert everything(url) != new
        # Somebody who forgot to go is sent away.
        with psycopg.connect(url) as left:
            left.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
    with alone.fresh() as again:
        assert again == url
        assert everything(again) == new


@pytest.mark.parametrize("statement", MEDDLING)
def test_one_that_was_meddled_with_is_not_given_again(
    alone: Databases, statement: str
) -> None:
    with alone.fresh() as url:
        if "{}" in statement:
            alone._execute(statement, urlsplit(url).path[1:])
        else:
            with psycopg.connect(url, autocommit=True) as meddler:
                meddler.execute(statement.encode())
    with alone.fresh() as other:
        assert other != url
