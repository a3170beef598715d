"""Charges: what is taken from escrows for periods, who asks Passeur, and the outcome.

A charge is written before Passeur is asked, under a lease, and its id is its key there:
the UUIDv5 of subscription, ordinal and attempt. Whatever asks for it again asks for the
same, also a database that was restored and knows nothing of the first time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import Row, Select, Text, cast, func, insert, select, tuple_, update

from pourtier.v1 import subscription_pb2 as pb
from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.subscription_pb2 import ChargeKind, ChargeStatus
from pourtier_grpc.store.billing_tables import charges as rows
from pourtier_grpc.store.engine import Database, Reader, Transaction
from pourtier_grpc.store.escrow import money
from pourtier_grpc.store.leases import Leased
from pourtier_grpc.store.pages import Page
from pourtier_grpc.store.subscriptions import plan_column, plan_of

PENDING = ChargeStatus.CHARGE_STATUS_PENDING
# How long a charge may be open before it is stuck, and somebody should look at it.
STUCK_AFTER = timedelta(hours=1)

_leased = Leased(
    table=rows, id_column=rows.c.charge_id, is_open=rows.c.status == PENDING
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A charge, and the lease of whoever asks Passeur about it, or None.

    `amount` and `credit` together are the plan's price, in USDC. `period_start` is when
    the period begins that it pays for, or None: when it is confirmed. `automatic` says
    that a worker has begun it, and no call. `attempts` counts the takings over;
    `attempt` is that of paying for the period.
    """

    charge_id: UUID
    subscription_id: UUID
    user_id: UUID
    ordinal: int
    attempt: int
    kind: ChargeKind.ValueType
    plan: Plan
    wallet_address: str
    amount: str
    credit: str
    period_start: datetime | None
    create_time: datetime
    lease_id: UUID | None
    automatic: bool = False
    status: ChargeStatus.ValueType = PENDING
    failure_reason: str | None = None
    refunded: str = "0"
    signature: str | None = None
    settle_time: datetime | None = None
    attempts: int = 0

    @property
    def key(self) -> str:
        """The idempotency key at Passeur."""
        return str(self.charge_id)

    @property
    def reference(self) -> str:
        """What Passeur shows to people who look at the charge."""
        return f"subscription {self.subscription_id}, period {self.ordinal}"

    @property
    def exact_amount(self) -> Decimal:
        """The amount in USDC."""
        return Decimal(self.amount)

    @property
    def kind_name(self) -> str:
        """`purchase`, `renewal`, `upgrade` or `reactivation`."""
        return ChargeKind.Name(self.kind).removeprefix("CHARGE_KIND_").lower()

    @property
    def status_name(self) -> str:
        """`pending`, `confirmed`, `refused` or `voided`."""
        return ChargeStatus.Name(self.status).removeprefix("CHARGE_STATUS_").lower()

    @property
    def is_open(self) -> bool:
        """Whether its outcome is not known yet."""
        return self.status == PENDING

    def described(self) -> dict[str, str]:
        """The charge as the audit log writes it."""
        return {
            "charge_id": self.key,
            "subscription_id": str(self.subscription_id),
            "kind": self.kind_name,
            "plan_id": self.plan.plan_id,
            "amount": self.amount,
        }

    def shown(self) -> pb.Charge:
        """The charge as the contract has it."""
        shown = pb.Charge(
            charge_id=self.key,
            subscription_id=str(self.subscription_id),
            ordinal=self.ordinal,
            attempt=self.attempt,
            kind=self.kind,
            plan_id=self.plan.plan_id,
            amount=money(self.amount),
            credit=money(self.credit),
            status=self.status,
            failure_reason=self.failure_reason or "",
            refunded=money(self.refunded),
            signature=self.signature or "",
        )
        shown.create_time.FromDatetime(self.create_time)
        if self.settle_time is not None:
            shown.settle_time.FromDatetime(self.settle_time)
        return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """How many charges are open, and how many of them since before a time."""

    pending: int
    stuck: int


class ChargeStore:
    """Charges in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, user_id: UUID, subscription_id: UUID, page: Page) -> list[Charge]:
        """The charges of a user's subscription, the newest first, as a page asks for.

        There is one more than the page's size, where the list goes on.
        """
        query = _SELECT.where(
            rows.c.user_id == user_id, rows.c.subscription_id == subscription_id
        )
        if page.after is not None:
            place = (page.after.time, page.after.row_id)
            query = query.where(tuple_(rows.c.create_time, rows.c.charge_id) < place)
        order = rows.c.create_time.desc(), rows.c.charge_id.desc()
        with self._database.read() as read:
            found = read.run(query.order_by(*order).limit(page.size + 1))
            return [_charge(row) for row in found]

    def begun_before(self, time: datetime | None, most: int) -> list[Charge]:
        """Open charges, the oldest first; only those begun before a time, or all."""
        query = _SELECT.where(rows.c.status == PENDING)
        if time is not None:
            query = query.where(rows.c.create_time < time)
        with self._database.read() as read:
            found = read.run(query.order_by(rows.c.create_time).limit(most))
            return [_charge(row) for row in found]


def id_of(subscription_id: UUID, ordinal: int, attempt: int) -> UUID:
    """The id of a charge, which no other attempt and no other period has."""
    return uuid5(subscription_id, f"{ordinal}/{attempt}")


def attempts_of(reader: Reader, subscription_id: UUID, ordinal: int) -> int:
    """How often it was tried to pay for a period."""
    query = select(func.max(rows.c.attempt)).where(
        rows.c.subscription_id == subscription_id, rows.c.ordinal == ordinal
    )
    return reader.run(query).scalar() or 0


def insert_one(tx: Transaction, charge: Charge, until: datetime) -> None:
    """Writes a charge that its maker is about to ask about; it has it until then."""
    tx.run(
        insert(rows).values(
            charge_id=charge.charge_id,
            subscription_id=charge.subscription_id,
            user_id=charge.user_id,
            ordinal=charge.ordinal,
            attempt=charge.attempt,
            kind=charge.kind,
            plan_id=charge.plan.plan_id,
            plan=plan_column(charge.plan),
            wallet_address=charge.wallet_address,
            reference=charge.reference,
            amount=charge.amount,
            credit=charge.credit,
            refunded=charge.refunded,
            period_start=charge.period_start,
            automatic=charge.automatic,
            status=charge.status,
            create_time=charge.create_time,
            lease_id=charge.lease_id,
            next_attempt_time=until,
            attempts=0,
        )
    )


def find(reader: Reader, charge_id: UUID) -> Charge | None:
    """The charge of that id, or None."""
    return _one(reader, _SELECT.where(rows.c.charge_id == charge_id))


def find_leased(reader: Reader, user_id: UUID, lease_id: UUID) -> Charge | None:
    """A user's charge that was written under a lease and still has it, or None."""
    query = _SELECT.where(rows.c.user_id == user_id, rows.c.lease_id == lease_id)
    return _one(reader, query.where(rows.c.status == PENDING))


def open_of_user(reader: Reader, user_id: UUID) -> UUID | None:
    """The id of a charge of a user's that is open, or None."""
    query = select(rows.c.charge_id).where(
        rows.c.user_id == user_id, rows.c.status == PENDING
    )
    found: UUID | None = reader.run(query.limit(1)).scalar()
    return found


def open_ones(reader: Reader, user_id: UUID) -> list[Charge]:
    """A user's charges that are open, the oldest first."""
    query = _SELECT.where(rows.c.user_id == user_id, rows.c.status == PENDING)
    return [_charge(row) for row in reader.run(query.order_by(rows.c.create_time))]


def of_subscription(reader: Reader, subscription_id: UUID) -> list[Charge]:
    """Every charge of a subscription, the oldest first."""
    query = _SELECT.where(rows.c.subscription_id == subscription_id)
    order = rows.c.create_time, rows.c.charge_id
    return [_charge(row) for row in reader.run(query.order_by(*order))]


def take(
    tx: Transaction, charge_id: UUID, now: datetime, until: datetime
) -> Charge | None:
    """Takes over an open charge, due or not; None where another has it."""
    return find(tx, charge_id) if _leased.take(tx, charge_id, now, until) else None


def claim(tx: Transaction, now: datetime, until: datetime, most: int) -> list[Charge]:
    """Takes over open charges whose time has come, the longest due first."""
    claimed = [row.charge_id for row in _leased.claim(tx, now, until, most)]
    found = tx.run(_SELECT.where(rows.c.charge_id.in_(claimed)))
    return [_charge(row) for row in found]


def change(tx: Transaction, charge: Charge, values: Mapping[str, Any]) -> Charge | None:
    """Writes what came of a charge; None where its lease went to another."""
    if charge.lease_id is None:
        return None
    row = _leased.change(tx, charge.charge_id, charge.lease_id, values)
    return None if row is None else find(tx, charge.charge_id)


def release_overdue(tx: Transaction, charge_id: UUID, now: datetime) -> bool:
    """Takes away the lease of whoever was to be done by now; False where it holds."""
    return _leased.release_overdue(tx, charge_id, now) is not None


def add_refunded(tx: Transaction, charge_id: UUID, refunded: str) -> None:
    """Writes how much of a charge was given back in all."""
    tx.run(update(rows).where(rows.c.charge_id == charge_id).values(refunded=refunded))


def backlog(reader: Reader, before: datetime) -> Backlog:
    """What waits for its outcome, and what has since before a time."""
    query = select(
        func.count().label("pending"),
        func.count().filter(rows.c.create_time < before).label("stuck"),
    ).where(rows.c.status == PENDING)
    row = reader.run(query).one()
    return Backlog(pending=row.pending, stuck=row.stuck)


_SELECT: Select[Any] = select(
    *(column for column in rows.c if column.name != "plan"),
    cast(rows.c.plan, Text).label("plan"),
)


def _one(reader: Reader, query: Select[Any]) -> Charge | None:
    row = reader.run(query).first()
    return None if row is None else _charge(row)


def _charge(row: Row[Any]) -> Charge:
    return Charge(
        charge_id=row.charge_id,
        subscription_id=row.subscription_id,
        user_id=row.user_id,
        ordinal=row.ordinal,
        attempt=row.attempt,
        kind=row.kind,
        plan=plan_of(row.plan),
        wallet_address=row.wallet_address,
        amount=row.amount,
        credit=row.credit,
        period_start=row.period_start,
        automatic=row.automatic,
        create_time=row.create_time,
        lease_id=row.lease_id,
        status=row.status,
        failure_reason=row.failure_reason,
        refunded=row.refunded,
        signature=row.signature,
        settle_time=row.settle_time,
        attempts=row.attempts,
    )
