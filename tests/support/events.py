"""The outbox, what arrives of it in Redis, and how a consumer reads that."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import redis

from pourtier.v1.user_pb2 import User
from pourtier_grpc.config import load
from pourtier_grpc.courier import FIELD, STREAM, Courier
from pourtier_grpc.devtools.redis import EmbeddedRedis
from pourtier_grpc.events.relay import Relay
from pourtier_grpc.store import outbox, users
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.opening import open_database
from pourtier_grpc.store.outbox import EventType, OutboxEvent
from pourtier_grpc.store.privileges import Duty
from pourtier_grpc.store.users import NewUser
from support.clock import ManualClock
from support.roles import as_role
from support.sql import Sql

Event = dict[str, Any]


def arrived(url: str) -> list[Event]:
    """Every event of the stream, as it arrived."""
    with redis.Redis.from_url(url, socket_timeout=20) as client:
        return [json.loads(entry[FIELD.encode()]) for _, entry in client.xrange(STREAM)]


class Consumer:
    """Reads as docs/events.md asks it to: in order, and nothing twice.

    One that comes `late` begins of each user with the event that it sees first.
    """

    def __init__(self, *, late: bool = False) -> None:
        self._late = late
        self.taken: list[Event] = []
        self.duplicates = 0
        # What came before its time: Redis has lost what lies between.
        self.early = 0
        self._newest: dict[str | None, int] = {}

    def read(self, events: Iterable[Event]) -> Consumer:
        for event in events:
            before = event["sequence"] - 1 if self._late else 0
            newest = self._newest.setdefault(event["user_id"], before)
            if event["sequence"] <= newest:
                self.duplicates += 1
            elif event["sequence"] > newest + 1:
                self.early += 1
            else:
                self._newest[event["user_id"]] = newest + 1
                self.taken.append(event)
        return self

    def of(self, user_id: str | None) -> list[int]:
        """The sequences that were taken of a user."""
        return [each["sequence"] for each in self.taken if each["user_id"] == user_id]


@dataclass(frozen=True, kw_only=True)
class Outbox:
    """An outbox to write to, and a relay of it."""

    database: Database
    clock: ManualClock
    sql: Sql
    server: EmbeddedRedis

    def courier(self, timeout: float = 1.0) -> Courier:
        return Courier.at(self.server.url, timeout)

    def relay(self, **changes: Any) -> Relay:
        values = {
            "database": self.database,
            "courier": self.courier(),
            "clock": self.clock,
        }
        return Relay(**{**values, **changes})

    def drain(self, **changes: Any) -> None:
        """Has all sent that can be sent now."""
        relay = self.relay(**changes)
        while relay.relay():
            pass

    def user(self, events: int = 1) -> User:
        """A new account, and its first events."""
        now = self.clock.now()
        new = NewUser(
            user_id=new_id(now),
            chain="solana",
            address=str(new_id(now)),
            wallet_type="test",
            display_name="",
            email="",
            locale="en",
        )
        with self.database.transaction() as tx:
            user = users.insert(tx, new, now)
            assert user is not None
            tx.commit()
        self.add(user, events)
        return user

    def add(self, user: User, count: int = 1) -> None:
        """Further events of a user."""
        changed = OutboxEvent(
            event_type=EventType.USER_UPDATED, fields={"changed_fields": ["email"]}
        )
        with self.database.transaction() as tx:
            users.lock(tx, UUID(user.user_id))
            outbox.record_change(tx, user, self.clock.now(), *[changed] * count)
            tx.commit()

    def add_of_the_platform(self) -> None:
        """An event that tells of no user."""
        fields = {
            "document_id": str(new_id(self.clock.now())),
            "type": "TERMS_OF_SERVICE",
            "version": "1.0",
            "locale": "en",
            "content_sha256": "00" * 32,
            "effective_time": self.clock.now().isoformat(),
        }
        event_type = EventType.LEGAL_DOCUMENT_PUBLISHED
        event = OutboxEvent(event_type=event_type, fields=fields)
        with self.database.transaction() as tx:
            outbox.record_platform_event(tx, self.clock.now(), event)
            tx.commit()

    def damage(
        self, user: User, sequence: int, change: str = "payload - 'sequence'"
    ) -> None:
        """Has an event break its definition, behind the service's back."""
        query = f"UPDATE outbox SET payload = {change}"  # noqa: S608 - of the test
        query += " WHERE user_id = %s AND sequence = %s"
        self.sql.run(query, user.user_id, sequence)

    def mend(self, user: User, sequence: int) -> None:
        self.damage(
            user, sequence, "payload || jsonb_build_object('sequence', sequence)"
        )

    def rows(self, columns: str = "*", where: str = "true") -> list[dict[str, Any]]:
        query = f"SELECT {columns} FROM outbox WHERE {where}"  # noqa: S608 - of the test
        return self.sql.run(f"{query} ORDER BY user_id, sequence")

    def waiting(self) -> int:
        return len(self.rows("1", "publish_time IS NULL"))

    def arrived(self) -> list[Event]:
        return arrived(self.server.url)

    def read(self) -> Consumer:
        """What a consumer makes of the stream."""
        return Consumer().read(self.arrived())

    def empty_stream(self) -> None:
        with redis.Redis.from_url(self.server.url) as client:
            client.delete(STREAM)


@contextmanager
def outbox_on(database_url: str, server: EmbeddedRedis) -> Iterator[Outbox]:
    """The outbox of a database, by a worker's role, and an empty stream."""
    database = open_database(load(database_url=as_role(database_url, Duty.WORKING)))
    try:
        with Sql(database_url) as sql:
            made = Outbox(
                database=database, clock=ManualClock(), sql=sql, server=server
            )
            made.empty_stream()
            yield made
    finally:
        database.close()


def complete(rows: Sequence[dict[str, Any]], consumer: Consumer) -> bool:
    """Whether a consumer has taken every event of an outbox's rows."""
    written = {str(row["event_id"]) for row in rows}
    return {event["event_id"] for event in consumer.taken} == written
