"""A database that has forgotten what was charged."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from pourtier.v1.subscription_pb2 import ChargeKind, Subscription
from pourtier_grpc.billing import charging
from pourtier_grpc.billing.grants import UngrantedError
from pourtier_grpc.billing.machine import ACTIVE, CANCELLED, EXPIRED, FAILED, RENEWING
from pourtier_grpc.billing.outcomes import CONFIRMED, HELD, VOIDED
from pourtier_grpc.billing.resolving import UnresolvedError
from pourtier_grpc.devtools.ports import free_port
from pourtier_grpc.failpoints import Failpoint
from pourtier_grpc.store import charges as charge_rows
from pourtier_grpc.store.charges import PENDING
from support.bookkeeping import BY_SUPPORT, CLIENT, Bookkeeping, caller
from support.callers import Person, audited, person
from support.escrow import escrowed, initialize
from support.passeur import PasseurSim, passeur_client
from support.reconciling import (
    charge_by_hand,
    charged,
    reason_of,
    reconcile,
    release,
    unmatched,
)
from support.restoring import Copy
from support.service import Service

pytestmark = pytest.mark.usefixtures("no_retries")


class TestRestoredDatabases:
    def test_what_was_renewed_since_is_not_charged_again(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        """Subscribed, copied, renewed twice, restored: paid up by what was charged."""
        bought = books.buy(ann)
        copy = books.copy()
        for _ in range(2):
            books.renew(bought, ann)
        before = books.subscription(ann, bought)
        keys = charged(sim, ann)
        assert len(keys) == 3
        copy.restore()
        assert len(books.charges(ann)) == 1
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        release(books)
        own.clock.move(minutes=1)
        books.renewals.renew()
        books.collecting.recover()
        assert charged(sim, ann) == keys
        after = books.subscription(ann, bought)
        assert after.status == ACTIVE
        assert after.period_start_time == before.period_start_time
        assert after.period_end_time == before.period_end_time
        rows = books.charges(ann)
        assert [str(row["charge_id"]) for row in rows] == keys
        assert {row["kind"] for row in rows[1:]} == {ChargeKind.CHARGE_KIND_RENEWAL}
        assert len(own.sql.run("SELECT * FROM subscription_periods")) == 3
        assert unmatched(own) == []
        # And it goes on as ever.
        books.renew(bought, ann)
        assert len(charged(sim, ann)) == 4

    def test_without_a_hold_the_same_keys_charge_nothing_twice(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        bought = books.buy(ann)
        copy = books.copy()
        books.renew(bought, ann)
        keys = charged(sim, ann)
        copy.restore()
        books.renewals.renew()
        assert charged(sim, ann) == keys
        assert books.subscription(ann, bought).status == ACTIVE

    def test_a_purchase_that_only_passeur_knows_waits_for_support(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        copy = books.copy()
        books.buy(ann, "basic")
        keys = charged(sim, ann)
        copy.restore()
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        (kept,) = release(books).unmatched
        assert (str(kept.user_id), kept.amount) == (ann.user_id, "29")
        (told,) = audited(own, ann.user_id, "charge.unmatched")
        assert told["details"]["amount"] == "29"
        # Held is that user, and nobody else.
        assert reason_of(lambda: books.buy(ann)) == "CHARGING_HELD"
        bob = escrowed(own, sim, "100")
        assert books.buy(bob).status == ACTIVE
        granted = books.grants.grant(
            UUID(ann.user_id),
            "basic",
            BY_SUPPORT,
            for_charge=kept.passeur_transaction_id,
        )
        assert granted.status == ACTIVE
        assert charged(sim, ann) == keys
        books.upgrade(ann, granted)
        assert len(charged(sim, ann)) == 2
        # It stays resolved, however often it is compared.
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        assert release(books).unmatched == []

    def test_what_nothing_is_given_for_is_resolved_all_the_same(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        stray = charge_by_hand(sim, ann, uuid4(), "29")
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        release(books)
        assert reason_of(lambda: books.buy(ann)) == "CHARGING_HELD"
        with pytest.raises(UnresolvedError, match="no unmatched charge tx_1"):
            books.resolving.resolve("tx_1", BY_SUPPORT)
        assert books.resolving.resolve(stray, BY_SUPPORT).amount == "29"
        (row,) = unmatched(own)
        assert row["resolve_time"] is not None
        assert row["resolution"] == BY_SUPPORT.reason
        (told,) = audited(own, ann.user_id, "charge.resolved")
        assert told["actor"] == "operator"
        assert told["details"] == {
            "passeur_transaction_id": stray,
            "amount": "29",
            "reason": BY_SUPPORT.reason,
        }
        assert books.buy(ann).status == ACTIVE
        with pytest.raises(UnresolvedError, match="is resolved already"):
            books.resolving.resolve(stray, BY_SUPPORT)
        # Nor does a month follow from it.
        with pytest.raises(UngrantedError):
            books.grants.grant(UUID(ann.user_id), None, BY_SUPPORT, for_charge=stray)

    def test_an_escrow_that_was_forgotten_is_not_charged_again(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        """It is not among those that a hold has compared."""
        bob = person(own)
        copy = books.copy()
        initialize(own, bob)
        sim.top_up(bob.wallet.address, "100")
        books.buy(bob)
        keys = charged(sim, bob)
        copy.restore()
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        release(books)
        assert reason_of(lambda: books.buy(bob)) == "ESCROW_NOT_INITIALIZED"
        initialize(own, bob)
        assert reason_of(lambda: books.buy(bob)) == "CHARGING_HELD"
        reconcile(books)
        assert reason_of(lambda: books.buy(bob)) == "CHARGING_HELD"
        assert [row["amount"] for row in unmatched(own)] == ["29"]
        assert charged(sim, bob) == keys

    def test_a_charge_that_was_open_in_the_copy_is_confirmed(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        sim.fault(operation="charge", times=1, drop=True)
        bought = books.buy(ann)
        copy = books.copy()
        books.collecting.recover()
        books.renew(bought, ann)
        before, keys = books.subscription(ann, bought), charged(sim, ann)
        assert len(keys) == 2
        copy.restore()
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        release(books)
        books.renewals.renew()
        after = books.subscription(ann, bought)
        assert after.status == ACTIVE
        end = after.period_end_time.ToDatetime() - before.period_end_time.ToDatetime()
        assert abs(end.total_seconds()) < 60
        assert charged(sim, ann) == keys

    def test_whoever_was_told_that_nothing_is_charged_is_not_charged(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The copy has the charge, and not that it was given up."""
        copies: list[Copy] = []

        def copied(point: object) -> None:
            if point == Failpoint.CHARGE_RECORDED:
                copies.append(books.copy())

        monkeypatch.setattr(charging, "reach", copied)
        with passeur_client(f"http://127.0.0.1:{free_port()}") as nobody:
            monkeypatch.setattr(books.asking, "_passeur", nobody.passeur)
            assert reason_of(lambda: books.buy(ann)) == "PASSEUR_UNAVAILABLE"
        monkeypatch.undo()
        copies[0].restore()
        (charge,) = books.charges(ann)
        assert charge["status"] == PENDING
        own.clock.move(minutes=5)
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        release(books)
        for _ in range(3):
            own.clock.move(minutes=5)
            books.collecting.recover()
            books.renewals.renew()
        assert charged(sim, ann) == []
        (charge,) = books.charges(ann)
        assert (charge["status"], charge["failure_reason"]) == (VOIDED, HELD)

    def test_one_that_is_open_does_not_keep_another_from_being_made_good(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        """The first purchase was refused, and another made, since the copy."""
        bob = escrowed(own, sim, "1")
        sim.fault(operation="charge", times=1, drop=True)
        assert books.buy(bob, "basic").charge_pending
        copy = books.copy()
        own.clock.move(minutes=1)
        books.collecting.recover()
        sim.top_up(bob.wallet.address, "200")
        books.buy(bob, "pro")
        keys = charged(sim, bob)
        copy.restore()
        own.clock.move(minutes=5)
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        (kept,) = release(books).unmatched
        granted = books.grants.grant(
            UUID(bob.user_id),
            "pro",
            BY_SUPPORT,
            for_charge=kept.passeur_transaction_id,
        )
        assert granted.status == ACTIVE
        own.clock.move(minutes=5)
        books.collecting.recover()
        assert charged(sim, bob) == keys

    def test_a_key_that_has_made_another_charge_is_not_left_open(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        """It was for another amount: for which plan, nobody knows here."""
        sim.fault(operation="charge", times=1, drop=True)
        bought = books.buy(ann)
        (charge,) = books.charges(ann)
        made = charge_by_hand(sim, ann, charge["charge_id"], "99")
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        (kept,) = release(books).unmatched
        assert (kept.passeur_transaction_id, kept.amount) == (made, "99")
        assert books.subscription(ann, bought).status == FAILED

    def test_an_attempt_that_failed_before_the_one_that_was_made(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        """Its key is never used again; that of the later attempt is found."""
        bob = escrowed(own, sim, "29")
        bought = books.buy(bob)
        sim.fault(operation="charge", times=1, drop=True)
        assert books.renew(bought, bob).charge_pending
        copy = books.copy()
        own.clock.move(minutes=1)
        books.collecting.recover()
        assert books.subscription(bob, bought).status == EXPIRED
        sim.top_up(bob.wallet.address, "29")
        own.clock.move(hours=1)
        books.renewals.renew()
        assert books.subscription(bob, bought).status == ACTIVE
        keys = charged(sim, bob)
        copy.restore()
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        assert unmatched(own) == []
        release(books)
        assert books.subscription(bob, bought).status == ACTIVE
        own.clock.move(minutes=1)
        books.renewals.renew()
        books.collecting.recover()
        assert charged(sim, bob) == keys
        attempts = {
            (row["ordinal"], row["attempt"]): row["status"]
            for row in books.charges(bob)
        }
        assert attempts == {(1, 1): CONFIRMED, (2, 1): VOIDED, (2, 2): CONFIRMED}

    def test_a_later_attempt_has_paid_from_when_it_was_made(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        """However late that is found out, and nobody is told of an end."""
        # So that what Passeur says of times is in the service's time.
        own.clock.move(days=-32)
        bob = escrowed(own, sim, "29")
        bought = books.buy(bob)
        sim.fault(operation="charge", times=1, drop=True)
        assert books.renew(bought, bob).charge_pending
        copy = books.copy()
        own.clock.move(minutes=1)
        books.collecting.recover()
        assert books.subscription(bob, bought).status == EXPIRED
        sim.top_up(bob.wallet.address, "29")
        until_now = datetime.now(UTC) - own.clock.now()
        own.clock.move(seconds=until_now.total_seconds())
        books.renewals.renew()
        before = books.subscription(bob, bought)
        assert before.status == ACTIVE
        keys = charged(sim, bob)
        copy.restore()
        own.clock.move(days=3)
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        release(books)
        after = books.subscription(bob, bought)
        assert (after.status, after.end_time) == (ACTIVE, before.end_time)
        begun, was = after.period_start_time, before.period_start_time
        assert abs(begun.ToSeconds() - was.ToSeconds()) < 60
        assert charged(sim, bob) == keys
        types = own.sql.event_types(bob.user_id)
        assert types[-1] == "subscription.activated"
        assert "subscription.expired" not in types

    def test_an_attempt_is_left_as_it_is_where_the_later_one_was_another(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        """Of another amount: nobody knows here what it was for."""
        bought = books.buy(ann)
        sim.fault(operation="charge", times=1, drop=True)
        assert books.renew(bought, ann).charge_pending
        key = charge_rows.id_of(UUID(bought.subscription_id), 2, 2)
        charge_by_hand(sim, ann, key, "99")
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        (kept,) = release(books).unmatched
        assert kept.amount == "99"
        assert books.subscription(ann, bought).status == RENEWING

    def test_an_upgrade_is_no_renewal(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        """Its amount says so; nobody knows here for which plan it was."""
        bought = books.buy(ann)
        copy = books.copy()
        own.clock.move(days=10)
        books.upgrade(ann, bought)
        keys = charged(sim, ann)
        copy.restore()
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        (kept,) = release(books).unmatched
        assert books.subscription(ann, bought).plan_id == "basic"
        assert reason_of(lambda: books.upgrade(ann, bought)) == "CHARGING_HELD"
        books.grants.grant(
            UUID(ann.user_id),
            "pro",
            BY_SUPPORT,
            for_charge=kept.passeur_transaction_id,
        )
        books.renew(bought, ann)
        assert len(charged(sim, ann)) == len(keys) + 1

    def test_months_that_were_granted_since_hide_nothing(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        bought = books.buy(ann)
        copy = books.copy()
        books.grants.grant(UUID(ann.user_id), None, BY_SUPPORT)
        books.renew(bought, ann)
        keys = charged(sim, ann)
        copy.restore()
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        assert unmatched(own) == []
        assert [row["ordinal"] for row in books.charges(ann)] == [1, 3]
        assert charged(sim, ann) == keys

    def test_what_had_ended_and_came_back(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        bob = escrowed(own, sim, "29")
        bought = books.buy(bob)
        assert books.renew(bought, bob).status == EXPIRED
        copy = books.copy()
        sim.top_up(bob.wallet.address, "29")
        books.purchases.reactivate(caller(bob), UUID(bought.subscription_id), CLIENT)
        keys = charged(sim, bob)
        copy.restore()
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        assert unmatched(own) == []
        after = books.subscription(bob, bought)
        assert after.status == ACTIVE
        assert charged(sim, bob) == keys

    def test_what_had_ended_stays_where_another_lives(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        bob = escrowed(own, sim, "29")
        old = books.buy(bob)
        assert books.renew(old, bob).status == EXPIRED
        sim.top_up(bob.wallet.address, "100")
        books.buy(bob)
        # The first attempt was refused.
        key = charge_rows.id_of(UUID(old.subscription_id), 2, 2)
        transaction_id = charge_by_hand(sim, bob, key, "29")
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        (kept,) = unmatched(own)
        assert kept["passeur_transaction_id"] == transaction_id
        assert books.subscription(bob, old).status == EXPIRED

    def test_money_that_was_made_good_pays_for_nothing_else(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        """Asked for again under its key, Passeur says that it was taken."""
        bob = escrowed(own, sim, "29")
        old = books.buy(bob)
        assert books.renew(old, bob).status == EXPIRED
        sim.top_up(bob.wallet.address, "100")
        other = books.buy(bob)
        key = charge_rows.id_of(UUID(old.subscription_id), 2, 2)
        reference = f"subscription {old.subscription_id}, period 2"
        stray = charge_by_hand(sim, bob, key, "29", reference)
        books.holds.hold(BY_SUPPORT)
        reconcile(books)
        release(books)
        whose = UUID(bob.user_id)
        books.grants.grant(whose, None, BY_SUPPORT, for_charge=stray)
        books.own.cancel(caller(bob), UUID(other.subscription_id), CLIENT)
        assert books.renew(other, bob).status == CANCELLED
        keys = charged(sim, bob)

        def reactivate() -> Subscription:
            subscription_id = UUID(old.subscription_id)
            return books.purchases.reactivate(caller(bob), subscription_id, CLIENT)

        assert reason_of(reactivate) == "PASSEUR_UNAVAILABLE"
        assert books.subscription(bob, old).status == EXPIRED
        assert charged(sim, bob) == keys
        # By another key, it is paid for.
        assert reactivate().status == ACTIVE
        assert len(charged(sim, bob)) == len(keys) + 1

    def test_a_renewal_goes_on_whose_key_was_made_good(
        self, books: Bookkeeping, own: Service, sim: PasseurSim, ann: Person
    ) -> None:
        bought = books.buy(ann)
        key = charge_rows.id_of(UUID(bought.subscription_id), 2, 1)
        reference = f"subscription {bought.subscription_id}, period 2"
        stray = charge_by_hand(sim, ann, key, "29", reference)
        own.sql.run(
            "INSERT INTO unmatched_charges (passeur_transaction_id, user_id,"
            " wallet_address, amount, create_time, find_time, resolve_time)"
            " VALUES (%s, %s, %s, '29', now(), now(), now())",
            stray,
            ann.user_id,
            ann.wallet.address,
        )
        assert books.renew(bought, ann).status == RENEWING
        assert len(charged(sim, ann)) == 2
        books.renewals.renew()
        assert books.subscription(ann, bought).status == ACTIVE
        assert len(charged(sim, ann)) == 3
        assert "subscription.expired" not in own.sql.event_types(ann.user_id)
