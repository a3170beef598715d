"""What of a call of Passeur is on the wire: strange answers, and the trace."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from pourtier_grpc.passeur.breaker import BreakerState
from pourtier_grpc.passeur.errors import (
    MalformedAnswerError,
    RefusedError,
    Unavailability,
)
from pourtier_grpc.telemetry import otlp, tracing
from support.listeners import listener
from support.otlp import receiver
from support.passeur import (
    PasseurClient,
    PasseurSim,
    charge,
    passeur_client,
    unavailable,
)

CALLS = "pourtier_passeur_calls_total"


@pytest.fixture
def client(sim: PasseurSim) -> Iterator[PasseurClient]:
    with passeur_client(sim.url) as made:
        yield made


@pytest.fixture
def key() -> str:
    return str(uuid4())


@pytest.fixture
def wallet(sim: PasseurSim) -> str:
    return sim.escrow()


class TestStrangeAnswers:
    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
            b"HTTP/1.1 301 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n{}",
            b'HTTP/1.1 404 No\r\nContent-Length: 20\r\n\r\n{"error":"not found"}',
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b" " * 2_000_000,
        ],
        ids=["html", "moved", "unauthorized", "not-found", "gzip", "endless"],
    )
    def test_are_malformed_and_leave_it_open(
        self, answer: bytes, wallet: str, key: str
    ) -> None:
        with listener(answer) as strange, passeur_client(strange.url) as client:
            with pytest.raises(MalformedAnswerError) as info:
                charge(client, wallet, key)
            assert info.value.may_have_taken_effect
            assert client.waits == []
            assert client.scrape().values(CALLS, outcome="malformed") == [1]
            assert client.state() is BreakerState.CLOSED

    @pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 O"])
    def test_what_is_no_http_is_a_lost_connection(
        self, answer: bytes, wallet: str, key: str
    ) -> None:
        with listener(answer) as strange, passeur_client(strange.url) as client:
            error = unavailable(lambda: charge(client, wallet, key))
        assert (error.why, error.sent) == (Unavailability.LOST, True)


def test_a_sampled_call_has_a_span_for_each_attempt(
    client: PasseurClient,
    sim: PasseurSim,
    wallet: str,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otlp, "BATCH_SECONDS", 0.05)
    sim.fault(key=key, status=503)
    with receiver() as collector:
        traces = otlp.OtlpTracing(endpoint=collector.endpoint, ratio=1.0, version="0")
        parent = tracing.Parent("a" * 32, "b" * 16, sampled=True, state="vendor=x")
        span = traces.begin("a.Service/Call", {}, parent)
        charge(client, wallet, key)
        with pytest.raises(RefusedError):
            client.passeur.balance("unknown")
        span.end(code=0, reason=None, fault=False)
        charge(client, wallet, key)
        traces.stop()
        first, second = collector.named("POST /escrow/{wallet}/charges", 2)
        (balance,) = collector.named("GET /escrow/{wallet}/balance")
        sent = b"".join(each.SerializeToString() for each in collector.requests)
    assert first.attributes == {
        "http.request.method": "POST",
        "url.template": "/escrow/{wallet}/charges",
        "http.response.status_code": 503,
        "error.type": "503",
    }
    assert first.raw.kind == first.raw.SPAN_KIND_CLIENT
    assert second.attributes["http.request.resend_count"] == 1
    assert second.attributes["http.response.status_code"] == 201
    assert balance.raw.status.code == balance.raw.status.STATUS_CODE_ERROR
    assert {each.parent_id for each in (first, second, balance)} == {
        span._span.get_span_context().span_id.to_bytes(8, "big").hex()
    }
    carried = [each["traceparent"] for each in sim.requests(key=key)]
    assert carried == [
        *(f"00-{'a' * 32}-{each.span_id}-01" for each in (first, second)),
        None,
    ]
    assert wallet.encode() not in sent
    assert key.encode() not in sent
