"""Charges that Passeur has made and the database has forgotten, taken up again.

A charge's key is made of its subscription, the period and the attempt. So the keys that
a subscription would use next lead to what it has used since the copy was made.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

from pourtier.v1.subscription_pb2 import ChargeKind
from pourtier_grpc import deadline
from pourtier_grpc.billing import asking as ask
from pourtier_grpc.billing.book import Book
from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.billing.machine import (
    ACTIVE,
    CANCELLED,
    EXPIRED,
    FAILED,
    PAST_DUE,
    PENDING,
    REACTIVATION,
    RENEWAL,
    RENEWING,
)
from pourtier_grpc.billing.opening import next_plan
from pourtier_grpc.billing.outcomes import HELD, Outcomes
from pourtier_grpc.clock import Clock
from pourtier_grpc.escrow.asking import Asking
from pourtier_grpc.passeur import models
from pourtier_grpc.store import charges, subscriptions, unmatched, users
from pourtier_grpc.store.charges import Charge
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.escrow import Unreconciled
from pourtier_grpc.store.subscriptions import Record

# How many attempts to pay for a period are looked for, and how many periods further
# than the last that was found: some were granted, and have no charge.
ATTEMPTS = 8
FURTHER = 3
# By what a lease outlasts the calls that are made under it.
LEASE_MARGIN = timedelta(seconds=10)

Unknown = dict[str, models.Transaction]


class _TakenError(Exception):
    """Another sees to a charge that is open."""


class Adoption:
    """Takes up what it can explain."""

    def __init__(
        self,
        *,
        database: Database,
        asking: Asking,
        outcomes: Outcomes,
        catalogue: Catalogue,
        book: Book,
        clock: Clock,
        ask_seconds: float,
    ) -> None:
        """`ask_seconds` is how long a call of Passeur may take."""
        self._database = database
        self._asking = asking
        self._outcomes = outcomes
        self._catalogue = catalogue
        self._book = book
        self._clock = clock
        self._ask_seconds = ask_seconds
        self._lease = timedelta(seconds=2 * ask_seconds) + LEASE_MARGIN

    def explain(self, account: Unreconciled, unknown: Unknown) -> bool:
        """Takes from `unknown` what is a charge of ours, and writes it as one.

        Afterwards no charge of the user's is open: one that was not made never will be.
        Whoever has begun it may have been told that nothing is charged, which a copy
        does not know; and while it is open, nothing else of theirs can be resolved.
        False where another sees to a charge of the user's at the moment. Raises what
        every call of Passeur raises.
        """
        try:
            self._count_open(account.user_id, unknown)
            if unknown:
                with self._database.read() as read:
                    records = subscriptions.of_user(read, account.user_id)
                for record in records:
                    self._follow(account, record, unknown)
            self._give_up_open(account.user_id, unknown)
        except _TakenError:
            return False
        return True

    def _count_open(self, user_id: UUID, unknown: Unknown) -> None:
        """Writes what was made of charges that are open here."""
        for charge in self._open_ones(user_id):
            made = self._made(charge.charge_id)
            if made is not None:
                self._count(self._take(charge), made, unknown)

    def _give_up_open(self, user_id: UUID, unknown: Unknown) -> None:
        """Sees to it that charges that are open here are not made."""
        for charge in self._open_ones(user_id):
            taken = self._take(charge)
            made = self._void(taken)
            if made is not None:
                self._count(taken, made, unknown)
            elif self._outcomes.voided(taken, HELD) is None:
                raise _TakenError

    def _count(self, taken: Charge, made: models.Charge, unknown: Unknown) -> None:
        """Writes what Passeur has made under the key of a charge that is open."""
        found = unknown.pop(made.transaction_id, None)
        if made.amount == taken.exact_amount:
            at = None if found is None else max(found.created_at, taken.create_time)
            self._confirm(taken, made, at)
        elif not self._outcomes.voided(taken, HELD, unmatched=made):
            raise _TakenError

    def _follow(self, account: Unreconciled, record: Record, unknown: Unknown) -> None:
        """Goes through the periods that a subscription would have next."""
        if record.status in (PENDING, FAILED):
            # It has none before its first is paid.
            return
        ordinal, last = record.ordinal + 1, record.ordinal + FURTHER
        while unknown and ordinal <= last:
            with self._database.read() as read:
                tried = charges.attempts_of(read, record.subscription_id, ordinal)
            for attempt in range(tried + 1, tried + ATTEMPTS + 1):
                charge_id = charges.id_of(record.subscription_id, ordinal, attempt)
                made = self._made(charge_id)
                found = None if made is None else unknown.get(made.transaction_id)
                if made is None or found is None:
                    continue
                last = ordinal + FURTHER
                place = record.subscription_id, ordinal, attempt
                if self._adopt(account, place, made, unknown):
                    del unknown[made.transaction_id]
                break
            ordinal += 1

    def _adopt(
        self,
        account: Unreconciled,
        place: tuple[UUID, int, int],
        made: models.Charge,
        unknown: Unknown,
    ) -> bool:
        """Writes a charge that was made; False where it is none that we would make."""
        subscription_id, ordinal, _ = place
        found = unknown[made.transaction_id]
        with self._database.read() as read:
            record = subscriptions.find(read, account.user_id, subscription_id)
        if record is None or self._price(record) != made.amount:
            return False
        self._give_up_superseded(record, found.created_at, unknown)
        with self._database.transaction() as tx:
            user = users.lock(tx, account.user_id)
            record = subscriptions.lock(tx, account.user_id, subscription_id)
            if user is None or record is None:  # pragma: no cover - neither is deleted
                return False
            live = subscriptions.find_live(tx, account.user_id)
            kind = _kind_of(record, live)
            if kind is None or record.charge_id or ordinal <= record.ordinal:
                return False
            if unmatched.is_kept(tx, made.transaction_id):
                # Another has given it up, and an operator may have made it good.
                return False
            now = self._clock.now()
            at = min(max(found.created_at, _over(record) or now), now)
            charge = self._charge(account, record, place, kind, at)
            if charge.exact_amount != made.amount:
                return False
            charges.insert_one(tx, charge, now + self._lease)
            self._book.requested(tx, user, charge)
            tx.commit()
        self._confirm(charge, made, at)
        return True

    def _charge(
        self,
        account: Unreconciled,
        record: Record,
        place: tuple[UUID, int, int],
        kind: ChargeKind.ValueType,
        at: datetime,
    ) -> Charge:
        """What was begun at a time in that place, as far as anybody knows here."""
        plan = next_plan(self._catalogue, record)
        _, ordinal, attempt = place
        return Charge(
            charge_id=charges.id_of(*place),
            subscription_id=record.subscription_id,
            user_id=record.user_id,
            ordinal=ordinal,
            attempt=attempt,
            kind=kind,
            plan=plan,
            wallet_address=account.wallet_address,
            amount=plan.price.amount,
            credit="0",
            period_start=None,
            create_time=at,
            lease_id=uuid4(),
        )

    def _price(self, record: Record) -> Decimal:
        return Decimal(next_plan(self._catalogue, record).price.amount)

    def _give_up_superseded(
        self, record: Record, followed: datetime, unknown: Unknown
    ) -> None:
        """Sees to it that an attempt is never made which was followed by another.

        `followed` is when that was. What the subscription was meanwhile decides from
        when on the other has paid for it.
        """
        for charge in self._open_ones(record.user_id):
            if charge.subscription_id != record.subscription_id:
                continue
            taken = self._take(charge)
            made = self._void(taken)
            if made is not None:
                self._count(taken, made, unknown)
                continue
            at = min(max(followed, taken.create_time), self._clock.now())
            if self._outcomes.superseded(taken, at) is None:
                raise _TakenError

    def _open_ones(self, user_id: UUID) -> list[Charge]:
        with self._database.read() as read:
            return charges.open_ones(read, user_id)

    def _take(self, charge: Charge) -> Charge:
        with self._database.transaction() as tx:
            now = self._clock.now()
            taken = charges.take(tx, charge.charge_id, now, now + self._lease)
            tx.commit()
        if taken is None:
            raise _TakenError
        return taken

    def _confirm(
        self, charge: Charge, made: models.Charge, at: datetime | None
    ) -> None:
        now = self._clock.now()
        if self._outcomes.confirmed(charge, made, at and min(at, now)) is None:
            raise _TakenError

    def _void(self, taken: Charge) -> models.Charge | None:
        with deadline.within(self._ask_seconds):
            return ask.void(self._asking, taken)

    def _made(self, charge_id: UUID) -> models.Charge | None:
        with deadline.within(self._ask_seconds):
            return self._asking.configured().charge_of(str(charge_id))


def _kind_of(record: Record, live: Record | None) -> ChargeKind.ValueType | None:
    """What a subscription would be charged for next; None where nothing."""
    if record.status in (ACTIVE, RENEWING, PAST_DUE):
        return RENEWAL
    if record.status in (EXPIRED, CANCELLED) and live is None:
        return REACTIVATION
    return None


def _over(record: Record) -> datetime | None:
    """When that was over which the next charge of a subscription follows."""
    return record.end_time or (None if record.period is None else record.period.end)
