"""Signing in as a browser does: JSON, through a real Envoy, to the real service."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jwt
import pytest

from pourtier_grpc.devtools.wallet import DevWallet
from support.json_api import JsonApi, answered, refused
from support.servers import Databases
from support.service import ORIGIN
from support.stack import Stack, stack

USER_FIELDS = {
    "user_id",
    "display_name",
    "email",
    "wallet_address",
    "wallet_type",
    "wallets",
    "locale",
    "status",
    "roles",
    "kyc_level",
    "create_time",
    "update_time",
    "etag",
}
TOKEN_FIELDS = {
    "access_token",
    "refresh_token",
    "token_type",
    "expires_in",
    "session_id",
}
INPUT_FIELDS = {
    "domain",
    "address",
    "statement",
    "uri",
    "version",
    "chain_id",
    "nonce",
    "issued_at",
    "expiration_time",
}


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str) -> Iterator[Stack]:
    with stack(databases, redis_url) as made:
        yield made


@pytest.fixture
def web(running: Stack) -> JsonApi:
    return running.public


def camel(fields: dict[str, Any]) -> dict[str, Any]:
    """The same fields under the names of protobuf's own JSON."""
    return {
        re.sub(r"_(.)", lambda found: found[1].upper(), name): value
        for name, value in fields.items()
    }


def test_a_person_registers_signs_in_refreshes_and_logs_out(
    web: JsonApi, wallet: DevWallet
) -> None:
    challenge = web.challenge(wallet)
    assert set(challenge) == {"message", "nonce", "expire_time", "sign_in_input"}
    assert set(challenge["sign_in_input"]) == INPUT_FIELDS
    proof = web.proof(wallet, challenge["message"])
    unknown = answered(web.call("POST", "/api/auth/verify", proof))
    assert unknown == {"wallet_address": wallet.address, "registered": False}

    body = {**proof, "wallet_type": "phantom", "display_name": "Ann"}
    made = answered(web.call("POST", "/api/auth/register", body))
    assert (set(made["user"]), set(made["tokens"])) == (USER_FIELDS, TOKEN_FIELDS)
    assert made["tokens"]["token_type"] == "Bearer"
    # In whole seconds, and never more than there are.
    assert made["tokens"]["expires_in"] in {1799, 1800}

    known = web.call("POST", "/api/auth/verify", web.proof(wallet))
    assert answered(known)["registered"] is True
    signed_in = web.login(wallet)
    assert signed_in["user"] == made["user"]
    tokens = signed_in["tokens"]
    assert tokens["session_id"] != made["tokens"]["session_id"]
    bearer = tokens["access_token"]
    assert answered(web.call("GET", "/api/users/me", bearer=bearer)) == made["user"]

    refresh = {"refresh_token": tokens["refresh_token"]}
    fresh = answered(web.call("POST", "/api/auth/refresh", refresh))["tokens"]
    assert set(fresh) == TOKEN_FIELDS
    assert fresh["session_id"] == tokens["session_id"]
    bearer = fresh["access_token"]
    assert answered(web.call("POST", "/api/auth/logout", {}, bearer=bearer)) == {}
    ended = web.call("GET", "/api/users/me", bearer=bearer)
    assert refused(ended, "SESSION_ENDED").metadata == {"cause": "LOGOUT"}


def test_defaults_are_printed_and_enums_are_names(
    web: JsonApi, wallet: DevWallet
) -> None:
    user = web.register(wallet)["user"]
    assert (user["display_name"], user["email"], user["locale"]) == ("", "", "")
    assert user["roles"] == []
    assert user["status"] == "USER_STATUS_ACTIVE"
    assert user["kyc_level"] == "KYC_LEVEL_NONE"
    (only,) = user["wallets"]
    assert only == {
        "chain": "solana",
        "address": wallet.address,
        "wallet_type": "phantom",
        "primary": True,
        "create_time": user["create_time"],
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", user["create_time"])


@pytest.mark.parametrize("spelling", [dict, camel], ids=["snake_case", "camelCase"])
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("SIGNATURE_ENCODING_BASE64", lambda raw: base64.b64encode(raw).decode()),
        ("SIGNATURE_ENCODING_HEX", bytes.hex),
        (3, lambda raw: f"0x{raw.hex()}"),
    ],
)
def test_a_body_may_be_spelled_either_way(
    web: JsonApi, wallet: DevWallet, spelling: Any, name: Any, write: Any
) -> None:
    message = web.challenge(wallet)["message"]
    proof = {
        "wallet_address": wallet.address,
        "signed_message": base64.b64encode(message.encode()).decode(),
        "signature": write(wallet.sign(message.encode())),
        "signature_encoding": name,
    }
    body = spelling({**proof, "wallet_type": "phantom", "display_name": "Ann"})
    made = answered(web.call("POST", "/api/auth/register", body))
    assert made["user"]["wallet_address"] == wallet.address
    assert made["user"]["display_name"] == "Ann"


def test_a_wallet_that_builds_the_text_signs_in_with_one_click(
    web: JsonApi, wallet: DevWallet
) -> None:
    challenge = answered(web.call("POST", "/api/auth/challenge", {}))
    assert (challenge["message"], challenge["nonce"]) == ("", "")
    assert "expire_time" not in challenge
    given = challenge["sign_in_input"]
    assert given["address"] == ""
    text = f"""\
{given["domain"]} wants you to sign in with your Solana account:
{wallet.address}

{given["statement"]}

URI: {given["uri"]}
Version: {given["version"]}
Chain ID: {given["chain_id"]}
Nonce: {given["nonce"]}
Issued At: {given["issued_at"]}
Expiration Time: {given["expiration_time"]}"""
    body = {**web.proof(wallet, text), "wallet_type": "phantom"}
    made = answered(web.call("POST", "/api/auth/register", body))
    assert made["user"]["wallet_address"] == wallet.address


@pytest.mark.parametrize(
    ("origin", "field", "domain"),
    [
        (None, "", "app.example.com"),
        ("http://localhost:3000", "", "localhost:3000"),
        ("https://stranger.example", "", "app.example.com"),
        (ORIGIN, "localhost:3000", "localhost:3000"),
    ],
)
def test_the_page_or_the_field_chooses_the_domain(
    web: JsonApi, wallet: DevWallet, origin: str | None, field: str, domain: str
) -> None:
    headers = {} if origin is None else {"origin": origin}
    body = {"wallet_address": wallet.address, "domain": field}
    answer = answered(web.call("POST", "/api/auth/challenge", body, headers=headers))
    assert answer["sign_in_input"]["domain"] == domain
    assert answer["message"].startswith(f"{domain} wants you to sign in with your ")
    signed = {**web.proof(wallet, answer["message"]), "wallet_type": "phantom"}
    assert answered(web.call("POST", "/api/auth/register", signed))["tokens"]


def test_a_refused_sign_in_consumes_nothing(web: JsonApi, wallet: DevWallet) -> None:
    proof = web.proof(wallet)
    early = web.call("POST", "/api/auth/login", proof)
    assert early.status_code == 404
    assert refused(early, "WALLET_NOT_REGISTERED").metadata == {
        "wallet_address": wallet.address
    }
    registration = {**proof, "wallet_type": "phantom"}
    assert answered(web.call("POST", "/api/auth/register", registration))
    refused(web.call("POST", "/api/auth/register", registration), "NONCE_CONSUMED")

    again = web.proof(wallet)
    registration = {**again, "wallet_type": "phantom"}
    twice = web.call("POST", "/api/auth/register", registration)
    assert twice.status_code == 409
    assert refused(twice, "WALLET_ALREADY_REGISTERED").metadata == {
        "wallet_address": wallet.address
    }
    assert answered(web.call("POST", "/api/auth/login", again))["tokens"]


def test_tabs_that_share_a_refresh_token_get_the_same_next_one(
    running: Stack, wallet: DevWallet
) -> None:
    web = running.public
    held = web.register(wallet)["tokens"]["refresh_token"]
    running.clock.move(minutes=1)
    nexts = {
        answered(web.call("POST", "/api/auth/refresh", {"refresh_token": held}))[
            "tokens"
        ]["refresh_token"]
        for _ in range(3)
    }
    assert len(nexts) == 1
    assert held not in nexts


@pytest.mark.parametrize("token", ["", "nonsense", "of an ended session"])
def test_a_logout_that_changes_nothing_succeeds(
    web: JsonApi, wallet: DevWallet, token: str
) -> None:
    tokens = web.register(wallet)["tokens"]
    if token != "nonsense":
        token = tokens["refresh_token"] if token else ""
        bearer = tokens["access_token"]
        assert answered(web.call("POST", "/api/auth/logout", {}, bearer=bearer)) == {}
    body = {"refresh_token": token}
    bearer = "" if token else tokens["access_token"]
    answer = web.call("POST", "/api/auth/logout", body, bearer=bearer)
    assert answered(answer) == {}


def test_a_refresh_token_alone_logs_out(web: JsonApi, wallet: DevWallet) -> None:
    tokens = web.register(wallet)["tokens"]
    body = {"refresh_token": tokens["refresh_token"]}
    assert answered(web.call("POST", "/api/auth/logout", body)) == {}
    me = web.call("GET", "/api/users/me", bearer=tokens["access_token"])
    refused(me, "SESSION_ENDED")
    refused(web.call("POST", "/api/auth/refresh", body), "SESSION_ENDED")


def test_the_published_keys_verify_access_tokens(
    web: JsonApi, wallet: DevWallet
) -> None:
    made = web.register(wallet)
    published = answered(web.call("GET", "/.well-known/jwks.json"))
    keys = jwt.PyJWKSet.from_dict(published)
    token = made["tokens"]["access_token"]
    header = jwt.get_unverified_header(token)
    assert header["typ"] == "at+jwt"
    claims = jwt.decode(
        token,
        keys[header["kid"]],
        algorithms=["EdDSA"],
        audience="lumiere",
        # The service goes by the test's clock.
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims["user_id"] == claims["sub"] == made["user"]["user_id"]
    assert claims["sid"] == made["tokens"]["session_id"]


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/health"),
        ("GET", "/health/"),
        ("GET", "/.well-known/jwks.json"),
        ("GET", "/.well-known/jwks.json/"),
        ("POST", "/api/auth/challenge/"),
    ],
)
def test_a_path_also_answers_with_a_trailing_slash(
    web: JsonApi, verb: str, path: str
) -> None:
    assert answered(web.call(verb, path))


def test_health_names_everything_that_is_up(web: JsonApi) -> None:
    status = answered(web.call("GET", "/health"))
    version = status.pop("version")
    assert status == {"status": "healthy", "database": "up", "redis": "up"}
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", version)


def test_every_answer_has_a_request_id_of_its_own(web: JsonApi) -> None:
    mine = {"x-request-id": "11111111-1111-4111-8111-111111111111"}

    def ids(path: str) -> set[str]:
        answers: list[httpx.Response] = [
            web.call("GET", path, headers=mine) for _ in range(3)
        ]
        return {answer.headers["x-request-id"] for answer in answers}

    for path in ("/health", "/api/users/me", "/api/nowhere"):
        seen = ids(path)
        assert len(seen) == 3
        assert not seen & set(mine.values())
