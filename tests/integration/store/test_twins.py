"""Twins of a call that makes something: what they are answered, and when."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete

from integration.store.rows import NOW
from pourtier.v1.user_pb2 import User
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import idempotency, twins
from pourtier_grpc.store.claims import claiming
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.idempotency import Identity, KeyedCall, RepeatedCallError
from pourtier_grpc.store.tables import idempotency_keys as table
from pourtier_grpc.store.twins import Twins

TAKEN = User(user_id="taken")
ANSWER = User(user_id="answer")


@pytest.fixture
def made(database: Database) -> Iterator[UUID]:
    """What a call is making under a key."""
    resource = uuid4()
    identity = Identity(caller="ann", key=str(resource), method="/m", request_hash=b"h")
    with claiming(KeyedCall(identity, NOW)), database.transaction() as tx:
        idempotency.attach(tx, resource)
        tx.commit()
    yield resource
    with database.transaction() as tx:
        tx.run(delete(table).where(table.c.resource_id == resource))
        tx.commit()


def answer(database: Database, made: UUID) -> None:
    with database.transaction() as tx:
        idempotency.complete(tx, made, ANSWER, NOW)
        tx.commit()


def test_what_is_left_is_taken_over(database: Database, made: UUID) -> None:
    assert Twins(database=database).join(made, lambda _tx: TAKEN) == TAKEN


def test_the_answer_of_the_first_call_is_that_of_its_twins(
    database: Database, made: UUID
) -> None:
    """Also where it came just before the thing could be taken over."""
    answer(database, made)
    with pytest.raises(RepeatedCallError) as caught:
        Twins(database=database).join(made, lambda _tx: TAKEN)
    assert caught.value.response == ANSWER.SerializeToString()
    assert caught.value.resource_id == made


def test_an_answer_is_waited_for(database: Database, made: UUID) -> None:
    looks = 0

    def held(_tx: Transaction) -> User | None:
        nonlocal looks
        looks += 1
        if looks == 2:
            answer(database, made)
        return None

    with pytest.raises(RepeatedCallError) as caught:
        Twins(database=database).join(made, held)
    assert caught.value.response == ANSWER.SerializeToString()
    assert looks == 2


def test_who_has_waited_long_enough_comes_again(
    database: Database, made: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twins, "JOIN_SECONDS", 0.2)
    joining = Twins(database=database)
    # Whoever leaves makes room for another.
    for _ in range(twins.MOST_WAITING + 1):
        looks: list[Transaction] = []
        with pytest.raises(PourtierError) as caught:
            joining.join(made, looks.append)
        assert caught.value.reason == ErrorReason.ERROR_REASON_IDEMPOTENCY_IN_PROGRESS
        assert len(looks) > 1
