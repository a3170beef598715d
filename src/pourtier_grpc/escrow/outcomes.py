"""What came of a transfer, written by whoever holds its lease: caller or worker.

Every outcome is one transaction: the transfer, the audit log, and the idempotency key
of the call that made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pourtier.v1.escrow_service_pb2 import (
    Transaction,
    TransactionStatus,
    TransactionType,
)
from pourtier.v1.user_pb2 import User
from pourtier_grpc.caller import SYSTEM
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, reason_name
from pourtier_grpc.escrow.refusals import REFUSALS
from pourtier_grpc.passeur import models
from pourtier_grpc.passeur.errors import RefusalCode
from pourtier_grpc.store import due_subscriptions, idempotency, transfers
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.engine import Transaction as Tx
from pourtier_grpc.store.leases import free
from pourtier_grpc.store.transfers import Transfer

DEPOSIT = TransactionType.TRANSACTION_TYPE_DEPOSIT
CONFIRMED = TransactionStatus.TRANSACTION_STATUS_CONFIRMED
FAILED = TransactionStatus.TRANSACTION_STATUS_FAILED
# How soon the settlement of what Passeur has taken in is looked for.
FIRST_LOOK = timedelta(seconds=1)


class Outcomes:
    """Writes outcomes. None is answered where the lease went to another."""

    def __init__(
        self, *, database: Database, audit_log: AuditLog, clock: Clock
    ) -> None:
        self._database = database
        self._audit = audit_log
        self._clock = clock

    def accepted(
        self, transfer: Transfer, answer: models.Transfer
    ) -> Transaction | None:
        """Passeur has taken it in, and will settle it."""
        values = {
            "passeur_transaction_id": answer.transaction_id,
            **free(self._clock.now() + FIRST_LOOK),
            # The looks for the settlement are counted anew.
            "attempts": 0,
        }
        return self._write(transfer, values)

    def unanswered(self, transfer: Transfer, until: datetime) -> Transaction | None:
        """Nobody knows what Passeur has made of it; who asks again will."""
        return self._write(transfer, free(until))

    def settled(
        self, transfer: Transfer, found: models.Transaction
    ) -> Transaction | None:
        """It is on the chain, or will never be."""
        well = found.status is models.TransactionStatus.CONFIRMED
        failure = ErrorReason.ERROR_REASON_SETTLEMENT_FAILED
        values = {
            "status": CONFIRMED if well else FAILED,
            "signature": found.signature,
            "failure_reason": None if well else reason_name(failure),
            "settle_time": self._clock.now(),
            **free(None),
        }
        details = {"status": found.status.value, "failure": found.failure}
        return self._write(transfer, values, details)

    def failed(self, transfer: Transfer, code: RefusalCode) -> Transaction | None:
        """Passeur refuses it, and nobody is there to be told."""
        reason = reason_name(REFUSALS[code])
        values = {
            "status": FAILED,
            "failure_reason": reason,
            "settle_time": self._clock.now(),
            **free(None),
        }
        return self._write(transfer, values, {"status": "failed", "failure": reason})

    def removed(self, transfer: Transfer, event: AuditEvent) -> bool:
        """It had no effect, and its caller is told so: nothing of it is left.

        False where the lease went to another, who may ask Passeur for it yet.
        """
        with self._database.transaction() as tx:
            if not transfers.remove(tx, transfer):
                return False
            idempotency.release(tx, transfer.transaction_id)
            self._audit.append(tx, event)
            tx.commit()
        return True

    def _write(
        self,
        transfer: Transfer,
        values: Mapping[str, Any],
        settlement: Mapping[str, Any] | None = None,
    ) -> Transaction | None:
        with self._database.transaction() as tx:
            written = transfers.change(tx, transfer, values)
            if written is None:
                return None
            now = self._clock.now()
            if settlement is not None:
                self._record_settlement(tx, transfer, now, settlement)
            idempotency.complete(tx, transfer.transaction_id, written, now)
            if transfer.type == DEPOSIT and written.status == CONFIRMED:
                # It may be what a subscription waits for.
                due_subscriptions.bring_forward(tx, transfer.user_id, now)
            tx.commit()
        return written

    def _record_settlement(
        self, tx: Tx, transfer: Transfer, now: datetime, details: Mapping[str, Any]
    ) -> None:
        event = AuditEvent(
            action=AuditAction.ESCROW_TRANSACTION_SETTLED,
            actor=SYSTEM,
            time=now,
            user=owner_of(transfer),
            details={**described(transfer), **details},
        )
        self._audit.append(tx, event)


def described(transfer: Transfer) -> dict[str, str]:
    """A transfer, as the audit log writes it."""
    return {
        "transaction_id": str(transfer.transaction_id),
        "type": transfer.type_name,
        "amount": transfer.amount,
    }


def owner_of(transfer: Transfer) -> User:
    """Whose transfer it is, as far as the audit log asks."""
    return User(user_id=str(transfer.user_id), wallet_address=transfer.wallet_address)
