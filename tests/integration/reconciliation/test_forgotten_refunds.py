"""A database that has forgotten what was given back."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from pourtier_grpc.billing.grants import UngrantedError
from pourtier_grpc.billing.machine import ACTIVE, CANCELLED
from pourtier_grpc.billing.outcomes import VOIDED
from pourtier_grpc.billing.refunds import RefundError
from pourtier_grpc.billing.resolving import UnresolvedError
from support.bookkeeping import BY_SUPPORT, Bookkeeping
from support.callers import Person, audited
from support.escrow import escrowed
from support.passeur import PasseurSim
from support.reconciling import (
    charge_by_hand,
    reason_of,
    reconcile,
    release,
    unmatched,
    unreconciled,
)
from support.service import Service

pytestmark = pytest.mark.usefixtures("no_retries")


class TestForgottenRefunds:
    def test_one_is_written_as_what_it_was(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        bought = books.buy(ann)
        charge_id = books.charge_id(ann)
        copy = books.copy()
        books.refunds.refund(charge_id, "10", BY_SUPPORT)
        copy.restore()
        books.holds.hold(BY_SUPPORT)
        with pytest.raises(RefundError, match="has yet to be compared"):
            books.refunds.refund(charge_id, "10", BY_SUPPORT)
        reconcile(books)
        (kept,) = release(books).unmatched
        assert (kept.type, kept.amount) == ("refund", "10")
        (told,) = audited(own, ann.user_id, "refund.unmatched")
        assert told["details"]["amount"] == "10"
        # Its money is neither credited, nor given back once more, nor made a month of.
        assert reason_of(lambda: books.upgrade(ann, bought)) == "CHARGING_HELD"
        stray = kept.passeur_transaction_id
        with pytest.raises(RefundError, match=stray):
            books.refunds.refund(charge_id, "10", BY_SUPPORT)
        with pytest.raises(UngrantedError):
            books.grants.grant(UUID(ann.user_id), None, BY_SUPPORT, for_charge=stray)
        books.resolving.resolve(stray, BY_SUPPORT, charge_id)
        (row,) = books.charges(ann)
        assert row["refunded"] == "10"
        (told,) = audited(own, ann.user_id, "refund.resolved")
        assert told["details"]["charge_id"] == str(charge_id)
        (told,) = audited(own, ann.user_id, "refund.confirmed")
        assert told["details"]["amount"] == "10"
        books.upgrade(ann, bought)
        upgrade = books.charges(ann)[-1]
        assert (upgrade["credit"], upgrade["amount"]) == ("19", "80")
        # It stays known, however often it is compared.
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        assert release(books).unmatched == []

    def test_one_of_all_that_was_paid_ends_the_subscription(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        bought = books.buy(ann)
        charge_id = books.charge_id(ann)
        copy = books.copy()
        books.refunds.refund(charge_id, None, BY_SUPPORT)
        assert books.subscription(ann, bought).status == CANCELLED
        copy.restore()
        assert books.subscription(ann, bought).status == ACTIVE
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        (kept,) = release(books).unmatched
        stray = kept.passeur_transaction_id
        books.resolving.resolve(stray, BY_SUPPORT, charge_id)
        assert books.subscription(ann, bought).status == CANCELLED
        with pytest.raises(RefundError, match="nothing of the charge"):
            books.refunds.refund(charge_id, None, BY_SUPPORT)
        assert books.buy(ann).status == ACTIVE

    def test_one_whose_charge_is_forgotten_too_is_only_noted(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        copy = books.copy()
        books.buy(ann)
        books.refunds.refund(books.charge_id(ann), None, BY_SUPPORT)
        copy.restore()
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        both = release(books).unmatched
        assert sorted(each.type for each in both) == ["charge", "refund"]
        for each in both:
            assert reason_of(lambda: books.buy(ann)) == "CHARGING_HELD"
            books.resolving.resolve(each.passeur_transaction_id, BY_SUPPORT)
        assert books.buy(ann).status == ACTIVE

    def test_it_is_of_one_of_the_user_s_charges_and_of_no_more(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        bob = escrowed(own, sim, "500")
        books.buy(bob)
        theirs = books.charge_id(bob)
        books.buy(ann)
        charge_id = books.charge_id(ann)
        copy = books.copy()
        books.refunds.refund(charge_id, "20", BY_SUPPORT)
        copy.restore()
        stray = charge_by_hand(sim, ann, uuid4(), "5")
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        release(books)
        (refund,) = (row for row in unmatched(own) if row["type"] == "refund")
        made = refund["passeur_transaction_id"]
        with pytest.raises(UnresolvedError, match="no charge"):
            books.resolving.resolve(made, BY_SUPPORT, theirs)
        with pytest.raises(UnresolvedError, match="is a charge, and no refund"):
            books.resolving.resolve(stray, BY_SUPPORT, charge_id)
        own.sql.run("UPDATE charges SET refunded = '10'")
        with pytest.raises(UnresolvedError, match="19 of the charge"):
            books.resolving.resolve(made, BY_SUPPORT, charge_id)
        own.sql.run("UPDATE charges SET refunded = '0', status = %s", VOIDED)
        with pytest.raises(UnresolvedError, match="is voided"):
            books.resolving.resolve(made, BY_SUPPORT, charge_id)
        assert own.sql.run("SELECT * FROM refunds") == []
        assert {row["resolve_time"] for row in unmatched(own)} == {None}

    def test_one_that_is_open_here_is_waited_for(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        books.buy(ann)
        sim.fault(operation="refund", times=1, drop=True, when="after")
        books.refunds.refund(books.charge_id(ann), "10", BY_SUPPORT)
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        assert (unmatched(own), unreconciled(own)) == ([], 1)
        own.clock.move(minutes=2)
        books.refunds.recover()
        reconcile(books)
        assert release(books).unmatched == []
