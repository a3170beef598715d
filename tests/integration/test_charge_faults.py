"""Charges whose Passeur is away, slow or silent, or whose people go meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import httpx
import pytest
from grpc import StatusCode

from pourtier.v1 import subscription_pb2 as pb
from pourtier.v1.subscription_pb2 import Subscription
from pourtier_grpc.config import Settings
from pourtier_grpc.passeur.breaker import BreakerState
from pourtier_grpc.store import idempotency
from support.api import Refused, refusal
from support.callers import BY_COMMAND, Person, administration, person
from support.charges import (
    KINDS,
    PURCHASE,
    REACTIVATION,
    UPGRADE,
    charging,
    fall_due,
    settle,
    subscription_of,
)
from support.escrow import balance, deposit, escrowed, funded, keys, known_here
from support.escrow import settle as settle_transfers
from support.passeur import PasseurSim, ThreadedSim
from support.servers import state_folder
from support.service import Service
from support.subscriptions import (
    ACTIVE,
    CANCELLED,
    EXPIRED,
    FAILED,
    PENDING,
    RENEWING,
    again,
    agree,
    billing,
    cancel,
    charges,
    events,
    found,
    paid,
    reactivate,
    row_of,
    subscribe,
    update,
    work,
)

pytestmark = pytest.mark.usefixtures("no_retries")

VOIDED = pb.ChargeStatus.CHARGE_STATUS_VOIDED
OPEN = pb.ChargeStatus.CHARGE_STATUS_PENDING
CHARGES = "SELECT * FROM charges ORDER BY create_time"


@pytest.fixture
def settings(make_settings: Callable[..., Settings], sim: PasseurSim) -> Settings:
    return make_settings(passeur_url=sim.url, passeur_breaker_failures=1000)


def subscription_keys(own: Service) -> list[str]:
    return [row["key"] for row in keys(own)]


def leave_alone(own: Service, sim: PasseurSim, whose: Person) -> None:
    """Passeur has failed so often that it is left alone."""
    balance(own, whose)
    sim.fault(operation="balance", status=500, times=5)
    for _ in range(5):
        assert balance(own, whose).stale
    passeur = own.server._parts.passeur
    assert passeur is not None
    assert passeur.breaker.state is BreakerState.OPEN


class TestNobodyToAsk:
    @pytest.fixture
    def settings(
        self, make_settings: Callable[..., Settings], sim: PasseurSim
    ) -> Settings:
        return make_settings(passeur_url=sim.url)

    def test_while_passeur_is_left_alone_nothing_is_begun(
        self, own: Service, sim: PasseurSim
    ) -> None:
        whose = escrowed(own, sim)
        leave_alone(own, sim, whose)
        before = own.sql.counts()
        with refusal("PASSEUR_UNAVAILABLE", StatusCode.UNAVAILABLE) as refused:
            subscribe(own, whose, key="k")
        assert refused[0].retry is not None
        assert own.sql.counts() == before
        own.clock.move(seconds=31)
        assert subscribe(own, whose, key="k").status == ACTIVE
        assert len(paid(sim, whose)) == 1

    def test_what_is_due_waits_for_passeur_with_its_access(
        self, own: Service, sim: PasseurSim
    ) -> None:
        whose = escrowed(own, sim)
        made = subscribe(own, whose)
        leave_alone(own, sim, whose)
        fall_due(own, made)
        work(own)
        shown = found(own, whose, made.subscription_id)
        assert (shown.status, shown.charge_pending) == (RENEWING, False)
        assert shown.access_end_time.ToSeconds() > own.clock.now().timestamp()
        own.clock.move(minutes=2)
        settle(own)
        assert found(own, whose, made.subscription_id).status == ACTIVE
        assert len(paid(sim, whose)) == 2


class TestNothingSent:
    @pytest.fixture
    def sim(self) -> Iterator[PasseurSim]:
        """One that is away until it is started."""
        with state_folder() as folder:
            made = ThreadedSim(folder, settle_seconds=0)
            yield made
            made.stop()

    @pytest.fixture
    def _no_fault_outlives_its_test(self) -> None:
        """There is none, and not always somebody to take it back."""

    def test_a_purchase_is_as_if_it_had_not_been(
        self, own: Service, sim: PasseurSim
    ) -> None:
        whose = person(own)
        known_here(own, whose)
        with refusal("PASSEUR_UNAVAILABLE", StatusCode.UNAVAILABLE):
            subscribe(own, whose, key="k")
        (charge,) = own.sql.run(CHARGES)
        assert (charge["status"], charge["failure_reason"]) == (
            VOIDED,
            "PASSEUR_UNAVAILABLE",
        )
        assert charge["lease_id"] is None
        assert own.sql.one("SELECT status FROM subscriptions")["status"] == FAILED
        assert keys(own) == []
        assert events(own, whose) == []
        sim.start()
        funded(own, sim, whose, "100")
        own.clock.move(seconds=90)
        work(own)
        assert sim.requests(operation="charge") == []
        made = subscribe(own, whose, key="k")
        assert made.status == ACTIVE
        assert subscribe(own, whose, key="k") == made
        assert agree(own.sql, sim) == 1

    def test_a_renewal_waits_and_is_asked_for_again(
        self, own: Service, sim: PasseurSim
    ) -> None:
        sim.start()
        whose = escrowed(own, sim)
        made = subscribe(own, whose)
        _end(sim)
        fall_due(own, made)
        work(own)
        shown = found(own, whose, made.subscription_id)
        assert (shown.status, shown.charge_pending) == (RENEWING, True)
        sim.start()
        with suppress(httpx.HTTPError):
            # By a connection of before, which is no more.
            sim.effects()
        settle(own)
        assert found(own, whose, made.subscription_id).status == ACTIVE
        assert agree(own.sql, sim) == 2


def _end(sim: PasseurSim) -> None:
    assert isinstance(sim, ThreadedSim)
    assert sim._simulator is not None
    sim._simulator.stop()


EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def live(own: Service, whose: Person) -> dict[str, object]:
    return own.sql.one("SELECT * FROM subscriptions WHERE user_id = %s", whose.user_id)


@EVERY_KIND
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_sent_and_not_answered_is_pending_and_follows(
    own: Service, sim: PasseurSim, kind: str, when: str
) -> None:
    """Whether or not Passeur has done it: asked again, it does it once."""
    whose = escrowed(own, sim, "500")
    call = charging(own, whose, kind)
    before = len(paid(sim, whose))
    sim.fault(operation="charge", drop=True, when=when)
    answer = call("k")
    shown = subscription_of(answer)
    assert shown.charge_pending
    assert call("k") == answer
    with pytest.raises(Refused) as refused:
        call("another")
    assert refused.value.reason in {"CHARGE_PENDING", "SUBSCRIPTION_ALREADY_EXISTS"}
    settle(own)
    now = found(own, whose, shown.subscription_id)
    assert (now.status, now.charge_pending) == (ACTIVE, False)
    assert call("k") == answer
    assert len(paid(sim, whose)) == before + 1


class TestSuspendedMeanwhile:
    @EVERY_KIND
    def test_what_passeur_has_done_is_had(
        self, own: Service, sim: PasseurSim, kind: str
    ) -> None:
        whose = escrowed(own, sim, "500")
        call = charging(own, whose, kind)
        before = len(paid(sim, whose))
        sim.fault(operation="charge", drop=True, when="after")
        call("k")
        administration(own).suspend(UUID(whose.user_id), BY_COMMAND)
        settle(own)
        assert live(own, whose)["status"] == ACTIVE
        assert len(paid(sim, whose)) == before + 1

    @EVERY_KIND
    def test_what_it_has_not_done_it_never_does(
        self, own: Service, sim: PasseurSim, kind: str
    ) -> None:
        whose = escrowed(own, sim, "500")
        call = charging(own, whose, kind)
        before, was = len(paid(sim, whose)), own.sql.run(CHARGES)
        sim.fault(operation="charge", drop=True, when="before")
        call("k")
        administration(own).suspend(UUID(whose.user_id), BY_COMMAND)
        settle(own)
        charge = own.sql.run(CHARGES)[-1]
        assert len(own.sql.run(CHARGES)) == len(was) + 1
        assert (charge["status"], charge["failure_reason"]) == (
            VOIDED,
            "USER_SUSPENDED",
        )
        after = {PURCHASE: FAILED, UPGRADE: ACTIVE, REACTIVATION: CANCELLED}
        assert live(own, whose)["status"] == after[kind]
        key = str(charge["charge_id"])
        assert len(sim.requests(operation="void", key=key)) == 1
        # The first time comes late, and is too late.
        late = _send(sim, charge)
        assert late == (409, "voided")
        assert len(paid(sim, whose)) == before
        administration(own).reinstate(UUID(whose.user_id), BY_COMMAND)
        whose = again(own, whose)
        if kind == PURCHASE:
            assert subscribe(own, whose, key="k").status == ACTIVE
            assert len(paid(sim, whose)) == before + 1


def _send(sim: PasseurSim, charge: dict[str, object]) -> tuple[int, str]:
    """What Passeur says to a charge that is asked for once more."""
    answer = sim.http.post(
        f"/escrow/{charge['wallet_address']}/charges",
        json={"amount": charge["amount"], "reference": charge["reference"]},
        headers={
            "X-Request-Id": "test",
            "Idempotency-Key": str(charge["charge_id"]),
        },
    )
    return answer.status_code, answer.json()["error"]


class TestSlowPasseur:
    """It takes longer than anybody waits."""

    @pytest.fixture
    def settings(
        self, make_settings: Callable[..., Settings], sim: PasseurSim
    ) -> Settings:
        return make_settings(
            passeur_url=sim.url,
            passeur_timeout_seconds=1.5,
            passeur_breaker_failures=1000,
        )

    @EVERY_KIND
    def test_it_is_one_charge(self, own: Service, sim: PasseurSim, kind: str) -> None:
        """The worker asks while the first time is still under way."""
        whose = escrowed(own, sim, "500")
        call = charging(own, whose, kind)
        before = len(paid(sim, whose))
        sim.fault(operation="charge", delay_seconds=3)
        call("k")
        own.clock.move(seconds=10)
        work(own)
        settle(own)
        assert live(own, whose)["status"] == ACTIVE
        assert len(paid(sim, whose)) == before + 1

    def test_it_is_not_given_up_while_passeur_is_at_it(
        self, own: Service, sim: PasseurSim
    ) -> None:
        whose = escrowed(own, sim)
        sim.fault(operation="charge", delay_seconds=4)
        made = subscribe(own, whose)
        assert (made.status, made.charge_pending) == (PENDING, True)
        administration(own).suspend(UUID(whose.user_id), BY_COMMAND)
        own.clock.move(seconds=10)
        work(own)
        assert own.sql.run(CHARGES)[0]["status"] == OPEN
        settle(own)
        assert row_of(own, made.subscription_id)["status"] == ACTIVE
        assert len(paid(sim, whose)) == 1


class TestCancelledWhileRenewing:
    def renewing(
        self, own: Service, sim: PasseurSim, when: str
    ) -> tuple[Person, pb.Subscription]:
        """Somebody who cancels while nobody knows whether the renewal was paid."""
        whose = escrowed(own, sim)
        made = subscribe(own, whose)
        fall_due(own, made)
        sim.fault(operation="charge", drop=True, when=when)
        work(own)
        shown = cancel(own, whose, made.subscription_id)
        assert (shown.status, shown.charge_pending) == (RENEWING, True)
        assert shown.cancel_at_period_end
        assert cancel(own, whose, made.subscription_id) == shown
        settle(own)
        return whose, found(own, whose, made.subscription_id)

    def test_what_was_paid_is_had_to_its_end(
        self, own: Service, sim: PasseurSim
    ) -> None:
        whose, shown = self.renewing(own, sim, "after")
        assert (shown.status, shown.cancel_at_period_end) == (ACTIVE, True)
        assert len(paid(sim, whose)) == 2
        fall_due(own, shown)
        work(own)
        assert found(own, whose, shown.subscription_id).status == CANCELLED
        assert len(paid(sim, whose)) == 2

    def test_what_was_not_paid_never_is(self, own: Service, sim: PasseurSim) -> None:
        whose, shown = self.renewing(own, sim, "before")
        assert shown.status == CANCELLED
        assert len(paid(sim, whose)) == 1
        newest = max(
            charges(own, whose, shown.subscription_id), key=lambda each: each.ordinal
        )
        assert (newest.status, newest.failure_reason) == (VOIDED, "SUBSCRIPTION_ENDED")


def test_who_turns_renewals_off_while_one_is_open_is_not_charged(
    own: Service, sim: PasseurSim
) -> None:
    whose = escrowed(own, sim)
    made = subscribe(own, whose)
    fall_due(own, made)
    sim.fault(operation="charge", drop=True, when="before")
    work(own)
    own.sql.run("UPDATE subscriptions SET auto_renew = false")
    settle(own)
    assert found(own, whose, made.subscription_id).status == EXPIRED
    own.clock.move(minutes=5)
    work(own)
    assert len(paid(sim, whose)) == 1


def test_the_key_of_an_open_charge_is_not_forgotten(
    own: Service, sim: PasseurSim
) -> None:
    whose = escrowed(own, sim)
    sim.fault(operation="charge", drop=True, when="after")
    made = subscribe(own, whose, key="k")
    own.sql.run(
        "UPDATE idempotency_keys SET create_time = %s",
        own.clock.now() - 2 * idempotency.LIFETIME,
    )
    database = own.server._parts.database
    assert not idempotency.sweep(database, own.clock.now())
    assert subscription_keys(own) == ["k"]
    assert subscribe(own, whose, key="k") == made
    settle(own)
    idempotency.sweep(database, own.clock.now())
    assert keys(own) == []
    with pytest.raises(Refused) as refused:
        subscribe(own, whose, key="k")
    assert refused.value.reason == "SUBSCRIPTION_ALREADY_EXISTS"
    assert len(paid(sim, whose)) == 1


class TestComingBack:
    """Of what has expired for want of money, and is to come back with it."""

    def expired(self, own: Service, sim: PasseurSim) -> tuple[Person, Subscription]:
        whose = escrowed(own, sim, "29")
        made = subscribe(own, whose)
        fall_due(own, made)
        work(own)
        assert found(own, whose, made.subscription_id).status == EXPIRED
        return whose, made

    def test_another_purchase_that_failed_does_not_matter(
        self, own: Service, sim: PasseurSim
    ) -> None:
        whose, made = self.expired(own, sim)
        with refusal("INSUFFICIENT_ESCROW_BALANCE"):
            subscribe(own, whose, "pro")
        sim.top_up(whose.wallet.address, "29")
        own.clock.move(minutes=2)
        work(own)
        assert found(own, whose, made.subscription_id).status == ACTIVE

    def test_what_was_had_last_comes_back(self, own: Service, sim: PasseurSim) -> None:
        """And not what was bought last."""
        whose, made = self.expired(own, sim)
        sim.top_up(whose.wallet.address, "99")
        other = subscribe(own, whose, "pro")
        fall_due(own, other)
        work(own)
        own.clock.move(minutes=2)
        sim.top_up(whose.wallet.address, "29")
        assert reactivate(own, whose, made.subscription_id).status == ACTIVE
        fall_due(own, made)
        own.clock.move(minutes=1)
        work(own)
        deposit(own, whose, "200")
        settle_transfers(own)
        work(own)
        assert found(own, whose, made.subscription_id).status == ACTIVE
        assert found(own, whose, other.subscription_id).status == EXPIRED

    def test_looks_that_cannot_be_made_do_not_count(
        self, own: Service, sim: PasseurSim
    ) -> None:
        _, made = self.expired(own, sim)
        own.sql.run(
            "INSERT INTO charging_holds (hold_id, reason, begin_time)"
            " VALUES (gen_random_uuid(), 'a test', %s)",
            own.clock.now(),
        )
        for _ in range(5):
            own.clock.move(minutes=3)
            work(own)
        row = row_of(own, made.subscription_id)
        assert row["looks"] == 0
        assert row["due_time"] <= own.clock.now() + timedelta(minutes=3)

    def test_who_says_no_while_it_is_under_way_is_not_charged(
        self, own: Service, sim: PasseurSim
    ) -> None:
        whose, made = self.expired(own, sim)
        sim.top_up(whose.wallet.address, "29")
        sim.fault(operation="charge", drop=True, when="before")
        own.clock.move(minutes=2)
        billing(own).renewals.renew()
        assert found(own, whose, made.subscription_id).charge_pending
        update(own, whose, made.subscription_id, auto_renew=False)
        settle(own)
        assert found(own, whose, made.subscription_id).status == EXPIRED
        assert len(paid(sim, whose)) == 1
