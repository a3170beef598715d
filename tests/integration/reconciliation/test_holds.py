"""Charging held, and released when all was compared."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from pourtier_grpc.billing import holds as holding
from pourtier_grpc.billing import reconciliation as rules
from pourtier_grpc.billing.adoption import Adoption
from pourtier_grpc.billing.holds import HoldState, NotReleasedError
from pourtier_grpc.billing.machine import ACTIVE, FAILED, RENEWING
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.passeur.errors import MalformedAnswerError
from pourtier_grpc.store import holds
from pourtier_grpc.store.driver_errors import unavailable
from pourtier_grpc.store.engine import Transaction
from support.bookkeeping import BY_SUPPORT, Bookkeeping
from support.callers import Person
from support.escrow import escrowed
from support.passeur import PasseurSim
from support.reconciling import (
    charge_by_hand,
    charged,
    reason_of,
    reconcile,
    release,
    unreconciled,
)
from support.service import Service

pytestmark = pytest.mark.usefixtures("no_retries")


class TestHolds:
    def test_nothing_is_charged_while_there_is_one(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        bob = escrowed(own, sim, "100")
        bought = books.buy(ann)
        state = books.holds.hold(BY_SUPPORT)
        assert state.hold is not None
        assert (state.pending, state.unreconciled) == (0, 2)
        assert reason_of(lambda: books.buy(bob)) == "CHARGING_HELD"
        upgrade = reason_of(lambda: books.upgrade(ann, bought))
        assert upgrade == "CHARGING_HELD"
        assert books.renew(bought, ann).status == RENEWING
        assert charged(sim, bob) == []
        assert len(charged(sim, ann)) == 1
        reconcile(books)
        # Compared, and held until somebody says otherwise.
        assert reason_of(lambda: books.buy(bob)) == "CHARGING_HELD"
        assert release(books).hold is None
        own.clock.move(minutes=1)
        books.renewals.renew()
        assert books.subscription(ann, bought).status == ACTIVE
        assert books.buy(bob).status == ACTIVE
        for action in ("charging.held", "charging.released"):
            (row,) = own.sql.run(
                "SELECT body FROM audit_events WHERE action = %s", action
            )
            assert BY_SUPPORT.reason in bytes(row["body"]).decode()

    def test_a_purchase_that_was_open_is_given_up(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        sim.fault(operation="charge", times=1, drop=True)
        bought = books.buy(ann)
        assert books.holds.hold(BY_SUPPORT).pending == 1
        own.clock.move(minutes=1)
        # Until it is compared, it is not asked for.
        books.collecting.recover()
        assert charged(sim, ann) == []
        own.clock.move(minutes=1)
        reconcile(books)
        assert books.subscription(ann, bought).status == FAILED
        assert release(books).pending == 0
        assert books.buy(ann).status == ACTIVE
        assert len(charged(sim, ann)) == 1

    def test_a_renewal_that_was_open_is_made_afterwards(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        bought = books.buy(ann)
        end = bought.period_end_time
        sim.fault(operation="charge", times=1, drop=True)
        assert books.renew(bought, ann).charge_pending
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        given_up = books.subscription(ann, bought)
        assert (given_up.status, given_up.charge_pending) == (RENEWING, False)
        # It keeps its access, and is not charged while charging is held.
        own.clock.move(minutes=5)
        books.renewals.renew()
        assert books.subscription(ann, bought).status == RENEWING
        assert len(charged(sim, ann)) == 1
        release(books)
        own.clock.move(minutes=1)
        books.renewals.renew()
        renewed = books.subscription(ann, bought)
        assert (renewed.status, renewed.period_start_time) == (ACTIVE, end)
        assert len(charged(sim, ann)) == 2
        assert [row["attempt"] for row in books.charges(ann)] == [1, 1, 2]
        assert "subscription.expired" not in own.sql.event_types(ann.user_id)

    def test_what_passeur_made_meanwhile_counts(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It was asked for after it was looked for, and before it is given up."""
        sim.fault(operation="charge", times=1, drop=True)
        bought = books.buy(ann)
        (charge,) = books.charges(ann)
        books.holds.hold(BY_SUPPORT)
        void = Adoption._void

        def made(*args: Any) -> Any:
            reference = str(charge["reference"])
            charge_by_hand(sim, ann, charge["charge_id"], "29", reference)
            return void(*args)

        monkeypatch.setattr(Adoption, "_void", made)
        reconcile(books)
        assert books.subscription(ann, bought).status == ACTIVE
        assert release(books).unmatched == []

    def test_it_ends_when_every_escrow_was_compared_and_not_before(
        self, books: Bookkeeping, sim: PasseurSim, ann: Person
    ) -> None:
        with pytest.raises(NotReleasedError, match="not held"):
            release(books)
        books.holds.hold(BY_SUPPORT)
        with pytest.raises(NotReleasedError, match="1 escrows have yet"):
            release(books)
        sim.fault(operation="transactions", times=1, status=500)
        reconcile(books)
        with pytest.raises(NotReleasedError, match="1 escrows have yet"):
            release(books)
        reconcile(books)
        # Held anew: compared anew.
        books.holds.hold(BY_SUPPORT)
        with pytest.raises(NotReleasedError, match="1 escrows have yet"):
            release(books)
        reconcile(books)
        release(books)

    def test_it_waits_for_a_worker_where_there_are_no_escrows(
        self, books: Bookkeeping, sim: PasseurSim, own: Service
    ) -> None:
        books.holds.hold(BY_SUPPORT)
        with pytest.raises(NotReleasedError, match="no worker has said"):
            release(books)
        reconcile(books)
        release(books)

    def test_one_that_is_held_anew_meanwhile_is_compared_anew(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        books.holds.hold(BY_SUPPORT)
        page = rules.Reconciliation._page

        def held_anew(*args: Any) -> Any:
            monkeypatch.undo()
            found = page(*args)
            books.holds.hold(BY_SUPPORT)
            return found

        monkeypatch.setattr(rules.Reconciliation, "_page", held_anew)
        reconcile(books)
        assert unreconciled(own) == 1
        with pytest.raises(NotReleasedError):
            release(books)
        reconcile(books)
        release(books)

    def test_one_that_cannot_be_compared_keeps_its_user_alone(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        bob = escrowed(own, sim, "100")
        page = rules.Reconciliation._page

        def broken(self: Any, wallet: str, token: str | None) -> Any:
            if wallet == ann.wallet.address:
                raise MalformedAnswerError("it is no list", status=200)
            return page(self, wallet, token)

        def leave() -> HoldState:
            return books.holds.release(BY_SUPPORT, leave_uncompared=True)

        monkeypatch.setattr(rules.Reconciliation, "_page", broken)
        books.holds.hold(BY_SUPPORT)
        with pytest.raises(NotReleasedError, match="has tried each yet"):
            leave()
        reconcile(books)
        own.clock.move(seconds=1)
        # Held anew: every one is to be tried anew.
        books.holds.hold(BY_SUPPORT)
        with pytest.raises(NotReleasedError, match="has tried each yet"):
            leave()
        reconcile(books)
        with pytest.raises(NotReleasedError, match="1 escrows have yet"):
            release(books)
        state = leave()
        assert (state.hold, state.uncompared) == (None, [UUID(ann.user_id)])
        (row,) = own.sql.run(
            "SELECT body FROM audit_events WHERE action = 'charging.released'"
        )
        assert '"uncompared":"1"' in bytes(row["body"]).decode()
        assert books.buy(bob).status == ACTIVE
        assert reason_of(lambda: books.buy(ann)) == "CHARGING_HELD"
        # The worker goes on.
        monkeypatch.undo()
        reconcile(books)
        assert books.buy(ann).status == ACTIVE

    def test_a_round_that_began_before_all_were_marked_has_not_tried_each(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(rules, "BATCH", 2)
        for _ in range(3):
            escrowed(own, sim)
        books.holds.hold(BY_SUPPORT)
        sim.fault(operation="transactions", times=None, status=500)
        assert books.reconciliation.reconcile()
        own.clock.move(seconds=1)
        books.holds.hold(BY_SUPPORT)
        assert not books.reconciliation.reconcile()
        with pytest.raises(NotReleasedError, match="has tried each yet"):
            books.holds.release(BY_SUPPORT, leave_uncompared=True)
        reconcile(books)
        state = books.holds.release(BY_SUPPORT, leave_uncompared=True)
        assert len(state.uncompared) == 3

    def test_nobody_waits_while_escrows_are_marked(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(holding, "MARKED", 2)
        people = [escrowed(own, sim, "100") for _ in range(5)]
        mark = holds.mark
        told: list[str] = []

        def marking(tx: Transaction, *args: Any) -> UUID | None:
            found = mark(tx, *args)
            # Before the batch is committed.
            told.append(reason_of(lambda: books.buy(people[0])))
            # What is compared meanwhile is not all.
            books.reconciliation.reconcile()
            with pytest.raises(NotReleasedError, match="hold charging once more"):
                release(books)
            return found

        monkeypatch.setattr(holds, "mark", marking)
        books.holds.hold(BY_SUPPORT)
        monkeypatch.undo()
        assert told == ["CHARGING_HELD"] * 4
        reconcile(books)
        assert unreconciled(own) == 0
        release(books)

    def test_one_that_was_broken_off_is_begun_anew(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def die(*_: object) -> None:
            raise unavailable()

        monkeypatch.setattr(holds, "mark", die)
        with pytest.raises(PourtierError):
            books.holds.hold(BY_SUPPORT)
        monkeypatch.undo()
        assert reason_of(lambda: books.buy(ann)) == "CHARGING_HELD"
        reconcile(books)
        with pytest.raises(NotReleasedError, match="hold charging once more"):
            release(books)
        assert books.holds.hold(BY_SUPPORT).unreconciled == 1
        reconcile(books)
        release(books)
        assert len(own.sql.run("SELECT * FROM charging_holds")) == 1
