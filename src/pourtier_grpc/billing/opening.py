"""How a charge begins: under the locks of its user and its subscription."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.subscription_pb2 import ChargeKind
from pourtier.v1.user_pb2 import User, UserStatus
from pourtier_grpc.billing import proration
from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.escrow.refusals import not_initialized
from pourtier_grpc.store import charges, holds
from pourtier_grpc.store import escrow as escrow_rows
from pourtier_grpc.store.charges import Charge
from pourtier_grpc.store.engine import Transaction
from pourtier_grpc.store.subscriptions import Record

# How soon it is worth asking again whether something is known, or may be charged.
PENDING_SECONDS = 2
HELD_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Whose a charge is that is about to be made, and until when."""

    lease_id: UUID
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be charged for. `period_start` is None where that is not known yet.

    `automatic` says that a worker does it, of which nobody has asked for this charge.
    """

    record: Record
    kind: ChargeKind.ValueType
    plan: Plan
    credit: str = "0"
    period_start: datetime | None = None
    automatic: bool = False


def open_charge(
    tx: Transaction, user: User, wanted: Wanted, lease: Lease, now: datetime
) -> Charge:
    """Writes a charge for the subscription's next period.

    The transaction holds the locks of user and subscription, and has seen to it that
    there is no open charge and no hold.
    """
    record = wanted.record
    ordinal = record.ordinal + 1
    attempt = charges.attempts_of(tx, record.subscription_id, ordinal) + 1
    charge = Charge(
        charge_id=charges.id_of(record.subscription_id, ordinal, attempt),
        subscription_id=record.subscription_id,
        user_id=record.user_id,
        ordinal=ordinal,
        attempt=attempt,
        kind=wanted.kind,
        plan=wanted.plan,
        wallet_address=wallet_of(tx, user),
        amount=proration.less(wanted.plan.price.amount, wanted.credit),
        credit=wanted.credit,
        period_start=wanted.period_start,
        automatic=wanted.automatic,
        create_time=now,
        lease_id=lease.lease_id,
    )
    charges.insert_one(tx, charge, lease.until)
    return charge


def why_not_chargeable(tx: Transaction, user: User) -> PourtierError | None:
    """Why a user is not to be charged now; None where nothing speaks against it.

    USER_SUSPENDED, CHARGE_PENDING, CHARGING_HELD or ESCROW_NOT_INITIALIZED. Until the
    transaction ends, no hold begins. An escrow that is not known here is not charged,
    though Passeur may know it: a database that has forgotten the escrow has forgotten
    its charges, which are looked for when it is found again.
    """
    user_id = UUID(user.user_id)
    if user.status != UserStatus.USER_STATUS_ACTIVE:
        return PourtierError(
            ErrorReason.ERROR_REASON_USER_SUSPENDED, "the account is suspended"
        )
    open_charge_id = charges.open_of_user(tx, user_id)
    if open_charge_id is not None:
        return pending(open_charge_id)
    if is_held(tx, user_id):
        return PourtierError(
            ErrorReason.ERROR_REASON_CHARGING_HELD,
            "nothing is charged at the moment",
            retry_after=timedelta(seconds=HELD_SECONDS),
        )
    known = escrow_rows.find_account(tx, user_id) is not None
    return None if known else not_initialized()


def require_settled(charge_id: UUID | None) -> None:
    """Raises CHARGE_PENDING where there is a charge that is open, or a refund of it."""
    if charge_id is not None:
        raise pending(charge_id)


def pending(charge_id: UUID) -> PourtierError:
    """The error of what has to wait for the outcome of a charge."""
    return PourtierError(
        ErrorReason.ERROR_REASON_CHARGE_PENDING,
        "the outcome of the charge {charge_id} is not known yet",
        retry_after=timedelta(seconds=PENDING_SECONDS),
        charge_id=str(charge_id),
    )


def is_held(tx: Transaction, user_id: UUID) -> bool:
    """Whether a user is not to be charged; no hold begins in the meantime."""
    holds.share(tx)
    return holds.keeps(tx, user_id)


def wallet_of(tx: Transaction, user: User) -> str:
    """The wallet of a user's escrow, which is known to be there."""
    account = escrow_rows.find_account(tx, UUID(user.user_id))
    if account is None:
        raise LookupError(user.user_id)
    return account.escrow.wallet_address


def next_plan(catalogue: Catalogue, record: Record) -> Plan:
    """What the next period is to be: limits as on offer, the price as it was taken."""
    wanted = record.next_plan or record.plan
    offered = catalogue.find(wanted.plan_id)
    if offered is None:
        return wanted
    plan = Plan()
    plan.CopyFrom(offered)
    plan.price.CopyFrom(wanted.price)
    return plan
