"""Escrows that are compared with what Passeur knows of them, and what that finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from pourtier_grpc.billing.holds import HoldState
from pourtier_grpc.errors import PourtierError
from support.bookkeeping import BY_SUPPORT, Bookkeeping
from support.callers import Person
from support.passeur import PasseurSim
from support.service import Service


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
