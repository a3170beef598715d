"""Months that nobody pays for, because an operator says so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.subscription_pb2 import Subscription
from pourtier.v1.user_pb2 import User
from pourtier_grpc.billing import machine, proration
from pourtier_grpc.billing.book import Book, described, origin_of_act
from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.billing.opening import require_settled
from pourtier_grpc.caller import Act
from pourtier_grpc.clock import Clock
from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.store import charges, periods, subscriptions, unmatched, users
from pourtier_grpc.store.audit import AuditAction
from pourtier_grpc.store.doubt import Doubt, write_surely
from pourtier_grpc.store.engine import Database, Reader, Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.periods import NewPeriod
from pourtier_grpc.store.subscriptions import Record
from pourtier_grpc.users.directory import found


class UngrantedError(ExpectedError):
    """Nothing is granted; the text tells the operator why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is to be given; `plan` is None for that which runs."""

    grant_id: UUID
    user_id: UUID
    plan: Plan | None
    for_charge: str | None
    act: Act


class Grants:
    """Gives months of plans."""

    def __init__(
        self, *, database: Database, catalogue: Catalogue, book: Book, clock: Clock
    ) -> None:
        self._database = database
        self._catalogue = catalogue
        self._book = book
        self._clock = clock

    def grant(
        self,
        user_id: UUID,
        plan_id: str | None,
        act: Act,
        for_charge: str | None = None,
    ) -> Subscription:
        """Gives a month: after what runs, or in a new subscription that does not renew.

        Without a plan it is one of what runs. `for_charge` is the transaction of an
        unmatched charge of the user's, which is resolved by it. Raises USER_NOT_FOUND,
        PLAN_NOT_FOUND, PLAN_NOT_PURCHASABLE, CHARGE_PENDING and UngrantedError, after
        which nothing is given, and OUTCOME_UNKNOWN, after which it may be.
        """
        plan = None if plan_id is None else self._catalogue.purchasable(plan_id)
        wish = _Wish(
            grant_id=new_id(self._clock.now()),
            user_id=user_id,
            plan=plan,
            for_charge=for_charge,
            act=act,
        )
        doubt = Doubt("grant_id", str(wish.grant_id))
        given: list[Record] = []

        def is_kept() -> bool:
            with self._database.read() as read:
                kept = _kept(read, wish)
            given[:] = [] if kept is None else [kept]
            return kept is not None

        def write(tx: Transaction) -> None:
            # A commit that is under way yet is waited for here.
            user = found(users.lock(tx, user_id), user_id)
            given[:] = [_kept(tx, wish) or self._give(tx, user, wish)]

        write_surely(self._database, doubt, write, is_kept)
        return given[0].shown()

    def _give(self, tx: Transaction, user: User, wish: _Wish) -> Record:
        user_id, reason = wish.user_id, wish.act.reason
        require_settled(charges.open_of_user(tx, user_id))
        now = self._clock.now()
        details = {"reason": reason}
        if wish.for_charge is not None:
            _resolve(tx, user_id, wish.for_charge, reason, now)
            details["passeur_transaction_id"] = wish.for_charge
        before = _live(tx, user_id) or _begun(tx, user_id, wish.plan, now)
        plan = before.plan if wish.plan is None else _as_taken(wish.plan, before)
        _refuse_cheaper(before, plan)
        transition = machine.granted(before, plan, now)
        _begin_period(tx, before, transition.record, wish, now)
        origin = origin_of_act(wish.act)
        saved = self._book.write(tx, user, transition, origin=origin, details=details)
        told = {**described(saved), **details}
        self._book.note(tx, user, AuditAction.SUBSCRIPTION_GRANTED, told, origin)
        return saved


def _kept(reader: Reader, wish: _Wish) -> Record | None:
    """The subscription that a grant was given to, where it was."""
    subscription_id = periods.granted(reader, wish.user_id, wish.grant_id)
    if subscription_id is None:
        return None
    return subscriptions.find(reader, wish.user_id, subscription_id)


def _resolve(
    tx: Transaction, user_id: UUID, transaction_id: str, reason: str, now: datetime
) -> None:
    found = unmatched.find(tx, transaction_id)
    is_charge = found is not None and found.type == unmatched.CHARGE
    if not is_charge or not unmatched.resolve(tx, user_id, transaction_id, reason, now):
        raise UngrantedError(
            f"the user has no unmatched charge {transaction_id} that is not resolved"
        )


def _live(tx: Transaction, user_id: UUID) -> Record | None:
    live = subscriptions.find_live(tx, user_id)
    return live and subscriptions.lock(tx, user_id, live.subscription_id)


def _begun(tx: Transaction, user_id: UUID, plan: Plan | None, now: datetime) -> Record:
    if plan is None:
        raise UngrantedError("the user has no subscription that runs: name a plan")
    record = machine.begun(new_id(now), user_id, plan, now, auto_renew=False)
    subscriptions.insert_one(tx, record)
    return record


def _as_taken(named: Plan, record: Record) -> Plan:
    """A plan as its owner has taken it, if they have, at whatever price that was."""
    taken = (record.plan, record.next_plan)
    return next(
        (plan for plan in taken if plan and plan.plan_id == named.plan_id), named
    )


def _refuse_cheaper(record: Record, plan: Plan) -> None:
    """A period that is paid does not shrink."""
    if not proration.at_least(plan.price.amount, record.plan.price.amount):
        raise UngrantedError(
            f"{plan.plan_id} costs less than {record.plan.plan_id}, which runs: a month"
            " of it would take effect at once, and take away what was paid"
        )


def _begin_period(
    tx: Transaction, before: Record, after: Record, wish: _Wish, now: datetime
) -> None:
    if after.period is None:  # pragma: no cover - a month was given
        raise LookupError("a month without a period")
    if before.period is not None and after.period.start < before.period.end:
        start, value = after.period.start, after.value
        periods.close(tx, before.subscription_id, before.ordinal, start, value)
    new = NewPeriod(
        subscription_id=after.subscription_id,
        ordinal=after.ordinal,
        plan_id=after.plan.plan_id,
        value=after.value,
        period=after.period,
        charge_id=None,
        grant_id=wish.grant_id,
        grant_reason=wish.act.reason,
    )
    periods.insert_one(tx, new, now)
