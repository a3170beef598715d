"""An upgrade from the release before, with what people had done on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql as psql

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.config import ConfigError, load
from pourtier_grpc.devtools.migrating import migrate_url
from pourtier_grpc.store import migrations, revisions
from pourtier_grpc.store.opening import open_database
from pourtier_grpc.store.tables import VERSION_TABLE
from support import escrow
from support.api import Proof, refusal
from support.callers import Person, person
from support.passeur import PasseurSim
from support.proofs import send
from support.servers import Databases
from support.service import Service, running
from support.sql import Sql
from support.subscriptions import subscribe
from support.tokens import me, parts

BEFORE = "0001"
# In an order that their references allow.
TABLES = (
    "users",
    "wallets",
    "sessions",
    "consumed_nonces",
    "audit_events",
    "audit_personal",
    "outbox",
    "signing_keys",
)
# Before there were subscriptions, and what there was of money by then.
UNPAID = "0008"
MONEY = ("idempotency_keys", "escrow_accounts", "escrow_transactions")


@dataclass(frozen=True, kw_only=True)
class Past:
    """A database at the release before, its folder, and somebody who was there."""

    url: str
    folder: Path
    ann: Person
    proof: Proof


@pytest.fixture
def past(databases: Databases, folder: Path) -> Iterator[Past]:
    """What today's service writes is what the release before wrote, less the new."""
    keys = folder / "keys"
    with databases.fresh() as today, databases.fresh(migrated=False) as url:
        with running(today, key_dir=keys) as made:
            ann = live(made)
            proof = made.api.proof(ann.wallet)
        database = open_database(load(database_url=url))
        assert migrations.migrate(database, BEFORE) == BEFORE
        database.close()
        with psycopg.connect(today) as source, psycopg.connect(url) as target:
            copy(source, target)
            for row in target.execute(
                "DELETE FROM signing_keys WHERE state = 'next' OR use = 'evidence'"
                " RETURNING use, key_id"
            ):
                (keys / f"{row[0]}-{row[1]}.jwk").unlink()
        yield Past(url=url, folder=keys, ann=ann, proof=proof)


def live(service: Service) -> Person:
    """Somebody registers, changes their profile, and logs out of one of two."""
    ann = person(service, display_name="Ann", email="ann@example.com")
    update = user_pb.UpdateMeRequest(user=User(locale="de"))
    service.api.call(service.api.users.UpdateMe, update, bearer=ann.bearer)
    other = service.api.login(ann.wallet).tokens
    logout = pb.LogoutRequest(refresh_token=other.refresh_token)
    service.api.call(service.api.auth.Logout, logout)
    return ann


def copy(
    source: psycopg.Connection,
    target: psycopg.Connection,
    tables: Iterable[str] = TABLES,
) -> None:
    for table in tables:
        name = psql.Identifier(table)
        known = target.execute(psql.SQL("SELECT * FROM {}").format(name)).description
        columns = psql.SQL(", ").join(
            psql.Identifier(each.name) for each in known or ()
        )
        out = psql.SQL("COPY {} ({}) TO STDOUT").format(name, columns)
        into_it = psql.SQL("COPY {} ({}) FROM STDIN").format(name, columns)
        with source.cursor().copy(out) as rows, target.cursor().copy(into_it) as into:
            for data in rows:
                into.write(data)


def test_everything_is_kept(past: Past) -> None:
    with Sql(past.url) as sql:
        before = sql.everything()
    assert all(before[table] for table in TABLES)
    assert "api_keys" not in before
    assert migrate_url(past.url) == revisions.head()
    with Sql(past.url) as sql:
        after = sql.everything()
        for table in TABLES:
            kept = [
                {name: row[name] for name in before[table][0]} for row in after[table]
            ]
            assert kept == before[table]
        new = set(after) - set(before)
        assert new >= {"api_keys", "refused_proofs", "legal_documents"}
        # What was in the log before is sealed, too.
        waiting = {row["event_id"] for row in after["audit_unsealed"]}
        assert waiting == {row["event_id"] for row in before["audit_events"]}
        assert all(after[table] == [] for table in new - {"audit_unsealed"})


def test_old_keys_get_a_next_one_beside_them_and_go_on(past: Past) -> None:
    migrate_url(past.url)
    old = {path.name: path.read_text() for path in past.folder.iterdir()}
    assert len(old) == 3
    with running(past.url, key_dir=past.folder) as service:
        now = {path.name: path.read_text() for path in past.folder.iterdir()}
        assert {name: now[name] for name in old} == old
        assert sorted(name.split("-")[0] for name in set(now) - set(old)) == [
            "access",
            "evidence",
            "evidence",
            "hmac",
        ]
        jwks = service.api.call(service.api.auth.GetJwks, pb.GetJwksRequest()).keys
        assert len(jwks) == 2
        assert jwks[0].kid == parts(past.ann.bearer)[0]["kid"]
        # What was signed and begun before is as good as it was.
        assert me(service.api, past.ann.bearer).locale == "de"
        assert service.api.refresh(past.ann.tokens.refresh_token)
        assert send(service, "Login", past.proof)
        with refusal("NONCE_CONSUMED"):
            send(service, "Login", past.proof)


def test_a_server_refuses_the_database_of_the_release_before(past: Past) -> None:
    with (
        pytest.raises(ConfigError, match=f"revision {BEFORE}, .*pourtier migrate"),
        running(past.url, key_dir=past.folder),
    ):
        pytest.fail("it serves")


def test_what_escrows_had_done_is_kept_and_then_pays_for_plans(
    databases: Databases, folder: Path, sim: PasseurSim
) -> None:
    now: dict[str, Any] = {"key_dir": folder / "keys", "passeur_url": sim.url}
    with databases.fresh() as today, databases.fresh(migrated=False) as url:
        with running(today, **now) as made:
            ann = escrow.escrowed(made, sim, "30")
            moved = escrow.deposit(made, ann, "1", key="first")
        database = open_database(load(database_url=url))
        assert migrations.migrate(database, UNPAID) == UNPAID
        database.close()
        with psycopg.connect(today) as source, psycopg.connect(url) as target:
            copy(source, target, (*TABLES, *MONEY))
        with Sql(url) as sql:
            before = sql.everything()
        assert all(before[table] for table in MONEY)
        assert migrate_url(url) == revisions.head()
        with Sql(url) as sql:
            after = sql.everything()
        assert before.pop(VERSION_TABLE) != after[VERSION_TABLE]
        (account,) = after.pop("escrow_accounts")
        assert account.pop("unreconciled") is False
        assert [account] == before.pop("escrow_accounts")
        assert {table: after[table] for table in before} == before
        with running(url, **now) as service:
            # What was begun before is the same thing still.
            assert escrow.deposit(service, ann, "1", key="first") == moved
            assert subscribe(service, ann).plan_id == "basic"
        assert len(sim.effects(kind="charge", wallet=ann.wallet.address)) == 1
