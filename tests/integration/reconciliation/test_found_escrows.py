"""Escrows that Passeur knew before they were known here."""

from __future__ import annotations

from uuid import uuid4

import pytest

from pourtier.v1.subscription_pb2 import Subscription
from pourtier_grpc.billing.machine import ACTIVE
from support.bookkeeping import Bookkeeping
from support.callers import person
from support.escrow import escrowed, initialize
from support.passeur import PasseurSim
from support.reconciling import (
    charge_by_hand,
    reason_of,
    reconcile,
    unmatched,
    unreconciled,
)
from support.service import Service

pytestmark = pytest.mark.usefixtures("no_retries")


class TestFoundEscrows:
    def test_one_that_is_new_here_only_is_compared_before_it_is_charged(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        """Its user was forgotten, and all that they have paid."""
        bob = person(own)
        sim.make_escrow(bob.wallet.address, "100")
        charge_by_hand(sim, bob, uuid4(), "29")
        initialize(own, bob)
        assert reason_of(lambda: books.buy(bob)) == "CHARGING_HELD"
        reconcile(books)
        # It is another's to say what that was for.
        assert reason_of(lambda: books.buy(bob)) == "CHARGING_HELD"
        assert len(unmatched(own)) == 1

    def test_one_without_charges_can_be_charged_soon(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        bob = person(own)
        sim.make_escrow(bob.wallet.address, "100")
        initialize(own, bob)
        assert unreconciled(own) == 1
        reconcile(books)
        assert books.buy(bob).status == ACTIVE
        # Found again: nothing changes.
        initialize(own, bob)
        assert unreconciled(own) == 0

    def test_one_that_was_just_made_can_be_charged_at_once(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        bob = escrowed(own, sim, "100")
        bought: Subscription = books.buy(bob)
        assert bought.status == ACTIVE

    def test_one_that_passeur_does_not_know_has_no_charges(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        bob = person(own)
        own.sql.run(
            "INSERT INTO escrow_accounts (user_id, wallet_address, escrow_account,"
            " initialize_time, unreconciled) VALUES (%s, %s, 'escrow', now(), true)",
            bob.user_id,
            bob.wallet.address,
        )
        reconcile(books)
        assert unreconciled(own) == 0
