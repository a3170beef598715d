"""Escrow accounts: made, found, and asked what they hold.

Passeur knows what is on the chain. It is never asked while a transaction of the
database is open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.caller import Client, SignedInUser
from pourtier_grpc.clock import Clock
from pourtier_grpc.deadline import within_at_most
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.escrow import refusals
from pourtier_grpc.passeur import models
from pourtier_grpc.passeur.amounts import text_of
from pourtier_grpc.passeur.errors import PasseurError
from pourtier_grpc.store import escrow as escrow_rows
from pourtier_grpc.store import users as user_rows
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.escrow import Account, EscrowStore
from pourtier_grpc.store.users import UserReader
from pourtier_grpc.users.directory import found

if TYPE_CHECKING:
    # It brings an HTTP client, which a start without Passeur goes without.
    from pourtier_grpc.passeur.client import Passeur

UNAVAILABLE = ErrorReason.ERROR_REASON_PASSEUR_UNAVAILABLE
# Long enough for Passeur's silence to count for its breaker.
PATIENCE_SECONDS = 3.5

_log = structlog.get_logger("pourtier.escrow")


class Accounts:
    """Makes escrows and says what they hold. `passeur` is None where there is none."""

    def __init__(
        self,
        *,
        database: Database,
        store: EscrowStore,
        users: UserReader,
        passeur: Passeur | None,
        audit_log: AuditLog,
        clock: Clock,
    ) -> None:
        self._database = database
        self._store = store
        self._users = users
        self._passeur = passeur
        self._audit = audit_log
        self._clock = clock

    def initialize(
        self, caller: SignedInUser, client: Client
    ) -> pb.InitializeEscrowResponse:
        """Makes the caller's escrow, or finds it.

        Raises INVALID_WALLET or PASSEUR_UNAVAILABLE.
        """
        if self._passeur is None:
            raise refusals.unavailable()
        wallet = self.wallet_of(caller.user_id)
        try:
            made = self._passeur.initialize(wallet)
        except PasseurError as error:
            raise refusals.error_of(error, wallet_address=wallet) from error
        return self._keep(made, wallet, caller, client)

    def balance(self, caller: SignedInUser) -> pb.Balance:
        """What the caller's escrow holds, or was last known to hold.

        Raises ESCROW_NOT_INITIALIZED, and PASSEUR_UNAVAILABLE where nothing is known.
        """
        known = self._store.account(caller.user_id)
        wallet = self._wallet(caller.user_id, known)
        last = None if known is None else known.last_balance
        try:
            # Whoever can be told what it was is not kept waiting for what it is.
            with within_at_most(None if last is None else PATIENCE_SECONDS):
                live = self._live_balance(wallet)
        except PourtierError as error:
            if last is None or error.reason != UNAVAILABLE:
                raise
            return last
        return self._remembered(caller.user_id, live)

    def wallet_of(self, user_id: UUID) -> str:
        """The wallet whose escrow a user has, or is to have."""
        return self._wallet(user_id, self._store.account(user_id))

    def _live_balance(self, wallet: str) -> models.Balance:
        if self._passeur is None:
            raise refusals.unavailable()
        try:
            return self._passeur.balance(wallet)
        except PasseurError as error:
            raise refusals.error_of(error, wallet_address=wallet) from error

    def _wallet(self, user_id: UUID, known: Account | None) -> str:
        if known is not None:
            return known.escrow.wallet_address
        return found(self._users.find(user_id), user_id).wallet_address

    def _keep(
        self, made: models.Escrow, wallet: str, caller: SignedInUser, client: Client
    ) -> pb.InitializeEscrowResponse:
        with self._database.transaction() as tx:
            user = found(user_rows.lock(tx, caller.user_id), caller.user_id)
            now = self._clock.now()
            new = escrow_rows.insert_account(
                tx,
                caller.user_id,
                wallet_address=wallet,
                escrow_account=made.escrow_account,
                now=now,
                # Made by a call that nobody remembers: what was charged to it since,
                # the database may have forgotten too.
                unreconciled=not made.created,
            )
            if new:
                self._audit.append(
                    tx,
                    AuditEvent(
                        action=AuditAction.ESCROW_INITIALIZED,
                        actor=caller.actor,
                        time=now,
                        user=user,
                        client=client,
                        session_id=caller.session_id,
                    ),
                )
            kept = escrow_rows.find_account(tx, caller.user_id)
            answer = pb.InitializeEscrowResponse(
                escrow_account=None if kept is None else kept.escrow
            )
            tx.commit(answer)
        return answer

    def _remembered(self, user_id: UUID, live: models.Balance) -> pb.Balance:
        amount = text_of(live.balance)
        # One from the future would never be replaced.
        as_of = min(live.as_of, self._clock.now())
        try:
            with self._database.transaction() as tx:
                escrow_rows.remember_balance(tx, user_id, amount, as_of)
                tx.commit()
        except PourtierError as error:
            _log.warning("a balance was not remembered", error=repr(error))
        balance = pb.Balance(balance=escrow_rows.money(amount))
        balance.as_of.FromDatetime(as_of)
        return balance
