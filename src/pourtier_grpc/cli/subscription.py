"""`pourtier subscription`: what somebody has taken, and months that are given."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from pourtier_grpc.billing.view import Account
from pourtier_grpc.caller import Act
from pourtier_grpc.cli.accounts import account_of
from pourtier_grpc.cli.charges.shown import unmatched_sentence
from pourtier_grpc.cli.parts import parts
from pourtier_grpc.cli.reasons import reason_option
from pourtier_grpc.store.periods import PeriodRecord
from pourtier_grpc.store.refunds import Refund


@click.group()
def subscription() -> None:
    """Subscriptions. WHO is a user id or a wallet address."""


@subscription.command("show")
@click.argument("who")
def subscription_show(who: str) -> None:
    """Print the subscriptions of an account, as JSON.

    Each with its periods, its charges and their refunds. Charges of theirs that only
    Passeur knows are of no subscription yet, and are told besides.
    """
    with parts() as made:
        user_id = UUID(account_of(made, who).user_id)
        view = made.billing.support.view
        accounts, unmatched = view.accounts(user_id), view.unmatched_of(user_id)
    _print([_account(each) for each in accounts])
    for each in unmatched:
        click.echo(f"pourtier: {unmatched_sentence(each)}", err=True)


@subscription.command("grant")
@click.argument("who")
@click.option("--plan", "plan_id", help="Of which plan; of the one that runs.")
@click.option(
    "--for-charge",
    metavar="TRANSACTION_ID",
    help="The unmatched charge of theirs that is resolved by it.",
)
@reason_option
def subscription_grant(
    who: str, plan_id: str | None, for_charge: str | None, reason: str
) -> None:
    """Give a month without a payment, and print the subscription as JSON.

    It comes after what runs. Whoever has no subscription that runs gets one that does
    not renew itself.
    """
    with parts() as made:
        user_id = UUID(account_of(made, who).user_id)
        act = Act(reason=reason)
        given = made.billing.support.grants.grant(user_id, plan_id, act, for_charge)
    _print(_shown(given))


def _account(account: Account) -> dict[str, Any]:
    return {
        **_shown(account.record.shown()),
        "periods": [_period(each) for each in account.periods],
        "charges": [_shown(each.shown()) for each in account.charges],
        "refunds": [_refund(each) for each in account.refunds],
    }


def _period(period: PeriodRecord) -> dict[str, object]:
    begun = period.begun
    return {
        "ordinal": begun.ordinal,
        "plan_id": begun.plan_id,
        "value": begun.value,
        "start_time": begun.period.start.isoformat(),
        "end_time": begun.period.end.isoformat(),
        "charge_id": None if begun.charge_id is None else str(begun.charge_id),
        "grant_reason": begun.grant_reason,
        "close_time": _time(period.close_time),
        "credited": period.credited,
    }


def _refund(refund: Refund) -> dict[str, str | None]:
    return {
        "refund_id": refund.key,
        "charge_id": str(refund.charge_id),
        "amount": refund.amount,
        "reason": refund.reason,
        "status": refund.status_name,
        "failure_reason": refund.failure_reason,
        "create_time": refund.create_time.isoformat(),
        "settle_time": _time(refund.settle_time),
    }


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _shown(message: Message) -> dict[str, Any]:
    return MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )


def _print(what: object) -> None:
    click.echo(json.dumps(what, indent=2))
