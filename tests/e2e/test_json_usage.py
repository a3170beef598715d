"""What plans allow and what is used of them, over JSON: on the internal listener alone.

What people see of their own is in `test_json_subscriptions`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from support.billing import granted
from support.callers import admin
from support.json_api import JsonApi, answered, refused
from support.json_people import Subscriber, subscriber
from support.scrapes import scrape
from support.servers import Databases
from support.stack import Stack, stack
from support.threads import tell

CHECK, CHECK_ALL = "/api/entitlements:check", "/api/entitlements:batchCheck"
RESERVE, COMMIT, RELEASE = (
    "/api/usage:reserve",
    "/api/usage:commit",
    "/api/usage:release",
)
RESERVATIONS = "/api/usage/reservations"
STRATEGIES, BACKTESTS = "running_strategies", "backtests"
SCOPES = ("usage.write", "entitlements.check")
SLASHES = pytest.mark.parametrize("slash", ["", "/"])
MANY = 10_000
# What the internal listener takes in.
LIMIT_BYTES = 1024 * 1024


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str) -> Iterator[Stack]:
    with stack(databases, redis_url) as made:
        yield made


class Meter:
    """A service that takes places and asks what users may use."""

    def __init__(self, web: JsonApi, api_key: str) -> None:
        self._web, self._api_key = web, api_key

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self._web.call(
            "POST", path, body, api_key=self._api_key, headers=headers
        )

    def reserve(self, user_id: str, metric: str = STRATEGIES, **more: Any) -> Any:
        """The place that is taken."""
        body = {"user_id": user_id, "metric": metric, **more}
        return answered(self.post(RESERVE, body))["reservation"]

    def place(self, user_id: str, metric: str = STRATEGIES) -> dict[str, str]:
        """The body that names a place that is taken."""
        made = self.reserve(user_id, metric)
        return {"reservation_id": made["reservation_id"]}

    def held(self, slash: str = "", **query: Any) -> httpx.Response:
        path = RESERVATIONS + slash
        return self._web.call("GET", path, api_key=self._api_key, params=query)


@pytest.fixture(scope="module")
def key(running: Stack) -> str:
    return running.api_key(*SCOPES)


@pytest.fixture(scope="module")
def meter(running: Stack, key: str) -> Meter:
    return Meter(running.internal, key)


@pytest.fixture
def free(running: Stack) -> Subscriber:
    return subscriber(running)


@pytest.fixture
def ann(running: Stack) -> Subscriber:
    """Somebody with the plan basic."""
    made = subscriber(running)
    granted(running, made.user_id)
    return made


def tier(**asked: str) -> dict[str, Any]:
    told = {"current_plan": "free", "required_plan": "basic", **asked}
    return {
        "reason": "TIER_INSUFFICIENT",
        "metadata": told,
        "remedy": "REMEDY_CHANGE_PLAN",
    }


class TestEntitlements:
    @SLASHES
    def test_a_feature_and_a_metric(
        self, meter: Meter, ann: Subscriber, slash: str
    ) -> None:
        body = {
            "user_id": ann.user_id,
            "feature": "live_metrics",
            "consistency": "CONSISTENCY_FULLY_CONSISTENT",
        }
        answer = answered(meter.post(CHECK + slash, body))
        assert answer == {"allowed": True, "denials": [], "plan_id": "basic"}
        body = {"user_id": ann.user_id, "metric": STRATEGIES}
        assert answered(meter.post(CHECK + slash, body)) == {
            "allowed": True,
            "denials": [],
            "plan_id": "basic",
            "usage": {
                "metric": STRATEGIES,
                "used": 0,
                "reserved": 0,
                "limit": 1,
                "remaining": 1,
            },
        }

    @SLASHES
    def test_every_denial_and_remedy_is_there_by_name(
        self,
        running: Stack,
        meter: Meter,
        ann: Subscriber,
        free: Subscriber,
        slash: str,
    ) -> None:
        meter.reserve(ann.user_id)
        suspended, nobody = subscriber(running).user_id, str(uuid4())
        boss = admin(running)
        path, why = f"/api/users/{suspended}:suspend", {"reason": "fraud"}
        answered(running.public.call("POST", path, why, bearer=boss.bearer))
        questions = [
            {"user_id": ann.user_id, "metric": STRATEGIES},
            {"user_id": free.user_id, "feature": "live_metrics"},
            {"user_id": suspended, "feature": "backtesting"},
            {"user_id": nobody, "metric": BACKTESTS},
        ]
        answer = answered(meter.post(CHECK_ALL + slash, {"questions": questions}))
        results = answer["results"]
        assert [each["user_id"] for each in results] == [
            each["user_id"] for each in questions
        ]
        assert [each["denials"] for each in results] == [
            [
                {
                    "reason": "QUOTA_EXCEEDED",
                    "metadata": {"metric": STRATEGIES, "used": "1", "limit": "1"},
                    "remedy": "REMEDY_FREE_QUOTA",
                }
            ],
            [tier(feature="live_metrics")],
            [
                {
                    "reason": "USER_SUSPENDED",
                    "metadata": {},
                    "remedy": "REMEDY_CONTACT_SUPPORT",
                }
            ],
            [
                {
                    "reason": "USER_NOT_FOUND",
                    "metadata": {"user_id": nobody},
                    "remedy": "REMEDY_REGISTER",
                }
            ],
        ]
        for question, wanted in zip(questions, results, strict=True):
            alone = answered(meter.post(CHECK + slash, question))
            assert {"user_id": question["user_id"], **alone} == wanted

    def test_a_feature_that_nobody_knows(self, meter: Meter, ann: Subscriber) -> None:
        body = {"user_id": ann.user_id, "feature": "teleport"}
        told = refused(meter.post(CHECK, body), "UNKNOWN_FEATURE", 400)
        assert told.metadata == {"feature": "teleport"}
        assert told.violations == ["feature"]
        answer = meter.post(CHECK_ALL, {"questions": [body]})
        told = refused(answer, "UNKNOWN_FEATURE", 400)
        assert told.violations == ["questions[0].feature"]

    @pytest.mark.parametrize(
        ("path", "body", "reason", "field"),
        [
            (CHECK, {}, "INVALID_FIELD", "user_id"),
            (CHECK, {"user_id": str(uuid4())}, "INVALID_FIELD", "asked"),
            (
                CHECK,
                {"user_id": str(uuid4()), "metric": "devices"},
                "INVALID_FIELD",
                "metric",
            ),
            (
                CHECK,
                {"user_id": str(uuid4()), "metric": BACKTESTS, "feature": "x"},
                "MALFORMED_REQUEST",
                None,
            ),
            (CHECK, {"user_id": 7}, "MALFORMED_REQUEST", None),
            (CHECK_ALL, {}, "INVALID_FIELD", "questions"),
            (CHECK_ALL, {"questions": [{}]}, "INVALID_FIELD", "questions[0].user_id"),
            (CHECK_ALL, {"questions": "all"}, "MALFORMED_REQUEST", None),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_cannot_be_asked(
        self, meter: Meter, path: str, body: Any, reason: str, field: str | None
    ) -> None:
        told = refused(meter.post(path, body), reason, 400)
        assert field is None or field in told.violations


class TestTenThousand:
    def test_they_are_asked_and_answered_at_once(
        self, meter: Meter, free: Subscriber
    ) -> None:
        # Of all that can be asked what is longest, by name and in the answer.
        question = {"user_id": free.user_id, "metric": STRATEGIES}
        body = {"questions": [question] * MANY}
        # With a space after each comma and colon, as some encoders write.
        size = len(json.dumps(body))
        assert size < LIMIT_BYTES
        answer = meter.post(CHECK_ALL, body)
        results = answered(answer)["results"]
        assert len(results) == MANY
        assert all(each["denials"] == [tier(metric=STRATEGIES)] for each in results)
        tell(f"{MANY:,} questions: {size:,} bytes, and {len(answer.content):,} back")

    def test_one_more_is_refused_and_so_is_what_is_too_long(
        self, meter: Meter, free: Subscriber
    ) -> None:
        question = {"user_id": free.user_id, "metric": BACKTESTS}
        answer = meter.post(CHECK_ALL, {"questions": [question] * (MANY + 1)})
        assert refused(answer, "INVALID_FIELD", 400).violations == ["questions"]
        longest = {"user_id": free.user_id, "feature": "f" * 64}
        answer = meter.post(CHECK_ALL, {"questions": [longest] * MANY})
        told = refused(answer, "REQUEST_TOO_LARGE", 413)
        assert told.metadata == {"limit_bytes": str(LIMIT_BYTES)}


class TestPlaces:
    @SLASHES
    def test_one_is_taken_held_and_given_back(
        self, meter: Meter, ann: Subscriber, slash: str
    ) -> None:
        body = {
            "user_id": ann.user_id,
            "metric": STRATEGIES,
            "ttl": "60s",
            "reference": "strategy-7",
        }
        made = answered(meter.post(RESERVE + slash, body))
        reservation = made["reservation"]
        assert made == {
            "reservation": {
                "reservation_id": reservation["reservation_id"],
                "user_id": ann.user_id,
                "metric": STRATEGIES,
                "state": "RESERVATION_STATE_RESERVED",
                "reference": "strategy-7",
                "create_time": reservation["create_time"],
                "expire_time": reservation["expire_time"],
            },
            "usage": {
                "metric": STRATEGIES,
                "used": 1,
                "reserved": 1,
                "limit": 1,
                "remaining": 0,
            },
        }
        it = {"reservation_id": reservation["reservation_id"]}
        committed = answered(meter.post(COMMIT + slash, it))["reservation"]
        assert committed == {
            **reservation,
            "state": "RESERVATION_STATE_COMMITTED",
            "commit_time": committed["commit_time"],
        }
        used, _ = answered(ann.get("/usage"))["usage"]
        assert (used["used"], used["reserved"]) == (1, 0)
        (held,) = answered(meter.held(slash, user_id=ann.user_id))["reservations"]
        assert held == committed
        released = answered(meter.post(RELEASE + slash, it))["reservation"]
        assert released["state"] == "RESERVATION_STATE_RELEASED"
        assert answered(meter.held(user_id=ann.user_id))["reservations"] == []

    def test_without_room_it_is_told_as_an_exhausted_quota_and_not_tried_again(
        self, running: Stack, meter: Meter, ann: Subscriber
    ) -> None:
        place = meter.place(ann.user_id)
        calls = "pourtier_grpc_calls_total"
        method = {"method": "ReserveUsage", "front": "edge"}
        before = scrape(running.server.metrics_port).total(calls, **method)
        body = {"user_id": ann.user_id, "metric": STRATEGIES}
        key = {"idempotency-key": f"again-{ann.user_id}"}
        told = refused(meter.post(RESERVE, body, **key), "QUOTA_EXCEEDED", 429)
        assert told.metadata == {"metric": STRATEGIES, "used": "1", "limit": "1"}
        assert told.quotas == [
            {
                "subject": f"user:{ann.user_id}",
                "description": "the plan basic has 1 running_strategies",
                "api_service": "",
                "quota_metric": STRATEGIES,
                "quota_id": "",
                "quota_dimensions": {},
                "quota_value": "1",
            }
        ]
        # It is no matter of time: whoever waits has gained nothing.
        assert told.retry_seconds is None
        after = scrape(running.server.metrics_port).total(calls, **method)
        assert after - before == 1
        answered(meter.post(RELEASE, place))
        first = answered(meter.post(RESERVE, body, **key))
        again = meter.post(RESERVE, body, **key)
        assert answered(again) == first
        assert again.headers["idempotency-replayed"] == "true"

    def test_what_the_plan_has_none_of(self, meter: Meter, free: Subscriber) -> None:
        body = {"user_id": free.user_id, "metric": STRATEGIES}
        told = refused(meter.post(RESERVE, body), "TIER_INSUFFICIENT", 400)
        assert told.metadata == tier(metric=STRATEGIES)["metadata"]

    def test_nobody_and_a_suspended_one_get_none(
        self, running: Stack, meter: Meter, ann: Subscriber
    ) -> None:
        nobody = str(uuid4())
        answer = meter.post(RESERVE, {"user_id": nobody, "metric": BACKTESTS})
        told = refused(answer, "USER_NOT_FOUND", 404)
        assert told.metadata == {"user_id": nobody}
        running.sql.run("UPDATE users SET status = 2 WHERE user_id = %s", ann.user_id)
        answer = meter.post(RESERVE, {"user_id": ann.user_id, "metric": BACKTESTS})
        refused(answer, "USER_SUSPENDED", 403)

    def test_what_has_lapsed_was_given_back_or_never_was(
        self, running: Stack, meter: Meter, ann: Subscriber
    ) -> None:
        lapsed = meter.place(ann.user_id)
        running.clock.move(minutes=5)
        other = meter.place(ann.user_id)
        told = refused(meter.post(COMMIT, lapsed), "RESERVATION_LAPSED", 400)
        assert told.metadata == lapsed
        answered(meter.post(RELEASE, other))
        told = refused(meter.post(COMMIT, other), "RESERVATION_RELEASED", 400)
        assert told.metadata == other
        nothing = {"reservation_id": str(uuid4())}
        for path in (COMMIT, RELEASE):
            told = refused(meter.post(path, nothing), "RESERVATION_NOT_FOUND", 404)
            assert told.metadata == nothing

    def test_a_service_lists_what_it_holds(
        self, running: Stack, meter: Meter, free: Subscriber
    ) -> None:
        made = [meter.reserve(free.user_id, BACKTESTS) for _ in range(3)]
        mine = {"user_id": free.user_id, "metric": BACKTESTS}
        first = answered(meter.held(page_size=2, **mine))
        token = first["next_page_token"]
        rest = answered(meter.held(page_token=token, **mine))
        found = [*first["reservations"], *rest["reservations"]]
        assert found == made[::-1]
        assert rest["next_page_token"] == ""
        refused(meter.held(page_token=token), "INVALID_PAGE_TOKEN", 400)
        told = refused(meter.held(page_size=-1, user_id="me"), "INVALID_FIELD", 400)
        assert set(told.violations) == {"page_size", "user_id"}
        assert answered(meter.held(**{**mine, "metric": STRATEGIES})) == {
            "reservations": [],
            "next_page_token": "",
        }

    @pytest.mark.parametrize(
        ("path", "body", "reason", "field"),
        [
            (RESERVE, {}, "INVALID_FIELD", "metric"),
            (RESERVE, {"metric": "devices"}, "INVALID_FIELD", "metric"),
            (RESERVE, {"ttl": "0.5s"}, "INVALID_FIELD", "ttl"),
            (RESERVE, {"ttl": "3601s"}, "INVALID_FIELD", "ttl"),
            (RESERVE, {"reference": "r" * 129}, "INVALID_FIELD", "reference"),
            (RESERVE, {"ttl": "5 minutes"}, "MALFORMED_REQUEST", None),
            (COMMIT, {}, "INVALID_FIELD", "reservation_id"),
            (RELEASE, {"reservation_id": "mine"}, "INVALID_FIELD", "reservation_id"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_request_that_is_none(
        self, meter: Meter, path: str, body: Any, reason: str, field: str | None
    ) -> None:
        told = refused(meter.post(path, body), reason, 400)
        assert field is None or field in told.violations


CALLS: list[tuple[str, str, str, Any]] = [
    ("entitlements.check", "POST", CHECK, {"metric": BACKTESTS}),
    ("entitlements.check", "POST", CHECK_ALL, {"questions": []}),
    ("usage.write", "POST", RESERVE, {"metric": BACKTESTS}),
    ("usage.write", "POST", COMMIT, {"reservation_id": str(uuid4())}),
    ("usage.write", "POST", RELEASE, {"reservation_id": str(uuid4())}),
    ("usage.write", "GET", RESERVATIONS, None),
]


@pytest.mark.parametrize(("scope", "verb", "path", "body"), CALLS)
def test_only_a_service_with_the_scope_may_on_the_internal_listener(
    running: Stack,
    key: str,
    free: Subscriber,
    scope: str,
    verb: str,
    path: str,
    body: Any,
) -> None:
    answer = running.public.call(verb, path, body, api_key=key)
    assert refused(answer, "METHOD_NOT_FOUND", 404).metadata == {"method": path}
    web = running.internal
    refused(web.call(verb, path, body), "CREDENTIALS_MISSING", 401)
    answer = web.call(verb, path, body, bearer=free.bearer)
    refused(answer, "PERMISSION_DENIED", 403)
    other = running.api_key(*({*SCOPES, "users.read"} - {scope}))
    refused(web.call(verb, path, body, api_key=other), "PERMISSION_DENIED", 403)
