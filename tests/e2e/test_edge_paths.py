"""The JSON edge: every path of the contract, and what else is the same path."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from http.client import parse_headers
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from e2e.edge_rig import Edge, Service, assert_error, contract_edge
from pourtier.v1 import user_pb2
from pourtier_grpc.devtools.edge import Address, committed_contract
from support import http2
from support.rpcs import Binding, Rpc, contract_rpcs, minimal

BINDINGS = [(rpc, binding) for rpc in contract_rpcs() for binding in rpc.bindings]
PUBLIC = {method.path for method in committed_contract().methods if method.public}
every_path = pytest.mark.parametrize(
    ("rpc", "binding"),
    BINDINGS,
    ids=[f"{binding.verb} {binding.template}" for _, binding in BINDINGS],
)


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


class TestTrailingSlash:
    @every_path
    @pytest.mark.parametrize("slash", ["/", "//"])
    def test_every_path_answers_with_one(
        self, edge: Edge, service: Service, rpc: Rpc, binding: Binding, slash: str
    ) -> None:
        verb, path, body, query = binding.call(minimal(rpc.request, {}))
        for end in ("", slash):
            answer = edge.internal.request(verb, path + end, json=body, params=query)
            assert answer.status_code == 200, answer.text
        without, with_one = service.calls
        assert (with_one.method, with_one.request) == (rpc.name, without.request)
        public = edge.public.request(verb, path + slash, json=body, params=query)
        if rpc.path in PUBLIC:
            assert public.status_code == 200, public.text
            assert service.calls[2].request == without.request
        else:
            assert_error(public, 404, 5, "METHOD_NOT_FOUND")
            assert len(service.calls) == 2

    @pytest.mark.parametrize(
        "address", ["a/", "a/?b/", "/", "a:b/", "a:b/?c=d:e/?", "%2F", "a" * 2_000]
    )
    def test_a_query_keeps_its_own(
        self, edge: Edge, service: Service, address: str
    ) -> None:
        for path in ("/api/users:byWallet", "/api/users:byWallet/"):
            edge.internal.get(f"{path}?wallet_address={address}")
        without, with_one = service.calls
        assert without.request.wallet_address
        assert with_one.request == without.request

    def test_what_a_query_must_not_set_it_does_not_set_there(
        self, edge: Edge, service: Service
    ) -> None:
        for query in ("user_id=evil", "reason=evil", "user%5Fid=evil"):
            answer = edge.public.post(f"/api/users/good:suspend/?{query}", json={})
            assert_error(answer, 400, 3, "MALFORMED_REQUEST")
        assert not service.calls

    @pytest.mark.parametrize(
        "path", ["/api/users:nonsense/", "/api/users:byWallet/x/", "/a:b/c:d/", "/:/"]
    )
    def test_it_makes_no_path_of_what_is_none(
        self, edge: Edge, service: Service, path: str
    ) -> None:
        assert_error(edge.internal.get(path), 404, 5, "METHOD_NOT_FOUND")
        assert not service.calls


class TestHead:
    """HEAD is answered like GET, without the body."""

    @pytest.mark.parametrize("listener", ["public", "internal"])
    @pytest.mark.parametrize("path", ["/health", "/health/", "/health?a=b"])
    def test_of_health(
        self, edge: Edge, service: Service, path: str, listener: str
    ) -> None:
        asked = head(edge, path, listener=listener)
        got = getattr(edge, listener).get(path)
        assert (asked.status, asked.body) == (200, b"")
        for name in ("content-type", "content-length", "cache-control"):
            assert asked.headers[name] == got.headers[name]
        assert [call.method for call in service.calls] == ["GetStatus"] * 2

    @every_path
    def test_of_every_path(
        self, edge: Edge, service: Service, rpc: Rpc, binding: Binding
    ) -> None:
        _, path, _, query = binding.call(minimal(rpc.request, {}))
        url = str(httpx.URL(path, params=query))
        asked = head(edge, url, listener="internal")
        # Another method's GET may have the same path.
        got = edge.internal.get(url)
        assert (asked.status, asked.body) == (got.status_code, b"")
        assert asked.headers["content-length"] == got.headers["content-length"]
        if binding.verb == "GET":
            assert asked.status == 200
            assert [call.method for call in service.calls] == [rpc.name] * 2

    @pytest.mark.parametrize("size", [5_000, 3_000_000])
    @pytest.mark.parametrize("encoding", ["identity", "gzip", "br"])
    def test_of_a_large_answer(
        self, edge: Edge, service: Service, size: int, encoding: str
    ) -> None:
        service.answers["GetMe"] = lambda *_: user_pb2.User(locale="a" * size)
        sent = ("accept-encoding", encoding)
        asked = head(edge, "/api/users/me", sent)
        assert (asked.status, asked.body) == (200, b"")
        assert body_over_http2(edge, "/api/users/me", sent) == b""
        if encoding == "identity":
            assert int(asked.headers["content-length"]) > size
        else:
            assert asked.headers["content-encoding"] == encoding

    def test_of_an_error(self, edge: Edge, service: Service) -> None:
        def refuse(_: Any, context: grpc.ServicerContext) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

        service.answers["GetMe"] = refuse
        for path, status in (
            ("/api/users/me", 401),
            ("/api/nowhere", 404),
            ("/api/users/me?a%5Fb=1", 400),
            ("/a%2Fb", 400),
        ):
            asked = head(edge, path)
            assert (asked.status, asked.body) == (status, b"")
            assert int(asked.headers["content-length"]) > 0
            assert body_over_http2(edge, path) == b""

    def test_other_calls_keep_their_bodies(self, edge: Edge) -> None:
        # Refused before any filter sees them, when a filter may take them for its own.
        for path in ("/a%2Fb", "/api/users/me?a%5Fb=1"):
            assert_error(edge.public.get(path), 400, 3, "MALFORMED_REQUEST")
        large = edge.public.get("/health", headers={"x-large": "a" * 20_000})
        assert_error(large, 431, 8, "REQUEST_TOO_LARGE")

    def test_the_log_says_head(self, tmp_path: Path) -> None:
        with contract_edge(tmp_path) as (edge, _):
            head(edge, "/health")
        last = json.loads(edge.log.read_text().splitlines()[-1])
        assert (last["verb"], last["path"], last["http"]) == ("HEAD", "/health", 200)


@dataclass(frozen=True)
class Answer:
    """All that came back."""

    status: int
    headers: Message
    body: bytes


def head(
    edge: Edge, path: str, *headers: tuple[str, str], listener: str = "public"
) -> Answer:
    """A HEAD call over HTTP/1.1, read to the end of the connection."""
    address: Address = getattr(edge.settings, listener)
    lines = [f"HEAD {path} HTTP/1.1", "host: x", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    with socket.create_connection((address.host, address.port), timeout=10) as caller:
        caller.sendall("\r\n".join([*lines, "", ""]).encode())
        with caller.makefile("rb") as received:
            first = received.readline().decode()
            return Answer(
                status=int(first.split()[1]),
                headers=parse_headers(received),
                body=received.read(),
            )


def body_over_http2(edge: Edge, path: str, *headers: tuple[str, str]) -> bytes:
    """The body of a HEAD call over HTTP/2, in which there must be none."""
    sent = http2.block(
        (b":method", b"HEAD"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        *((name.encode(), value.encode()) for name, value in headers),
    )
    whole = http2.END_HEADERS | http2.END_STREAM
    address = (edge.settings.public.host, edge.settings.public.port)
    body = b""
    with (
        socket.create_connection(address, timeout=10) as caller,
        caller.makefile("rb") as received,
    ):
        caller.sendall(http2.OPENING + http2.frame(http2.HEADERS, whole, 1, sent))
        for frame in http2.frames(received):
            if frame.kind == http2.DATA:
                body += frame.payload
            if frame.stream == 1 and frame.kind in {http2.DATA, http2.HEADERS}:
                if frame.flags & http2.END_STREAM:
                    return body
            else:
                assert frame.stream == 0, f"frame {frame.kind} breaks the stream off"
    raise AssertionError("the connection ended before the answer")
