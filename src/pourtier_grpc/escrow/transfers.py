"""Deposits and withdrawals: asked of Passeur at once, and settled in the background.

A transfer is committed before Passeur is asked, under the lease of the call that asks
and with an idempotency key of its own. So whatever dies where, Passeur does it at most
once, and the worker finds out whether it did. A caller hears one of three things: it is
under way (also where nobody knows yet), it was refused, or it could not be asked for;
after the last two nothing of it is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

import structlog

from pourtier.v1.escrow_service_pb2 import Transaction, TransactionType
from pourtier_grpc import deadline
from pourtier_grpc.caller import Client, SignedInUser
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.escrow import money, refusals
from pourtier_grpc.escrow.accounts import Accounts
from pourtier_grpc.escrow.asking import Asking
from pourtier_grpc.escrow.outcomes import Outcomes, described, owner_of
from pourtier_grpc.failpoints import Failpoint, reach
from pourtier_grpc.passeur.amounts import text_of
from pourtier_grpc.passeur.errors import PasseurError
from pourtier_grpc.store import claims, idempotency, transfers
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.doubt import Doubt, undo_surely, write_surely
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.engine import Transaction as Tx
from pourtier_grpc.store.escrow import EscrowStore
from pourtier_grpc.store.idempotency import RepeatedCallError
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.transfers import Transfer
from pourtier_grpc.store.twins import Twins

DEPOSIT = TransactionType.TRANSACTION_TYPE_DEPOSIT
WITHDRAWAL = TransactionType.TRANSACTION_TYPE_WITHDRAWAL
# How long a call may ask that has no deadline.
ASK_SECONDS = 30.0
# Of a call's time, what is kept back to write down how Passeur answered.
WRITING_SECONDS = 0.5
# By what a lease outlasts its call: the clocks of processes differ by a second at most.
LEASE_MARGIN = timedelta(seconds=2)

_log = structlog.get_logger("pourtier.escrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A transfer, and who asked for it from where."""

    transfer: Transfer
    caller: SignedInUser
    client: Client


class Transfers:
    """Makes transfers for whoever is signed in."""

    def __init__(
        self,
        *,
        database: Database,
        accounts: Accounts,
        store: EscrowStore,
        asking: Asking,
        outcomes: Outcomes,
        audit_log: AuditLog,
        twins: Twins,
        clock: Clock,
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._store = store
        self._asking = asking
        self._outcomes = outcomes
        self._audit = audit_log
        self._clock = clock
        self._twins = twins

    def deposit(self, caller: SignedInUser, amount: str, client: Client) -> Transaction:
        """Moves money from the caller's wallet into their escrow.

        Raises INVALID_AMOUNT, ESCROW_NOT_INITIALIZED and PASSEUR_UNAVAILABLE, after
        which nothing is moved; OUTCOME_UNKNOWN, and what the store raises, after which
        it may be; and IDEMPOTENCY_IN_PROGRESS.
        """
        return self._make(caller, DEPOSIT, amount, client)

    def withdraw(
        self, caller: SignedInUser, amount: str, client: Client
    ) -> Transaction:
        """Moves money from the caller's escrow back to their wallet.

        Raises INSUFFICIENT_BALANCE too.
        """
        return self._make(caller, WITHDRAWAL, amount, client)

    def _make(
        self,
        caller: SignedInUser,
        kind: TransactionType.ValueType,
        amount: str,
        client: Client,
    ) -> Transaction:
        now = self._clock.now()
        transfer = Transfer(
            transaction_id=new_id(now),
            user_id=caller.user_id,
            wallet_address=self._accounts.wallet_of(caller.user_id),
            type=kind,
            amount=text_of(money.amount_of(amount)),
            passeur_id=None,
            attempts=0,
            lease_id=uuid4(),
            create_time=now,
        )
        asked = _Asked(transfer=transfer, caller=caller, client=client)
        joined = self._record(asked)
        if joined is not None:
            return joined
        reach(Failpoint.TRANSFER_RECORDED)
        return self._ask(asked)

    def _record(self, asked: _Asked) -> Transaction | None:
        """Writes the transfer, or answers the one that the call has made before."""
        try:
            self._write(asked)
        except RepeatedCallError as repeated:
            made = repeated.resource_id
            if repeated.response is not None or made is None:
                raise
            if made != asked.transfer.transaction_id:
                return self._join(asked.caller.user_id, made)
            # Our own, whose commit was not answered.
            claims.note_kept()
        return None

    def _join(self, user_id: UUID, transaction_id: UUID) -> Transaction:
        def take_over(tx: Tx) -> Transaction | None:
            now = self._clock.now()
            return transfers.release_overdue(tx, user_id, transaction_id, now)

        return self._twins.join(transaction_id, take_over)

    def _write(self, asked: _Asked) -> None:
        doubt = _doubt_of(asked.transfer)

        def write(tx: Tx) -> None:
            if not doubt.begun:
                # Before anything is written that would have to be taken back.
                self._asking.require_open()
            self._insert(tx, asked)
            reach(Failpoint.TRANSFER_WRITTEN)

        write_surely(
            self._database,
            doubt,
            write,
            is_kept=lambda: self._find(asked.transfer) is not None,
        )

    def _insert(self, tx: Tx, asked: _Asked) -> None:
        transfer = asked.transfer
        until = self._clock.now() + timedelta(seconds=_seconds_left())
        transfers.insert_one(tx, transfer, until + LEASE_MARGIN)
        idempotency.attach(tx, transfer.transaction_id)
        event = self._event(AuditAction.ESCROW_TRANSACTION_REQUESTED, asked)
        self._audit.append(tx, event)

    def _ask(self, asked: _Asked) -> Transaction:
        transfer = asked.transfer
        try:
            left = _seconds_left()
        except PourtierError:
            # It is kept, and the worker will ask.
            return transfers.pending(transfer)
        try:
            with deadline.within(left - min(WRITING_SECONDS, left / 4)):
                answer = self._asking.transfer(transfer)
        except PasseurError as error:
            reach(Failpoint.TRANSFER_ASKED)
            refused = refusals.of_transfer(error, transfer)
            if refused is not None and self._removed(asked, refused):
                raise refused from error
            now = self._clock.now()
            return self._noted(
                transfer, lambda: self._outcomes.unanswered(transfer, now)
            )
        reach(Failpoint.TRANSFER_ASKED)
        return self._noted(transfer, lambda: self._outcomes.accepted(transfer, answer))

    def _noted(
        self, transfer: Transfer, write: Callable[[], Transaction | None]
    ) -> Transaction:
        """What was written, or what the worker has written in the meantime."""
        try:
            written = write() or self._find(transfer)
        except PourtierError as error:
            # It is kept all the same, and leased: the worker will find out.
            _log.warning(
                "the outcome of a transfer was not noted",
                transaction_id=transfer.key,
                error=repr(error),
            )
            return transfers.pending(transfer)
        reach(Failpoint.TRANSFER_NOTED)
        if written is None:
            raise RuntimeError("a transfer is removed by the holder of its lease alone")
        return written

    def _removed(self, asked: _Asked, refused: PourtierError) -> bool:
        """Does away with what had no effect; False where the worker has it already."""
        event = self._event(
            AuditAction.ESCROW_TRANSACTION_REFUSED, asked, reason=refused.reason_name
        )
        removed = undo_surely(
            _doubt_of(asked.transfer),
            lambda: self._outcomes.removed(asked.transfer, event),
            is_undone=lambda: self._find(asked.transfer) is None,
        )
        if removed:
            reach(Failpoint.TRANSFER_NOTED)
        return removed

    def _find(self, transfer: Transfer) -> Transaction | None:
        return self._store.transaction(transfer.user_id, transfer.transaction_id)

    def _event(self, action: AuditAction, asked: _Asked, **details: str) -> AuditEvent:
        return AuditEvent(
            action=action,
            actor=asked.caller.actor,
            time=self._clock.now(),
            user=owner_of(asked.transfer),
            client=asked.client,
            session_id=asked.caller.session_id,
            details={**described(asked.transfer), **details},
        )


def _doubt_of(transfer: Transfer) -> Doubt:
    return Doubt("transaction_id", transfer.key)


def _seconds_left() -> float:
    """How long the call may still take."""
    left = deadline.remaining()
    return ASK_SECONDS if left is None else left
