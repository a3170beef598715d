"""Workers that compare escrows: many at once, and those that fail."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from pourtier_grpc.billing import outcomes
from pourtier_grpc.billing import reconciliation as rules
from pourtier_grpc.billing.adoption import Adoption
from pourtier_grpc.billing.outcomes import CONFIRMED
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.failpoints import Failpoint
from pourtier_grpc.store.charges import PENDING
from pourtier_grpc.store.driver_errors import unavailable
from support.bookkeeping import BY_SUPPORT, Bookkeeping
from support.callers import Person, audited
from support.escrow import escrowed
from support.passeur import PasseurSim
from support.reconciling import (
    charge_by_hand,
    charged,
    reconcile,
    release,
    unmatched,
    unreconciled,
)
from support.service import Service
from support.threads import together

pytestmark = pytest.mark.usefixtures("no_retries")


class TestWorkers:
    def test_many_at_once_write_everything_once(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        bought = books.buy(ann)
        copy = books.copy()
        for _ in range(3):
            books.renew(bought, ann)
        keys = charged(sim, ann)
        copy.restore()
        stray = charge_by_hand(sim, ann, uuid4(), "3")
        books.holds.hold(BY_SUPPORT)
        together(4, lambda _: books.reconciliation.reconcile())
        while unreconciled(own):
            reconcile(books)
        release(books)
        assert [str(row["charge_id"]) for row in books.charges(ann)] == keys
        assert [row["passeur_transaction_id"] for row in unmatched(own)] == [stray]
        assert len(audited(own, ann.user_id, "charge.unmatched")) == 1

    def test_pages_are_read_to_their_end(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(rules, "PAGE", 2)
        strays = {charge_by_hand(sim, ann, uuid4(), "1") for _ in range(5)}
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        found = {row["passeur_transaction_id"] for row in unmatched(own)}
        assert found == strays

    def test_one_that_fails_holds_up_no_other(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(rules, "BATCH", 2)
        monkeypatch.setattr(rules, "THREADS", 1)
        for _ in range(5):
            escrowed(own, sim)
        books.holds.hold(BY_SUPPORT)
        sim.fault(operation="transactions", times=2, status=500)
        reconcile(books)
        assert unreconciled(own) == 2
        reconcile(books)
        assert unreconciled(own) == 0
        release(books)

    def test_one_that_dies_in_between_leaves_what_another_goes_on_with(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        bought = books.buy(ann)
        copy = books.copy()
        for _ in range(2):
            books.renew(bought, ann)
        before, keys = books.subscription(ann, bought), charged(sim, ann)
        copy.restore()
        books.holds.hold(BY_SUPPORT)

        def die(point: object) -> None:
            if point == Failpoint.CHARGE_SETTLED:
                raise unavailable()

        monkeypatch.setattr(outcomes, "reach", die)
        reconcile(books)
        monkeypatch.undo()
        # The first of the two is written, and nobody knows what came of it.
        assert [row["status"] for row in books.charges(ann)] == [2, 1]
        # While another may be at it, it is left alone.
        reconcile(books)
        assert unreconciled(own) == 1
        own.clock.move(minutes=5)
        reconcile(books)
        release(books)
        assert [str(row["charge_id"]) for row in books.charges(ann)] == keys
        after = books.subscription(ann, bought)
        assert after.period_end_time == before.period_end_time
        assert charged(sim, ann) == keys

    def test_what_another_has_begun_to_write_is_not_unmatched(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It has looked before the other wrote, and the other died before the end."""
        bought = books.buy(ann)
        copy = books.copy()
        books.renew(bought, ann)
        keys = charged(sim, ann)
        copy.restore()
        books.holds.hold(BY_SUPPORT)
        explain = Adoption.explain

        def die(*_: object) -> None:
            raise unavailable()

        def overtaken(
            adoption: Adoption, account: Any, unknown: dict[str, Any]
        ) -> bool:
            monkeypatch.setattr(Adoption, "_confirm", die)
            with pytest.raises(PourtierError):
                explain(adoption, account, dict(unknown))
            monkeypatch.undo()
            return True

        monkeypatch.setattr(Adoption, "explain", overtaken)
        reconcile(books)
        assert [row["status"] for row in books.charges(ann)] == [CONFIRMED, PENDING]
        assert (unmatched(own), unreconciled(own)) == ([], 1)
        own.clock.move(minutes=5)
        reconcile(books)
        assert release(books).unmatched == []
        assert [str(row["charge_id"]) for row in books.charges(ann)] == keys
        assert [row["status"] for row in books.charges(ann)] == [CONFIRMED, CONFIRMED]

    def test_nobody_is_asked_while_passeur_is_left_alone_and_nothing_is_marked(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        books.holds.hold(BY_SUPPORT)
        sim.fault(operation="transactions", times=None, drop=True)
        reconcile(books)
        assert unreconciled(own) == 1
