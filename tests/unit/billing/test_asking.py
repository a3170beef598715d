"""What callers are told of charges that Passeur refused."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from pourtier.v1.money_pb2 import Money
from pourtier.v1.plan_pb2 import Plan
from pourtier_grpc.billing import asking
from pourtier_grpc.billing.machine import PURCHASE
from pourtier_grpc.errors import reason_name
from pourtier_grpc.passeur.errors import RefusalCode
from pourtier_grpc.store.charges import Charge

PRICE = "29"


@pytest.fixture
def charge() -> Charge:
    return Charge(
        charge_id=UUID(int=1),
        subscription_id=UUID(int=2),
        user_id=UUID(int=3),
        ordinal=1,
        attempt=1,
        kind=PURCHASE,
        plan=Plan(plan_id="basic", price=Money(amount=PRICE, currency="USDC")),
        wallet_address="wallet",
        amount=PRICE,
        credit="0",
        period_start=None,
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        lease_id=None,
    )


@pytest.mark.parametrize(
    ("code", "metadata"),
    [
        (RefusalCode.INSUFFICIENT_BALANCE, {"balance": "", "required": PRICE}),
        (RefusalCode.ESCROW_NOT_INITIALIZED, {}),
        (RefusalCode.INVALID_AMOUNT, {"amount": PRICE}),
    ],
)
def test_a_refusal_blames_no_field_of_a_request_that_names_no_amount(
    charge: Charge, code: RefusalCode, metadata: dict[str, str]
) -> None:
    reason = reason_name(asking.REFUSALS[code])
    told = asking.error_of(reason, charge)
    assert (told.reason_name, told.metadata) == (reason, metadata)
    assert told.violations == ()


def test_what_was_given_up_for_no_reason_of_passeurs_is_its_silence(
    charge: Charge,
) -> None:
    assert asking.error_of(None, charge).reason_name == "PASSEUR_UNAVAILABLE"
