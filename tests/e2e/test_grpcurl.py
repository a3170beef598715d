"""An engineer at a terminal: grpcurl, with reflection and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pourtier.v1 import user_service_pb2
from pourtier_grpc.devtools.wallet import DevWallet
from support.commands import ROOT, pourtier, run
from support.rpcs import contract_services
from support.servers import Databases
from support.stack import Stack, stack

GRPCURL = ROOT / ".tools" / "grpcurl"


@pytest.fixture(scope="module", autouse=True)
def _grpcurl_is_there() -> None:
    if not GRPCURL.exists():
        if os.environ.get("CI"):
            pytest.fail("grpcurl has not been built: `make tools`")
        pytest.skip("grpcurl has not been built: `make tools`")


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str) -> Iterator[Stack]:
    with stack(databases, redis_url) as made:
        yield made


@pytest.fixture(params=["native", "internal"])
def target(request: pytest.FixtureRequest, running: Stack) -> str:
    """The service's own port, and the internal listener of its edge."""
    if request.param == "native":
        return running.native
    return running.internal.http.base_url.netloc.decode()


def grpcurl(*words: str) -> subprocess.CompletedProcess[str]:
    return run(GRPCURL, "-plaintext", "-max-time", "10", *words)


def printed(*words: str) -> str:
    done = grpcurl(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_lists_the_services(target: str) -> None:
    listed = set(printed(target, "list").split())
    assert {service.full_name for service in contract_services()} <= listed
    assert "grpc.health.v1.Health" in listed
    methods = printed(target, "list", "pourtier.v1.UserService").split()
    names = user_service_pb2.DESCRIPTOR.services_by_name["UserService"].methods_by_name
    assert set(methods) == {f"pourtier.v1.UserService.{name}" for name in names}


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        (
            "pourtier.v1.AuthService",
            [
                "// Signing in by wallet, and the tokens that follow from it.",
                '(.google.api.http) = { post: "/api/auth/login", body: "*" }',
            ],
        ),
        (
            "pourtier.v1.UserService.UpdateMe",
            [
                "// Changes the caller's own profile",
                "rpc UpdateMe ( .pourtier.v1.UpdateMeRequest )",
                "allow: [ { user: { } } ]",
            ],
        ),
        (
            "pourtier.v1.SubscriptionService.CreateSubscription",
            [
                "// Subscribes to a plan, and pays its first month",
                "OUTCOME_UNKNOWN and DEADLINE_EXCEEDED leave open whether",
                "calls_passeur: true",
            ],
        ),
        (
            ".pourtier.v1.RefreshTokenRequest",
            ["// The refresh token.", "max_len: 512", "REQUIRED"],
        ),
        (
            ".pourtier.v1.ErrorReason",
            ["// Why a call was refused.", "ERROR_REASON_NONCE_CONSUMED = 49"],
        ),
    ],
)
def test_it_describes_with_the_comments(
    target: str, symbol: str, expected: list[str]
) -> None:
    described = printed(target, "describe", symbol)
    assert not [text for text in expected if text not in described]


def test_the_public_listener_says_at_once_that_it_does_not_reflect(
    running: Stack,
) -> None:
    public = running.public.http.base_url.netloc.decode()
    before = time.monotonic()
    refused = grpcurl(public, "list")
    assert refused.returncode != 0
    assert "server does not support the reflection API" in refused.stderr
    assert time.monotonic() - before < 5


def test_it_calls_what_anybody_may(target: str, wallet: DevWallet) -> None:
    status = json.loads(printed(target, "pourtier.v1.StatusService/GetStatus"))
    assert status["status"] == "healthy"
    body = json.dumps({"wallet_address": wallet.address})
    method = "pourtier.v1.AuthService/CreateChallenge"
    challenge = json.loads(printed("-d", body, target, method))
    assert wallet.address in challenge["message"]
    health = printed(target, "grpc.health.v1.Health/Check")
    assert json.loads(health) == {"status": "SERVING"}


def test_it_calls_with_the_token_of_a_wallet(
    running: Stack, target: str, tmp_path: Path
) -> None:
    DevWallet.generate().save(tmp_path / "wallet.json")
    words = ("--target", running.native, "--wallet", tmp_path / "wallet.json")
    signed_in = pourtier("wallet", "sign-in", *words)
    assert signed_in.returncode == 0, signed_in.stderr
    bearer = f"authorization: Bearer {signed_in.stdout.strip()}"
    get_me = ("-H", bearer, target, "pourtier.v1.UserService/GetMe")
    me = json.loads(printed(*get_me))
    assert me["walletAddress"] == DevWallet.load(tmp_path / "wallet.json").address
    assert me["walletType"] == "pourtier-cli"


def test_it_calls_what_only_a_service_may(running: Stack, target: str) -> None:
    header = f"x-api-key: {running.api_key('auth.introspect')}"
    body = json.dumps({"token": running.public.bearer()})
    words = ("-H", header, "-d", body, target)
    told = json.loads(printed(*words, "pourtier.v1.AuthService/IntrospectToken"))
    assert told["active"] is True


def test_it_asks_what_a_plan_allows_and_takes_a_place(
    running: Stack, target: str
) -> None:
    user_id = running.public.register(DevWallet.generate())["user"]["user_id"]
    header = f"x-api-key: {running.api_key('entitlements.check', 'usage.write')}"
    service = "pourtier.v1.SubscriptionService"
    plans = json.loads(printed(target, f"{service}/ListPlans"))["plans"]
    assert [each["planId"] for each in plans] == ["free", "basic", "pro"]
    body = json.dumps({"user_id": user_id, "feature": "live_metrics"})
    words = ("-H", header, "-d", body, target)
    told = json.loads(printed(*words, f"{service}/CheckEntitlement"))
    assert told["denials"][0]["metadata"]["required_plan"] == "basic"
    body = json.dumps({"user_id": user_id, "metric": "running_strategies"})
    words = ("-H", header, "-d", body, target)
    detail = details(grpcurl("-format-error", *words, f"{service}/ReserveUsage"))
    assert detail["reason"] == "TIER_INSUFFICIENT"
    body = json.dumps({"user_id": user_id, "metric": "backtests", "ttl": "60s"})
    words = ("-H", header, "-d", body, target)
    made = json.loads(printed(*words, f"{service}/ReserveUsage"))
    assert made["reservation"]["state"] == "RESERVATION_STATE_RESERVED"


def details(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The first detail of an error that grpcurl has written as JSON."""
    assert done.returncode != 0
    first: dict[str, Any] = json.loads(done.stderr)["details"][0]
    return first


def test_it_shows_errors_with_their_details(target: str) -> None:
    refused = grpcurl(target, "pourtier.v1.UserService/GetMe")
    assert refused.returncode != 0
    for words in ("Unauthenticated", "google.rpc.ErrorInfo", "CREDENTIALS_MISSING"):
        assert words in refused.stderr
    body = json.dumps({"chain": "dogecoin"})
    method = "pourtier.v1.AuthService/CreateChallenge"
    detail = details(grpcurl("-format-error", "-d", body, target, method))
    assert detail["reason"] == "UNSUPPORTED_CHAIN"
    assert detail["metadata"] == {"chain": "dogecoin", "supported": "solana"}


def test_a_field_that_does_not_exist_is_refused_by_the_schema(target: str) -> None:
    method = "pourtier.v1.AuthService/Login"
    refused = grpcurl("-d", '{"wallet_adress": "x"}', target, method)
    assert refused.returncode != 0
    assert "wallet_adress" in refused.stderr
