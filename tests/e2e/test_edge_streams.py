"""The JSON edge and streams: those that it passes on, and those to nowhere."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from e2e.edge_rig import ORIGIN, Edge, Service, contract_edge


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


class TestReflection:
    @pytest.mark.parametrize("version", ["v1", "v1alpha"])
    def test_streams_are_not_held_back(self, edge: Edge, version: str) -> None:
        end = threading.Event()
        answered = threading.Event()

        def requests() -> Iterator[bytes]:
            yield b"\x3a\x01*"  # list_services: "*"
            assert answered.wait(5)
            yield b"\x3a\x01*"
            end.wait(5)

        reflect: grpc.StreamStreamMultiCallable[bytes, bytes] = edge.channel(
            edge.settings.internal
        ).stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        )
        answers = reflect(requests(), timeout=5)
        try:
            if version == "v1":
                # The service behind has the older one alone, and says so itself.
                with pytest.raises(grpc.RpcError) as unknown:
                    next(answers)
                assert unknown.value.details() == "Method not found!"
                return
            assert b"ServerReflection" in next(answers)
            answered.set()
            assert b"ServerReflection" in next(answers)
        finally:
            end.set()


class TestUnknownStreams:
    """Who keeps a stream open to a method that is not there hears so all the same."""

    METHODS = (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Watch",
        "/pourtier.v1.UserService/None",
        "/api/users/me",
    )
    # An edge that waits for the rest answers after ten seconds.
    AT_ONCE = 5.0

    @pytest.mark.parametrize("method", METHODS)
    def test_over_grpc(self, edge: Edge, service: Service, method: str) -> None:
        end = threading.Event()

        def requests() -> Iterator[bytes]:
            yield b"\x3a\x01*"
            end.wait(20)

        stream: grpc.StreamStreamMultiCallable[bytes, bytes]
        stream = edge.channel(edge.settings.public).stream_stream(method)
        before = time.monotonic()
        with pytest.raises(grpc.RpcError) as unknown:
            next(stream(requests(), timeout=20))
        end.set()
        assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert unknown.value.details() == "there is no such method or path"
        assert time.monotonic() - before < self.AT_ONCE
        assert not service.calls

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("suffix", ["", "+proto", "-text", "-text+proto"])
    def test_over_grpc_web(
        self, edge: Edge, service: Service, method: str, suffix: str
    ) -> None:
        head = (
            f"POST {method} HTTP/1.1\r\nhost: x\r\n"
            f"content-type: application/grpc-web{suffix}\r\n"
            f"origin: {ORIGIN}\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        address = edge.settings.public
        with socket.create_connection((address.host, address.port)) as caller:
            caller.settimeout(self.AT_ONCE)
            caller.sendall(head.encode())
            answer = caller.recv(4096).decode()
        assert answer.startswith("HTTP/1.1 200 OK\r\n")
        assert "\r\ngrpc-status: 12\r\n" in answer
        assert "\r\ngrpc-message: there is no such method or path\r\n" in answer
        assert f"\r\naccess-control-allow-origin: {ORIGIN}\r\n" in answer
        assert not service.calls
