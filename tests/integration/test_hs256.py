"""Access tokens with HS256, as the platform's older configuration has it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc import StatusCode

from pourtier.v1 import auth_service_pb2 as pb
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import refusal
from support.servers import Databases
from support.service import Service, running, service
from support.tokens import me, parts, unsigned, with_ed25519, with_hmac

SECRET = "a-shared-secret-of-more-than-32-bytes"


@pytest.fixture(scope="module")
def shared(databases: Databases) -> Iterator[Service]:
    """A service that signs with HS256."""
    with service(
        databases, jwt_algorithm="HS256", jwt_secret_key=SECRET
    ) as with_secret:
        yield with_secret


@pytest.fixture(scope="module")
def eddsa(shared: Service) -> Iterator[Service]:
    """A service with the same database and the same keys that signs with EdDSA."""
    url = shared.settings.database_url
    assert url is not None
    with running(url.get_secret_value(), key_dir=shared.settings.keys) as plain:
        yield plain


def test_tokens_under_a_shared_secret_work(shared: Service) -> None:
    wallet, registered = shared.registered()
    tokens = registered.tokens
    assert parts(tokens.access_token)[0]["alg"] == "HS256"
    # The platform's older services verify it so.
    claims = jwt.decode(
        tokens.access_token, SECRET, algorithms=["HS256"], audience="lumiere"
    )
    assert claims["sub"] == registered.user.user_id
    assert me(shared.api, tokens.access_token) == registered.user
    refreshed = shared.api.refresh(tokens.refresh_token)
    assert me(shared.api, refreshed.access_token).wallet_address == wallet.address


def test_a_shared_secret_is_not_published(shared: Service) -> None:
    answer = shared.api.call(shared.api.auth.GetJwks, pb.GetJwksRequest())
    assert list(answer.keys) == []


def test_the_configuration_decides_which_tokens_are_good(
    shared: Service, eddsa: Service
) -> None:
    wallet, registered = shared.registered()
    here, there = registered.tokens, eddsa.api.login(wallet).tokens
    assert me(shared.api, here.access_token) == me(eddsa.api, there.access_token)
    with refusal("TOKEN_INVALID", StatusCode.UNAUTHENTICATED):
        me(shared.api, there.access_token)
    with refusal("TOKEN_INVALID", StatusCode.UNAUTHENTICATED):
        me(eddsa.api, here.access_token)
    # Sessions do not depend on it: a change of the algorithm logs nobody out.
    assert me(eddsa.api, eddsa.api.refresh(here.refresh_token).access_token)


def folder_key(service: Service) -> Ed25519PrivateKey:
    key = service.keyring.access.signing
    assert isinstance(key, Ed25519PrivateKey)
    return key


Part = dict[str, Any]
CASES: dict[str, Callable[[Part, Part, Service], str]] = {
    "EdDSA under the shared key's id": lambda header, claims, eddsa: with_ed25519(
        header | {"alg": "EdDSA"}, claims, folder_key(eddsa)
    ),
    "HS256 under the folder key's id": lambda header, claims, eddsa: with_hmac(
        header | {"kid": eddsa.keyring.access.key_id}, claims, SECRET.encode()
    ),
    "HS256 with the folder's public key": lambda header, claims, eddsa: with_hmac(
        header, claims, folder_key(eddsa).public_key().public_bytes_raw()
    ),
    "HS256 with another secret": lambda header, claims, _: with_hmac(
        header, claims, b"another-secret-of-more-than-32-bytes"
    ),
    "HS256 with no secret": lambda header, claims, _: with_hmac(header, claims, b""),
    "HS512 with the secret": lambda header, claims, _: with_hmac(
        header | {"alg": "HS512"}, claims, SECRET.encode(), hashlib.sha512
    ),
    "no signature": lambda header, claims, _: (
        unsigned(header | {"alg": "none"}, claims) + "."
    ),
    "claims of other types": lambda header, claims, _: with_hmac(
        header, claims | {"sid": 7}, SECRET.encode()
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_token_of_any_other_making_is_refused(
    shared: Service, eddsa: Service, wallet: DevWallet, case: str
) -> None:
    header, claims = parts(shared.api.register(wallet).tokens.access_token)
    with refusal("TOKEN_INVALID", StatusCode.UNAUTHENTICATED):
        me(shared.api, CASES[case](header, claims, eddsa))
