"""What a real process logs of calls: fields, levels, and how many are written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.status_service_pb2 import GetStatusRequest
from pourtier.v1.user_pb2 import User
from pourtier.v1.user_service_pb2 import GetMeRequest, UpdateMeRequest
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.logs import chosen, shortened
from support.api import Api, refusal
from support.processes import serving
from support.servers import Databases, state_folder
from support.waiting import eventually

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-00")


def lines_of(folder: Path, request_id: str = "") -> list[dict[str, Any]]:
    """The lines of calls; with an id, those of one request."""
    text = (folder / "serve-0.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return [
        line
        for line in lines
        if line["message"] == "call" and request_id in {"", line["request_id"]}
    ]


def line_of(folder: Path, request_id: str) -> dict[str, Any]:
    """The one line of a request, which is written while its answer is on its way."""
    assert eventually(lambda: len(lines_of(folder, request_id)) == 1)
    return lines_of(folder, request_id)[0]


def named(request_id: str) -> tuple[str, str]:
    return ("x-request-id", request_id)


@dataclass(frozen=True, kw_only=True)
class Logging:
    """A process that writes every call down."""

    folder: Path
    database_url: str
    target: str


@pytest.fixture(scope="module")
def logging(databases: Databases) -> Iterator[Logging]:
    with (
        databases.fresh() as url,
        state_folder() as folder,
        serving(
            folder,
            url,
            log_level="info",
            # Nobody is there; a trace is known all the same.
            otel_exporter_otlp_endpoint="http://127.0.0.1:9",
            trace_sample_ratio=0,
            database_statement_timeout_seconds=0.3,
        ) as (process,),
    ):
        yield Logging(folder=folder, database_url=url, target=process.target)


def test_a_line_tells_of_the_call_and_of_whose_it_is(logging: Logging) -> None:
    wallet = DevWallet.generate()
    with closing(Api(logging.target)) as api:
        request = pb.RegisterRequest(**api.proof(wallet), wallet_type="t")
        made = api.call(api.auth.Register, request, named("r-register"), PARENT)
        bearer = made.tokens.access_token
        api.call(api.users.GetMe, GetMeRequest(), named("r-me"), bearer=bearer)
        with refusal("INVALID_FIELD"):
            wrong = UpdateMeRequest(user=User(display_name="x" * 1000))
            api.call(api.users.UpdateMe, wrong, named("r-wrong"), bearer=bearer)
        with refusal("CREDENTIALS_MISSING"):
            api.call(api.users.GetMe, GetMeRequest(), named("r-nobody"))
    folder = logging.folder
    person = {"user_id": made.user.user_id, "wallet": shortened(wallet.address)}
    registered = line_of(folder, "r-register")
    assert registered.pop("timestamp")
    assert registered.pop("milliseconds") > 0
    assert registered == {
        "level": "info",
        "message": "call",
        "service": "pourtier",
        "method": "/pourtier.v1.AuthService/Register",
        "code": "OK",
        "request_id": "r-register",
        "trace_id": TRACE,
        **person,
    }
    for request_id in ("r-me", "r-wrong"):
        line = line_of(folder, request_id)
        assert person.items() <= line.items()
    nobody = line_of(folder, "r-nobody")
    assert not {"user_id", "wallet", "trace_id"} & nobody.keys()


def test_a_part_of_the_successes_is_written_and_every_refusal(
    folder: Path, database_url: str
) -> None:
    ids = [f"r-{number}" for number in range(200)]
    with serving(folder, database_url, log_level="info", log_success_ratio=0.1) as (
        process,
    ):
        api = Api(process.target)
        for each in ids:
            api.call(api.status.GetStatus, GetStatusRequest(), named(each))
            with refusal("CREDENTIALS_MISSING"):
                api.call(api.users.GetMe, GetMeRequest(), named(each))
        api.close()
    lines = lines_of(folder)
    refused = [line["request_id"] for line in lines if line["code"] != "OK"]
    assert refused == ids
    written = [line["request_id"] for line in lines if line["code"] == "OK"]
    assert written == [each for each in ids if chosen(each, 0.1)]
    assert 5 < len(written) < 40


def test_levels_follow_the_status_code(logging: Logging) -> None:
    database_url = logging.database_url
    with closing(Api(logging.target)) as api:
        bearer = api.register(DevWallet.generate()).tokens.access_token
        with refusal("TOKEN_INVALID"):
            api.call(api.users.GetMe, GetMeRequest(), bearer="none")
        with psycopg.connect(database_url) as other:
            other.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
            with refusal("DATABASE_UNAVAILABLE"):
                api.call(api.users.GetMe, GetMeRequest(), bearer=bearer)
            # Answered by the service in time, or else by the caller's own clock.
            with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
                api.users.GetMe(
                    GetMeRequest(),
                    timeout=0.2,
                    metadata=(("authorization", f"Bearer {bearer}"),),
                )
        large = UpdateMeRequest(user=User(display_name="x" * 1_100_000))
        with refusal("REQUEST_TOO_LARGE"):
            api.call(api.users.UpdateMe, large, bearer=bearer)
        with psycopg.connect(database_url, autocommit=True) as meddler:
            meddler.execute("ALTER TABLE sessions RENAME TO lost")
            with refusal("INTERNAL"):
                api.call(api.users.GetMe, GetMeRequest(), bearer=bearer)
            meddler.execute("ALTER TABLE lost RENAME TO sessions")
    expected = {
        ("OK", "info"),
        ("UNAUTHENTICATED", "info"),
        ("UNAVAILABLE", "warning"),
        ("DEADLINE_EXCEEDED", "warning"),
        ("RESOURCE_EXHAUSTED", "warning"),
        ("INTERNAL", "error"),
    }

    def levels() -> set[tuple[str, str]]:
        return {(line["code"], line["level"]) for line in lines_of(logging.folder)}

    # One of another test's calls is in it as well.
    assert eventually(lambda: levels() - {("INVALID_ARGUMENT", "info")} == expected)
