"""`pourtier charges status`, and all that `subscription show` knows of somebody."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pourtier_grpc.config import Settings
from pourtier_grpc.server import Server
from pourtier_grpc.store.privileges import Duty
from support.api import Api
from support.bookkeeping import BY_SUPPORT, Bookkeeping
from support.callers import Person, person
from support.clock import ManualClock
from support.commands import pourtier, quickly
from support.escrow import escrowed
from support.passeur import PasseurSim
from support.roles import as_role
from support.service import Service
from support.sql import Sql

UNMATCHED = (
    "INSERT INTO unmatched_charges (passeur_transaction_id, user_id,"
    " wallet_address, amount, create_time, find_time)"
    " VALUES ('tx_1', %s, 'wallet', '29', '2026-01-02T03:04:05Z', now())"
)


@pytest.fixture
def settings(
    make_settings: Callable[..., Settings], database_url: str, sim: PasseurSim
) -> Settings:
    """Those of the role that operators' commands run by."""
    return make_settings(
        database_url=as_role(database_url, Duty.WORKING), passeur_url=sim.url
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
def where(settings: Settings, folder: Path) -> dict[str, object]:
    """The settings of the service, for a command of its operator's."""
    assert settings.database_url is not None
    return {
        "database_url": settings.database_url.get_secret_value(),
        "pourtier_data_dir": folder,
        "passeur_url": settings.passeur_url,
    }


def status(where: dict[str, object]) -> tuple[list[str], dict[str, object]]:
    """What the command says, and what it says in JSON."""
    said = quickly("charges", "status", **where)
    shown = quickly("charges", "status", "--json", **where)
    assert (said.returncode, said.stderr) == (0, "")
    assert (shown.returncode, shown.stderr) == (0, "")
    return said.stdout.splitlines(), json.loads(shown.stdout)


class TestStatus:
    def test_where_all_is_well_it_says_so(
        self, own: Service, where: dict[str, object]
    ) -> None:
        done = pourtier("charges", "status", **where)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "charging is not held\n0 charges are under way\n"
        assert status(where)[1] == {
            "held": False,
            "reason": None,
            "begin_time": None,
            "reconcile_time": None,
            "unreconciled_escrows": 0,
            "open_charges": 0,
            "unmatched_charges": [],
        }

    def test_a_hold_is_followed_from_its_beginning_to_its_end(
        self,
        books: Bookkeeping,
        own: Service,
        sim: PasseurSim,
        where: dict[str, object],
    ) -> None:
        ann = escrowed(own, sim, "500")
        sim.fault(operation="charge", times=None, drop=True)
        books.buy(ann)
        sim.reset()
        began = own.clock.now().isoformat()
        books.holds.hold(BY_SUPPORT)
        said, shown = status(where)
        assert said == [
            f"charging is held since {began}: {BY_SUPPORT.reason}",
            "1 escrows are to be compared",
            "1 charges are under way",
        ]
        assert shown == {
            "held": True,
            "reason": BY_SUPPORT.reason,
            "begin_time": began,
            "reconcile_time": None,
            "unreconciled_escrows": 1,
            "open_charges": 1,
            "unmatched_charges": [],
        }
        own.clock.move(minutes=1)
        books.reconciliation.reconcile()
        said, shown = status(where)
        compared = own.clock.now().isoformat()
        assert said[1] == f"every escrow was compared, at {compared}"
        assert shown["reconcile_time"] == compared
        books.holds.release(BY_SUPPORT)
        said, shown = status(where)
        assert (said[0], shown["held"]) == ("charging is not held", False)

    def test_before_a_worker_has_come_it_is_not_said_to_be_compared(
        self, books: Bookkeeping, where: dict[str, object]
    ) -> None:
        books.holds.hold(BY_SUPPORT)
        said, _ = status(where)
        assert said[1] == "no worker has said yet that every escrow was compared"

    def test_charges_that_only_passeur_knows_are_named(
        self, own: Service, where: dict[str, object]
    ) -> None:
        bob = person(own)
        own.sql.run(UNMATCHED, bob.user_id)
        said, shown = status(where)
        assert said[-1] == (
            f"user {bob.user_id} is not charged until somebody resolves tx_1, 29 USDC"
        )
        assert shown["unmatched_charges"] == [
            {
                "transaction_id": "tx_1",
                "user_id": bob.user_id,
                "wallet_address": "wallet",
                "amount": "29",
                "create_time": "2026-01-02T03:04:05+00:00",
                "type": "charge",
            }
        ]


class TestWhatIsShownOfSomebody:
    @pytest.fixture
    def ann(self, own: Service, sim: PasseurSim) -> Person:
        return escrowed(own, sim, "500")

    def test_periods_that_were_paid_and_granted(
        self,
        books: Bookkeeping,
        own: Service,
        ann: Person,
        where: dict[str, object],
    ) -> None:
        books.buy(ann)
        own.clock.move(days=3)
        words = ("subscription", "grant", ann.user_id, "--reason", "an outage")
        assert quickly(*words, **where).returncode == 0
        done = quickly("subscription", "show", ann.user_id, **where)
        assert (done.returncode, done.stderr) == (0, "")
        (shown,) = json.loads(done.stdout)
        paid, granted = shown["periods"]
        assert (paid["ordinal"], granted["ordinal"]) == (1, 2)
        assert (paid["plan_id"], granted["plan_id"]) == ("basic", "basic")
        assert paid["charge_id"] == str(books.charge_id(ann))
        assert (paid["grant_reason"], granted["grant_reason"]) == (None, "an outage")
        assert granted["charge_id"] is None
        assert paid["value"] == "29"
        # What was left of it is the value of what follows.
        assert paid["credited"] == granted["value"]
        assert paid["close_time"] == granted["start_time"]
        # The command goes by the real time, which may be the same second.
        assert paid["start_time"] <= granted["start_time"] < paid["end_time"]
        assert paid["end_time"] < granted["end_time"]
        assert (granted["close_time"], granted["credited"]) == (None, None)

    def test_what_is_unmatched_of_theirs_and_of_nobody_else(
        self, own: Service, ann: Person, where: dict[str, object]
    ) -> None:
        own.sql.run(UNMATCHED, ann.user_id)
        done = quickly("subscription", "show", ann.user_id, **where)
        assert (done.returncode, json.loads(done.stdout)) == (0, [])
        assert done.stderr == (
            f"pourtier: user {ann.user_id} is not charged until somebody resolves"
            " tx_1, 29 USDC\n"
        )
        done = quickly("subscription", "show", person(own).user_id, **where)
        assert (done.returncode, done.stderr) == (0, "")
