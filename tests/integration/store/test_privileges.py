"""What the roles of the database may do, and what they may not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import LiteralString
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors, sql
from sqlalchemy import text

from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.privileges import PRIVILEGES, Duty, GrantError, grant
from pourtier_grpc.store.tables import VERSION_TABLE, metadata

EVIDENCE = (
    "audit_events",
    "audit_seals",
    "audit_checkpoints",
    "document_acceptances",
    "legal_documents",
)
Connect = Callable[[Duty], psycopg.Connection[tuple[object, ...]]]


@pytest.fixture
def connect(database: Database, database_url: str) -> Iterator[Connect]:
    """Connections as a role that has one duty's privileges."""
    made = []

    def connect(duty: Duty) -> psycopg.Connection[tuple[object, ...]]:
        role = f"test_{duty.value}"
        with psycopg.connect(database_url, autocommit=True) as owner:
            exists = owner.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
            if not exists.fetchone():
                create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'test'")
                owner.execute(create.format(sql.Identifier(role)))
        grant(database, duty, role)
        parts = urlsplit(database_url)
        host = parts.netloc.rpartition("@")[2]
        url = urlunsplit(parts._replace(netloc=f"{role}:test@{host}"))
        made.append(psycopg.connect(url, autocommit=True))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


@pytest.mark.parametrize("duty", Duty)
def test_every_table_is_thought_of(duty: Duty) -> None:
    assert set(PRIVILEGES[duty]) == {*metadata.tables, VERSION_TABLE}


@pytest.mark.parametrize("duty", Duty)
@pytest.mark.parametrize("table", EVIDENCE)
@pytest.mark.parametrize(
    "change", ["UPDATE {} SET {column} = {column}", "DELETE FROM {}", "TRUNCATE {}"]
)
def test_no_duty_can_change_evidence(
    connect: Connect, duty: Duty, table: str, change: str
) -> None:
    column = next(iter(metadata.tables[table].primary_key)).name
    statement = sql.SQL(change).format(
        sql.Identifier(table), column=sql.Identifier(column)
    )
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
        connect(duty).execute(statement)


@pytest.mark.parametrize("duty", Duty)
@pytest.mark.parametrize(
    "change",
    [
        "public_key = sha256('x')",
        "public_key = NULL",
        "key_id = 'x'",
        "use = 'access'",
        "algorithm = 'none'",
        "create_time = now()",
    ],
)
def test_no_duty_can_make_another_key_of_one(
    connect: Connect, duty: Duty, change: str
) -> None:
    role = connect(duty)
    role.execute(
        "INSERT INTO signing_keys (key_id, use, algorithm, state, create_time,"
        " public_key) VALUES ('k', 'evidence', 'EdDSA', 'retired', 'epoch', 'x')"
        " ON CONFLICT DO NOTHING"
    )
    with pytest.raises(errors.InsufficientPrivilege, match="only its state changes"):
        role.execute(f"UPDATE signing_keys SET {change}")  # noqa: S608 - as above
    role.execute("UPDATE signing_keys SET state = 'revoked', retire_time = now()")


@pytest.mark.parametrize(
    "change", ["DELETE FROM signing_keys", "TRUNCATE signing_keys"]
)
def test_not_even_the_owner_can_remove_a_key(
    connect: Connect, database_url: str, change: str
) -> None:
    connect(Duty.SERVING).execute(
        "INSERT INTO signing_keys (key_id, use, algorithm, state, create_time)"
        " VALUES ('gone', 'access', 'EdDSA', 'retired', 'epoch')"
        " ON CONFLICT DO NOTHING"
    )
    with (
        psycopg.connect(database_url) as owner,
        pytest.raises(errors.InsufficientPrivilege, match="append-only"),
    ):
        owner.execute(change)


@pytest.mark.parametrize("duty", Duty)
@pytest.mark.parametrize(
    "meddling",
    [
        "ALTER TABLE audit_events DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
        "DROP TABLE audit_seals",
        "DROP FUNCTION refuse_change CASCADE",
    ],
)
def test_no_duty_can_switch_the_triggers_off(
    connect: Connect, duty: Duty, meddling: str
) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        connect(duty).execute(meddling)


def test_a_duty_can_do_what_it_needs(connect: Connect) -> None:
    serving, working = connect(Duty.SERVING), connect(Duty.WORKING)
    for table, privileges in PRIVILEGES[Duty.SERVING].items():
        if "SELECT" in privileges:
            query = sql.SQL("SELECT count(*) FROM {}")
            serving.execute(query.format(sql.Identifier(table)))
    serving.execute("UPDATE legal_documents SET withdraw_time = now()")
    working.execute("DELETE FROM audit_unsealed")
    working.execute("SELECT count(*) FROM audit_seals")


EVENT = "INSERT INTO public.audit_events VALUES (%s, now(), 'a.b', NULL, '')"


def test_what_serving_adds_is_queued_whatever_tables_it_makes(
    connect: Connect, database_url: str
) -> None:
    serving, event_id = connect(Duty.SERVING), uuid4()
    serving.execute("CREATE TEMPORARY TABLE audit_unsealed (event_id uuid)")
    serving.execute(EVENT, (event_id,))
    with psycopg.connect(database_url) as owner:
        queued = "SELECT count(*) FROM audit_unsealed WHERE event_id = %s"
        assert owner.execute(queued, (event_id,)).fetchone() == (1,)


def test_the_service_reads_no_temporary_table_for_its_own(database: Database) -> None:
    with database.transaction() as tx:
        tx.run(text("CREATE TEMPORARY TABLE audit_unsealed (mine int) ON COMMIT DROP"))
        columns = tx.run(text("SELECT * FROM audit_unsealed")).keys()
    assert list(columns) == ["event_id"]


@pytest.mark.parametrize("duty", Duty)
def test_no_duty_can_queue_what_is_no_event(connect: Connect, duty: Duty) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        connect(duty).execute("INSERT INTO audit_unsealed VALUES (gen_random_uuid())")
    with pytest.raises(errors.InsufficientPrivilege, match="queue_for_sealing"):
        connect(duty).execute(
            "CREATE TEMPORARY TABLE lure (event_id uuid);"
            "CREATE TRIGGER lure AFTER INSERT ON lure"
            " FOR EACH ROW EXECUTE FUNCTION queue_for_sealing()"
        )


def test_serving_cannot_seal(connect: Connect) -> None:
    for table in ("audit_seals", "audit_checkpoints"):
        statement = sql.SQL("INSERT INTO {} DEFAULT VALUES")
        with pytest.raises(errors.InsufficientPrivilege):
            connect(Duty.SERVING).execute(statement.format(sql.Identifier(table)))
    with pytest.raises(errors.InsufficientPrivilege):
        connect(Duty.SERVING).execute("DELETE FROM audit_unsealed")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT FROM audit_sealing FOR UPDATE",
        "SELECT FROM audit_sealing FOR KEY SHARE",
        "DO 'BEGIN LOCK TABLE audit_sealing IN ACCESS SHARE MODE; END'",
        "DO 'BEGIN LOCK TABLE audit_seals IN ACCESS SHARE MODE; END'",
        "INSERT INTO audit_sealing VALUES (1)",
    ],
)
def test_serving_cannot_hold_sealing_up(connect: Connect, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        connect(Duty.SERVING).execute(statement)


def test_whoever_relays_events_marks_them_and_changes_nothing_that_they_say(
    connect: Connect,
) -> None:
    marked = "publish_time = now(), attempts = 0, retry_time = NULL"
    parked = "park_time = NULL, park_reason = NULL"
    connect(Duty.WORKING).execute(f"UPDATE outbox SET {marked}, {parked}")  # noqa: S608 - as above
    for duty, change in (
        (Duty.SERVING, "publish_time = now()"),
        (Duty.WORKING, "payload = '{}'"),
        (Duty.WORKING, "sequence = 1"),
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            connect(duty).execute(f"UPDATE outbox SET {change}")  # noqa: S608 - as above


@pytest.mark.parametrize("duty", Duty)
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE charges SET amount = '0'",
        "UPDATE charges SET credit = '0'",
        "UPDATE charges SET wallet_address = 'mine'",
        "UPDATE charges SET ordinal = 7",
        "UPDATE charges SET plan_id = 'pro'",
        "UPDATE refunds SET amount = '1000'",
        "UPDATE refunds SET charge_id = gen_random_uuid()",
        "UPDATE subscription_periods SET value = '0'",
        "UPDATE subscription_periods SET grant_reason = 'a gift'",
        "UPDATE subscription_periods SET end_time = 'infinity'",
        "DELETE FROM charges",
        "DELETE FROM refunds",
        "DELETE FROM subscriptions",
        "DELETE FROM subscription_periods",
        "DELETE FROM charging_holds",
        "DELETE FROM unmatched_charges",
        "DELETE FROM usage_counters",
        "DELETE FROM usage_reservations",
    ],
)
def test_no_duty_makes_another_thing_of_what_was_charged(
    connect: Connect, duty: Duty, change: LiteralString
) -> None:
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
        connect(duty).execute(change)


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO charging_holds (hold_id) VALUES (gen_random_uuid())",
        "UPDATE charging_holds SET release_time = now()",
        "UPDATE charging_holds SET reconcile_time = now()",
        "INSERT INTO unmatched_charges (passeur_transaction_id) VALUES ('tx_1')",
        "UPDATE unmatched_charges SET resolve_time = now()",
        "INSERT INTO refunds (refund_id) VALUES (gen_random_uuid())",
        "UPDATE refunds SET status = 2",
    ],
)
def test_what_operators_do_about_money_is_not_for_serving(
    connect: Connect, change: LiteralString
) -> None:
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
        connect(Duty.SERVING).execute(change)
    # The other has the privilege, whatever it lacks of values.
    with contextlib.suppress(errors.NotNullViolation):
        connect(Duty.WORKING).execute(change)


def test_granting_takes_what_a_duty_does_not_need(
    connect: Connect, database: Database, database_url: str
) -> None:
    serving = connect(Duty.SERVING)
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("GRANT ALL ON audit_seals TO test_serving")
    serving.execute("SELECT count(*) FROM audit_seals")
    grant(database, Duty.SERVING, "test_serving")
    with pytest.raises(errors.InsufficientPrivilege):
        serving.execute("SELECT count(*) FROM audit_seals")


@pytest.mark.parametrize(
    ("done", "undone", "why"),
    [
        ("GRANT {owner} TO {role} WITH INHERIT FALSE", "", "owns the tables"),
        (
            "ALTER DATABASE {database} OWNER TO {role}",
            "ALTER DATABASE {database} OWNER TO {owner}",
            "owns the tables",
        ),
        (
            "ALTER SCHEMA public OWNER TO {role}",
            "ALTER SCHEMA public OWNER TO pg_database_owner",
            "owns the tables",
        ),
        ("GRANT pg_write_all_data TO {role}", "", "through another role"),
        (
            "GRANT pg_write_all_data TO {role} WITH INHERIT FALSE",
            "",
            "through another role",
        ),
        (
            "GRANT DELETE ON audit_personal TO PUBLIC",
            "REVOKE DELETE ON audit_personal FROM PUBLIC",
            "may DELETE on audit_personal",
        ),
    ],
)
@pytest.mark.parametrize("duty", Duty)
def test_a_role_that_could_undo_evidence_by_other_means_is_refused(
    database: Database,
    database_url: str,
    duty: Duty,
    done: LiteralString,
    undone: LiteralString,
    why: str,
) -> None:
    parts, role = urlsplit(database_url), sql.Identifier("test_beyond")
    names = {
        "role": role,
        "owner": sql.Identifier(parts.username or "postgres"),
        "database": sql.Identifier(parts.path.removeprefix("/")),
    }
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE ROLE {}").format(role))
        try:
            owner.execute(sql.SQL(done).format(**names))
            with pytest.raises(GrantError, match=why):
                grant(database, duty, "test_beyond")
            query = "SELECT FROM information_schema.role_table_grants"
            query += " WHERE grantee = 'test_beyond' AND table_name = 'users'"
            assert owner.execute(query).fetchall() == []
        finally:
            owner.execute(sql.SQL(undone).format(**names))
            owner.execute(sql.SQL("DROP ROLE {}").format(role))


def test_a_role_that_is_not_there_or_owns_the_tables_is_refused(
    database: Database, database_url: str
) -> None:
    with pytest.raises(GrantError, match="there is no role nobody"):
        grant(database, Duty.SERVING, "nobody")
    owner = urlsplit(database_url).username or "postgres"
    with pytest.raises(GrantError, match="owns the tables"):
        grant(database, Duty.SERVING, owner)
