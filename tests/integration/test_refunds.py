"""Money that is given back: how much, how often, and what follows from it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from pourtier_grpc.billing import refunds as rules
from pourtier_grpc.billing.machine import ACTIVE, CANCELLED, EXPIRED
from pourtier_grpc.billing.refunds import CONFIRMED, REFUSED, RefundError
from pourtier_grpc.config import Settings
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.failpoints import Failpoint
from pourtier_grpc.passeur.amounts import text_of
from pourtier_grpc.store.driver_errors import unavailable
from pourtier_grpc.store.privileges import Duty
from pourtier_grpc.store.refunds import PENDING
from support.bookkeeping import BY_SUPPORT, CLIENT, Bookkeeping, caller
from support.callers import Person, audited
from support.escrow import escrowed
from support.passeur import PasseurSim
from support.roles import as_role
from support.service import Service
from support.subscriptions import row_of
from support.threads import together

pytestmark = pytest.mark.usefixtures("no_retries")


@pytest.fixture
def settings(
    make_settings: Callable[..., Settings], database_url: str, sim: PasseurSim
) -> Settings:
    return make_settings(
        database_url=as_role(database_url, Duty.WORKING),
        passeur_url=sim.url,
        passeur_breaker_failures=1000,
    )


@pytest.fixture
def books(own: Service, database_url: str) -> Bookkeeping:
    return Bookkeeping(service=own, database_url=database_url)


@pytest.fixture
def ann(own: Service, sim: PasseurSim) -> Person:
    return escrowed(own, sim, "200")


def refund(
    books: Bookkeeping, charge_id: UUID, amount: str | None = None
) -> tuple[int, str]:
    """What came of a refund, and how much it was."""
    made = books.refunds.refund(charge_id, amount, BY_SUPPORT)
    return made.status, made.amount


def given_back(sim: PasseurSim, whose: Person) -> list[str]:
    """What Passeur has given back to somebody."""
    found = sim.effects(kind="refund", wallet=whose.wallet.address)
    return [each["amount"] for each in found]


def rows(books: Bookkeeping) -> list[dict[str, object]]:
    return books.service.sql.run("SELECT * FROM refunds ORDER BY create_time")


def value(books: Bookkeeping) -> str:
    """What is left of what was paid of the one subscription's period."""
    return str(books.service.sql.one("SELECT value FROM subscriptions")["value"])


class TestAmounts:
    def test_all_of_a_charge_ends_its_subscription(
        self, books: Bookkeeping, sim: PasseurSim, ann: Person
    ) -> None:
        bought = books.buy(ann)
        charge_id = books.charge_id(ann)
        assert refund(books, charge_id) == (CONFIRMED, "29")
        assert given_back(sim, ann) == ["29"]
        after = books.subscription(ann, bought)
        assert after.status == CANCELLED
        assert not after.HasField("access_end_time")
        (row,) = books.charges(ann)
        assert row["refunded"] == "29"
        types = books.service.sql.event_types(ann.user_id)
        assert types[-2:] == ["subscription.activated", "subscription.cancelled"]
        (asked,) = audited(books.service, ann.user_id, "refund.requested")
        assert asked["actor"] == "operator"
        assert asked["details"]["reason"] == BY_SUPPORT.reason
        (done,) = audited(books.service, ann.user_id, "refund.confirmed")
        assert done["details"] == {
            "refund_id": asked["details"]["refund_id"],
            "charge_id": str(charge_id),
            "amount": "29",
        }
        # There is a place for another.
        assert books.buy(ann).status == ACTIVE

    def test_parts_never_come_to_more_than_the_whole(
        self, books: Bookkeeping, sim: PasseurSim, ann: Person
    ) -> None:
        bought = books.buy(ann)
        charge_id = books.charge_id(ann)
        assert refund(books, charge_id, "9.50") == (CONFIRMED, "9.5")
        assert value(books) == "19.5"
        assert books.subscription(ann, bought).status == ACTIVE
        with pytest.raises(RefundError, match=r"19\.5 can be given back, not 19\.6"):
            refund(books, charge_id, "19.6")
        assert refund(books, charge_id) == (CONFIRMED, "19.5")
        assert books.subscription(ann, bought).status == CANCELLED
        with pytest.raises(RefundError, match="nothing of the charge"):
            refund(books, charge_id)
        assert given_back(sim, ann) == ["9.5", "19.5"]

    @pytest.mark.parametrize("amount", ["0", "-1", "1e3", "0.0000001", ""])
    def test_what_is_no_amount_is_refused(
        self, books: Bookkeeping, sim: PasseurSim, ann: Person, amount: str
    ) -> None:
        books.buy(ann)
        with pytest.raises(PourtierError, match="not an amount"):
            refund(books, books.charge_id(ann), amount)
        assert rows(books) == []

    def test_only_what_was_taken_is_given_back(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        with pytest.raises(RefundError, match="there is no charge"):
            refund(books, uuid4())
        poor = escrowed(own, sim, "1")
        with pytest.raises(PourtierError, match="holds less"):
            books.buy(poor)
        with pytest.raises(RefundError, match="is refused"):
            refund(books, books.charge_id(poor))
        assert rows(books) == []

    def test_what_was_credited_is_not_given_back_as_well(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        bought = books.buy(ann)
        first = books.charge_id(ann)
        assert refund(books, first, "9") == (CONFIRMED, "9")
        books.upgrade(ann, bought)
        upgrade = books.charges(ann)[-1]
        # All that was left of the month, but for what was given back.
        assert (upgrade["credit"], upgrade["amount"]) == ("20", "79")
        with pytest.raises(RefundError, match="nothing of the charge"):
            refund(books, first)
        assert refund(books, upgrade["charge_id"]) == (CONFIRMED, "79")
        # The rest of the period is paid by the credit, which nobody loses.
        assert books.subscription(ann, bought).status == ACTIVE
        assert row_of(own, bought.subscription_id)["value"] == "20"
        assert given_back(sim, ann) == ["9", "79"]

    def test_what_went_through_a_granted_month_counts_as_what_was_credited(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        bought = books.buy(ann)
        books.grants.grant(UUID(ann.user_id), None, BY_SUPPORT)
        own.clock.move(days=30)
        books.upgrade(ann, bought)
        first, upgrade = books.charges(ann)
        credit = Decimal(upgrade["credit"])
        assert 10 < credit < 20
        left = text_of(29 - credit)
        assert refund(books, first["charge_id"]) == (CONFIRMED, left)
        with pytest.raises(RefundError, match="nothing of the charge"):
            refund(books, first["charge_id"])

    def test_what_a_granted_month_goes_on_with_can_be_given_back(
        self, books: Bookkeeping, ann: Person
    ) -> None:
        bought = books.buy(ann)
        books.grants.grant(UUID(ann.user_id), None, BY_SUPPORT)
        assert refund(books, books.charge_id(ann)) == (CONFIRMED, "29")
        # The month that was given stays, and is worth nothing.
        assert books.subscription(ann, bought).status == ACTIVE
        assert value(books) == "0"
        books.upgrade(ann, bought)
        assert books.charges(ann)[-1]["amount"] == "99"

    def test_an_earlier_month_ends_nothing(
        self, books: Bookkeeping, ann: Person
    ) -> None:
        bought = books.buy(ann)
        books.renew(bought, ann)
        assert refund(books, books.charge_id(ann, 1)) == (CONFIRMED, "29")
        assert books.subscription(ann, bought).status == ACTIVE
        assert value(books) == "29"

    def test_what_has_expired_does_not_come_back_by_the_money(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        """Else the refund would be charged again."""
        bob = escrowed(own, sim, "29")
        bought = books.buy(bob)
        assert books.renew(bought, bob).status == EXPIRED
        assert refund(books, books.charge_id(bob)) == (CONFIRMED, "29")
        own.clock.move(hours=1)
        books.renewals.renew()
        assert books.subscription(bob, bought).status == CANCELLED
        charged = sim.effects(kind="charge", wallet=bob.wallet.address)
        assert len(charged) == 1


class TestPasseurFails:
    def test_what_passeur_refuses_is_told_and_written(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        """A database that has forgotten a refund gives nothing back twice."""
        bought = books.buy(ann)
        charge_id = books.charge_id(ann)
        assert refund(books, charge_id, "29") == (CONFIRMED, "29")
        own.sql.run("DELETE FROM refunds")
        own.sql.run("UPDATE charges SET refunded = '0'")
        own.sql.run("UPDATE subscriptions SET status = %s", ACTIVE)
        with pytest.raises(RefundError, match=r"Passeur refuses .*: exceeds_charge"):
            refund(books, charge_id)
        (row,) = rows(books)
        assert (row["status"], row["failure_reason"]) == (REFUSED, "exceeds_charge")
        (told,) = audited(own, ann.user_id, "refund.refused")
        assert told["details"]["failure"] == "exceeds_charge"
        assert books.subscription(ann, bought).status == ACTIVE
        assert given_back(sim, ann) == ["29"]

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_silence_is_pending_until_a_worker_has_found_out(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        when: str,
    ) -> None:
        bought = books.buy(ann)
        charge_id = books.charge_id(ann)
        sim.fault(operation="refund", times=2, drop=True, when=when)
        assert refund(books, charge_id, "10") == (PENDING, "10")
        # Nothing that depends on what is paid goes on meanwhile.
        with pytest.raises(RefundError, match="has the refund"):
            refund(books, charge_id, "10")
        with pytest.raises(PourtierError) as info:
            books.upgrade(ann, bought)
        assert info.value.reason_name == "CHARGE_PENDING"
        with pytest.raises(PourtierError) as info:
            books.own.preview(caller(ann), UUID(bought.subscription_id), "pro")
        assert info.value.reason_name == "CHARGE_PENDING"
        with pytest.raises(PourtierError) as info:
            books.purchases.reactivate(
                caller(ann), UUID(bought.subscription_id), CLIENT
            )
        assert info.value.reason_name == "CHARGE_PENDING"
        # Another silence, and then an answer.
        for _ in range(2):
            own.clock.move(seconds=120)
            assert not books.refunds.recover()
        (row,) = rows(books)
        assert (row["status"], row["lease_id"]) == (CONFIRMED, None)
        assert given_back(sim, ann) == ["10"]
        books.upgrade(ann, bought)

    def test_a_renewal_goes_on_meanwhile(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        bought = books.buy(ann)
        charge_id = books.charge_id(ann)
        sim.fault(operation="refund", times=1, drop=True)
        assert refund(books, charge_id, "10") == (PENDING, "10")
        renewed = books.renew(bought, ann)
        assert (renewed.status, len(books.charges(ann))) == (ACTIVE, 2)
        assert not books.refunds.recover()
        (row,) = rows(books)
        assert row["status"] == CONFIRMED
        # Of the month that is over; the new one is paid in full.
        assert value(books) == "29"

    def test_nothing_is_given_back_while_a_charge_is_open(
        self, books: Bookkeeping, sim: PasseurSim, ann: Person
    ) -> None:
        bought = books.buy(ann)
        sim.fault(operation="charge", times=1, drop=True, when="after")
        books.upgrade(ann, bought)
        with pytest.raises(RefundError, match="of which the outcome"):
            refund(books, books.charge_id(ann))
        assert rows(books) == []


class TestBreaker:
    @pytest.fixture
    def settings(
        self, make_settings: Callable[..., Settings], database_url: str, sim: PasseurSim
    ) -> Settings:
        return make_settings(
            database_url=as_role(database_url, Duty.WORKING),
            passeur_url=sim.url,
            passeur_breaker_failures=1,
        )

    def test_nothing_is_written_while_passeur_is_left_alone(
        self, books: Bookkeeping, sim: PasseurSim, ann: Person
    ) -> None:
        books.buy(ann)
        charge_id = books.charge_id(ann)
        sim.fault(operation="refund", status=500)
        assert refund(books, charge_id, "1") == (PENDING, "1")
        with pytest.raises(PourtierError) as info:
            refund(books, charge_id, "1")
        assert info.value.reason_name == "PASSEUR_UNAVAILABLE"
        assert not books.refunds.recover()
        assert [row["attempts"] for row in rows(books)] == [0]


class TestLeases:
    def test_who_lost_the_lease_writes_nothing_and_tells_what_is(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        books.buy(ann)

        def overtaken(point: object) -> None:
            if point == Failpoint.REFUND_ASKED:
                monkeypatch.undo()
                own.clock.move(seconds=books.refunds.lease.total_seconds() + 1)
                books.refunds.recover()

        monkeypatch.setattr(rules, "reach", overtaken)
        assert refund(books, books.charge_id(ann), "5") == (CONFIRMED, "5")
        assert given_back(sim, ann) == ["5"]
        (row,) = books.charges(ann)
        assert (row["refunded"], value(books)) == ("5", "24")
        assert len(audited(own, ann.user_id, "refund.confirmed")) == 1

    def test_what_cannot_be_written_is_pending(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The money is back: no error may say that it is not."""
        books.buy(ann)

        def lost(point: object) -> None:
            if point == Failpoint.REFUND_SETTLED:
                raise unavailable()

        monkeypatch.setattr(rules, "reach", lost)
        assert refund(books, books.charge_id(ann), "5") == (PENDING, "5")
        monkeypatch.undo()
        own.clock.move(seconds=books.refunds.lease.total_seconds() + 1)
        books.refunds.recover()
        assert [row["status"] for row in rows(books)] == [CONFIRMED]
        assert given_back(sim, ann) == ["5"]


class TestRaces:
    def test_of_many_at_once_one_gives_back(
        self, books: Bookkeeping, sim: PasseurSim, ann: Person
    ) -> None:
        books.buy(ann)
        charge_id = books.charge_id(ann)

        def attempt(_: int) -> bool:
            try:
                return refund(books, charge_id) == (CONFIRMED, "29")
            except RefundError:
                return False

        assert together(6, attempt).count(True) == 1
        assert given_back(sim, ann) == ["29"]
        assert len(rows(books)) == 1

    def test_nothing_is_given_back_and_credited(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        """An upgrade and a refund at once: whichever is first, the other knows."""
        for _ in range(4):
            bob = escrowed(own, sim, "200")
            bought = books.buy(bob)
            charge_id = books.charge_id(bob)

            def attempt(number: int, bob: Person = bob, it: Any = bought) -> None:
                with contextlib.suppress(RefundError, PourtierError):
                    if number:
                        books.upgrade(bob, it)
                    else:
                        refund(books, books.charge_id(bob), "20")

            together(2, attempt)
            first, *upgrades = books.charges(bob)
            assert first["charge_id"] == charge_id
            credit = sum(Decimal(row["credit"]) for row in upgrades)
            assert Decimal(first["refunded"]) + credit <= 29
            assert Decimal(first["refunded"]) + credit > 0
