"""Access tokens: what they say, who can verify them, and until when they are good."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from pourtier.v1 import auth_service_pb2 as pb
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import refusal
from support.proofs import send
from support.service import Service
from support.tokens import encoded, me, parts


def jwks(service: Service) -> list[dict[str, str]]:
    """The published keys, as JSON would show them."""
    response = service.api.call(service.api.auth.GetJwks, pb.GetJwksRequest())
    return [
        {field.name: value for field, value in key.ListFields()}
        for key in response.keys
    ]


def expiry(token: str) -> datetime:
    return datetime.fromtimestamp(parts(token)[1]["exp"], UTC)


def test_a_token_names_the_user_the_wallet_and_the_session(shared: Service) -> None:
    wallet, registered = shared.registered(wallet_type="phantom")
    header, claims = parts(registered.tokens.access_token)
    user = registered.user
    assert claims == {
        "iss": shared.settings.jwt_issuer,
        "aud": shared.settings.jwt_audience,
        "sub": user.user_id,
        "user_id": user.user_id,
        "wallet_address": wallet.address,
        "wallet_type": "phantom",
        "roles": [],
        "sid": registered.tokens.session_id,
        "jti": claims["jti"],
        "iat": int(shared.clock.now().timestamp()),
        "exp": claims["iat"] + 30 * 60,
    }
    assert UUID(claims["jti"])
    assert set(header) == {"alg", "kid", "typ"}
    assert (header["alg"], header["typ"]) == ("EdDSA", "at+jwt")
    assert UUID(registered.tokens.session_id).version == 7


def test_the_answer_says_how_long_the_token_is_good(shared: Service) -> None:
    tokens = shared.registered()[1].tokens
    assert tokens.token_type == "Bearer"
    left = expiry(tokens.access_token) - shared.clock.now()
    assert tokens.expires_in == int(left.total_seconds())
    assert 30 * 60 - 1 <= tokens.expires_in <= 30 * 60


def test_the_roles_in_a_token_are_those_of_its_issue(shared: Service) -> None:
    wallet, registered = shared.registered()
    shared.sql.run(
        "UPDATE users SET roles = '{admin}' WHERE user_id = %s", registered.user.user_id
    )
    tokens = shared.api.login(wallet).tokens
    assert parts(tokens.access_token)[1]["roles"] == ["admin"]
    assert list(me(shared.api, tokens.access_token).roles) == ["admin"]


def test_two_sessions_and_two_generations_have_tokens_of_different_names(
    shared: Service,
) -> None:
    wallet, registered = shared.registered()
    tokens = [registered.tokens, shared.api.login(wallet).tokens]
    shared.clock.move(seconds=11)
    tokens.append(shared.api.refresh(tokens[0].refresh_token))
    assert len({parts(each.access_token)[1]["jti"] for each in tokens}) == 3


def test_whoever_has_the_published_key_can_verify_a_token(shared: Service) -> None:
    token = shared.registered()[1].tokens.access_token
    published, following = jwks(shared)
    assert published["kid"] != following["kid"]
    header = jwt.get_unverified_header(token)
    assert published["kid"] == header["kid"]
    claims = jwt.decode(
        token,
        jwt.PyJWK(published),
        algorithms=["EdDSA"],
        issuer=shared.settings.jwt_issuer,
        audience=shared.settings.jwt_audience,
        # The clock of this service may have been moved.
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims["sub"]


@pytest.mark.parametrize("number", [0, 1], ids=["the signing one", "the next"])
def test_a_key_is_published_without_its_secret_under_its_thumbprint(
    shared: Service, number: int
) -> None:
    published = jwks(shared)[number]
    assert set(published) == {"kty", "crv", "x", "kid", "alg", "use"}
    assert (published["kty"], published["crv"]) == ("OKP", "Ed25519")
    assert (published["alg"], published["use"]) == ("EdDSA", "sig")
    required = {name: published[name] for name in ("crv", "kty", "x")}
    canonical = json.dumps(required, sort_keys=True, separators=(",", ":"))
    thumbprint = encoded(hashlib.sha256(canonical.encode()).digest())  # RFC 7638
    assert published["kid"] == thumbprint


def test_a_token_is_good_for_thirty_minutes_and_not_a_second_more(
    own: Service, wallet: DevWallet
) -> None:
    token = own.api.register(wallet).tokens.access_token
    left = expiry(token) - own.clock.now()
    own.clock.move(seconds=left.total_seconds() - 0.001)
    assert me(own.api, token).wallet_address == wallet.address
    own.clock.move(seconds=0.001)
    with refusal("TOKEN_EXPIRED", StatusCode.UNAUTHENTICATED) as caught:
        me(own.api, token)
    assert caught[0].metadata == {}


def test_no_token_outlives_its_session(own: Service, wallet: DevWallet) -> None:
    tokens = own.api.register(wallet).tokens
    end = own.clock.now() + timedelta(days=90)
    for _ in range(3):
        own.clock.move(days=29.99)
        tokens = own.api.refresh(tokens.refresh_token)
    own.clock.move(seconds=(end - own.clock.now()).total_seconds() - 300)
    tokens = own.api.refresh(tokens.refresh_token)
    assert end - timedelta(seconds=1) <= expiry(tokens.access_token) <= end
    assert 298 <= tokens.expires_in <= 300
    assert me(own.api, tokens.access_token)
    own.clock.move(seconds=300)
    with refusal("TOKEN_EXPIRED"):
        me(own.api, tokens.access_token)
    with refusal("SESSION_ENDED") as caught:
        own.api.refresh(tokens.refresh_token)
    assert caught[0].metadata == {"cause": "EXPIRED"}


@pytest.mark.parametrize("rpc", ["GetMe", "Login", "RefreshToken"])
def test_a_suspension_takes_effect_at_once(
    own: Service, wallet: DevWallet, rpc: str
) -> None:
    registered = own.api.register(wallet)
    tokens, user_id = registered.tokens, registered.user.user_id
    calls: dict[str, Callable[[], Message]] = {
        "GetMe": lambda: me(own.api, tokens.access_token),
        "Login": lambda: own.api.login(wallet),
        "RefreshToken": lambda: own.api.refresh(tokens.refresh_token),
    }
    own.clock.move(minutes=1)
    own.sql.run("UPDATE users SET status = 2 WHERE user_id = %s", user_id)
    before = own.sql.everything()
    with refusal("USER_SUSPENDED", StatusCode.PERMISSION_DENIED) as caught:
        calls[rpc]()
    assert caught[0].metadata == {}
    assert own.sql.everything() == before
    own.sql.run("UPDATE users SET status = 1 WHERE user_id = %s", user_id)
    assert calls[rpc]()


def test_an_ended_session_has_no_good_token_left(own: Service) -> None:
    wallet, registered = own.registered()
    other = own.api.login(wallet).tokens
    own.sql.run(
        "UPDATE sessions SET end_time = now(), end_cause = 'LOGOUT' "
        "WHERE session_id = %s",
        registered.tokens.session_id,
    )
    with refusal("SESSION_ENDED", StatusCode.UNAUTHENTICATED) as caught:
        me(own.api, registered.tokens.access_token)
    assert caught[0].metadata == {"cause": "LOGOUT"}
    assert me(own.api, other.access_token) == registered.user


@pytest.mark.parametrize("rpc", ["Register", "Login"])
def test_tokens_of_a_sign_in_belong_to_who_signed(
    shared: Service, wallet: DevWallet, rpc: str
) -> None:
    if rpc == "Login":
        shared.api.register(wallet)
    response = send(shared, rpc, shared.api.proof(wallet))
    assert me(shared.api, response.tokens.access_token) == response.user
