"""The one credential of a call: how many, of what kind, and who looks at it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from grpc import StatusCode

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import status_service_pb2 as status_pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import refusal
from support.service import Service

Metadata = list[tuple[str, str]]


@pytest.fixture(scope="module")
def token(shared: Service) -> str:
    return shared.registered()[1].tokens.access_token


def call_me(service: Service, metadata: Metadata) -> Any:
    return service.api.call(service.api.users.GetMe, user_pb.GetMeRequest(), *metadata)


@pytest.mark.parametrize(
    "template",
    ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {}", "Bearer {}  "],
)
def test_the_scheme_is_read_in_any_case(
    shared: Service, token: str, template: str
) -> None:
    assert call_me(shared, [("authorization", template.format(token))]).user_id


@pytest.mark.parametrize(
    ("reason", "code", "metadata"),
    [
        ("CREDENTIALS_MISSING", StatusCode.UNAUTHENTICATED, []),
        ("TOKEN_INVALID", StatusCode.UNAUTHENTICATED, [("authorization", "")]),
        ("TOKEN_INVALID", StatusCode.UNAUTHENTICATED, [("authorization", "Bearer")]),
        ("TOKEN_INVALID", StatusCode.UNAUTHENTICATED, [("authorization", "Bearer ")]),
        ("TOKEN_INVALID", StatusCode.UNAUTHENTICATED, [("authorization", "{}")]),
        ("TOKEN_INVALID", StatusCode.UNAUTHENTICATED, [("authorization", "Basic {}")]),
        (
            "TOKEN_INVALID",
            StatusCode.UNAUTHENTICATED,
            [("authorization", "Bearer Bearer {}")],
        ),
        ("API_KEY_INVALID", StatusCode.UNAUTHENTICATED, [("x-api-key", "{}")]),
        ("API_KEY_INVALID", StatusCode.UNAUTHENTICATED, [("x-api-key", "")]),
        (
            "MULTIPLE_CREDENTIALS",
            StatusCode.INVALID_ARGUMENT,
            [("authorization", "Bearer {}"), ("x-api-key", "a-key")],
        ),
        (
            "MULTIPLE_CREDENTIALS",
            StatusCode.INVALID_ARGUMENT,
            [("authorization", "Bearer {}"), ("x-api-key", "")],
        ),
        (
            "MULTIPLE_CREDENTIALS",
            StatusCode.INVALID_ARGUMENT,
            [("authorization", "Bearer {}"), ("authorization", "Bearer {}")],
        ),
        (
            "MULTIPLE_CREDENTIALS",
            StatusCode.INVALID_ARGUMENT,
            [("authorization", "Bearer {}"), ("authorization", "Basic abc")],
        ),
        (
            "MULTIPLE_CREDENTIALS",
            StatusCode.INVALID_ARGUMENT,
            [("x-api-key", "one"), ("x-api-key", "two")],
        ),
    ],
)
def test_a_call_needs_one_credential_of_a_known_kind(
    shared: Service, token: str, reason: str, code: StatusCode, metadata: Metadata
) -> None:
    sent = [(key, value.replace("{}", token)) for key, value in metadata]
    with refusal(reason, code) as caught:
        call_me(shared, sent)
    assert caught[0].metadata == {}


def test_binary_metadata_is_no_credential(shared: Service, token: str) -> None:
    binary: Any = ("authorization-bin", f"Bearer {token}".encode())
    with refusal("CREDENTIALS_MISSING"):
        call_me(shared, [binary])


def logout(service: Service, wallet: DevWallet) -> Any:
    tokens = service.api.register(wallet).tokens
    return pb.LogoutRequest(refresh_token=tokens.refresh_token)


def refresh(service: Service, wallet: DevWallet) -> Any:
    tokens = service.api.register(wallet).tokens
    return pb.RefreshTokenRequest(refresh_token=tokens.refresh_token)


def login(service: Service, wallet: DevWallet) -> Any:
    service.api.register(wallet)
    return pb.LoginRequest(**service.api.proof(wallet))


PUBLIC: dict[str, Callable[[Service, DevWallet], Any]] = {
    "CreateChallenge": lambda service, wallet: pb.CreateChallengeRequest(),
    "VerifyWallet": lambda service, wallet: pb.VerifyWalletRequest(
        **service.api.proof(wallet)
    ),
    "Register": lambda service, wallet: pb.RegisterRequest(
        **service.api.proof(wallet), wallet_type="test"
    ),
    "Login": login,
    "RefreshToken": refresh,
    "GetJwks": lambda service, wallet: pb.GetJwksRequest(),
}
IGNORED: list[Metadata] = [
    [("authorization", "Bearer garbage")],
    [("authorization", "Basic garbage"), ("x-api-key", "garbage")],
    [("authorization", ""), ("authorization", "x"), ("x-api-key", "~")],
]


@pytest.mark.parametrize("rpc", PUBLIC)
@pytest.mark.parametrize("metadata", IGNORED, ids=["bearer", "two", "three"])
def test_public_methods_ignore_credentials(
    shared: Service, wallet: DevWallet, rpc: str, metadata: Metadata
) -> None:
    request = PUBLIC[rpc](shared, wallet)
    assert shared.api.call(getattr(shared.api.auth, rpc), request, *metadata)


@pytest.mark.parametrize("metadata", IGNORED, ids=["bearer", "two", "three"])
def test_the_status_ignores_credentials(shared: Service, metadata: Metadata) -> None:
    request = status_pb.GetStatusRequest()
    assert shared.api.call(shared.api.status.GetStatus, request, *metadata)


@pytest.mark.parametrize("sent", ["Bearer garbage", "Basic garbage", ""])
def test_logout_with_a_refresh_token_does_not_look_at_the_access_token(
    shared: Service, wallet: DevWallet, sent: str
) -> None:
    request = logout(shared, wallet)
    shared.api.call(shared.api.auth.Logout, request, ("authorization", sent))
    with refusal("SESSION_ENDED"):
        shared.api.refresh(request.refresh_token)
