"""Idempotency keys in the store: claimed once, answered, given back, forgotten."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.message import Message
from sqlalchemy import delete, select

from integration.store.rows import NOW
from pourtier.v1.user_pb2 import User
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import idempotency
from pourtier_grpc.store.claims import claiming
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.idempotency import (
    LIFETIME,
    Identity,
    KeyedCall,
    RepeatedCallError,
)
from pourtier_grpc.store.tables import idempotency_keys as table

ANSWER = User(user_id="ann")
OTHER = User(user_id="ben")
AGED = NOW + LIFETIME


@pytest.fixture(autouse=True)
def _none_of_another_test(database: Database) -> None:
    with database.transaction() as tx:
        tx.run(delete(table))
        tx.commit()


def call(**changes: Any) -> KeyedCall:
    """A call under a key, at a time."""
    now = changes.pop("now", NOW)
    values = {"caller": "user:ann", "key": "k", "method": "/m", "request_hash": b"h"}
    return KeyedCall(Identity(**{**values, **changes}), now)


def answered(
    database: Database, keyed: KeyedCall, answer: Message | None = ANSWER
) -> None:
    """Makes a call of one transaction."""
    with claiming(keyed), database.transaction() as tx:
        tx.commit(answer)


def attached(database: Database, keyed: KeyedCall, resource: Any) -> None:
    """Makes the first transaction of a call that makes a resource."""
    with claiming(keyed), database.transaction() as tx:
        idempotency.attach(tx, resource)
        tx.commit()


def repeated(database: Database, keyed: KeyedCall) -> RepeatedCallError:
    """What ends a call that came before."""
    with pytest.raises(RepeatedCallError) as info:
        answered(database, keyed, OTHER)
    return info.value


def rows(database: Database) -> list[dict[str, Any]]:
    with database.read() as read:
        found = read.run(select(table).order_by(table.c.create_time))
        return [row._asdict() for row in found]


def test_a_repeat_gets_the_answer_and_changes_nothing(database: Database) -> None:
    answered(database, call())
    before = rows(database)
    told = repeated(database, call(now=AGED - timedelta(microseconds=1)))
    assert told.response == ANSWER.SerializeToString()
    assert told.resource_id is None
    assert rows(database) == before
    (row,) = before
    assert (row["create_time"], row["complete_time"]) == (NOW, NOW)


def test_what_is_rolled_back_leaves_the_key_free(database: Database) -> None:
    with claiming(call()), database.transaction():
        pass
    assert rows(database) == []
    answered(database, call())


@pytest.mark.parametrize("changes", [{"method": "/other"}, {"request_hash": b"other"}])
def test_another_call_under_a_key_is_refused(
    database: Database, changes: dict[str, Any]
) -> None:
    answered(database, call())
    with pytest.raises(PourtierError) as info:
        answered(database, call(**changes))
    assert info.value.reason == ErrorReason.ERROR_REASON_IDEMPOTENCY_KEY_REUSED


@pytest.mark.parametrize("changes", [{"caller": "user:ben"}, {"key": "l"}])
def test_another_callers_key_and_another_key_are_others(
    database: Database, changes: dict[str, Any]
) -> None:
    answered(database, call())
    answered(database, call(**changes), OTHER)
    assert len(rows(database)) == 2


def test_after_its_lifetime_a_key_is_new(database: Database) -> None:
    attached(database, call(), uuid4())
    # Whatever is left of the call before: it is another one's key from then on.
    answered(database, call(now=AGED, method="/other"), OTHER)
    (row,) = rows(database)
    assert (row["create_time"], row["resource_id"]) == (AGED, None)
    assert row["method"] == "/other"
    assert row["response"] == OTHER.SerializeToString()


def test_who_waits_too_long_for_a_twin_is_told_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "PATIENCE", "20ms")
    with claiming(call()), database.transaction() as first:
        with pytest.raises(PourtierError) as info:
            answered(database, call())
        assert info.value.reason == ErrorReason.ERROR_REASON_IDEMPOTENCY_IN_PROGRESS
        first.commit(ANSWER)
    assert repeated(database, call()).response == ANSWER.SerializeToString()


class TestAResource:
    def test_is_what_repeats_are_told_of_until_there_is_an_answer(
        self, database: Database
    ) -> None:
        resource, another = uuid4(), uuid4()
        attached(database, call(), resource)
        attached(database, call(key="l"), another)
        told = repeated(database, call())
        assert (told.response, told.resource_id) == (None, resource)
        with database.transaction() as tx:
            idempotency.complete(tx, resource, ANSWER, NOW)
            # The first answer is the one.
            idempotency.complete(tx, resource, OTHER, NOW + timedelta(seconds=1))
            tx.commit()
        told = repeated(database, call())
        assert (told.response, told.resource_id) == (
            ANSWER.SerializeToString(),
            resource,
        )
        assert repeated(database, call(key="l")).response is None

    def test_that_had_no_effect_gives_its_key_back(self, database: Database) -> None:
        resource, another = uuid4(), uuid4()
        attached(database, call(), resource)
        attached(database, call(key="l"), another)
        with database.transaction() as tx:
            idempotency.release(tx, resource)
            tx.commit()
        assert [row["key"] for row in rows(database)] == ["l"]
        answered(database, call())

    def test_further_transactions_of_a_call_claim_nothing(
        self, database: Database
    ) -> None:
        resource, keyed = uuid4(), call()
        with claiming(keyed):
            with database.transaction() as tx:
                idempotency.attach(tx, resource)
                tx.commit()
            with database.transaction() as tx:
                idempotency.complete(tx, resource, ANSWER, NOW)
                tx.commit()
            with (
                database.transaction() as tx,
                pytest.raises(RuntimeError, match="one transaction"),
            ):
                tx.commit(OTHER)
            with (
                database.transaction() as tx,
                pytest.raises(RuntimeError, match="first transaction"),
            ):
                idempotency.attach(tx, uuid4())
        (row,) = rows(database)
        assert row["response"] == ANSWER.SerializeToString()


def test_a_call_that_leaves_its_key_open_for_ever_is_a_defect(
    database: Database,
) -> None:
    with (
        claiming(call()),
        database.transaction() as tx,
        pytest.raises(RuntimeError, match="neither an answer nor a resource"),
    ):
        tx.commit()
    assert rows(database) == []


def test_the_old_are_swept_and_the_young_stay(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "BATCH", 2)
    for number in range(3):
        answered(database, call(key=f"old-{number}"))
    young = NOW + timedelta(microseconds=1)
    answered(database, call(key="young", now=young))
    with database.transaction() as other:
        # One that is being replaced at the moment is passed over.
        held = select(table).where(table.c.key == "old-0").with_for_update()
        other.run(held)
        assert idempotency.sweep(database, AGED)
        assert [row["key"] for row in rows(database)] == ["old-0", "young"]
        assert not idempotency.sweep(database, AGED)
    assert not idempotency.sweep(database, AGED)
    assert [row["key"] for row in rows(database)] == ["young"]
