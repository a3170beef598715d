"""Months that an operator gives."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from pourtier_grpc.billing.grants import UngrantedError
from pourtier_grpc.billing.machine import ACTIVE, CANCELLED, EXPIRED
from pourtier_grpc.caller import Act
from pourtier_grpc.config import Settings
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.store import doubt
from pourtier_grpc.store.engine import Transaction
from pourtier_grpc.store.privileges import Duty
from support.bookkeeping import BY_SUPPORT, CLIENT, Bookkeeping, caller
from support.callers import Person, audited, person
from support.doubts import Lost
from support.escrow import escrowed
from support.passeur import PasseurSim
from support.roles import as_role
from support.service import Service

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


def grant(
    books: Bookkeeping, whose: Person, plan_id: str | None = None, **more: Any
) -> Any:
    return books.grants.grant(UUID(whose.user_id), plan_id, BY_SUPPORT, **more)


def periods(books: Bookkeeping) -> list[dict[str, Any]]:
    return books.service.sql.run("SELECT * FROM subscription_periods ORDER BY ordinal")


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(PourtierError) as info:
        call()
    return info.value.reason_name


def test_whoever_has_none_gets_one_that_does_not_renew(
    books: Bookkeeping, own: Service, sim: PasseurSim
) -> None:
    ann = person(own)
    given = grant(books, ann, "pro")
    assert (given.plan_id, given.status, given.auto_renew) == ("pro", ACTIVE, False)
    (row,) = periods(books)
    assert row["grant_reason"] == BY_SUPPORT.reason
    assert (row["charge_id"], row["value"]) == (None, "0")
    (event,) = [e for e in own.sql.events(ann.user_id) if "plan_id" in e]
    assert (event["event_type"], event["plan_id"]) == ("subscription.activated", "pro")
    (told,) = audited(own, ann.user_id, "subscription.granted")
    assert told["actor"] == "operator"
    assert told["details"]["reason"] == BY_SUPPORT.reason
    (beside,) = audited(own, ann.user_id, "subscription.activated")
    assert beside["actor"] == "operator"
    assert books.renew(given, ann).status == EXPIRED
    assert sim.effects(kind="charge", wallet=ann.wallet.address) == []


def test_what_runs_goes_on_for_a_month_and_renews_then(
    books: Bookkeeping, own: Service, sim: PasseurSim
) -> None:
    ann = escrowed(own, sim, "100")
    bought = books.buy(ann)
    end = bought.period_end_time.ToDatetime()
    given = grant(books, ann)
    assert given.subscription_id == bought.subscription_id
    later = given.period_end_time.ToDatetime() - end
    assert timedelta(days=28) <= later <= timedelta(days=31)
    first, second = periods(books)
    assert first["close_time"] == second["start_time"]
    assert (first["credited"], second["value"]) == ("29", "29")
    # The old end passes, and nothing is charged.
    own.clock.move(days=32)
    books.renewals.renew()
    assert len(books.charges(ann)) == 1
    renewed = books.renew(given, ann)
    assert renewed.status == ACTIVE
    assert [row["ordinal"] for row in books.charges(ann)] == [1, 3]


def test_a_plan_may_be_named_and_the_renewal_is_as_it_was(
    books: Bookkeeping, own: Service, sim: PasseurSim
) -> None:
    ann = escrowed(own, sim, "100")
    bought = books.buy(ann)
    given = grant(books, ann, "pro")
    assert (given.plan_id, given.next_plan_id) == ("pro", "basic")
    books.renew(bought, ann)
    assert [row["amount"] for row in books.charges(ann)] == ["29", "29"]
    same = grant(books, ann, "basic")
    assert (same.plan_id, same.next_plan_id) == ("basic", "")


def test_what_is_paid_does_not_shrink(
    books: Bookkeeping, own: Service, sim: PasseurSim
) -> None:
    ann = escrowed(own, sim, "100")
    bought = books.buy(ann, "pro")
    with pytest.raises(UngrantedError, match="costs less than pro"):
        grant(books, ann, "basic")
    assert books.subscription(ann, bought).plan_id == "pro"


def test_what_has_ended_stays_and_another_begins(
    books: Bookkeeping, own: Service, sim: PasseurSim
) -> None:
    ann = escrowed(own, sim, "29")
    bought = books.buy(ann)
    assert books.renew(bought, ann).status == EXPIRED
    with pytest.raises(UngrantedError, match="name a plan"):
        grant(books, ann)
    given = grant(books, ann, "basic")
    assert given.subscription_id != bought.subscription_id
    assert books.subscription(ann, bought).status == EXPIRED
    # The old one does not come back beside it.
    sim.top_up(ann.wallet.address, "100")
    own.clock.move(hours=1)
    books.renewals.renew()
    assert len(sim.effects(kind="charge", wallet=ann.wallet.address)) == 1
    assert reason_of(lambda: books.buy(ann)) == "SUBSCRIPTION_ALREADY_EXISTS"


def test_a_month_more_ends_where_it_was_to_end(
    books: Bookkeeping, own: Service, sim: PasseurSim
) -> None:
    ann = escrowed(own, sim, "100")
    bought = books.buy(ann)
    books.own.cancel(caller(ann), UUID(bought.subscription_id), CLIENT)
    assert grant(books, ann).cancel_at_period_end
    assert books.renew(bought, ann).status == CANCELLED


class TestDoubts:
    """The database is lost as the month is committed."""

    @pytest.mark.parametrize("kept", [True, False])
    @pytest.mark.parametrize("runs", [True, False])
    def test_it_is_given_once_whatever_became_of_the_commit(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        monkeypatch: pytest.MonkeyPatch,
        kept: bool,
        runs: bool,
    ) -> None:
        ann = escrowed(own, sim, "100")
        if runs:
            books.buy(ann)
        lost = Lost(monkeypatch, Transaction, "commit")
        lost.times, lost.after = 1, kept
        given = grant(books, ann, "basic")
        assert lost.times == 0
        assert given == books.subscription(ann, given)
        (row,) = (row for row in periods(books) if row["grant_reason"])
        assert row["end_time"].timestamp() == given.period_end_time.ToSeconds()
        assert len(audited(own, ann.user_id, "subscription.granted")) == 1

    def test_where_nobody_knows_that_is_said(
        self, books: Bookkeeping, own: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ann = person(own)
        monkeypatch.setattr(doubt, "DOUBT_SECONDS", 0.3)
        Lost(monkeypatch, Transaction, "commit").times = 1000
        assert reason_of(lambda: grant(books, ann, "basic")) == "OUTCOME_UNKNOWN"
        assert periods(books) == []


class TestRefusals:
    def test_nothing_is_granted_while_a_charge_is_open(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        ann = escrowed(own, sim, "100")
        sim.fault(operation="charge", times=1, drop=True)
        assert books.buy(ann).charge_pending
        assert reason_of(lambda: grant(books, ann)) == "CHARGE_PENDING"
        books.collecting.recover()
        assert grant(books, ann).status == ACTIVE

    def test_users_and_plans_must_be_there(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        ann = person(own)
        assert reason_of(lambda: grant(books, ann, "gold")) == "PLAN_NOT_FOUND"
        assert reason_of(lambda: grant(books, ann, "free")) == "PLAN_NOT_PURCHASABLE"
        act = Act(reason="nobody")
        nobody = reason_of(lambda: books.grants.grant(uuid4(), "pro", act))
        assert nobody == "USER_NOT_FOUND"

    def test_a_charge_that_is_not_theirs_resolves_nothing(
        self, books: Bookkeeping, own: Service, sim: PasseurSim
    ) -> None:
        ann, bob = person(own), person(own)
        own.sql.run(
            "INSERT INTO unmatched_charges (passeur_transaction_id, user_id,"
            " wallet_address, amount, create_time, find_time)"
            " VALUES ('tx_1', %s, 'wallet', '29', now(), now())",
            bob.user_id,
        )
        with pytest.raises(UngrantedError, match="no unmatched charge tx_1"):
            grant(books, ann, "basic", for_charge="tx_1")
        assert periods(books) == []
        grant(books, bob, "basic", for_charge="tx_1")
        (row,) = own.sql.run("SELECT * FROM unmatched_charges")
        assert row["resolve_time"] is not None
        assert row["resolution"] == BY_SUPPORT.reason
        (told,) = audited(own, bob.user_id, "subscription.granted")
        assert told["details"]["passeur_transaction_id"] == "tx_1"
        with pytest.raises(UngrantedError):
            grant(books, bob, "basic", for_charge="tx_1")
