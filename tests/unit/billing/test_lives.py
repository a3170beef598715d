"""Subscriptions through any life: what holds whatever comes, in whatever order."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.subscription_pb2 import ChargeKind
from pourtier_grpc.billing import machine, months, proration
from pourtier_grpc.billing.machine import (
    ACTIVE,
    CANCELLED,
    EXPIRED,
    FAILED,
    PAST_DUE,
    PENDING,
    PURCHASE,
    REACTIVATION,
    RENEWAL,
    RENEWING,
    UPGRADE,
    PlanChange,
    Transition,
)
from pourtier_grpc.store.charges import Charge
from pourtier_grpc.store.subscriptions import RENEWAL_ACCESS, Record
from support.records import DAY, PLANS, at, begun, charge_for, upgrade_to

STARTS = [
    at("2028-01-31", "10:00:00.5"),
    at("2026-12-31", "23:59:59"),
    at("2027-02-28"),
]
STEPS = (
    st.timedeltas(min_value=timedelta(0), max_value=timedelta(hours=30))
    | st.sampled_from([5 * DAY, 31 * DAY, 100 * DAY])
    | st.just(timedelta(seconds=1))
)
plans = st.sampled_from(PLANS)


class Lives(RuleBasedStateMachine):
    """A subscription, the charge that is open of it, and what was paid in all.

    What may be done, and when, is what callers and workers see to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now: datetime = STARTS[0]
        self.grace = timedelta(0)
        self.record: Record = begun(self.now)
        self.charge: Charge | None = None
        self.promised: PlanChange | None = None
        self.charged = self.consumed = Fraction(0)

    @initialize(
        now=st.sampled_from(STARTS),
        plan=plans,
        auto_renew=st.booleans(),
        grace=st.sampled_from([timedelta(0), 3 * DAY]),
        paid=st.booleans(),
    )
    def subscribe(
        self,
        now: datetime,
        plan: Plan,
        auto_renew: bool,
        grace: timedelta,
        paid: bool,
    ) -> None:
        self.now, self.grace = now, grace
        self.record = begun(now, plan, auto_renew=auto_renew)
        self._open(PURCHASE)
        if paid:
            self.pay()

    @rule(step=STEPS)
    def wait(self, step: timedelta) -> None:
        self.now += step

    @precondition(lambda self: self.record.period is not None)
    @rule(step=st.timedeltas(timedelta(0), timedelta(hours=30)))
    def wait_for_the_end(self, step: timedelta) -> None:
        assert self.record.period is not None
        self.now = max(self.now, self.record.period.end + step)

    @precondition(lambda self: self.record.status in (ACTIVE, RENEWING))
    @rule(step=st.timedeltas(timedelta(0), timedelta(hours=30)), paid=st.booleans())
    def end(self, step: timedelta, paid: bool) -> None:
        """The period ends, and so long after it what comes of the next is known."""
        assert self.record.period is not None
        self.now = max(self.now, self.record.period.end)
        self._end_period(must_wait=False, suspended=False)
        self.now += step
        if self.charge is not None:
            self.pay() if paid else self.refuse(ends=False)

    @precondition(lambda self: self.charge is not None)
    @rule()
    def pay(self) -> None:
        charge, before = self._settled(), self.record
        access = before.access_end is not None and self.now < before.access_end

        self._take(machine.paid(before, charge, self.now))

        after = self.record
        self.charged += Fraction(charge.amount)
        self.consumed += Fraction(before.value) - Fraction(charge.credit)
        assert (after.status, after.ordinal) == (ACTIVE, before.ordinal + 1)
        assert after.period is not None
        if charge.kind == RENEWAL and access:
            assert before.period is not None
            assert after.period.start == before.period.end
        elif charge.kind == UPGRADE and access:
            assert self.promised is not None
            assert self.promised.period == after.period
            assert self.promised.plan == after.plan
            assert self.promised.amount == charge.amount
        else:
            assert after.period.start == proration.second_of(self.now)
        # Whoever has paid has access; but not of an upgrade that took all its month.
        assert after.access_end is not None
        if charge.kind == UPGRADE and access and self.now >= after.period.end:
            return
        assert self.now < after.access_end

    @precondition(lambda self: self.charge is not None)
    @rule(ends=st.booleans())
    def refuse(self, ends: bool) -> None:
        charge, status = self._settled(), self.record.status
        grace = timedelta(0) if ends else self.grace
        self._take(machine.refused(self.record, charge, "NO", self.now, grace))
        assert self.record.ordinal == charge.ordinal - 1
        assert self.record.status != PENDING
        assert charge.kind != UPGRADE or self.record.status == status

    @precondition(lambda self: self.is_due)
    @rule(has_money=st.booleans(), must_wait=st.booleans(), suspended=st.booleans())
    def work(self, has_money: bool, must_wait: bool, suspended: bool) -> None:
        if self.record.status in (ACTIVE, RENEWING):
            self._end_period(must_wait=must_wait, suspended=suspended)
        elif self.charge is not None:
            self.record = replace(self.record, due_time=None)
        else:
            self._look(has_money=has_money and not suspended)

    @precondition(lambda self: self.record.status in (ACTIVE, RENEWING))
    @rule()
    def cancel(self) -> None:
        if self.record.status == ACTIVE or self.charge is not None:
            self._take(machine.cancelling(self.record, self.now))
        else:
            self._take(machine.cancelled(self.record, self.now))

    @precondition(
        lambda self: self.charge is None and self.record.status in (PAST_DUE, EXPIRED)
    )
    @rule()
    def cancel_for_good(self) -> None:
        self._take(machine.cancelled(self.record, self.now))

    @precondition(lambda self: self.record.status not in (CANCELLED, FAILED))
    @rule(on=st.booleans())
    def set_auto_renew(self, on: bool) -> None:
        self._take(machine.auto_renew(self.record, self.now, on=on))

    @precondition(lambda self: self.may_change)
    @rule(plan=plans)
    def change_plan(self, plan: Plan) -> None:
        change = machine.plan_change(self.record, plan, self.now)
        assert Fraction(change.credit) <= Fraction(self.record.value)
        if change.immediate:
            self.promised = change
            self.charge = upgrade_to(self.record, plan, self.now)
            assert Fraction(self.charge.amount) > 0
            assert self.charge.credit == change.credit
        else:
            wanted = None if plan == self.record.plan else plan
            self._take(machine.changed(self.record, self.now, next_plan=wanted))

    @precondition(
        lambda self: (
            self.charge is None and self.record.status in (PAST_DUE, EXPIRED, CANCELLED)
        )
    )
    @rule()
    def reactivate(self) -> None:
        self._open(RENEWAL if self.record.status == PAST_DUE else REACTIVATION)

    @precondition(lambda self: self.charge is None)
    @rule()
    def grant(self) -> None:
        before = self.record
        runs = before.access_end is not None and self.now < before.access_end

        self._take(machine.granted(before, before.plan, self.now))

        after = self.record
        assert (after.status, after.ordinal) == (ACTIVE, before.ordinal + 1)
        # What is given is worth nothing; what does not run on has been used up.
        assert Fraction(after.value) <= (Fraction(before.value) if runs else 0)
        self.consumed += Fraction(before.value) - Fraction(after.value)

    @property
    def is_due(self) -> bool:
        due = self.record.due_time
        return due is not None and due <= self.now

    @property
    def may_change(self) -> bool:
        period = self.record.period
        runs = period is not None and self.now < period.end
        return self.charge is None and self.record.status == ACTIVE and runs

    @invariant()
    def money_is_conserved(self) -> None:
        assert self.charged == self.consumed + Fraction(self.record.value)
        assert Fraction(self.record.value) <= Fraction(self.record.plan.price.amount)

    @invariant()
    def what_lives_has_a_period_or_awaits_it(self) -> None:
        record, period = self.record, self.record.period
        if record.status == PENDING:
            assert period is None
            assert self.charge is not None
        elif record.is_live:
            assert period is not None
            assert record.anchor_time is not None
            end = months.later(record.anchor_time, record.anchor_months + 1)
            assert period.start < period.end == end
        assert (record.end_time is None) == record.is_live

    @invariant()
    def somebody_will_look(self) -> None:
        """What waits has a time at which it is looked at, or a charge that ends."""
        record = self.record
        match record.status:
            case machine.ACTIVE:
                assert record.period is not None
                assert record.due_time == record.period.end
                assert record.failure_reason is None
            case machine.RENEWING:
                assert record.due_time is not None or self.charge is not None
            case machine.PAST_DUE:
                assert record.grace_end_time is not None
                assert record.due_time is not None or self.charge is not None
                if record.due_time is not None:
                    assert record.due_time <= record.grace_end_time
            case machine.EXPIRED:
                assert record.end_time is not None
                old = self.now > record.end_time + machine.LOOKED_FOR
                waits = record.renews and self.charge is None and not old
                assert not waits or record.due_time is not None
            case _:
                assert record.due_time is None
        if record.status != PAST_DUE:
            assert record.grace_end_time is None

    @invariant()
    def access_ends(self) -> None:
        record = self.record
        if record.status == PENDING or not record.is_live:
            assert record.access_end is None
            return
        assert record.access_end is not None
        assert record.period is not None
        if record.status == PAST_DUE:
            assert record.access_end == record.period.end + self.grace
        else:
            assert record.access_end <= record.period.end + RENEWAL_ACCESS

    def _end_period(self, *, must_wait: bool, suspended: bool) -> None:
        if self.charge is not None:
            self._renewing(None)
        elif not self.record.renews:
            self._take(machine.period_over(self.record, self.now))
        elif suspended:
            self._take(machine.expired(self.record, self.now, "SUSPENDED"))
        elif must_wait:
            self._renewing(self.now + timedelta(seconds=30))
        else:
            self._renewing(None)
            self._open(RENEWAL)

    def _renewing(self, due: datetime | None) -> None:
        if self.record.status == RENEWING:
            self.record = replace(self.record, due_time=due)
        else:
            self._take(machine.renewing(self.record, self.now, due))

    def _look(self, *, has_money: bool) -> None:
        grace_end = self.record.grace_end_time
        if grace_end is not None and self.now >= grace_end:
            self._take(machine.expired(self.record, self.now))
        elif not self.record.renews:
            self.record = replace(self.record, due_time=grace_end)
        elif has_money:
            self.record = replace(self.record, due_time=None)
            self._open(REACTIVATION if self.record.status == EXPIRED else RENEWAL)
        else:
            self._take(machine.looked(self.record, self.now))

    def _open(self, kind: ChargeKind.ValueType) -> None:
        self.charge = charge_for(self.record, kind, self.now)

    def _settled(self) -> Charge:
        charge, self.charge = self.charge, None
        assert charge is not None
        return charge

    def _take(self, transition: Transition) -> None:
        assert transition.record.ordinal - self.record.ordinal in (0, 1)
        assert transition.record.update_time >= self.record.update_time
        self.record = transition.record


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=300, stateful_step_count=40)
