"""What a browser is told when it is refused: every reason, in one form.

Faults of the service's own (database, deadline, overload) are in `test_json_faults`,
requests that are none in `test_json_requests`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import jwt
import pytest

from pourtier_grpc.devtools.wallet import DevWallet
from support.json_api import JsonApi, refused
from support.servers import Databases
from support.stack import Stack, stack

ME = "/api/users/me"
LOGIN = "/api/auth/login"
CHALLENGE = "/api/auth/challenge"
REFRESH = "/api/auth/refresh"

Forgery = Callable[[Stack, DevWallet], dict[str, Any]]


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str) -> Iterator[Stack]:
    with stack(databases, redis_url) as made:
        yield made


@pytest.fixture
def web(running: Stack) -> JsonApi:
    return running.public


def sub(text: str, pattern: str, by: str) -> str:
    changed, count = re.subn(pattern, by, text, flags=re.MULTILINE)
    assert count == 1
    return changed


def edited(*edits: tuple[str, str]) -> Forgery:
    """A good signature over a challenge that was changed first."""

    def forge(running: Stack, wallet: DevWallet) -> dict[str, Any]:
        text = running.public.challenge(wallet)["message"]
        for pattern, by in edits:
            text = sub(text, pattern, by)
        return running.public.proof(wallet, text)

    return forge


def issued(**by: float) -> Forgery:
    """A message whose issued-at lies that far from the present."""

    def forge(running: Stack, wallet: DevWallet) -> dict[str, Any]:
        moment = running.clock.now() + timedelta(**by)
        stamp = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
        change = edited((r"\nExpiration Time: .*", ""), (r"(?<=^Issued At: ).*", stamp))
        return change(running, wallet)

    return forge


def claimed(**fields: str) -> Forgery:
    """A good proof with other fields beside it."""
    return lambda running, wallet: {**running.public.proof(wallet), **fields}


def of_another_wallet(running: Stack, wallet: DevWallet) -> dict[str, Any]:
    theirs = running.public.challenge(DevWallet.generate())["message"]
    return running.public.proof(wallet, theirs)


def signed_by_another(running: Stack, wallet: DevWallet) -> dict[str, Any]:
    proof = running.public.proof(wallet)
    forged = DevWallet.generate().sign_text(proof["message"].encode())
    return {**proof, "signature": forged}


def used_before(running: Stack, wallet: DevWallet) -> dict[str, Any]:
    running.public.register(wallet)
    proof = running.public.proof(wallet)
    running.public.call("POST", LOGIN, proof)
    return proof


def left_lying(running: Stack, wallet: DevWallet) -> dict[str, Any]:
    proof = running.public.proof(wallet)
    running.clock.move(minutes=10)
    return proof


UNSUPPORTED = {
    "wallet_address": "0x8ba1f109551bD432803012645Ac136ddd64DBA72",
    "message": "a.b wants you to sign in with your Ethereum account:\n0x8ba1",
}

FORGERIES: dict[str, tuple[int, Forgery]] = {
    "MALFORMED_ADDRESS": (400, claimed(wallet_address="1" * 31)),
    "UNSUPPORTED_CHAIN": (400, claimed(**UNSUPPORTED)),
    "MALFORMED_MESSAGE": (400, claimed(message="let me in")),
    "MALFORMED_SIGNATURE": (400, claimed(signature="0OIl")),
    "DOMAIN_MISMATCH": (401, edited((r"^[^ ]+(?= wants)", "evil.example"))),
    "CHAIN_ID_MISMATCH": (401, edited((r"(?<=^Chain ID: ).*", "devnet"))),
    "ADDRESS_MISMATCH": (401, of_another_wallet),
    "NONCE_INVALID": (401, edited((r"(?<=^Nonce: ).*", "a" * 56))),
    "NONCE_CONSUMED": (401, used_before),
    "CHALLENGE_EXPIRED": (401, left_lying),
    "MESSAGE_NOT_YET_VALID": (
        401,
        edited((r"(^Expiration Time: .*)", r"\1\nNot Before: 2999-01-01T00:00:00Z")),
    ),
    "ISSUED_IN_FUTURE": (401, issued(minutes=10, seconds=2)),
    "ISSUED_TOO_LONG_AGO": (401, issued(minutes=-10, seconds=-2)),
    "SIGNATURE_INVALID": (401, signed_by_another),
}


@pytest.mark.parametrize("method", ["verify", "register", "login"])
@pytest.mark.parametrize("reason", FORGERIES)
def test_a_proof_that_does_not_hold_is_refused_with_its_reason(
    running: Stack, wallet: DevWallet, reason: str, method: str
) -> None:
    status, forge = FORGERIES[reason]
    proof = forge(running, wallet)
    extra = {"wallet_type": "phantom"} if method == "register" else {}
    answer = running.public.call("POST", f"/api/auth/{method}", {**proof, **extra})
    assert answer.status_code == status
    told = refused(answer, reason)
    assert proof["signature"] not in answer.text
    assert all(value in told.message for value in told.metadata.values())


@pytest.mark.parametrize(
    ("body", "reason", "metadata"),
    [
        (
            {"chain": "dogecoin"},
            "UNSUPPORTED_CHAIN",
            {"chain": "dogecoin", "supported": "solana"},
        ),
        ({"wallet_address": "me"}, "MALFORMED_ADDRESS", {"chain": "solana"}),
        (
            {"domain": "evil.example"},
            "DOMAIN_NOT_ALLOWED",
            {"domain": "evil.example"},
        ),
    ],
)
def test_a_challenge_for_nobody_is_refused(
    web: JsonApi, body: dict[str, str], reason: str, metadata: dict[str, str]
) -> None:
    answer = web.call("POST", CHALLENGE, body)
    assert answer.status_code == 400
    assert refused(answer, reason).metadata == metadata


PROOF = {"wallet_address": "a", "signature": "b", "message": "c"}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (CHALLENGE, {"wallet_address": "1" * 129}, "wallet_address"),
        (CHALLENGE, {"chain": "é" * 33}, "chain"),
        (CHALLENGE, {"wallet_type": " phantom"}, "wallet_type"),
        (CHALLENGE, {"domain": "d" * 256}, "domain"),
        (LOGIN, {**PROOF, "wallet_address": ""}, "wallet_address"),
        (LOGIN, {**PROOF, "signature": ""}, "signature"),
        (LOGIN, {**PROOF, "signature": "1" * 257}, "signature"),
        (LOGIN, {**PROOF, "signature_encoding": 9}, "signature_encoding"),
        (LOGIN, {**PROOF, "message": "é" * 2049}, "message"),
        (LOGIN, {"wallet_address": "a", "signature": "b"}, "signed"),
        ("/api/auth/register", PROOF, "wallet_type"),
        (
            "/api/auth/register",
            {**PROOF, "wallet_type": "a", "display_name": "a\tb"},
            "display_name",
        ),
        (
            "/api/auth/register",
            {**PROOF, "wallet_type": "a", "email": "nobody"},
            "email",
        ),
        (
            "/api/auth/register",
            {**PROOF, "wallet_type": "a", "locale": "e"},
            "locale",
        ),
        (REFRESH, {}, "refresh_token"),
        (REFRESH, {"refresh_token": "r" * 513}, "refresh_token"),
        ("/api/auth/logout", {"refresh_token": "r" * 513}, "refresh_token"),
    ],
)
def test_a_field_that_breaks_its_rules_is_named(
    web: JsonApi, path: str, body: dict[str, Any], field: str
) -> None:
    answer = web.call("POST", path, body)
    assert answer.status_code == 400
    told = refused(answer, "INVALID_FIELD")
    assert set(told.violations) == {field}
    assert told.metadata == {"field": field}


def test_every_field_that_breaks_its_rules_is_named_at_once(web: JsonApi) -> None:
    told = refused(web.call("POST", LOGIN, {}), "INVALID_FIELD")
    assert set(told.violations) == {"wallet_address", "signature", "signed"}


def tampered(token: str) -> str:
    """The token with one character of its middle part changed."""
    middle = len(token) // 2
    return token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]


def forged(token: str) -> str:
    """The token's claims, signed by nobody (RFC 8725 section 2.1)."""
    claims = jwt.decode(token, options={"verify_signature": False})
    return jwt.encode(claims, "", algorithm="none")


@pytest.mark.parametrize(
    "change",
    [
        tampered,
        forged,
        lambda token: "x" * 8000,
        lambda token: token.rpartition(".")[0] + ".",
        lambda token: f"{token} {token}",
    ],
)
def test_a_token_of_nobodys_is_refused(
    web: JsonApi, change: Callable[[str], str]
) -> None:
    token = change(web.bearer())
    answer = web.call("GET", ME, bearer=token)
    assert answer.status_code == 401
    refused(answer, "TOKEN_INVALID")
    assert token[-40:] not in answer.text


@pytest.mark.parametrize("scheme", ["Basic", "", "Bearer,"])
def test_only_the_bearer_scheme_is_one(web: JsonApi, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {web.bearer()}".strip()}
    refused(web.call("GET", ME, headers=headers), "TOKEN_INVALID")


@pytest.mark.parametrize("verb", ["GET", "PATCH"])
def test_no_credential_is_refused_before_the_request_is_looked_at(
    web: JsonApi, verb: str
) -> None:
    body = {"email": "nobody"} if verb == "PATCH" else None
    answer = web.call(verb, ME, body)
    assert answer.status_code == 401
    assert refused(answer, "CREDENTIALS_MISSING").metadata == {}
    answer = web.call("POST", "/api/auth/logout", {})
    refused(answer, "CREDENTIALS_MISSING")


def test_a_refresh_token_is_no_access_token(web: JsonApi, wallet: DevWallet) -> None:
    tokens = web.register(wallet)["tokens"]
    refused(web.call("GET", ME, bearer=tokens["refresh_token"]), "TOKEN_INVALID")
    wrong = {"refresh_token": tokens["access_token"]}
    refused(web.call("POST", REFRESH, wrong), "INVALID_FIELD", 400)


def test_two_credentials_are_refused_where_both_arrive(running: Stack) -> None:
    bearer = running.public.bearer()
    answer = running.internal.call(
        "GET", ME, bearer=bearer, headers={"x-api-key": "garbage"}
    )
    assert answer.status_code == 400
    refused(answer, "MULTIPLE_CREDENTIALS")


def test_an_access_token_expires(running: Stack) -> None:
    bearer = running.public.bearer()
    running.clock.move(minutes=30)
    for verb, path in (("GET", ME), ("POST", "/api/auth/logout")):
        body: dict[str, Any] | None = {} if verb == "POST" else None
        answer = running.public.call(verb, path, body, bearer=bearer)
        assert answer.status_code == 401
        refused(answer, "TOKEN_EXPIRED")


def test_a_suspended_person_is_refused_everywhere(
    running: Stack, wallet: DevWallet
) -> None:
    web = running.public
    made = web.register(wallet)
    tokens = made["tokens"]
    running.sql.run(
        "UPDATE users SET status = 2 WHERE user_id = %s", made["user"]["user_id"]
    )
    refresh = {"refresh_token": tokens["refresh_token"]}
    for answer in (
        web.call("GET", ME, bearer=tokens["access_token"]),
        web.call("PATCH", ME, {"locale": "en"}, bearer=tokens["access_token"]),
        web.call("POST", REFRESH, refresh),
        web.call("POST", LOGIN, web.proof(wallet)),
    ):
        assert answer.status_code == 403
        refused(answer, "USER_SUSPENDED")


def test_a_replaced_refresh_token_ends_the_session_for_both(
    running: Stack, wallet: DevWallet
) -> None:
    web = running.public
    stolen = {"refresh_token": web.register(wallet)["tokens"]["refresh_token"]}
    running.clock.move(minutes=1)
    held = web.call("POST", REFRESH, stolen).json()["tokens"]
    running.clock.move(minutes=1)
    # Presented once, so that the thief's token is no lost answer's.
    carried = {"refresh_token": held["refresh_token"]}
    last = web.call("POST", REFRESH, carried).json()["tokens"]
    theft = web.call("POST", REFRESH, stolen)
    assert theft.status_code == 401
    refused(theft, "REFRESH_TOKEN_REUSED")
    me = web.call("GET", ME, bearer=last["access_token"])
    assert refused(me, "SESSION_ENDED").metadata == {"cause": "REUSE_DETECTED"}


@pytest.mark.parametrize("change", [tampered, lambda token: "nonsense"])
def test_a_refresh_token_of_nobodys_is_refused(
    web: JsonApi, wallet: DevWallet, change: Callable[[str], str]
) -> None:
    token = change(web.register(wallet)["tokens"]["refresh_token"])
    answer = web.call("POST", REFRESH, {"refresh_token": token})
    assert answer.status_code == 401
    refused(answer, "REFRESH_TOKEN_INVALID")
    assert token not in answer.text
