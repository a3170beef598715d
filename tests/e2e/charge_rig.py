"""A rig of subscriptions, what was promised of them, and what Passeur has charged."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from e2e.house import KEY, TIMEOUT, House, at_last, opened
from pourtier.v1 import subscription_service_pb2 as pb
from pourtier.v1.subscription_pb2 import Subscription
from pourtier_grpc.devtools.process import ChildProcess
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.failpoints import Failpoint
from pourtier_grpc.store.privileges import Duty
from support.api import Api, Refused, refused
from support.charges import PURCHASE, REACTIVATION, UPGRADE, subscription_of
from support.commands import ROOT, environment
from support.roles import as_role
from support.servers import Databases
from support.subscriptions import ACTIVE, agree
from support.waiting import wait_until

CHARGES_END = """
    UPDATE charges SET next_attempt_time = now() - interval '1s' WHERE status = 1
"""
# What a worker has claimed, another leaves alone for so long.
CLAIMS_END = """
    UPDATE subscriptions SET due_time = now()
    WHERE due_time > now() AND due_time <= now() + interval '60s'
"""
# Periods end while nobody looks; those with a charge under way are left alone.
PERIODS_END = """
    UPDATE subscriptions s SET
        period_start = now() - interval '1 month 1 minute',
        anchor_time = now() - interval '1 month 1 minute', anchor_months = 0,
        period_end = now() - interval '1 minute', due_time = now()
    WHERE status = 2 AND period_end > now() AND NOT EXISTS (
        SELECT FROM charges c
        WHERE c.subscription_id = s.subscription_id AND c.status = 1
    )
"""
# Its owner has cancelled it, a month ago.
CANCELLED = """
    UPDATE subscriptions SET status = 6, cancel_at_period_end = true, due_time = NULL,
        end_time = now() - interval '1 day', period_end = now() - interval '1 day',
        period_start = now() - interval '1 month 1 day',
        anchor_time = now() - interval '1 month 1 day', anchor_months = 0
    WHERE subscription_id = %s
"""
UNSETTLED = """
    SELECT (SELECT count(*) FROM charges WHERE status = 1) + (
        SELECT count(*) FROM subscriptions
        WHERE status = 3 OR status = 2 AND period_end <= now()
    ) AS count
"""


@dataclass(frozen=True, kw_only=True)
class Subscriber:
    """Somebody, and the subscription that their call is about, if there is one."""

    wallet: DevWallet
    bearer: str
    subscription_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What a call was answered."""

    kind: str
    key: str
    whose: Subscriber
    answer: Message


@dataclass(frozen=True, kw_only=True)
class ChargeHouse(House):
    """A house whose people subscribe."""

    promised: list[Promise] = field(default_factory=list)
    # One connection, and many threads.
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, statement: str, *values: object) -> list[dict[str, Any]]:
        with self.lock:
            return self.sql.run(statement, *values)

    def subscriber(self, kind: str, balance: str = "1000000") -> Subscriber:
        """Somebody whose next call is of that kind, with so much for it."""
        wallet = DevWallet.generate()
        bearer = self.somebody("29" if kind != PURCHASE else balance, wallet)
        if kind == PURCHASE:
            return Subscriber(wallet=wallet, bearer=bearer)
        made = self.subscribed(Subscriber(wallet=wallet, bearer=bearer))
        if kind == REACTIVATION:
            self.run(CANCELLED, made.subscription_id)
        self.sim.top_up(wallet.address, balance)
        return made

    def subscribed(self, whose: Subscriber) -> Subscriber:
        """Somebody who has paid for a first month of Basic."""
        made = self.call(PURCHASE, "first", whose, self.client())
        assert isinstance(made, Subscription)
        assert made.status == ACTIVE
        return Subscriber(
            wallet=whose.wallet,
            bearer=whose.bearer,
            subscription_id=made.subscription_id,
        )

    def call(self, kind: str, key: str, whose: Subscriber, api: Api) -> Message:
        """Has Basic bought, changed to Pro, or brought back."""
        metadata = ((KEY, key), ("authorization", f"Bearer {whose.bearer}"))
        stub, its = api.subscriptions, {"subscription_id": whose.subscription_id}
        calls: dict[str, Callable[[], Message]] = {
            PURCHASE: lambda: stub.CreateSubscription(
                pb.CreateSubscriptionRequest(plan_id="basic"),
                timeout=TIMEOUT,
                metadata=metadata,
            ),
            UPGRADE: lambda: stub.ChangePlan(
                pb.ChangePlanRequest(**its, plan_id="pro"),
                timeout=TIMEOUT,
                metadata=metadata,
            ),
            REACTIVATION: lambda: stub.ReactivateSubscription(
                pb.ReactivateSubscriptionRequest(**its),
                timeout=TIMEOUT,
                metadata=metadata,
            ),
        }
        try:
            return calls[kind]()
        except grpc.RpcError as error:
            raise refused(error) from None

    def killed(self, kind: str, key: str, whose: Subscriber, point: Failpoint) -> None:
        """Makes a call of a process that is killed at a point; its lease is over."""
        self.killed_at(point, lambda api: self.call(kind, key, whose, api))
        self.run(f"{CHARGES_END} AND wallet_address = %s", whose.wallet.address)

    def repeated(
        self, kind: str, key: str, whose: Subscriber, number: int = 0
    ) -> Message:
        """The answer at last, which is promised from then on."""
        client = self.client(number)
        answer = at_last(lambda: self.call(kind, key, whose, client))
        self.promised.append(Promise(kind=kind, key=key, whose=whose, answer=answer))
        return answer

    def refused(self, kind: str, key: str, whose: Subscriber) -> str:
        """The reason for which a call is refused at last."""
        try:
            answer = at_last(lambda: self.call(kind, key, whose, self.client()))
        except Refused as told:
            return told.reason
        raise AssertionError(f"it was not refused: {answer}")

    def time_passes(self) -> None:
        """Leases and claims of the dead are over."""
        self.run(CHARGES_END)
        self.run(CLAIMS_END)

    def fall_due(self) -> None:
        """Every period that runs ends."""
        self.run(PERIODS_END)

    def unsettled(self) -> int:
        """Charges without an outcome, and periods that are over."""
        return int(self.run(UNSETTLED)[0]["count"])

    def settled(self) -> None:
        """Returns when a worker has settled all."""
        with self.worker():
            self.wait_for_settlement()

    def wait_for_settlement(self) -> None:
        wait_until(lambda: self.unsettled() == 0, within=90)

    def command(self, *words: object, failpoints: str = "") -> ChildProcess:
        """A command that has not been started, killed at those points if at any."""
        number = next(self.numbers)
        values = {
            **self.settings,
            "database_url": as_role(self.url, Duty.WORKING),
            "pourtier_data_dir": self.folder,
            "failpoints": failpoints,
        }
        return ChildProcess(
            f"command {number}",
            [sys.executable, "-m", "pourtier_grpc", *map(str, words)],
            log=self.folder / f"worker-command-{number}.log",
            cwd=ROOT,
            env=environment(**values),
        )

    def agree(self) -> int:
        """Whether Passeur's charges and the paid periods are the same, as promised.

        Answers how many there are.
        """
        for promise in self.promised:
            self.assert_kept(promise)
        return agree(self.sql, self.sim)

    def assert_kept(self, promise: Promise) -> None:
        """Fails where a call would be answered otherwise now, or was told too much."""
        whose, api = promise.whose, self.client()
        again = self.call(promise.kind, promise.key, whose, api)
        assert again == promise.answer
        shown = subscription_of(promise.answer)
        request = pb.GetSubscriptionRequest(subscription_id=shown.subscription_id)
        now = api.call(api.subscriptions.GetSubscription, request, bearer=whose.bearer)
        assert shown.status == ACTIVE or shown.charge_pending
        assert now.status == ACTIVE
        assert not now.charge_pending
        if promise.kind == UPGRADE:
            assert now.plan_id == "pro"


def house(
    databases: Databases, count: int = 1, **settings: Any
) -> AbstractContextManager[ChargeHouse]:
    return opened(ChargeHouse, databases, count, **settings)
