"""The JSON edge: threads, deadlines, second attempts, draining, browsers."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from e2e.edge_rig import (
    CONTRACT,
    ORIGIN,
    Answer,
    Edge,
    Service,
    assert_error,
    call_grpc,
    contract_edge,
    contract_services,
    running,
)
from pourtier.v1 import auth_service_pb2, user_pb2
from support.waiting import wait_until

LOGIN = "/pourtier.v1.AuthService/Login"
CALL_TIMEOUT = 1.5
ATTEMPT_TIMEOUT = 0.3
RECEIVE_TIMEOUT = 0.7
# Longer than two looks of the edge at a worker's health.
NOTICE_SECONDS = 2.5
PREFLIGHT = {
    "access-control-request-method": "PATCH",
    "access-control-request-headers": "authorization,content-type",
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Edge, Service]]:
    with contract_edge(
        tmp_path_factory.mktemp("edge"),
        call_timeout=timedelta(seconds=CALL_TIMEOUT),
        attempt_timeout=timedelta(seconds=ATTEMPT_TIMEOUT),
        receive_timeout=timedelta(seconds=RECEIVE_TIMEOUT),
    ) as pair:
        yield pair


@pytest.fixture
def edge(pair: tuple[Edge, Service]) -> Edge:
    return pair[0]


@pytest.fixture
def service(pair: tuple[Edge, Service]) -> Service:
    pair[1].forget()
    return pair[1]


def until(release: threading.Event) -> Answer:
    """An answer that waits."""

    def answer(*_: Any) -> None:
        release.wait(5)

    return answer


class TestThreads:
    CALLERS = 12  # three times the server's threads

    def test_headers_alone_never_reach_the_service(
        self, edge: Edge, service: Service
    ) -> None:
        address = edge.settings.public
        head = (
            b"POST /api/auth/login HTTP/1.1\r\nhost: x\r\n"
            b"content-type: application/json\r\ncontent-length: 10\r\n\r\n"
        )
        sockets = []
        for _ in range(self.CALLERS):
            one = socket.create_connection((address.host, address.port), timeout=5)
            one.sendall(head)
            sockets.append(one)
        self._assert_others_are_served(edge)
        for one in sockets:
            one.settimeout(CALL_TIMEOUT - 0.2)
            answer = one.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"DEADLINE_EXCEEDED" in answer
            one.close()
        assert [call.method for call in service.calls] == ["GetStatus"]

    def test_nor_over_grpc(self, edge: Edge, service: Service) -> None:
        never = threading.Event()

        def nothing() -> Iterator[bytes]:
            never.wait(10)
            yield from ()

        channel = edge.channel(edge.settings.public)
        login: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(LOGIN)
        calls = [login.future(nothing()) for _ in range(self.CALLERS)]
        self._assert_others_are_served(edge)
        codes = {call.code() for call in calls}
        never.set()
        assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
        assert [call.method for call in service.calls] == ["GetStatus"]

    @staticmethod
    def _assert_others_are_served(edge: Edge) -> None:
        time.sleep(0.1)
        before = time.monotonic()
        assert edge.public.get("/health").status_code == 200
        assert time.monotonic() - before < RECEIVE_TIMEOUT / 2


class TestTime:
    def test_the_deadline_reaches_the_service_and_ends_the_call(
        self, edge: Edge, service: Service
    ) -> None:
        release = threading.Event()
        service.answers["Login"] = until(release)
        answer = edge.public.post("/api/auth/login", json={})
        release.set()
        # Envoy and grpc race to say so, to the millisecond; grpc gives no details.
        assert (answer.status_code, answer.json()["code"]) == (504, 4)
        (call,) = service.calls
        assert call.seconds_left == pytest.approx(CALL_TIMEOUT, abs=0.3)

    def test_a_shorter_deadline_stays_a_longer_one_is_cut(
        self, edge: Edge, service: Service
    ) -> None:
        channel = edge.channel(edge.settings.public)
        call_grpc(channel, LOGIN, timeout=1)
        call_grpc(channel, LOGIN, timeout=3600)
        short, long = (call.seconds_left for call in service.calls)
        # A deadline's last digits are lost on the way.
        assert short == pytest.approx(1, abs=0.3)
        assert long == pytest.approx(CALL_TIMEOUT, abs=0.3)

    def test_a_read_is_tried_again(self, edge: Edge, service: Service) -> None:
        service.answers["GetMe"] = self._twice_unavailable(service)
        assert edge.public.get("/api/users/me").status_code == 200
        assert len(service.calls) == 3

    def test_a_mutation_is_not(self, edge: Edge, service: Service) -> None:
        service.answers["Login"] = self._twice_unavailable(service)
        assert edge.public.post("/api/auth/login", json={}).status_code == 503
        assert len(service.calls) == 1

    @pytest.mark.parametrize("listener", ["public", "internal"])
    def test_nor_because_a_client_wishes_so(
        self, edge: Edge, service: Service, listener: str
    ) -> None:
        service.answers["Login"] = self._twice_unavailable(service)
        wish = {
            "x-envoy-retry-on": "5xx",
            "x-envoy-retry-grpc-on": "unavailable",
            "x-envoy-max-retries": "5",
            "x-envoy-upstream-rq-timeout-ms": "1",
        }
        client: httpx.Client = getattr(edge, listener)
        answer = client.post("/api/auth/login", json={}, headers=wish)
        assert answer.status_code == 503
        assert len(service.calls) == 1

    @staticmethod
    def _twice_unavailable(service: Service) -> Answer:
        def answer(_: Any, context: grpc.ServicerContext) -> None:
            if len(service.calls) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

        return answer

    def test_a_read_that_hangs_is_tried_again(
        self, edge: Edge, service: Service
    ) -> None:
        def hang(*_: Any) -> None:
            if len(service.calls) == 1:
                time.sleep(ATTEMPT_TIMEOUT + 0.3)

        service.answers["GetMe"] = hang
        assert edge.public.get("/api/users/me").status_code == 200
        assert len(service.calls) == 2
        assert service.calls[0].seconds_left > ATTEMPT_TIMEOUT

    def test_a_read_that_always_hangs_ends(self, edge: Edge, service: Service) -> None:
        release = threading.Event()
        service.answers["GetMe"] = until(release)
        answer = edge.public.get("/api/users/me")
        release.set()
        assert_error(answer, 504, 4, "DEADLINE_EXCEEDED")
        assert len(service.calls) == 3

    def test_a_draining_worker_finishes_what_it_accepted(self, tmp_path: Path) -> None:
        workers = [
            Service(tmp_path / f"grpc-{n}.sock", contract_services()) for n in range(2)
        ]
        for worker in workers:
            worker.answers["Login"] = lambda *_: time.sleep(0.02)
        stop = threading.Event()

        def caller(edge: Edge) -> list[int]:
            seen = []
            while not stop.is_set():
                seen.append(edge.public.post("/api/auth/login", json={}).status_code)
            return seen

        with running(tmp_path, CONTRACT, *workers) as edge:
            with ThreadPoolExecutor(8) as pool:
                callers = [pool.submit(caller, edge) for _ in range(8)]
                time.sleep(0.4)
                # As our server does: grpcio cancels, without a reason, what arrives
                # while it begins to refuse.
                workers[0].health.enter_graceful_shutdown()
                time.sleep(NOTICE_SECONDS)
                workers[0].stop(grace=5).wait()
                time.sleep(0.4)
                stop.set()
            seen = [status for one in callers for status in one.result()]
        done = [sum(call.method == "Login" for call in w.calls) for w in workers]
        assert set(seen) == {200}
        assert all(done)
        assert sum(done) == len(seen)

    def test_more_calls_than_the_edge_takes(self, tmp_path: Path) -> None:
        with contract_edge(tmp_path, max_calls=1) as (edge, service):
            release = threading.Event()
            service.answers["Login"] = until(release)
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(edge.public.post, "/api/auth/login", json={})
                wait_until(lambda: bool(service.calls[-1:]))
                wait_until(lambda: service.calls[-1].method == "Login")
                answer = edge.public.post("/api/auth/login", json={})
                release.set()
            assert first.result().status_code == 200
        body = assert_error(answer, 429, 8, "OVERLOADED")
        assert body["details"][1]["retry_delay"] == "1s"
        assert answer.headers["retry-after"] == "1"


class TestBrowsers:
    def test_preflight(self, edge: Edge, service: Service) -> None:
        answer = edge.public.options(
            "/api/users/me", headers={"origin": ORIGIN, **PREFLIGHT}
        )
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "PATCH" in answer.headers["access-control-allow-methods"]
        assert "idempotency-key" in answer.headers["access-control-allow-headers"]
        assert answer.headers["access-control-max-age"] == "7200"
        assert "access-control-allow-credentials" not in answer.headers
        assert not service.calls

    @pytest.mark.parametrize(
        "origin", ["https://evil.example", f"{ORIGIN}.evil.example", "null"]
    )
    def test_preflight_of_a_stranger(self, edge: Edge, origin: str) -> None:
        headers = {"origin": origin, **PREFLIGHT}
        answer = edge.public.options("/api/users/me", headers=headers)
        assert "access-control-allow-origin" not in answer.headers
        own = {"origin": ORIGIN, **PREFLIGHT}
        answer = edge.internal.options("/api/users/me", headers=own)
        assert "access-control-allow-origin" not in answer.headers

    @pytest.mark.parametrize(
        "path", ["/api/users/me", "/api/nowhere", "/api/users/me?%5F=1"]
    )
    def test_scripts_may_read_answers_and_errors(self, edge: Edge, path: str) -> None:
        headers = edge.public.get(path, headers={"origin": ORIGIN}).headers
        assert headers["access-control-allow-origin"] == ORIGIN
        assert "x-ratelimit-remaining" in headers["access-control-expose-headers"]
        assert "x-consistency-token" in headers["access-control-expose-headers"]

    @pytest.mark.parametrize("suffix", ["-web+proto", "-web-text+proto"])
    def test_grpc_web(self, edge: Edge, service: Service, suffix: str) -> None:
        service.answers["Login"] = lambda request, _: auth_service_pb2.LoginResponse(
            user=user_pb2.User(wallet_address=request.wallet_address)
        )
        request = auth_service_pb2.LoginRequest(wallet_address="w").SerializeToString()
        frame = struct.pack(">BI", 0, len(request)) + request
        text = "text" in suffix
        answer = edge.public.post(
            LOGIN,
            content=base64.b64encode(frame) if text else frame,
            headers={
                "content-type": f"application/grpc{suffix}",
                "accept": f"application/grpc{suffix}",
                "x-grpc-web": "1",
                "origin": ORIGIN,
            },
        )
        content = answer.content
        if text:
            # Each frame is encoded by itself, padding included.
            groups = [content[at : at + 4] for at in range(0, len(content), 4)]
            content = b"".join(map(base64.b64decode, groups))
        (length,) = struct.unpack(">I", content[1:5])
        message = auth_service_pb2.LoginResponse.FromString(content[5 : 5 + length])
        assert message.user.wallet_address == "w"
        assert b"grpc-status:0" in content[5 + length :]
        assert answer.headers["access-control-allow-origin"] == ORIGIN

    @pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
    def test_large_json_is_compressed(
        self, edge: Edge, service: Service, encoding: str
    ) -> None:
        def answer_with(size: int) -> httpx.Response:
            service.answers["GetMe"] = lambda *_: user_pb2.User(locale="a" * size)
            request = edge.public.build_request(
                "GET", "/api/users/me", headers={"accept-encoding": encoding}
            )
            answer = edge.public.send(request, stream=True)
            list(answer.iter_raw())
            return answer

        large = answer_with(5_000)
        assert large.headers["content-encoding"] == encoding
        assert "accept-encoding" in large.headers["vary"].lower()
        assert large.num_bytes_downloaded < 1_000
        assert "content-encoding" not in answer_with(10).headers

    def test_a_large_answer_passes(self, edge: Edge, service: Service) -> None:
        service.answers["GetMe"] = lambda *_: user_pb2.User(locale="a" * 3_000_000)
        headers = {"accept-encoding": "identity"}
        answer = edge.public.get("/api/users/me", headers=headers)
        assert len(json.loads(answer.content)["locale"]) == 3_000_000
