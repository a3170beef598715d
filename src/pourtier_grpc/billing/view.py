"""Charges and subscriptions, as operators see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from pourtier_grpc.clock import Clock
from pourtier_grpc.store import charges, periods, refunds, subscriptions, unmatched
from pourtier_grpc.store.charges import Charge, ChargeStore
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.periods import PeriodRecord
from pourtier_grpc.store.refunds import Refund
from pourtier_grpc.store.subscriptions import Record
from pourtier_grpc.store.unmatched import Unmatched


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A subscription, with its periods, charges and their refunds, the oldest first."""

    record: Record
    periods: Sequence[PeriodRecord]
    charges: Sequence[Charge]
    refunds: Sequence[Refund]


class View:
    """Shows what there is, whoever's."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def open_charges(self, most: int, *, stuck: bool) -> list[Charge]:
        """Charges of which the outcome is not known, the oldest first.

        With `stuck` only those that have been so for an hour.
        """
        before = self._clock.now() - charges.STUCK_AFTER if stuck else None
        return ChargeStore(self._database).begun_before(before, most)

    def unmatched(self, most: int) -> list[Unmatched]:
        """Charges that only Passeur knows, and nobody has resolved."""
        with self._database.read() as read:
            return unmatched.unresolved(read, most)

    def unmatched_of(self, user_id: UUID) -> list[Unmatched]:
        """A user's of those, for which they are not charged."""
        with self._database.read() as read:
            return unmatched.unresolved_of(read, user_id)

    def accounts(self, user_id: UUID) -> list[Account]:
        """A user's subscriptions, the oldest first."""
        with self._database.read() as read:
            return [
                Account(
                    record=record,
                    periods=periods.of_subscription(read, record.subscription_id),
                    charges=charges.of_subscription(read, record.subscription_id),
                    refunds=refunds.of_subscription(read, record.subscription_id),
                )
                for record in subscriptions.of_user(read, user_id)
            ]
