"""What a process writes to stderr, and what it must never write."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import psycopg

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.user_service_pb2 import GetMeRequest
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import Api, refusal
from support.processes import serving

EMAIL = "recognisable@example.com"
OUTCOMES = [
    ("CreateChallenge", "OK"),
    ("Register", "OK"),
    ("Login", "UNAUTHENTICATED"),
    ("RefreshToken", "OK"),
    ("RefreshToken", "UNAUTHENTICATED"),
    ("GetMe", "UNAUTHENTICATED"),
    ("CreateChallenge", "OK"),
    ("Register", "INTERNAL"),
]


def test_lines_are_json_tell_of_each_call_and_hold_no_secret(
    folder: Path, database_url: str
) -> None:
    with serving(folder, database_url, log_level="debug") as (process,):
        api = Api(process.target)
        secrets = sign_in(api)
        secrets += fail_inside(api, database_url)
        api.close()
    log = (folder / "serve-0.log").read_text()
    secrets += [*keys_in(folder), password_of(database_url)]
    assert len(secrets) > 15
    assert all(len(secret) > 15 for secret in secrets)
    assert [secret for secret in secrets if secret in log] == []

    lines = [json.loads(line) for line in log.splitlines()]
    assert all({"level", "timestamp", "message"} <= line.keys() for line in lines)
    calls = [line for line in lines if line["message"] == "call"]
    outcomes = [(line["method"].rpartition("/")[2], line["code"]) for line in calls]
    assert outcomes == OUTCOMES
    assert all(line["request_id"] for line in calls)
    assert all(line["milliseconds"] > 0 for line in calls)

    (defect,) = [line for line in lines if line["message"] == "defect"]
    assert defect["request_id"] == "r-defect"
    assert defect["method"] == "/pourtier.v1.AuthService/Register"
    assert defect["level"] == "error"
    assert 'column "email" of relation "users"' in defect["exception"]


def sign_in(api: Api) -> list[str]:
    """Calls that go well and calls that are refused; answers what is secret of them."""
    proof = api.proof(DevWallet.generate())
    request = pb.RegisterRequest(**proof, wallet_type="t", email=EMAIL)
    tokens = api.call(api.auth.Register, request).tokens
    with refusal("NONCE_CONSUMED"):
        api.call(api.auth.Login, pb.LoginRequest(**proof))
    refreshed = api.refresh(tokens.refresh_token)
    damaged_refresh = refreshed.refresh_token[:-2]
    with refusal("REFRESH_TOKEN_INVALID"):
        api.refresh(damaged_refresh)
    damaged_access = refreshed.access_token[:-2]
    with refusal("TOKEN_INVALID"):
        api.call(api.users.GetMe, GetMeRequest(), bearer=damaged_access)
    return [
        EMAIL,
        proof["signature"],
        proof["message"],
        proof["message"].partition("Nonce: ")[2].partition("\n")[0],
        tokens.refresh_token,
        damaged_refresh,
        damaged_access,
        *tokens.access_token.split("."),
        *refreshed.access_token.split("."),
    ]


def fail_inside(api: Api, database_url: str) -> list[str]:
    """A defect: the database is not as the code knows it."""
    with psycopg.connect(database_url, autocommit=True) as meddler:
        meddler.execute("ALTER TABLE users RENAME COLUMN email TO lost")
    proof = api.proof(DevWallet.generate())
    request = pb.RegisterRequest(**proof, wallet_type="t", email=EMAIL)
    with refusal("INTERNAL", grpc.StatusCode.INTERNAL):
        api.call(api.auth.Register, request, ("x-request-id", "r-defect"))
    return [proof["signature"], proof["message"]]


def keys_in(folder: Path) -> list[str]:
    """The secret members of every key of a folder."""
    files = [json.loads(path.read_text()) for path in folder.glob("keys/*.jwk")]
    found = [file[member] for file in files for member in ("k", "d") if member in file]
    assert len(found) == len(files)
    return found


def password_of(url: str) -> str:
    return url.partition("//")[2].partition("@")[0].partition(":")[2]
