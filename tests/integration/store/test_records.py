"""What is only ever added: audit log, outbox, keys; and clock and identifiers."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest
import rfc8785
from sqlalchemy import delete, exc, select, text, update

from integration.store.rows import LATER, NOW, make_user
from pourtier.v1.user_pb2 import User
from pourtier_grpc.caller import Client
from pourtier_grpc.clock import SystemClock
from pourtier_grpc.store import audit, keys, outbox
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.clock import DatabaseClock
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.ids import RANDOM, Ids, new_id
from pourtier_grpc.store.keys import KeyRecord, KeyState, KeyUse
from pourtier_grpc.store.outbox import EventType, OutboxEvent
from pourtier_grpc.store.tables import audit_events, audit_personal, signing_keys
from pourtier_grpc.store.tables import outbox as outbox_table
from support.clock import ManualClock

CLIENT = Client(request_id="r-1", address="192.0.2.7", user_agent="ägent", origin=None)
LOG = AuditLog(lambda address: f"pseudonym of {len(address)}")


@pytest.fixture
def user(tx: Transaction) -> User:
    return make_user(tx, "recognisable")


@pytest.fixture
def event(user: User) -> AuditEvent:
    """Something that happened."""
    return AuditEvent(
        action=AuditAction.SESSION_STARTED,
        actor=f"user:{user.user_id}",
        time=NOW,
        user=user,
        client=CLIENT,
        session_id=UUID(int=8),
        details={"b": 1, "a": ["ü"]},
    )


@pytest.fixture
def event_id(tx: Transaction, event: AuditEvent) -> UUID:
    """Its id in the log."""
    return LOG.append(tx, event)


class TestAudit:
    PERSONAL: ClassVar = {
        "ip": "192.0.2.7",
        "user_agent": "ägent",
        "wallet_address": "recognisable",
    }

    def test_an_event_is_kept_as_canonical_json_without_anything_personal(
        self, tx: Transaction, event_id: UUID, user: User
    ) -> None:
        kept = select(audit_events).where(audit_events.c.event_id == event_id)
        row = tx.run(kept).one()
        assert (row.event_time, row.action) == (NOW, "session.started")
        assert str(row.user_id) == user.user_id
        body = json.loads(row.body)
        assert rfc8785.dumps(body) == row.body
        assert body.pop("personal").keys() == self.PERSONAL.keys()
        assert body == {
            "action": "session.started",
            "actor": f"user:{user.user_id}",
            "details": {"a": ["ü"], "b": 1},
            "event_id": str(event_id),
            "event_time": "2026-11-20T12:00:00.123456+00:00",
            "request_id": "r-1",
            "session_id": str(UUID(int=8)),
            "user_id": user.user_id,
            "wallet": "pseudonym of 12",
        }
        assert all(value.encode() not in row.body for value in self.PERSONAL.values())

    def test_what_is_personal_lies_beside_it_and_each_hash_fits(
        self, tx: Transaction, event_id: UUID
    ) -> None:
        kept = select(audit_events.c.body).where(audit_events.c.event_id == event_id)
        hashes = json.loads(tx.run(kept).scalar_one())["personal"]
        beside = select(audit_personal).where(audit_personal.c.event_id == event_id)
        row = tx.run(beside).one()
        assert json.loads(row.body) == self.PERSONAL
        assert len(row.salt) == 16
        assert hashes == {
            name: audit.personal_hash(row.salt, name, value)
            for name, value in self.PERSONAL.items()
        }
        assert len({audit.personal_hash(row.salt, name, "") for name in hashes}) == 3

    def test_two_like_events_have_salts_of_their_own(
        self, tx: Transaction, event: AuditEvent
    ) -> None:
        ids = [LOG.append(tx, event) for _ in range(2)]
        query = select(audit_personal.c.salt).where(audit_personal.c.event_id.in_(ids))
        assert len(set(tx.run(query).scalars())) == 2

    @pytest.mark.parametrize(
        "statement",
        [
            update(audit_events).values(action="changed"),
            delete(audit_events),
            text("TRUNCATE audit_events CASCADE"),
            text("TRUNCATE audit_events, audit_personal, audit_seals"),
            update(audit_personal).values(body=b"{}"),
        ],
        ids=str,
    )
    def test_the_log_cannot_be_changed_even_by_its_owner(
        self, tx: Transaction, event_id: UUID, statement: Any
    ) -> None:
        with pytest.raises(exc.ProgrammingError, match="is refused: it is append-only"):
            tx.run(statement)

    def test_what_is_personal_can_be_erased_and_the_event_stays(
        self, tx: Transaction, event_id: UUID
    ) -> None:
        mine = audit_personal.c.event_id == event_id
        assert tx.run(delete(audit_personal).where(mine)).rowcount == 1
        kept = select(audit_events.c.action).where(audit_events.c.event_id == event_id)
        assert tx.run(kept).scalar_one() == "session.started"

    def test_an_unknown_address_is_empty_and_a_long_agent_cut(
        self, tx: Transaction, event: AuditEvent
    ) -> None:
        client = replace(CLIENT, address=None, user_agent="x" * 300)
        event_id = LOG.append(tx, replace(event, client=client))
        beside = select(audit_personal).where(audit_personal.c.event_id == event_id)
        personal = json.loads(tx.run(beside).one().body)
        assert (personal["ip"], personal["user_agent"]) == ("", "x" * 256)


class TestOutbox:
    CREATED = OutboxEvent(event_type=EventType.USER_CREATED)

    def test_events_of_a_change_are_numbered_on_without_a_gap(
        self, tx: Transaction, user: User
    ) -> None:
        user_id = UUID(user.user_id)
        updated = OutboxEvent(
            event_type=EventType.USER_UPDATED, fields={"changed_fields": ["email"]}
        )
        assert outbox.record_change(tx, user, NOW, self.CREATED) == 2
        assert outbox.record_change(tx, user, NOW) == 3
        assert outbox.record_change(tx, user, LATER, updated, updated) == 4
        rows = tx.run(
            select(outbox_table)
            .where(outbox_table.c.user_id == user_id)
            .order_by(outbox_table.c.sequence)
        ).all()
        assert [row.sequence for row in rows] == [1, 2, 3]
        assert [row.event_type for row in rows] == [
            "user.created",
            "user.updated",
            "user.updated",
        ]
        assert {row.channel for row in rows} == {"lumiere.users"}
        assert {row.publish_time for row in rows} == {None}
        last = rows[-1]
        assert last.create_time == LATER
        assert last.payload == {
            "changed_fields": ["email"],
            "event_id": str(last.event_id),
            "event_type": "user.updated",
            "user_id": user.user_id,
            "wallet_address": "recognisable",
            "timestamp": LATER.isoformat(),
            "sequence": 3,
        }

    def test_an_event_of_a_change_that_is_rolled_back_is_not_told(
        self, database: Database
    ) -> None:
        with database.transaction() as tx:
            user = make_user(tx)
            outbox.record_change(tx, user, NOW, self.CREATED)
        with database.read() as read:
            mine = outbox_table.c.user_id == UUID(user.user_id)
            assert read.run(select(outbox_table).where(mine)).first() is None


class TestKeys:
    @pytest.fixture
    def tx(self, tx: Transaction) -> Transaction:
        keys.lock(tx)
        return tx

    def record(
        self,
        key_id: str,
        use: KeyUse,
        at: datetime = NOW,
        state: KeyState = KeyState.ACTIVE,
    ) -> KeyRecord:
        return KeyRecord(
            key_id=key_id, use=use, algorithm="EdDSA", state=state, create_time=at
        )

    def test_the_newest_comes_first(self, tx: Transaction) -> None:
        older = self.record("a", KeyUse.ACCESS)
        newer = self.record("b", KeyUse.HMAC, LATER)
        for record in (older, newer):
            keys.insert(tx, record)
        assert keys.all_keys(tx) == [newer, older]

    @pytest.mark.parametrize("state", [KeyState.ACTIVE, KeyState.NEXT])
    def test_a_use_has_one_active_and_one_next_key(
        self, tx: Transaction, state: KeyState
    ) -> None:
        keys.insert(tx, self.record("a", KeyUse.ACCESS, state=state))
        keys.insert(tx, self.record("h", KeyUse.HMAC, state=state))
        with pytest.raises(exc.IntegrityError, match=f"signing_keys_{state.value}_key"):
            keys.insert(tx, self.record("b", KeyUse.ACCESS, state=state))

    def test_a_key_moves_through_its_life_and_others_stay(
        self, tx: Transaction
    ) -> None:
        moved = self.record("a", KeyUse.ACCESS, state=KeyState.NEXT)
        other = self.record("b", KeyUse.HMAC)
        for record in (moved, other):
            keys.insert(tx, record)
        times = {}
        for state in (KeyState.ACTIVE, KeyState.RETIRED, KeyState.REVOKED):
            keys.move(tx, "a", state, LATER)
            row = tx.run(select(signing_keys).where(signing_keys.c.key_id == "a")).one()
            assert row.state == state.value
            times[state] = (row.activate_time, row.retire_time)
        assert times[KeyState.ACTIVE] == (LATER, None)
        assert times[KeyState.RETIRED] == times[KeyState.REVOKED] == (LATER, LATER)
        ended = replace(moved, state=KeyState.REVOKED, retire_time=LATER)
        assert keys.all_keys(tx) == [ended, other]

    def test_retired_ones_are_as_many_as_there_are(self, tx: Transaction) -> None:
        for key_id in "abc":
            keys.insert(tx, self.record(key_id, KeyUse.ACCESS))
            tx.run(update(signing_keys).values(state=KeyState.RETIRED.value))
        assert {record.state for record in keys.all_keys(tx)} == {KeyState.RETIRED}

    def test_whoever_else_changes_keys_waits_and_readers_do_not(
        self, database: Database, tx: Transaction
    ) -> None:
        with database.transaction() as other:
            other.run(text("SET LOCAL lock_timeout = '20ms'"))
            assert keys.all_keys(other) == []
            with pytest.raises(exc.OperationalError, match="lock timeout"):
                keys.lock(other)


class TestClock:
    @pytest.mark.parametrize("hours", [-1, 0, 1])
    def test_it_shows_the_databases_time_however_far_off_the_machine_is(
        self, database: Database, hours: int
    ) -> None:
        machine = ManualClock()
        machine.move(hours=hours)
        clock = DatabaseClock(database, machine)
        assert clock.now() == machine.now()
        offset = clock.measure()
        assert abs(offset + timedelta(hours=hours)) < timedelta(seconds=5)
        assert clock.now() == machine.now() + offset
        assert clock.now().utcoffset() == timedelta(0)

    @pytest.mark.parametrize(
        ("seconds", "in_step"), [(0, True), (-0.5, True), (-60, False), (60, False)]
    )
    def test_a_machine_more_than_a_second_off_is_out_of_step(
        self, database: Database, seconds: float, in_step: bool
    ) -> None:
        class Off:
            def now(self) -> datetime:
                return SystemClock().now() + timedelta(seconds=seconds)

        clock = DatabaseClock(database, Off())
        assert clock.in_step
        clock.measure()
        assert clock.in_step is in_step


class TestIds:
    def test_an_id_is_a_uuid7_of_its_time(self) -> None:
        made = Ids().make(NOW)
        assert made.version == 7
        assert made.variant == "specified in RFC 4122"
        assert made.int >> 80 == int(NOW.timestamp() * 1000)

    def test_ids_sort_by_time(self) -> None:
        ids = Ids()
        made = [ids.make(NOW + timedelta(milliseconds=n)) for n in range(50)]
        assert made == sorted(made)
        assert ids.make(datetime(2000, 1, 1, tzinfo=UTC)) < made[0]

    def test_ids_of_one_moment_sort_as_they_were_made(self) -> None:
        ids = Ids()
        made = [ids.make(NOW) for _ in range(1000)]
        # By a thread that had read the clock before.
        made.append(ids.make(NOW - timedelta(milliseconds=3)))
        assert made == sorted(set(made))
        assert {each.version for each in made} == {7}
        apart = [b.int - a.int for a, b in itertools.pairwise(made)]
        assert len(set(apart)) == len(apart)

    def test_ids_of_many_threads_are_never_the_same(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: new_id(NOW), range(2000)))
        assert len(set(made)) == 2000

    def test_a_moment_with_no_room_left_has_other_ids(self) -> None:
        ids = Ids()
        last = ids.make(NOW)
        ids._last |= RANDOM
        made = [ids.make(NOW) for _ in range(3)]
        assert last not in made
        assert {(each.version, each.variant) for each in made} == {
            (last.version, last.variant)
        }
