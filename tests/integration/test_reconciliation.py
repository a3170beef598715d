"""Charging held, and a database that has forgotten what was charged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from pourtier.v1.subscription_pb2 import ChargeKind, Subscription
from pourtier_grpc.billing import charging, outcomes
from pourtier_grpc.billing import holds as holding
from pourtier_grpc.billing import reconciliation as rules
from pourtier_grpc.billing.adoption import Adoption
from pourtier_grpc.billing.grants import UngrantedError
from pourtier_grpc.billing.holds import HoldState, NotReleasedError
from pourtier_grpc.billing.machine import ACTIVE, CANCELLED, EXPIRED, FAILED, RENEWING
from pourtier_grpc.billing.outcomes import CONFIRMED, HELD, VOIDED
from pourtier_grpc.billing.refunds import RefundError
from pourtier_grpc.billing.resolving import UnresolvedError
from pourtier_grpc.config import Settings
from pourtier_grpc.devtools.ports import free_port
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.failpoints import Failpoint
from pourtier_grpc.passeur.errors import MalformedAnswerError
from pourtier_grpc.store import charges as charge_rows
from pourtier_grpc.store import holds
from pourtier_grpc.store.charges import PENDING
from pourtier_grpc.store.driver_errors import unavailable
from pourtier_grpc.store.engine import Transaction
from pourtier_grpc.store.privileges import Duty
from support.bookkeeping import BY_SUPPORT, CLIENT, Bookkeeping, caller
from support.callers import Person, audited, person
from support.escrow import escrowed, initialize
from support.passeur import PasseurSim, passeur_client
from support.restoring import Copy
from support.roles import as_role
from support.service import Service
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
    return escrowed(own, sim, "500")


def charged(sim: PasseurSim, whose: Person) -> list[str]:
    """The keys of what was charged to somebody, in order."""
    found = sim.effects(kind="charge", wallet=whose.wallet.address)
    return [each["key"] for each in found]


def charge_by_hand(
    sim: PasseurSim, whose: Person, key: UUID, amount: str, reference: str = "?"
) -> str:
    """A charge that Passeur has made and nobody here knows; its id there."""
    answer = sim.http.post(
        f"/escrow/{whose.wallet.address}/charges",
        json={"amount": amount, "reference": reference},
        headers={"X-Request-Id": "test", "Idempotency-Key": str(key)},
    )
    assert answer.status_code == 201, answer.text
    return str(answer.json()["transaction_id"])


def reconcile(books: Bookkeeping) -> None:
    while books.reconciliation.reconcile():
        pass


def release(books: Bookkeeping) -> HoldState:
    return books.holds.release(BY_SUPPORT)


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(PourtierError) as info:
        call()
    return info.value.reason_name


def unreconciled(own: Service) -> int:
    row = own.sql.one("SELECT count(*) FROM escrow_accounts WHERE unreconciled")
    return int(row["count"])


def unmatched(own: Service) -> list[dict[str, Any]]:
    return own.sql.run("SELECT * FROM unmatched_charges ORDER BY create_time")


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
