"""The edge in front of the real service: whom it believes, browsers, slow senders."""

from __future__ import annotations

import base64
import json
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from pourtier.v1 import auth_service_pb2 as auth_pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import Api, refusal
from support.json_api import JsonApi, answered, refused
from support.servers import Databases
from support.service import ORIGIN
from support.stack import Stack, stack
from support.threads import tell

ME = "/api/users/me"
GET_ME = "/pourtier.v1.UserService/GetMe"

FORGED = "203.0.113.66"
# Every name under which a caller could say who it is. Repeated, and of both kinds.
FORGERIES = [
    ("x-forwarded-for", FORGED),
    ("x-forwarded-for", f"{FORGED}, {FORGED}"),
    ("x-envoy-external-address", FORGED),
    ("forwarded", f"for={FORGED}"),
    ("x-real-ip", FORGED),
    ("x-client-ip", FORGED),
    ("true-client-ip", FORGED),
    ("cf-connecting-ip", FORGED),
    ("x-pourtier-client-address", FORGED),
]


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str) -> Iterator[Stack]:
    with stack(databases, redis_url) as made:
        yield made


@pytest.fixture
def web(running: Stack) -> JsonApi:
    return running.public


def recorded(running: Stack, user_id: str) -> set[str | None]:
    """Every client address that was written down for a user."""
    of_user = "SELECT {} FROM {} WHERE user_id = %s"
    sessions = running.sql.run(of_user.format("client_address", "sessions"), user_id)
    personal = running.sql.run(of_user.format("body", "audit_personal"), user_id)
    assert sessions
    assert len(personal) >= 2
    return {str(row["client_address"]) for row in sessions} | {
        json.loads(row["body"])["ip"] for row in personal
    }


@pytest.mark.parametrize("listener", ["public", "internal"])
def test_a_forged_address_is_not_written_down(
    running: Stack, wallet: DevWallet, listener: str
) -> None:
    web: JsonApi = getattr(running, listener)
    body = {**web.proof(wallet), "wallet_type": "phantom"}
    made = web.call("POST", "/api/auth/register", body, headers=FORGERIES)
    web.call("POST", "/api/auth/login", web.proof(wallet), headers=FORGERIES)
    user_id = answered(made)["user"]["user_id"]
    assert recorded(running, user_id) == {"127.0.0.1"}


@pytest.mark.parametrize("way", ["native", "public", "internal"])
def test_nor_is_one_forged_over_grpc(
    running: Stack, wallet: DevWallet, way: str
) -> None:
    target = running.native
    if way != "native":
        http: JsonApi = getattr(running, way)
        target = http.http.base_url.netloc.decode()
    api = Api(target)
    try:
        metadata = [*FORGERIES, ("user-agent", "evil")]
        request = auth_pb.RegisterRequest(**api.proof(wallet), wallet_type="phantom")
        registered = api.call(api.auth.Register, request, *metadata)
    finally:
        api.close()
    assert recorded(running, registered.user.user_id) == {"127.0.0.1"}


def test_an_api_key_does_not_pass_the_public_listener(running: Stack) -> None:
    web = running.public
    bearer = web.bearer()
    key = {"x-api-key": "garbage"}
    assert answered(web.call("GET", ME, bearer=bearer, headers=key))
    refused(web.call("GET", ME, headers=key), "CREDENTIALS_MISSING")
    inside = running.internal.call("GET", ME, bearer=bearer, headers=key)
    refused(inside, "MULTIPLE_CREDENTIALS")
    refused(running.internal.call("GET", ME, headers=key), "API_KEY_INVALID")


def test_two_bearer_tokens_never_pass_as_one(web: JsonApi) -> None:
    bearer = web.bearer()
    headers = [("authorization", f"Bearer {bearer}")]
    for second in (bearer, "other"):
        answer = web.call("GET", ME, bearer=second, headers=headers)
        # Envoy joins the two into one value, which is no token.
        assert answer.status_code in {400, 401}
        assert answer.json()["details"][0]["reason"] in {
            "MULTIPLE_CREDENTIALS",
            "TOKEN_INVALID",
        }


PREFLIGHT = {
    "access-control-request-method": "PATCH",
    "access-control-request-headers": "authorization,content-type",
}


@pytest.mark.parametrize("origin", [ORIGIN, "http://localhost:3000"])
def test_our_pages_may_call_and_read(web: JsonApi, origin: str) -> None:
    preflight = web.call("OPTIONS", ME, headers={"origin": origin, **PREFLIGHT})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == origin
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in preflight.headers
    for bearer in ("", web.bearer()):
        answer = web.call("GET", ME, bearer=bearer, headers={"origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
        exposed = answer.headers["access-control-expose-headers"]
        assert {"x-request-id", "retry-after"} <= set(exposed.split(", "))


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{ORIGIN}.evil.example", "null", "*"]
)
def test_pages_of_strangers_may_not(web: JsonApi, origin: str) -> None:
    headers = {"origin": origin, **PREFLIGHT}
    for verb in ("OPTIONS", "GET"):
        answer = web.call(verb, ME, headers=headers)
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_a_page_may_speak_grpc_web(web: JsonApi, wallet: DevWallet, text: bool) -> None:
    made = web.register(wallet)
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
    frame = struct.pack(">BI", 0, 0)
    answer = web.call(
        "POST",
        GET_ME,
        content=base64.b64encode(frame) if text else frame,
        bearer=made["tokens"]["access_token"],
        headers={
            "content-type": kind,
            "accept": kind,
            "x-grpc-web": "1",
            "origin": ORIGIN,
        },
    )
    assert answer.status_code == 200
    content = answer.content
    if text:
        # Every frame is encoded by itself, its padding included.
        quads = [content[at : at + 4] for at in range(0, len(content), 4)]
        content = b"".join(map(base64.b64decode, quads))
    (length,) = struct.unpack(">I", content[1:5])
    assert User.FromString(content[5 : 5 + length]).wallet_address == wallet.address
    assert b"grpc-status:0" in content[5 + length :]


def test_native_grpc_passes_with_its_details(running: Stack, wallet: DevWallet) -> None:
    with ExitStack() as opened:
        for http in (running.public, running.internal):
            api = Api(http.http.base_url.netloc.decode())
            opened.callback(api.close)
            made = api.register(DevWallet.generate(), display_name="Ann")
            bearer = made.tokens.access_token
            me = api.call(api.users.GetMe, user_pb.GetMeRequest(), bearer=bearer)
            assert me == made.user
            with refusal("WALLET_NOT_REGISTERED", grpc.StatusCode.NOT_FOUND) as caught:
                api.login(wallet)
            assert caught[0].metadata == {"wallet_address": wallet.address}
            assert caught[0].trailers["x-request-id"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
def test_a_large_answer_is_compressed(
    web: JsonApi, wallet: DevWallet, encoding: str
) -> None:
    body = {
        **web.proof(wallet),
        "wallet_type": "phantom",
        "display_name": "a" * 64,
        "email": f"{'a' * 60}@{'.'.join(['b' * 60] * 3)}",
    }
    request = web.http.build_request(
        "POST",
        "/api/auth/register",
        json=body,
        headers={"accept-encoding": encoding},
    )
    answer = web.http.send(request, stream=True)
    received = b"".join(answer.iter_raw())
    answer.close()
    assert answer.headers["content-encoding"] == encoding
    assert len(received) < 1_500
    me = web.call("GET", "/health", headers={"accept-encoding": encoding})
    assert "content-encoding" not in me.headers


# About twice the threads that the service has.
SILENT = 30
CALLS = 150


def test_callers_that_send_only_headers_hold_up_nobody(
    running: Stack, wallet: DevWallet
) -> None:
    web = running.public
    bearer = web.register(wallet)["tokens"]["access_token"]
    assert running.settings.threads < SILENT
    alone = _latencies(web, bearer)
    head = (
        b"POST /api/auth/login HTTP/1.1\r\nhost: x\r\n"
        b"content-type: application/json\r\ncontent-length: 10\r\n\r\n"
    )
    url = web.http.base_url
    assert url.port is not None
    with ExitStack() as opened:
        for _ in range(SILENT):
            silent = socket.create_connection((url.host, url.port), timeout=5)
            opened.enter_context(silent)
            silent.sendall(head)
        channel = opened.enter_context(grpc.insecure_channel(url.netloc.decode()))
        hung_up = threading.Event()
        opened.callback(hung_up.set)
        unsent = [_open_call(channel, hung_up) for _ in range(SILENT)]
        beside = _latencies(web, bearer)
        assert not any(call.done() for call in unsent)
    tell(
        f"{2 * SILENT} silent callers, {CALLS} others: "
        f"p99 {alone * 1000:.1f} ms alone, {beside * 1000:.1f} ms beside them"
    )
    # Held up, they would wait for seconds.
    assert beside < max(10 * alone, 0.2)


def _latencies(web: JsonApi, bearer: str) -> float:
    """The 99th percentile of some calls, in seconds."""
    times = []
    for _ in range(CALLS):
        before = time.perf_counter()
        assert web.call("GET", ME, bearer=bearer).status_code == 200
        times.append(time.perf_counter() - before)
    return statistics.quantiles(times, n=100)[-1]


def _open_call(channel: grpc.Channel, hung_up: threading.Event) -> Any:
    """A call whose request never comes."""

    def nothing() -> Iterator[bytes]:
        hung_up.wait(30)
        yield from ()

    method: grpc.StreamUnaryMultiCallable[bytes, bytes]
    method = channel.stream_unary("/pourtier.v1.AuthService/Login")
    return method.future(nothing())
