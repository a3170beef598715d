"""The JSON edge against callers who send what no client of ours would."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from e2e.edge_rig import (
    CONTRACT,
    Edge,
    Service,
    assert_error,
    call_grpc,
    contract_edge,
    contract_services,
)
from pourtier.v1 import auth_service_pb2
from support import http2
from support.waiting import wait_until

ME = "/pourtier.v1.UserService/GetMe"
LOGIN = "/pourtier.v1.AuthService/Login"
LIMIT = 65_536
# Of the internal listener: as much as the service reads.
INTERNAL_LIMIT = 1024 * 1024
EMPTY = struct.pack(">BI", 0, 0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Edge, Service]]:
    with contract_edge(tmp_path_factory.mktemp("edge")) as pair:
        yield pair


@pytest.fixture
def edge(pair: tuple[Edge, Service]) -> Edge:
    return pair[0]


@pytest.fixture
def service(pair: tuple[Edge, Service]) -> Service:
    pair[1].forget()
    return pair[1]


def after(release: threading.Event) -> Callable[..., None]:
    """Gives the usual answer once it is released."""

    def answer(*_: object) -> None:
        release.wait(5)

    return answer


class TestHeaders:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("foo-bin", "!!!"),
            ("Foo-Bin", "!"),
            ("lb-cost-bin", "AAAA"),
            ("grpc-trace-bin", "!!"),
            ("x-endpoint-load-metrics-bin", "!"),
            ("grpc-previous-rpc-attempts", "abc"),
            ("grpc-retry-pushback-ms", "abc"),
            ("grpc-internal-encoding-request", "br"),
            ("grpc-status", "abc"),
            ("grpc-message", "%zz"),
        ],
    )
    @pytest.mark.parametrize("listener", ["public", "internal"])
    def test_what_grpc_cannot_read_does_not_reach_it(
        self, edge: Edge, service: Service, listener: str, name: str, value: str
    ) -> None:
        client: httpx.Client = getattr(edge, listener)
        answer = client.get("/api/users/me", headers={name: value})
        assert answer.status_code == 200, answer.text
        (call,) = service.calls
        assert not call.values(name.lower())

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("grpc-timeout", "abc"),
            ("grpc-timeout", ""),
            ("grpc-timeout", "-1S"),
            ("grpc-timeout", "1"),
            ("grpc-timeout", "1s"),
            ("grpc-timeout", "123456789S"),
            ("grpc-encoding", "br"),
            ("grpc-encoding", "gzip"),
            ("grpc-encoding", "identity"),
        ],
    )
    def test_a_call_that_grpc_could_not_read_is_refused(
        self, edge: Edge, service: Service, name: str, value: str
    ) -> None:
        for answer in (
            edge.public.get("/api/users/me", headers={name: value}),
            edge.public.post("/api/auth/login", json={}, headers={name: value}),
        ):
            body = assert_error(answer, 400, 3, "MALFORMED_REQUEST")
            assert name in body["message"]
        assert not service.calls

    @pytest.mark.parametrize(
        ("name", "value"),
        [("grpc-timeout", "abc"), ("grpc-encoding", "br"), ("grpc-encoding", "zstd")],
    )
    def test_nor_over_grpc_web(
        self, edge: Edge, service: Service, name: str, value: str
    ) -> None:
        answer = web(edge, LOGIN, headers={name: value})
        assert answer.headers["grpc-status"] == "3"
        assert not service.calls

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            (b"grpc-timeout", b"abc"),
            (b"grpc-encoding", b"br"),
            (b"grpc-status", b"abc"),
            (b"foo-bin", b"!!!"),
        ],
    )
    def test_a_requests_trailers_do_not_reach_it(
        self, edge: Edge, service: Service, name: bytes, value: bytes
    ) -> None:
        address = edge.settings.public
        with socket.create_connection((address.host, address.port)) as caller:
            caller.sendall(_http2_call(LOGIN, (name, value)))
            wait_until(lambda: bool(service.calls))
        # grpcio would refuse that name in every later call of the connection.
        channel = edge.channel(edge.settings.public)
        for _ in range(20):
            call_grpc(channel, LOGIN)
            assert edge.public.get("/api/users/me").status_code == 200

    def test_grpcs_own_compression_passes(self, edge: Edge, service: Service) -> None:
        with grpc.insecure_channel(
            f"127.0.0.1:{edge.settings.public.port}",
            compression=grpc.Compression.Gzip,
        ) as channel:
            request = auth_service_pb2.LoginRequest(wallet_address="w" * 1000)
            call_grpc(channel, LOGIN, request.SerializeToString())
        (call,) = service.calls
        assert call.request == request

    def test_envoys_own_headers_are_not_a_clients(
        self, edge: Edge, service: Service
    ) -> None:
        forged = {
            "x-envoy-original-method": "FORGED",
            "x-envoy-original-path": "/forged",
            "x-envoy-attempt-count": "7",
            "x-envoy-is-timeout-retry": "true",
            "x-envoy-anything": "forged",
        }
        edge.public.get("/api/users/me", headers=forged)
        call_grpc(
            edge.channel(edge.settings.internal), ME, metadata=tuple(forged.items())
        )
        json_call, native = service.calls
        assert not {key for key, _ in native.metadata if key.startswith("x-envoy-")}
        assert json_call.values("x-envoy-original-method") == ["GET"]
        assert json_call.values("x-envoy-original-path") == ["/api/users/me"]
        assert not {"7", "true", "forged"} & {value for _, value in json_call.metadata}

    def test_a_native_caller_gets_no_json(self, edge: Edge) -> None:
        forged = (("x-envoy-original-method", "GET"),)
        channel = edge.channel(edge.settings.public)
        with pytest.raises(grpc.RpcError) as unknown:
            call_grpc(channel, "/pourtier.v1.UserService/None", metadata=forged)
        assert unknown.value.details() == "there is no such method or path"

    def test_the_log_cannot_be_forged(self, tmp_path: Path) -> None:
        forged = {
            "x-envoy-original-method": "FORGED",
            "x-envoy-original-path": "/FORGED",
        }
        with contract_edge(tmp_path) as (edge, _):
            call_grpc(
                edge.channel(edge.settings.public), ME, metadata=tuple(forged.items())
            )
            # The second is refused before any filter sees it.
            for path in ("/api/users/me", "/a%2Fb"):
                edge.public.get(path, headers=forged)
        lines = [
            json.loads(one)
            for one in edge.log.read_text().splitlines()
            if one.startswith("{")
        ]
        assert "FORGED" not in edge.log.read_text()
        assert [(one["verb"], one["path"], one["rpc"]) for one in lines[-3:]] == [
            ("POST", ME, ME),
            ("GET", "/api/users/me", ME),
            (None, None, "/a/b"),
        ]


class TestBodies:
    @pytest.mark.parametrize("size", [LIMIT + 1, LIMIT + 5, LIMIT + 6, 30_000_000])
    @pytest.mark.parametrize("length", [True, False])
    def test_what_the_transcoder_drops_counts(
        self, edge: Edge, service: Service, size: int, length: bool
    ) -> None:
        text = _unknown_field(size)
        content: Any = text if length else iter([text])
        answer = edge.public.post("/api/auth/login", content=content)
        assert_error(answer, 413, 8, "REQUEST_TOO_LARGE")
        assert not service.calls

    def test_what_is_as_large_as_allowed_passes(
        self, edge: Edge, service: Service
    ) -> None:
        answer = edge.public.post("/api/auth/login", content=_unknown_field(LIMIT))
        assert answer.status_code == 200
        request = auth_service_pb2.LoginRequest(message="a" * (LIMIT - 4))
        body = request.SerializeToString()
        assert len(body) == LIMIT
        call_grpc(edge.channel(edge.settings.public), LOGIN, body)
        frame = struct.pack(">BI", 0, LIMIT) + body
        for suffix, content in (("", frame), ("-text", base64.b64encode(frame))):
            web(edge, LOGIN, content, suffix=suffix)
        assert [call.request for call in service.calls[1:]] == [request] * 3

    def test_services_may_send_more_and_no_more_than_that(
        self, edge: Edge, service: Service
    ) -> None:
        post = edge.internal.post
        whole = post("/api/auth/login", content=_unknown_field(INTERNAL_LIMIT))
        assert whole.status_code == 200
        assert len(service.calls) == 1
        more = post("/api/auth/login", content=_unknown_field(INTERNAL_LIMIT + 1))
        body = assert_error(more, 413, 8, "REQUEST_TOO_LARGE")
        told = body["details"][0]["metadata"]
        assert told == {"limit_bytes": str(INTERNAL_LIMIT)}
        assert body["message"].startswith(f"the body is larger than {INTERNAL_LIMIT} ")
        assert len(service.calls) == 1

    @pytest.mark.parametrize(
        ("listener", "limit"), [("public", LIMIT), ("internal", INTERNAL_LIMIT)]
    )
    def test_a_native_caller_is_told_the_listeners_limit(
        self, edge: Edge, service: Service, listener: str, limit: int
    ) -> None:
        channel = edge.channel(getattr(edge.settings, listener))
        with pytest.raises(grpc.RpcError) as large:
            call_grpc(channel, LOGIN, b"x" * (limit + 6))
        assert large.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert f"the body is larger than {limit} bytes, " in str(large.value.details())
        assert not service.calls

    @pytest.mark.parametrize(
        "content_type",
        [
            "application/grpc",
            "application/grpc+json",
            "application/grpcs",
            "application/grpc;a=b",
            "application/grpc-web+json",
            "application/grpc-web;a=b",
            "application/grpc-web-text+json",
            "application/grpc-webs",
            "Application/gRPC",
        ],
    )
    def test_what_looks_like_grpc_counts(
        self, edge: Edge, service: Service, content_type: str
    ) -> None:
        answer = edge.public.post(
            "/api/auth/login",
            content=_unknown_field(1_000_000),
            headers={"content-type": content_type},
        )
        if "grpc-status" not in answer.headers:
            assert_error(answer, 413, 8, "REQUEST_TOO_LARGE")
        else:
            assert answer.headers["grpc-status"] in {"8", "12"}
        assert not service.calls


class TestQueries:
    @pytest.mark.parametrize(
        "query",
        [
            "user.email=evil@example.com",
            "update_mask=email&user.email=evil@example.com",
            "&user.user_id=evil",
            "user=1",
            "user",
            "user&a",
            "user..email=evil",
        ],
    )
    def test_what_is_for_the_body_is_not_taken_from_the_query(
        self, edge: Edge, service: Service, query: str
    ) -> None:
        answer = edge.public.patch(f"/api/users/me?{query}", json={"locale": "en"})
        assert_error(answer, 400, 3, "MALFORMED_REQUEST")
        assert not service.calls

    @pytest.mark.parametrize(
        "query",
        [
            ".user.email=x",
            "a;user.email=x",
            "?user.email=x",
            "user+.email=x",
            "users=1",
        ],
    )
    def test_what_the_transcoder_does_not_know_does_nothing(
        self, edge: Edge, service: Service, query: str
    ) -> None:
        answer = edge.public.patch(f"/api/users/me?{query}", json={"locale": "en"})
        assert answer.status_code == 200
        (call,) = service.calls
        assert str(call.request) == 'user {\n  locale: "en"\n}\n'

    @pytest.mark.parametrize("name", ["update_mask", "updateMask"])
    def test_a_mask_may_stand_in_the_query(
        self, edge: Edge, service: Service, name: str
    ) -> None:
        answer = edge.public.patch(f"/api/users/me?{name}=email,locale", json={})
        assert answer.status_code == 200
        (call,) = service.calls
        assert call.request.update_mask.paths == ["email", "locale"]


class TestGrpcWeb:
    """Envoy's own refusals have the code that the service's would have."""

    @pytest.mark.parametrize("suffix", ["", "-text"])
    @pytest.mark.parametrize(
        ("path", "headers", "size", "code"),
        [
            (LOGIN + "?a%5Fb=1", {}, 0, 3),
            (LOGIN, {"grpc-timeout": "100m"}, 0, 4),
            (LOGIN, {}, 70_000, 8),
            ("/pourtier.v1.AuthService/None", {}, 0, 12),
            ("/a%2Fb", {}, 0, 3),
        ],
    )
    def test_refusals(
        self,
        edge: Edge,
        service: Service,
        suffix: str,
        path: str,
        headers: dict[str, str],
        size: int,
        code: int,
    ) -> None:
        release = threading.Event()
        service.answers["Login"] = after(release)
        frame = struct.pack(">BI", 0, size) + bytes(size)
        content = base64.b64encode(frame) if suffix else frame
        answer = web(edge, path, content, suffix=suffix, headers=headers)
        release.set()
        assert answer.status_code == 200
        assert answer.headers["grpc-status"] == str(code)
        assert answer.headers["grpc-message"]
        assert not answer.content

    def test_a_text_that_is_no_base64(self, edge: Edge) -> None:
        answer = web(edge, LOGIN, EMPTY, suffix="-text")
        assert answer.headers["grpc-status"] == "3"

    def test_overload(self, tmp_path: Path) -> None:
        with contract_edge(tmp_path, max_calls=1) as (edge, service):
            release = threading.Event()
            service.answers["Login"] = after(release)
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(web, edge, LOGIN)
                wait_until(
                    lambda: [call.method for call in service.calls][-1:] == ["Login"]
                )
                refused = web(edge, LOGIN)
                release.set()
            assert first.result().status_code == 200
        assert refused.headers["grpc-status"] == "8"


def test_a_full_heap_refuses_requests(tmp_path: Path) -> None:
    service = Service(tmp_path / "grpc-0.sock", contract_services())
    service.start()
    edge = Edge(tmp_path, CONTRACT, [service.socket], max_heap_bytes=1_000_000)
    edge.start()
    try:
        # Health checks of the service need a moment, and answer 503 too.
        time.sleep(1)
        answer = edge.public.get("/health")
        assert_error(answer, 503, 14, "SERVICE_UNAVAILABLE")
    finally:
        edge.stop()
        service.stop().wait()
    assert '"why":"overload"' in edge.log.read_text()


def web(
    edge: Edge,
    path: str,
    content: bytes = EMPTY,
    *,
    suffix: str = "",
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """A gRPC-Web call; `suffix` is `-text` for the base64 form."""
    kind = {"content-type": f"application/grpc-web{suffix}+proto"}
    return edge.public.post(path, content=content, headers={**kind, **(headers or {})})


def _http2_call(path: str, trailer: tuple[bytes, bytes]) -> bytes:
    """A native call with a trailer, which no client library would send."""
    headers = http2.block(
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
    last = http2.block(trailer)
    return b"".join(
        [
            http2.OPENING,
            http2.frame(http2.HEADERS, http2.END_HEADERS, 1, headers),
            http2.frame(http2.DATA, 0, 1, EMPTY),
            http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, last),
        ]
    )


def _unknown_field(size: int) -> bytes:
    """A JSON body of that many bytes whose one field is none of the contract's."""
    head, tail = b'{"nobody_knows": "', b'"}'
    return head + b"a" * (size - len(head) - len(tail)) + tail
