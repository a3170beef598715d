"""An audit log to write to, to seal, and to meddle with behind the service's back."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.sql import SQL, Identifier

from pourtier.v1.user_pb2 import User
from pourtier_grpc.auth.keyring import Keyring
from pourtier_grpc.caller import Client
from pourtier_grpc.compliance.checkpoint_file import CheckpointFile
from pourtier_grpc.compliance.sealing import Sealer, seal_hash
from pourtier_grpc.config import Settings, load
from pourtier_grpc.store.audit import AuditEvent, AuditLog, personal_hash
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.opening import open_database
from pourtier_grpc.wiring import open_keyring
from support.clock import ManualClock
from support.sql import Sql
from support.waiting import eventually

_addresses = itertools.count(1)
TABLES = (
    ("audit_events", ("uuid", "timestamptz", "text", "uuid", "bytea")),
    ("audit_personal", ("uuid", "uuid", "bytea", "bytea")),
)


@dataclass(frozen=True, kw_only=True)
class Log:
    """A log on a database of its own, its sealer, and the file of its checkpoints."""

    settings: Settings
    database: Database
    keyring: Keyring
    clock: ManualClock
    sql: Sql
    file: CheckpointFile

    @property
    def sealer(self) -> Sealer:
        return Sealer(database=self.database, keyring=self.keyring, clock=self.clock)

    @property
    def path(self) -> Path:
        return self.settings.checkpoint_file

    def append(self, tx: Transaction, **changes: Any) -> UUID:
        """Adds an event of a user of its own."""
        user = User(
            user_id=str(new_id(self.clock.now())),
            wallet_address=f"wallet{next(_addresses)}",
        )
        client = Client(
            request_id="r-1", address="192.0.2.7", user_agent="test/1", origin=None
        )
        values = {
            "action": "session.started",
            "actor": f"user:{user.user_id}",
            "time": self.clock.now(),
            "user": user,
            "client": client,
            "details": {"n": 1},
        }
        event = AuditEvent(**{**values, **changes})
        return AuditLog(self.keyring.pseudonym).append(tx, event)

    def forget(self) -> None:
        """Empties the log: what the making of keys has left is not what a test adds."""
        for table in ("audit_unsealed", "audit_personal", "audit_events"):
            self.behind(SQL("DELETE FROM {}").format(Identifier(table)))

    def add(self, count: int = 1, **changes: Any) -> list[UUID]:
        """Adds events, a transaction and a millisecond each."""
        added = []
        for _ in range(count):
            self.clock.move(milliseconds=1)
            with self.database.transaction() as tx:
                added.append(self.append(tx, **changes))
                tx.commit()
        return added

    def fill(self, count: int) -> None:
        """Adds events as many as that, quickly: as `append` writes them."""
        moment = self.clock.now()
        step = timedelta(milliseconds=1)
        for start in range(0, count, 10_000):
            size = min(10_000, count - start)
            made = [_made(moment + step * (start + n)) for n in range(size)]
            with self.sql._connection.transaction():
                for part, (table, types) in enumerate(TABLES):
                    self._copy(table, types, (row[part] for row in made))
        self.clock.move(milliseconds=count)
        self.sql.run("ANALYZE")

    def _copy(
        self, table: str, types: tuple[str, ...], rows: Iterable[tuple[Any, ...]]
    ) -> None:
        statement = SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(Identifier(table))
        cursor = self.sql._connection.cursor()
        with cursor, cursor.copy(statement) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)

    def seal(self, left: int = 0) -> None:
        """Seals all but so many that cannot be; and makes a checkpoint that is due.

        Autovacuum's own transactions may keep it waiting for a moment.
        """

        def done() -> bool:
            while self.sealer.seal():
                pass
            return self.waiting() == left

        assert eventually(done)

    def sealed(self, count: int = 10) -> list[UUID]:
        """Adds events, seals them under a checkpoint, and writes the file."""
        added = self.add(count)
        self.clock.move(minutes=2)
        self.seal()
        self.file.complete()
        return added

    def seals(self) -> list[dict[str, Any]]:
        return self.sql.run("SELECT * FROM audit_seals ORDER BY seq")

    def waiting(self) -> int:
        return int(self.sql.one("SELECT count(*) AS n FROM audit_unsealed")["n"])

    def checkpoints(self) -> list[dict[str, Any]]:
        """What the checkpoints state, in their order."""
        rows = self.sql.run("SELECT body FROM audit_checkpoints ORDER BY seq")
        return [json.loads(row["body"])["body"] for row in rows]

    def behind(self, statement: Any, *values: Any) -> list[dict[str, Any]]:
        """Runs a statement as a superuser whom no trigger and no reference holds."""
        self.sql.run("SET session_replication_role = replica")
        try:
            return self.sql.run(statement, *values)
        finally:
            self.sql.run("RESET session_replication_role")

    def reseal(self, first: int = 1) -> None:
        """Makes the chain anew from a number on, as whoever can write everything."""
        before = self.sql.run(
            "SELECT hash FROM audit_seals WHERE seq < %s ORDER BY seq DESC LIMIT 1",
            first,
        )
        prev = before[0]["hash"] if before else bytes(32)
        rows = self.sql.run(
            "SELECT seq, event_id, body FROM audit_seals JOIN audit_events"
            " USING (event_id) WHERE seq >= %s ORDER BY seq",
            first,
        )
        for row in rows:
            made = seal_hash(prev, row["seq"], row["event_id"].bytes, row["body"])
            self.behind(
                "UPDATE audit_seals SET prev_hash = %s, hash = %s WHERE seq = %s",
                prev,
                made,
                row["seq"],
            )
            prev = made

    def assert_whole(self) -> None:
        """The chain holds, computed here from what is stored."""
        rows = self.sql.run(
            "SELECT seq, event_id, prev_hash, hash, body FROM audit_seals"
            " JOIN audit_events USING (event_id) ORDER BY seq"
        )
        before = bytes(32)
        for seq, row in enumerate(rows, start=1):
            assert (row["seq"], row["prev_hash"]) == (seq, before)
            before = seal_hash(before, seq, row["event_id"].bytes, row["body"])
            assert row["hash"] == before


def _made(moment: datetime) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """An event and its personal row."""
    event_id, user_id, salt = new_id(moment), new_id(moment), secrets.token_bytes(16)
    personal = {
        "ip": "192.0.2.7",
        "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101",
        "wallet_address": "7vQXv9bUYfDN9bDdyTjVxLkhoXQXz5aEoAcuTVbHj7Yz",
    }
    hashes = {name: personal_hash(salt, name, text) for name, text in personal.items()}
    body = {
        "action": "session.started",
        "actor": f"user:{user_id}",
        "details": {"device": "phone"},
        "event_id": str(event_id),
        "event_time": moment.isoformat(),
        "personal": hashes,
        "request_id": str(user_id),
        "session_id": str(user_id),
        "user_id": str(user_id),
        "wallet": f"0011223344556677:{hashes['wallet_address']}",
    }
    # RFC 8785 for what is ASCII and has no numbers, in a fraction of its time.
    text = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
    beside = json.dumps(personal, separators=(",", ":"), sort_keys=True).encode()
    event = (event_id, moment, body["action"], user_id, text)
    return event, (event_id, user_id, salt, beside)


@contextmanager
def log_on(database_url: str, folder: Path, **changes: Any) -> Iterator[Log]:
    """The log of a database, empty, with keys in that folder."""
    values = {"database_url": database_url, "pourtier_data_dir": folder}
    settings, clock = load(**{**values, **changes}), ManualClock()
    database = open_database(settings)
    try:
        with Sql(database_url) as sql:
            made = Log(
                settings=settings,
                database=database,
                keyring=open_keyring(settings, database, clock),
                clock=clock,
                sql=sql,
                file=CheckpointFile(database=database, path=settings.checkpoint_file),
            )
            made.forget()
            yield made
    finally:
        database.close()
