"""`pourtier charges` and `pourtier subscription`, as an operator types them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pourtier_grpc.billing.machine import ACTIVE, CANCELLED
from pourtier_grpc.config import Settings
from pourtier_grpc.failpoints import Failpoint
from pourtier_grpc.server import Server
from pourtier_grpc.store.privileges import Duty
from support.api import Api
from support.bookkeeping import Bookkeeping
from support.callers import Person, person
from support.clock import ManualClock
from support.commands import pourtier, quickly
from support.crashes import points_of
from support.escrow import escrowed
from support.passeur import PasseurSim
from support.roles import as_role
from support.service import Service
from support.sql import Sql

WHY = ("--reason", "asked for")


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
def own(
    settings: Settings,
    server: Server,
    clock: ManualClock,
    api: Api,
    database_url: str,
) -> Iterator[Service]:
    with Sql(database_url) as beside:
        yield Service(
            settings=settings, server=server, clock=clock, api=api, sql=beside
        )


@pytest.fixture
def books(own: Service, database_url: str) -> Bookkeeping:
    return Bookkeeping(service=own, database_url=database_url)


@pytest.fixture
def ann(own: Service, sim: PasseurSim) -> Person:
    return escrowed(own, sim, "500")


@pytest.fixture
def where(settings: Settings, folder: Path) -> dict[str, object]:
    """The settings of the service, for a command of its operator's."""
    assert settings.database_url is not None
    return {
        "database_url": settings.database_url.get_secret_value(),
        "pourtier_data_dir": folder,
        "passeur_url": settings.passeur_url,
    }


def given_back(sim: PasseurSim, whose: Person) -> list[str]:
    found = sim.effects(kind="refund", wallet=whose.wallet.address)
    return [each["amount"] for each in found]


class TestRefunds:
    def test_a_part_and_then_the_rest(
        self,
        books: Bookkeeping,
        sim: PasseurSim,
        ann: Person,
        where: dict[str, object],
    ) -> None:
        bought = books.buy(ann)
        charge_id = books.charge_id(ann)
        words = ("charges", "refund", charge_id)
        done = pourtier(*words, "--amount", "10", *WHY, **where)
        assert (done.returncode, done.stderr) == (0, "")
        shown = json.loads(done.stdout)
        assert shown.pop("refund_id")
        assert shown == {
            "charge_id": str(charge_id),
            "amount": "10",
            "status": "confirmed",
        }
        done = quickly(*words, "--amount", "20", *WHY, **where)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"pourtier: of the charge {charge_id} 19 can be given back, not 20\n"
        )
        assert quickly(*words, *WHY, **where).returncode == 0
        assert given_back(sim, ann) == ["10", "19"]
        assert books.subscription(ann, bought).status == CANCELLED
        done = quickly("subscription", "show", ann.user_id, **where)
        (shown,) = json.loads(done.stdout)
        assert shown["status"] == "SUBSCRIPTION_STATUS_CANCELLED"
        assert [each["refunded"]["amount"] for each in shown["charges"]] == ["29"]
        assert [each["amount"] for each in shown["refunds"]] == ["10", "19"]

    def test_silence_is_said_to_be_that(
        self,
        books: Bookkeeping,
        sim: PasseurSim,
        ann: Person,
        where: dict[str, object],
    ) -> None:
        books.buy(ann)
        sim.fault(operation="refund", times=None, drop=True, when="after")
        done = pourtier(
            "charges",
            "refund",
            books.charge_id(ann),
            *WHY,
            **where,
            passeur_timeout_seconds=0.2,
        )
        assert done.returncode == 0
        assert json.loads(done.stdout)["status"] == "pending"
        assert "Do not ask for it again" in done.stderr

    @pytest.mark.parametrize("point", points_of("refund"))
    def test_killed_anywhere_it_is_given_back_once_or_not_at_all(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        where: dict[str, object],
        point: Failpoint,
    ) -> None:
        bought = books.buy(ann)
        charge_id = books.charge_id(ann)
        killed = pourtier(
            "charges", "refund", charge_id, *WHY, **where, failpoints=point.value
        )
        assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "")
        own.clock.move(seconds=books.refunds.lease.total_seconds() + 60)
        books.refunds.recover()
        kept = point != Failpoint.REFUND_WRITTEN
        assert given_back(sim, ann) == ["29"] * kept
        status = books.subscription(ann, bought).status
        assert status == (CANCELLED if kept else ACTIVE)
        again = quickly("charges", "refund", charge_id, *WHY, **where)
        assert again.returncode == (1 if kept else 0)
        assert given_back(sim, ann) == ["29"]


class TestHolds:
    def test_charging_is_held_and_released(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        where: dict[str, object],
    ) -> None:
        sim.fault(operation="charge", times=None, drop=True)
        bought = books.buy(ann)
        assert bought.charge_pending
        sim.reset()
        done = quickly("charges", "hold", *WHY, **where)
        assert (done.returncode, done.stdout) == (0, "")
        assert "charging is held" in done.stderr
        assert "1 charges are under way" in done.stderr
        done = quickly("charges", "release", *WHY, **where)
        assert (done.returncode, done.stdout) == (1, "")
        assert "1 escrows have yet to be compared" in done.stderr
        leaving = ("charges", "release", "--leave-uncompared", *WHY)
        done = quickly(*leaving, **where)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no worker has tried each yet" in done.stderr
        sim.fault(operation="transactions", times=None, status=500)
        books.reconciliation.reconcile()
        sim.reset()
        done = quickly(*leaving, **where)
        assert (done.returncode, done.stdout) == (0, "")
        assert f"user {ann.user_id} is not charged until" in done.stderr
        assert quickly("charges", "hold", *WHY, **where).returncode == 0
        books.reconciliation.reconcile()
        done = quickly("charges", "release", *WHY, **where)
        assert (done.returncode, done.stdout) == (0, "")
        assert "charging is not held" in done.stderr
        done = quickly("charges", "release", *WHY, **where)
        assert (done.returncode, done.stderr) == (1, "pourtier: charging is not held\n")


class TestLists:
    def test_open_charges_are_listed_and_those_that_are_stuck(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        ann: Person,
        where: dict[str, object],
    ) -> None:
        sim.fault(operation="charge", times=None, drop=True)
        bought = books.buy(ann)
        (charge,) = books.charges(ann)
        done = quickly("charges", "list", "--json", **where)
        (row,) = json.loads(done.stdout)
        assert row["charge_id"] == str(charge["charge_id"])
        assert row["subscription_id"] == bought.subscription_id
        assert (row["kind"], row["amount"]) == ("purchase", "29")
        assert quickly("charges", "list", "--stuck", **where).stdout == ""
        own.sql.run(
            "UPDATE charges SET create_time = create_time - interval '61 minutes'"
        )
        done = quickly("charges", "list", "--stuck", **where)
        assert done.stdout.startswith(row["charge_id"])

    def test_unmatched_ones_are_listed_and_resolved_by_a_grant(
        self, own: Service, sim: PasseurSim, where: dict[str, object]
    ) -> None:
        bob = person(own)
        own.sql.run(
            "INSERT INTO unmatched_charges (passeur_transaction_id, user_id,"
            " wallet_address, amount, create_time, find_time)"
            " VALUES ('tx_1', %s, 'wallet', '29', now(), now())",
            bob.user_id,
        )
        (row,) = json.loads(
            quickly("charges", "list", "--unmatched", "--json", **where).stdout
        )
        assert (row["transaction_id"], row["amount"]) == ("tx_1", "29")
        words = ("subscription", "grant", bob.wallet.address)
        done = quickly(*words, "--for-charge", "tx_1", *WHY, **where)
        assert (done.returncode, done.stdout) == (1, "")
        assert "name a plan" in done.stderr
        done = quickly(*words, "--plan", "basic", "--for-charge", "tx_1", *WHY, **where)
        assert (done.returncode, done.stderr) == (0, "")
        shown = json.loads(done.stdout)
        assert (shown["plan_id"], shown["auto_renew"]) == ("basic", False)
        assert quickly("charges", "list", "--unmatched", **where).stdout == ""

    def test_unmatched_ones_are_resolved_without_a_month(
        self, own: Service, sim: PasseurSim, where: dict[str, object]
    ) -> None:
        bob = person(own)
        own.sql.run(
            "INSERT INTO unmatched_charges (passeur_transaction_id, user_id,"
            " wallet_address, amount, create_time, find_time)"
            " VALUES ('tx_1', %s, 'wallet', '29', now(), now())",
            bob.user_id,
        )
        words = ("charges", "resolve", "tx_1", *WHY)
        done = quickly(*words, **where)
        assert (done.returncode, done.stdout) == (0, "")
        assert f"of user {bob.user_id}, 29 USDC, is resolved" in done.stderr
        done = quickly(*words, "--refund-of", bob.user_id, **where)
        assert (done.returncode, done.stdout) == (1, "")
        assert quickly("charges", "list", "--unmatched", **where).stdout == ""
        done = quickly(*words, **where)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "pourtier: tx_1 is resolved already\n"


@pytest.mark.parametrize(
    "words",
    [
        ("charges", "list", "--stuck", "--unmatched"),
        ("charges", "refund", "x", *WHY),
        ("charges", "refund", "0190b6b4-5c10-7000-8000-000000000000"),
        ("charges", "hold"),
        ("charges", "resolve", "tx_1"),
        ("subscription", "grant", "x"),
    ],
)
def test_what_means_nothing_is_bad_usage(words: tuple[Any, ...]) -> None:
    done = quickly(*words)
    assert (done.returncode, done.stdout) == (2, "")
