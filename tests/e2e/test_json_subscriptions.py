"""Subscriptions over JSON, with every error of every path."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from pourtier_grpc.billing.outcomes import Outcomes
from pourtier_grpc.passeur import patience
from pourtier_grpc.store import doubt
from pourtier_grpc.store.driver_errors import unavailable
from support.json_api import answered, refused
from support.json_people import SUBSCRIPTIONS, Subscriber, subscriber
from support.passeur import PasseurSim, passeur_process
from support.scrapes import scrape
from support.servers import Databases
from support.stack import Stack, stack

LONGER_THAN_ANY_CALL = 100.0
SLASHES = pytest.mark.parametrize("slash", ["", "/"])
LIMITS = {
    "running_strategies": 1,
    "backtests": 100,
    "devices": 3,
    "sessions": 3,
    "requests_per_minute": 120,
}
# What one path is for, and what another could be taken for.
RESERVED_WORDS = ("plans", "current", "usage")


@pytest.fixture(scope="module")
def sim() -> Iterator[PasseurSim]:
    """One that can be killed."""
    with passeur_process(settle_seconds=0) as made:
        yield made


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str, sim: PasseurSim) -> Iterator[Stack]:
    patient = {"passeur_breaker_failures": 1000, "passeur_timeout_seconds": 1}
    with stack(databases, redis_url, passeur_url=sim.url, **patient) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Passeur fails at is not tried again in the call."""
    monkeypatch.setattr(patience, "WAITS", (LONGER_THAN_ANY_CALL,))


@pytest.fixture
def ann(running: Stack, sim: PasseurSim) -> Subscriber:
    return subscriber(running, sim, "200")


@pytest.fixture
def poor(running: Stack) -> Subscriber:
    """Somebody without an escrow."""
    return subscriber(running)


def usdc(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "USDC"}


def put(running: Stack, path: str, status: int) -> None:
    """Has a subscription be in another state."""
    change = "UPDATE subscriptions SET status = %s WHERE subscription_id = %s"
    running.sql.run(change, status, path.removeprefix("/"))


class TestPlans:
    @SLASHES
    def test_anybody_sees_them_the_cheapest_first(
        self, running: Stack, slash: str
    ) -> None:
        path = f"{SUBSCRIPTIONS}/plans{slash}"
        plans = answered(running.public.call("GET", path))["plans"]
        assert [each["plan_id"] for each in plans] == ["free", "basic", "pro"]
        assert plans[1] == {
            "plan_id": "basic",
            "display_name": "Basic",
            "price": usdc("29"),
            "limits": LIMITS,
            "features": ["backtesting", "strategy_deployment", "live_metrics"],
        }
        # Whatever is not limited is left out, and a limit of nothing is not.
        assert plans[0]["limits"]["running_strategies"] == 0
        assert "running_strategies" not in plans[2]["limits"]


class TestBuying:
    @SLASHES
    def test_a_month_is_paid_and_shown_everywhere(
        self, ann: Subscriber, sim: PasseurSim, slash: str
    ) -> None:
        made = answered(ann.post(slash, {"plan_id": "basic"}))
        assert made == {
            "subscription_id": made["subscription_id"],
            "plan_id": "basic",
            "price": usdc("29"),
            "status": "SUBSCRIPTION_STATUS_ACTIVE",
            "auto_renew": True,
            "cancel_at_period_end": False,
            "charge_pending": False,
            "period_start_time": made["period_start_time"],
            "period_end_time": made["period_end_time"],
            "access_end_time": made["access_end_time"],
            "next_plan_id": "",
            "failure_reason": "",
            "create_time": made["create_time"],
            "update_time": made["update_time"],
            "etag": made["etag"],
        }
        mine = f"/{made['subscription_id']}"
        assert answered(ann.get(mine + slash)) == made
        listed = answered(ann.get(slash))
        assert listed == {"subscriptions": [made], "next_page_token": ""}
        (charge,) = answered(ann.get(f"{mine}/charges{slash}"))["charges"]
        (effect,) = sim.effects(kind="charge", wallet=ann.wallet.address)
        assert charge == {
            "charge_id": effect["key"],
            "subscription_id": made["subscription_id"],
            "ordinal": 1,
            "attempt": 1,
            "kind": "CHARGE_KIND_PURCHASE",
            "plan_id": "basic",
            "amount": usdc("29"),
            "credit": usdc("0"),
            "status": "CHARGE_STATUS_CONFIRMED",
            "failure_reason": "",
            "refunded": usdc("0"),
            "signature": charge["signature"],
            "create_time": charge["create_time"],
            "settle_time": charge["settle_time"],
        }
        current = answered(ann.get(f"/current{slash}"))
        assert current.pop("subscription") == made
        usage = answered(ann.get(f"/usage{slash}"))
        assert current == {
            **usage,
            "limits": LIMITS,
            "features": ["backtesting", "strategy_deployment", "live_metrics"],
        }
        strategies, backtests = usage["usage"]
        assert strategies == {
            "metric": "running_strategies",
            "used": 0,
            "reserved": 0,
            "limit": 1,
            "remaining": 1,
        }
        assert backtests["period_start_time"] == made["period_start_time"]

    def test_whoever_has_none_is_on_free(self, poor: Subscriber) -> None:
        assert answered(poor.get())["subscriptions"] == []
        current = answered(poor.get("/current"))
        assert "subscription" not in current
        assert (current["plan_id"], current["features"]) == ("free", ["backtesting"])
        assert answered(poor.get("/usage"))["plan_id"] == "free"

    def test_that_it_does_not_renew_itself_is_said_at_once(
        self, ann: Subscriber
    ) -> None:
        body = {"plan_id": "basic", "auto_renew": False}
        assert answered(ann.post("", body))["auto_renew"] is False

    def test_what_is_not_for_sale(self, ann: Subscriber) -> None:
        told = refused(ann.buy("gold"), "PLAN_NOT_FOUND", 404)
        assert told.metadata == {"plan_id": "gold"}
        told = refused(ann.buy("free"), "PLAN_NOT_PURCHASABLE", 400)
        assert told.metadata == {"plan_id": "free"}

    def test_there_is_one_at_a_time(self, ann: Subscriber) -> None:
        mine = ann.subscribed()
        told = refused(ann.buy("pro"), "SUBSCRIPTION_ALREADY_EXISTS", 409)
        assert told.metadata == {"subscription_id": mine.removeprefix("/")}

    def test_an_escrow_that_holds_too_little(
        self, running: Stack, sim: PasseurSim, poor: Subscriber
    ) -> None:
        ann = subscriber(running, sim, "12.5")
        key = {"idempotency-key": "month"}
        told = refused(ann.buy(**key), "INSUFFICIENT_ESCROW_BALANCE", 400)
        assert told.metadata == {"balance": "12.5", "required": "29"}
        sim.top_up(ann.wallet.address, "16.5")
        answer = answered(ann.buy(**key))
        assert answer["status"] == "SUBSCRIPTION_STATUS_ACTIVE"
        refused(poor.buy(), "ESCROW_NOT_INITIALIZED", 400)

    def test_a_repeat_under_its_key_is_the_same_purchase(
        self, ann: Subscriber, sim: PasseurSim
    ) -> None:
        key = {"idempotency-key": "month"}
        first, again = ann.buy(**key), ann.buy(**key)
        assert answered(again) == answered(first)
        assert again.headers["idempotency-replayed"] == "true"
        assert len(sim.effects(kind="charge", wallet=ann.wallet.address)) == 1
        refused(ann.buy("pro", **key), "IDEMPOTENCY_KEY_REUSED", 400)

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ({}, "INVALID_FIELD"),
            ({"plan_id": ""}, "INVALID_FIELD"),
            ({"plan_id": "p" * 65}, "INVALID_FIELD"),
            ({"plan_id": 7}, "MALFORMED_REQUEST"),
            ({"plan_id": "basic", "auto_renew": "often"}, "MALFORMED_REQUEST"),
            ([], "MALFORMED_REQUEST"),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_a_request_that_is_none(
        self, ann: Subscriber, body: Any, reason: str
    ) -> None:
        refused(ann.post("", body), reason, 400)


class TestCharges:
    def test_one_without_an_answer_is_pending_and_in_the_way(
        self, ann: Subscriber, sim: PasseurSim
    ) -> None:
        sim.fault(operation="charge", drop=True, when="after")
        made = answered(ann.buy())
        assert made["charge_pending"] is True
        assert made["status"] == "SUBSCRIPTION_STATUS_PENDING"
        mine = f"/{made['subscription_id']}"
        (charge,) = answered(ann.get(f"{mine}/charges"))["charges"]
        assert charge["status"] == "CHARGE_STATUS_PENDING"
        for answer in (
            ann.send("DELETE", mine),
            ann.post(f"{mine}:reactivate", {}),
        ):
            told = refused(answer, "CHARGE_PENDING", 400)
            assert told.metadata == {"charge_id": charge["charge_id"]}
            assert told.retry_seconds == 2
        refused(ann.buy("pro"), "SUBSCRIPTION_ALREADY_EXISTS", 409)

    def test_so_is_one_for_a_dearer_plan(
        self, ann: Subscriber, sim: PasseurSim
    ) -> None:
        mine, dearer = ann.subscribed(), {"plan_id": "pro"}
        sim.fault(operation="charge", drop=True, when="after")
        made = answered(ann.post(f"{mine}:changePlan", dearer))
        assert made["subscription"]["charge_pending"] is True
        assert made["subscription"]["plan_id"] == "basic"
        assert made["charge"]["status"] == "CHARGE_STATUS_PENDING"
        for verb in (":changePlan", ":previewChange", ":reactivate"):
            body = {} if verb == ":reactivate" else dearer
            refused(ann.post(mine + verb, body), "CHARGE_PENDING", 400)
        # What is paid until the period ends can be let end.
        assert answered(ann.send("DELETE", mine))["cancel_at_period_end"] is True

    def test_nothing_is_charged_while_charging_is_held(
        self, running: Stack, ann: Subscriber, sim: PasseurSim
    ) -> None:
        running.sql.run(
            "INSERT INTO charging_holds (hold_id, reason, begin_time)"
            " VALUES (%s, 'a test', now())",
            uuid4(),
        )
        method = {"method": "CreateSubscription", "front": "edge"}
        calls = "pourtier_grpc_calls_total"
        before = scrape(running.server.metrics_port).total(calls, **method)
        try:
            told = refused(ann.buy(**{"idempotency-key": "k"}), "CHARGING_HELD", 503)
        finally:
            running.sql.run("DELETE FROM charging_holds")
        assert told.retry_seconds == 30
        # UNAVAILABLE, but of a change: the edge does not repeat it.
        after = scrape(running.server.metrics_port).total(calls, **method)
        assert after - before == 1
        assert sim.effects(kind="charge", wallet=ann.wallet.address) == []
        answered(ann.buy(**{"idempotency-key": "k"}))

    def test_without_passeur_nothing_is_charged(
        self, ann: Subscriber, sim: PasseurSim
    ) -> None:
        sim.kill()
        try:
            told = refused(ann.buy(), "PASSEUR_UNAVAILABLE", 503)
            assert told.retry_seconds
        finally:
            sim.start()
        answered(ann.buy())

    def test_a_refusal_that_cannot_be_noted_leaves_it_open(
        self,
        running: Stack,
        sim: PasseurSim,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def lost(*_: object) -> None:
            raise unavailable()

        monkeypatch.setattr(Outcomes, "refused", lost)
        monkeypatch.setattr(doubt, "DOUBT_SECONDS", 0.1)
        ann = subscriber(running, sim)
        told = refused(ann.buy(), "OUTCOME_UNKNOWN", 503)
        assert told.retry_seconds is None
        path = f"/{told.metadata['subscription_id']}"
        assert answered(ann.get(path))["charge_pending"] is True

    def test_they_are_read_page_by_page(self, running: Stack, ann: Subscriber) -> None:
        mine = ann.subscribed()
        running.clock.move(seconds=1)
        answered(ann.post(f"{mine}:changePlan", {"plan_id": "pro"}))
        first = answered(ann.get(f"{mine}/charges", page_size=1))
        (newest,) = first["charges"]
        token = first["next_page_token"]
        rest = answered(ann.get(f"{mine}/charges", page_size=1, page_token=token))
        (oldest,) = rest["charges"]
        assert rest["next_page_token"] == ""
        kinds = [each["kind"] for each in (newest, oldest)]
        assert kinds == ["CHARGE_KIND_UPGRADE", "CHARGE_KIND_PURCHASE"]
        # A token is of its list alone.
        refused(ann.get("", page_token=token), "INVALID_PAGE_TOKEN", 400)
        answer = ann.get(f"{mine}/charges", page_token="nonsense")
        refused(answer, "INVALID_PAGE_TOKEN", 400)
        told = refused(ann.get(f"{mine}/charges", page_size=-1), "INVALID_FIELD", 400)
        assert told.violations == ["page_size"]


class TestRenewingItself:
    @SLASHES
    def test_it_is_changed_by_the_fields_that_are_there(
        self, ann: Subscriber, slash: str
    ) -> None:
        mine = ann.subscribed()
        off = answered(ann.send("PATCH", mine + slash, {"auto_renew": False}))
        assert off["auto_renew"] is False
        assert answered(ann.send("PATCH", mine, {})) == off
        on = ann.send("PATCH", f"{mine}{slash}?update_mask=auto_renew", on_it(off))
        assert answered(on)["auto_renew"] is True
        # Named by the mask, and absent, it is false.
        answer = ann.send("PATCH", f"{mine}?update_mask=autoRenew", {})
        assert answered(answer)["auto_renew"] is False

    def test_what_was_read_goes_round_with_its_etag(self, ann: Subscriber) -> None:
        mine = ann.subscribed()
        read = answered(ann.get(mine))
        assert answered(ann.send("PATCH", mine, read)) == read
        now = answered(ann.send("PATCH", mine, {**read, "auto_renew": False}))
        told = refused(ann.send("PATCH", mine, on_it(read)), "ETAG_MISMATCH", 409)
        assert told.metadata == {"etag": now["etag"]}

    @pytest.mark.parametrize(
        ("mask", "path"), [("status", "status"), ("*,plan_id", "*"), ("x", "x")]
    )
    def test_nothing_else_is_changed(
        self, ann: Subscriber, mask: str, path: str
    ) -> None:
        mine = ann.subscribed()
        answer = ann.send("PATCH", f"{mine}?update_mask={mask}", {"plan_id": "pro"})
        told = refused(answer, "INVALID_UPDATE_MASK", 400)
        assert told.metadata == {"path": path}
        answered(ann.send("PATCH", mine, {"plan_id": "pro"}))
        assert answered(ann.get(mine))["plan_id"] == "basic"

    def test_of_one_that_has_ended_nothing_is(
        self, running: Stack, ann: Subscriber
    ) -> None:
        mine = ann.subscribed()
        put(running, mine, 6)
        answer = ann.send("PATCH", mine, {"auto_renew": False})
        told = refused(answer, "SUBSCRIPTION_ENDED", 400)
        assert told.metadata == {"status": "CANCELLED"}


def on_it(subscription: dict[str, Any]) -> dict[str, Any]:
    return {**subscription, "auto_renew": True}


class TestChangingPlans:
    @SLASHES
    def test_a_dearer_one_is_paid_now_as_it_was_previewed(
        self, ann: Subscriber, slash: str
    ) -> None:
        mine = ann.subscribed()
        body = {"plan_id": "pro"}
        seen = answered(ann.post(f"{mine}:previewChange{slash}", body))
        assert set(seen) == {
            "immediate",
            "amount",
            "credit",
            "price",
            "effective_time",
            "period_end_time",
        }
        assert (seen["immediate"], seen["price"]) == (True, usdc("99"))
        parts = (seen["amount"]["amount"], seen["credit"]["amount"])
        assert sum(map(Decimal, parts)) == 99
        made = answered(ann.post(f"{mine}:changePlan{slash}", body))
        assert set(made) == {"subscription", "charge"}
        assert made["charge"]["kind"] == "CHARGE_KIND_UPGRADE"
        assert made["charge"]["amount"] == seen["amount"]
        assert made["subscription"]["plan_id"] == "pro"

    def test_another_is_taken_when_the_period_ends(self, ann: Subscriber) -> None:
        mine = ann.subscribed("pro")
        body = {"plan_id": "basic"}
        seen = answered(ann.post(f"{mine}:previewChange", body))
        assert (seen["immediate"], seen["amount"]) == (False, usdc("0"))
        made = answered(ann.post(f"{mine}:changePlan", body))
        assert set(made) == {"subscription"}
        assert made["subscription"]["next_plan_id"] == "basic"

    @pytest.mark.parametrize("verb", [":changePlan", ":previewChange"])
    def test_what_cannot_be_taken(
        self, running: Stack, ann: Subscriber, verb: str
    ) -> None:
        mine = ann.subscribed()
        answer = ann.post(f"{mine}{verb}", {"plan_id": "gold"})
        refused(answer, "PLAN_NOT_FOUND", 404)
        answer = ann.post(f"{mine}{verb}", {"plan_id": "free"})
        refused(answer, "PLAN_NOT_PURCHASABLE", 400)
        told = refused(ann.post(f"{mine}{verb}", {}), "INVALID_FIELD", 400)
        assert told.violations == ["plan_id"]
        put(running, mine, 5)
        answer = ann.post(f"{mine}{verb}", {"plan_id": "pro"})
        told = refused(answer, "SUBSCRIPTION_NOT_ACTIVE", 400)
        assert told.metadata == {"status": "EXPIRED"}

    def test_without_the_money_nothing_changes(
        self, running: Stack, sim: PasseurSim
    ) -> None:
        ann = subscriber(running, sim, "30")
        mine = ann.subscribed()
        answer = ann.post(f"{mine}:changePlan", {"plan_id": "pro"})
        told = refused(answer, "INSUFFICIENT_ESCROW_BALANCE", 400)
        assert told.metadata["balance"] == "1"
        assert answered(ann.get(mine))["plan_id"] == "basic"


class TestEnding:
    @SLASHES
    def test_it_is_cancelled_and_that_is_taken_back(
        self, ann: Subscriber, sim: PasseurSim, slash: str
    ) -> None:
        mine = ann.subscribed()
        told = answered(ann.send("DELETE", mine + slash))
        assert told["status"] == "SUBSCRIPTION_STATUS_ACTIVE"
        assert told["cancel_at_period_end"] is True
        assert answered(ann.send("DELETE", mine)) == told
        back = answered(ann.post(f"{mine}:reactivate{slash}", {}))
        assert back["cancel_at_period_end"] is False
        assert len(sim.effects(kind="charge", wallet=ann.wallet.address)) == 1

    def test_one_that_has_ended_is_paid_anew(
        self, running: Stack, ann: Subscriber
    ) -> None:
        mine = ann.subscribed()
        put(running, mine, 5)
        running.clock.move(seconds=1)
        back = answered(ann.post(f"{mine}:reactivate", {}))
        assert back["status"] == "SUBSCRIPTION_STATUS_ACTIVE"
        (newest, _) = answered(ann.get(f"{mine}/charges"))["charges"]
        assert newest["kind"] == "CHARGE_KIND_REACTIVATION"

    def test_one_that_never_was_is_not(self, poor: Subscriber) -> None:
        refused(poor.buy(), "ESCROW_NOT_INITIALIZED", 400)
        path = "/api/escrow/initialize"
        answered(poor.web.call("POST", path, {}, bearer=poor.bearer))
        refused(poor.buy(), "INSUFFICIENT_ESCROW_BALANCE", 400)
        (failed,) = answered(poor.get())["subscriptions"]
        assert failed["failure_reason"] == "INSUFFICIENT_ESCROW_BALANCE"
        answer = poor.post(f"/{failed['subscription_id']}:reactivate", {})
        told = refused(answer, "SUBSCRIPTION_NOT_ACTIVE", 400)
        assert told.metadata == {"status": "FAILED"}

    def test_nor_one_beside_another(self, running: Stack, ann: Subscriber) -> None:
        first = ann.subscribed()
        put(running, first, 5)
        second = ann.subscribed()
        answer = ann.post(f"{first}:reactivate", {})
        told = refused(answer, "SUBSCRIPTION_ALREADY_EXISTS", 409)
        assert told.metadata == {"subscription_id": second.removeprefix("/")}


# Every path that names a subscription.
NAMING: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("GET", "/charges", None),
    ("PATCH", "", {"auto_renew": False}),
    ("POST", ":previewChange", {"plan_id": "pro"}),
    ("POST", ":changePlan", {"plan_id": "pro"}),
    ("POST", ":reactivate", {}),
    ("DELETE", "", None),
]


class TestWhose:
    @pytest.mark.parametrize(("verb", "rest", "body"), NAMING)
    def test_another_s_is_as_good_as_none(
        self, ann: Subscriber, poor: Subscriber, verb: str, rest: str, body: Any
    ) -> None:
        mine = ann.subscribed()
        for path in (mine, f"/{uuid4()}"):
            answer = poor.send(verb, path + rest, body)
            told = refused(answer, "SUBSCRIPTION_NOT_FOUND", 404)
            assert told.metadata == {"subscription_id": path.removeprefix("/")}

    @pytest.mark.parametrize(("verb", "rest", "body"), NAMING)
    def test_no_query_says_which_one_is_meant(
        self, ann: Subscriber, poor: Subscriber, verb: str, rest: str, body: Any
    ) -> None:
        nothing, mine = f"/{uuid4()}", ann.subscribed().removeprefix("/")
        for name in ("subscription_id", "subscriptionId"):
            path = f"{nothing}{rest}?{name}={mine}"
            answer = ann.send(verb, path, body)
            reason = answer.json()["details"][0]["reason"]
            assert reason in {"SUBSCRIPTION_NOT_FOUND", "MALFORMED_REQUEST"}

    @pytest.mark.parametrize(("verb", "rest", "body"), NAMING)
    @pytest.mark.parametrize("word", [*RESERVED_WORDS, "mine"])
    def test_what_can_be_no_id_is_refused(
        self, ann: Subscriber, verb: str, rest: str, body: Any, word: str
    ) -> None:
        if (verb, rest) == ("GET", "") and word in RESERVED_WORDS:
            return
        answer = ann.send(verb, f"/{word}{rest}", body)
        told = refused(answer, "INVALID_FIELD", 400)
        assert told.violations == ["subscription_id"]

    def test_without_a_token_there_is_the_list_of_plans_alone(
        self, running: Stack
    ) -> None:
        key = running.api_key("usage.write", "entitlements.check", "users.read")
        paths = [(verb, f"/{uuid4()}{rest}", body) for verb, rest, body in NAMING]
        paths += [("GET", "", None), ("POST", "", {"plan_id": "basic"})]
        paths += [("GET", "/current", None), ("GET", "/usage", None)]
        for verb, path, body in paths:
            call = (verb, SUBSCRIPTIONS + path, body)
            answer = running.public.call(*call)
            refused(answer, "CREDENTIALS_MISSING", 401)
            answer = running.internal.call(*call, api_key=key)
            refused(answer, "PERMISSION_DENIED", 403)
