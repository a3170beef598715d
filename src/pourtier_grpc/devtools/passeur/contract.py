"""The calls of Passeur's contract, on the ledger."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from time import time
from typing import Any

import base58

from pourtier_grpc.devtools.passeur.ledger import (
    Ledger,
    Reply,
    add_effect,
    add_to_balance,
    add_transaction,
    balance_of,
    now,
    refused,
)

MICRO = 1_000_000
# A trillion USDC, which leaves room for a few of them in a balance.
MAX_AMOUNT = 10**12 * MICRO
PAGE, MAX_PAGE = 50, 200
PUBLIC_KEY_BYTES = 32
_AMOUNT = re.compile(r"([0-9]{1,13})(?:\.([0-9]{1,6}))?", re.ASCII)
_TRANSACTION = (
    "transaction_id",
    "type",
    "status",
    "created_at",
    "settled_at",
    "signature",
    "failure",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A call: `about` is what its path names, `key` that of its header or path.

    `sameness` is what must be the same under one key; `settle_failed` how what it
    begins is to fail.
    """

    about: str
    key: str
    body: Mapping[str, Any]
    query: Mapping[str, str]
    sameness: str
    settle_failed: str | None = None


@dataclass(frozen=True, slots=True)
class Contract:
    """Every call; each answers what the contract says. `pending` is told of new ones.

    Deposits and withdrawals settle after `settle_seconds`.
    """

    ledger: Ledger
    settle_seconds: float
    pending: Callable[[], None]

    def initialize(self, request: Request) -> Reply:
        """Makes an escrow, or finds it."""
        wallet = request.about
        if not is_wallet(wallet):
            return refused(422, "invalid_wallet")
        with self.ledger.transaction() as db:
            row = db.execute(
                "SELECT account FROM escrows WHERE wallet = ?", (wallet,)
            ).fetchone()
            account = row["account"] if row else account_of(wallet)
            if row is None:
                values = (wallet, account)
                db.execute(
                    "INSERT INTO escrows (wallet, account) VALUES (?, ?)", values
                )
                add_effect(db, "initialize", wallet)
        body = {"escrow_account": account, "wallet": wallet, "status": "active"}
        return Reply(200 if row else 201, body)

    def balance(self, request: Request) -> Reply:
        """What an escrow holds."""
        with self.ledger.transaction() as db:
            held = balance_of(db, request.about)
        if held is None:
            return refused(404, "escrow_not_initialized")
        body = {"balance": text_of(held), "currency": "USDC", "as_of": now()}
        return Reply(200, body)

    def top_up(self, request: Request) -> Reply:
        """Money that comes by a transfer on the chain, without Passeur."""
        micros = micros_of(request.body.get("amount"))
        if micros is None:
            return refused(422, "invalid_amount")
        with self.ledger.transaction() as db:
            if balance_of(db, request.about) is None:
                return refused(404, "escrow_not_initialized")
            if not add_to_balance(db, request.about, micros):
                return refused(422, "invalid_amount")
        return self.balance(request)

    def deposit(self, request: Request) -> Reply:
        """Begins a deposit; it counts when it has settled."""
        return self._transfer(request, "deposit", held=False)

    def withdraw(self, request: Request) -> Reply:
        """Begins a withdrawal; what it takes is held from now on."""
        return self._transfer(request, "withdrawal", held=True)

    def charge(self, request: Request) -> Reply:
        """Takes money from an escrow."""

        def work(db: sqlite3.Connection) -> Reply:
            no, micros = self._payable(db, request, held=True)
            if no is not None:
                return no
            wallet, key = request.about, request.key
            add_to_balance(db, wallet, -micros)
            # What JSON can escape, the database need not be able to hold.
            reference = ascii(request.body.get("reference", ""))
            made = add_transaction(
                db, "charge", wallet, micros, reference=reference, charge_key=key
            )
            made_id = made["transaction_id"]
            add_effect(
                db, "charge", wallet, key=key, micros=micros, transaction_id=made_id
            )
            return Reply(201, charge_body(made))

        return self.ledger.once(request.key, request.sameness, work)

    def refund(self, request: Request) -> Reply:
        """Gives back of a charge, never more than it was."""

        def work(db: sqlite3.Connection) -> Reply:
            charged = charge_of(db, request.about)
            if charged is None:
                return refused(404, "unknown_key")
            micros = micros_of(request.body.get("amount"))
            if micros is None:
                return refused(422, "invalid_amount")
            (refunded,) = db.execute(
                "SELECT coalesce(sum(amount), 0) FROM transactions"
                " WHERE type = 'refund' AND charge_key = ?",
                (request.about,),
            ).fetchone()
            if refunded + micros > charged["amount"]:
                return refused(422, "exceeds_charge")
            wallet, key = charged["wallet"], request.key
            if not add_to_balance(db, wallet, micros):
                return refused(422, "invalid_amount")
            made = add_transaction(
                db, "refund", wallet, micros, charge_key=request.about
            )
            made_id = made["transaction_id"]
            add_effect(
                db, "refund", wallet, key=key, micros=micros, transaction_id=made_id
            )
            return Reply(201, {"transaction_id": made_id, "status": "confirmed"})

        return self.ledger.once(request.key, request.sameness, work)

    def charge_of(self, request: Request) -> Reply:
        """The charge under a key."""
        with self.ledger.transaction() as db:
            charged = charge_of(db, request.key)
        if charged is None:
            return refused(404, "unknown_key")
        return Reply(200, charge_body(charged))

    def void(self, request: Request) -> Reply:
        """Sees to it that nothing is ever done under a key."""
        with self.ledger.transaction() as db:
            charged = charge_of(db, request.key)
            if charged is not None:
                return refused(409, "already_executed", charge=charge_body(charged))
            done = db.execute(
                "SELECT 1 FROM effects WHERE key = ?", (request.key,)
            ).fetchone()
            if done is not None:
                # Something else than a charge, which nothing here undoes.
                return refused(409, "idempotency_key_reused")
            db.execute("INSERT OR IGNORE INTO voids VALUES (?)", (request.key,))
        return Reply(200, {"status": "voided"})

    def transactions(self, request: Request) -> Reply:
        """A page of an escrow's transactions, newest first."""
        token = request.query.get("page_token", "")
        limit = request.query.get("limit", str(PAGE))
        if not re.fullmatch(r"(?:p[0-9]{1,15})?", token, re.ASCII):
            return refused(400, "invalid_page_token")
        if not re.fullmatch(r"[1-9][0-9]{0,5}", limit, re.ASCII):
            return refused(400, "invalid_limit")
        size = min(int(limit), MAX_PAGE)
        with self.ledger.transaction() as db:
            if balance_of(db, request.about) is None:
                return refused(404, "escrow_not_initialized")
            rows = db.execute(
                "SELECT * FROM transactions WHERE wallet = ? AND sequence < ?"
                " ORDER BY sequence DESC LIMIT ?",
                (request.about, int(token[1:] or 2**62), size + 1),
            ).fetchall()
        page = rows[:size]
        following = f"p{page[-1]['sequence']}" if len(rows) > size else None
        listed = [transaction_body(row) for row in page]
        return Reply(200, {"transactions": listed, "next_page_token": following})

    def transaction(self, request: Request) -> Reply:
        """One transaction."""
        with self.ledger.transaction() as db:
            row = db.execute(
                "SELECT * FROM transactions WHERE transaction_id = ?", (request.about,)
            ).fetchone()
        if row is None:
            return refused(404, "unknown_transaction")
        return Reply(200, transaction_body(row))

    def health(self, _: Request) -> Reply:
        """That it is there."""
        return Reply(200, {"status": "ok"})

    def effects(self, _: Request) -> Reply:
        """Everything that was ever done, in its order."""
        with self.ledger.transaction() as db:
            rows = db.execute("SELECT * FROM effects ORDER BY sequence").fetchall()
        listed = [dict(row) for row in rows]
        for row in listed:
            micros = row["amount"]
            row["amount"] = None if micros is None else text_of(micros)
        return Reply(200, {"effects": listed})

    def _transfer(self, request: Request, kind: str, *, held: bool) -> Reply:
        def work(db: sqlite3.Connection) -> Reply:
            no, micros = self._payable(db, request, held=held)
            if no is not None:
                return no
            wallet, key = request.about, request.key
            if held:
                add_to_balance(db, wallet, -micros)
            made = add_transaction(
                db,
                kind,
                wallet,
                micros,
                due=time() + self.settle_seconds,
                fails_with=request.settle_failed,
            )
            made_id = made["transaction_id"]
            add_effect(db, kind, wallet, key=key, micros=micros, transaction_id=made_id)
            return Reply(202, {"transaction_id": made_id, "status": "pending"})

        reply = self.ledger.once(request.key, request.sameness, work)
        self.pending()
        return reply

    def _payable(
        self, db: sqlite3.Connection, request: Request, *, held: bool
    ) -> tuple[Reply | None, int]:
        """A refusal or None, and the amount; `held` is whether the escrow pays it."""
        balance = balance_of(db, request.about)
        if balance is None:
            return refused(404, "escrow_not_initialized"), 0
        micros = micros_of(request.body.get("amount"))
        if micros is None:
            return refused(422, "invalid_amount"), 0
        if held and micros > balance:
            return refused(402, "insufficient_balance", balance=text_of(balance)), 0
        return None, micros


def is_wallet(text: str) -> bool:
    """Whether a text is the address of a wallet on Solana."""
    try:
        return len(base58.b58decode(text)) == PUBLIC_KEY_BYTES
    except ValueError:
        return False


def account_of(wallet: str) -> str:
    """The address of a wallet's escrow: made of the wallet's, as on the chain."""
    return base58.b58encode(sha256(b"escrow" + wallet.encode()).digest()).decode()


def micros_of(text: object) -> int | None:
    """An amount in micro-USDC; None where it is none that can be moved."""
    match = _AMOUNT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    micros = int(match[1]) * MICRO + int((match[2] or "").ljust(6, "0"))
    return micros if 0 < micros <= MAX_AMOUNT else None


def text_of(micros: int) -> str:
    """Micro-USDC as the contract writes amounts."""
    whole, part = divmod(micros, MICRO)
    return f"{whole}.{part:06}".rstrip("0").rstrip(".")


def charge_of(db: sqlite3.Connection, key: str) -> sqlite3.Row | None:
    """The charge that was made under a key."""
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM transactions WHERE type = 'charge' AND charge_key = ?", (key,)
    ).fetchone()
    return row


def charge_body(row: sqlite3.Row | Mapping[str, Any]) -> dict[str, Any]:
    """A charge, as it was answered."""
    return {
        "transaction_id": row["transaction_id"],
        "status": "confirmed",
        "amount": text_of(row["amount"]),
        "signature": row["signature"],
    }


def transaction_body(row: sqlite3.Row) -> dict[str, Any]:
    """A transaction."""
    fields = {name: row[name] for name in _TRANSACTION}
    return {**fields, "amount": text_of(row["amount"])}
