"""The simulator's ledger: escrows, transactions, and what was answered, in SQLite.

An effect, its place in the list of effects, and the answer that its key gets for ever
are one transaction, which is on the disk before anybody is told of it. Amounts are
whole micro-USDC.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import base58

from pourtier_grpc.devtools.process import DevServerError

FILE = "ledger.sqlite3"
DEFINITIVE = frozenset({200, 201, 202, 402, 404, 422})
# What a balance may come to in SQLite's integers.
MAX_MICROS = 2**63 - 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS escrows (
    wallet TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    balance INTEGER NOT NULL DEFAULT 0 CHECK (balance >= 0)
) STRICT;
CREATE TABLE IF NOT EXISTS transactions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    transaction_id TEXT NOT NULL UNIQUE,
    wallet TEXT NOT NULL REFERENCES escrows,
    type TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount > 0),
    status TEXT NOT NULL,
    created_at TEXT NOT NULL,
    due REAL,                 -- when a pending one settles, in seconds of the epoch
    fails_with TEXT,          -- how it then fails; NULL where it is confirmed
    settled_at TEXT,
    signature TEXT,
    failure TEXT,
    reference TEXT,
    charge_key TEXT,          -- of a charge, and of its refunds
    CHECK ((status = 'pending') = (due IS NOT NULL))
) STRICT;
CREATE INDEX IF NOT EXISTS due ON transactions (due) WHERE due IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS one_charge ON transactions (charge_key)
    WHERE type = 'charge';
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,
    request TEXT NOT NULL,
    status INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS voids (key TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS effects (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    key TEXT,
    wallet TEXT NOT NULL,
    amount INTEGER,
    transaction_id TEXT,
    at TEXT NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the contract's."""

    status: int
    body: dict[str, Any]


def refused(status: int, code: str, **more: Any) -> Reply:
    """A refusal of the contract's."""
    return Reply(status, {"error": code, **more})


class Ledger:
    """The ledger in a folder, which one process at a time may have open.

    Everything happens in one transaction at a time. Raises DevServerError where the
    folder is another's, or its file is no ledger.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                folder / FILE, timeout=0, isolation_level=None, check_same_thread=False
            )
            self._db.row_factory = sqlite3.Row
            # Before WAL is asked for, so that the whole file is this process's.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        except (OSError, sqlite3.Error) as error:
            raise DevServerError(
                f"the ledger in {folder} cannot be used: {error}; does another "
                "simulator run with it?"
            ) from None

    def close(self) -> None:
        """Closes it, after the transaction under way."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction: on the disk after the block, or undone where it fails."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def once(
        self, key: str, request: str, work: Callable[[sqlite3.Connection], Reply]
    ) -> Reply:
        """What a key's first definitive answer is: that of `work`, if none was before.

        `request` is what must be the same under one key.
        """
        with self.transaction() as db:
            if is_voided(db, key):
                return refused(409, "voided")
            before = db.execute(
                "SELECT * FROM answers WHERE key = ?", (key,)
            ).fetchone()
            if before is not None:
                if before["request"] != request:
                    return refused(409, "idempotency_key_reused")
                return Reply(before["status"], json.loads(before["body"]))
            reply = work(db)
            if reply.status in DEFINITIVE:
                db.execute(
                    "INSERT INTO answers VALUES (?, ?, ?, ?)",
                    (key, request, reply.status, json.dumps(reply.body)),
                )
            return reply

    def settle(self) -> float | None:
        """Settles what is due; answers in how many seconds the next is, None for never.

        Also what was pending before a restart.
        """
        with self.transaction() as db:
            due = db.execute(
                "SELECT * FROM transactions WHERE due <= ? ORDER BY sequence",
                (time.time(),),
            )
            for row in due.fetchall():
                _settle(db, row)
            (following,) = db.execute("SELECT min(due) FROM transactions").fetchone()
        return None if following is None else max(following - time.time(), 0.0)


def balance_of(db: sqlite3.Connection, wallet: str) -> int | None:
    """What an escrow holds in micro-USDC; None where there is no escrow."""
    row = db.execute(
        "SELECT balance FROM escrows WHERE wallet = ?", (wallet,)
    ).fetchone()
    return None if row is None else int(row["balance"])


def add_to_balance(db: sqlite3.Connection, wallet: str, micros: int) -> bool:
    """Changes what an escrow holds; False where it cannot come to that."""
    before = balance_of(db, wallet)
    if before is None or not 0 <= before + micros <= MAX_MICROS:
        return False
    db.execute(
        "UPDATE escrows SET balance = ? WHERE wallet = ?", (before + micros, wallet)
    )
    return True


def is_voided(db: sqlite3.Connection, key: str) -> bool:
    """Whether a key was voided."""
    found = db.execute("SELECT 1 FROM voids WHERE key = ?", (key,)).fetchone()
    return found is not None


def add_transaction(
    db: sqlite3.Connection, kind: str, wallet: str, micros: int, **columns: Any
) -> dict[str, Any]:
    """Writes a transaction, with `due` a pending one; answers its id and signature."""
    pending = columns.get("due") is not None
    at = now()
    values = {
        "transaction_id": f"tx_{secrets.token_hex(12)}",
        "wallet": wallet,
        "type": kind,
        "amount": micros,
        "status": "pending" if pending else "confirmed",
        "created_at": at,
        "settled_at": None if pending else at,
        "signature": None if pending else signature(),
        **columns,
    }
    # The names are those above and our callers'.
    db.execute(
        f"INSERT INTO transactions ({', '.join(values)})"  # noqa: S608 - as above
        f" VALUES ({', '.join('?' * len(values))})",
        tuple(values.values()),
    )
    return values


def add_effect(
    db: sqlite3.Connection,
    kind: str,
    wallet: str,
    *,
    key: str | None = None,
    micros: int | None = None,
    transaction_id: str | None = None,
) -> None:
    """Notes that something was done."""
    db.execute(
        "INSERT INTO effects (kind, key, wallet, amount, transaction_id, at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (kind, key, wallet, micros, transaction_id, now()),
    )


def signature() -> str:
    """What looks like the signature of a transaction on the chain."""
    return base58.b58encode(secrets.token_bytes(64)).decode()


def now() -> str:
    """The present time, as the contract writes times."""
    text = datetime.now(UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def _settle(db: sqlite3.Connection, row: sqlite3.Row) -> None:
    failure = row["fails_with"]
    back = row["type"] == "withdrawal" and failure is not None
    arrives = row["type"] == "deposit" and failure is None
    if (back or arrives) and not add_to_balance(db, row["wallet"], row["amount"]):
        failure = "balance_too_large"
    db.execute(
        "UPDATE transactions SET status = ?, due = NULL, settled_at = ?, signature = ?,"
        " failure = ? WHERE sequence = ?",
        (
            "confirmed" if failure is None else "failed",
            now(),
            signature() if failure is None else None,
            failure,
            row["sequence"],
        ),
    )
