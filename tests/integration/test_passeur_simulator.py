"""The simulator as it stands: what the contract leaves open, faults, start and stop."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from pourtier_grpc.devtools.passeur.server import Simulator
from pourtier_grpc.devtools.process import DevServerError
from pourtier_grpc.devtools.wallet import DevWallet
from support.commands import quickly
from support.passeur import PasseurSim

ID = {"X-Request-Id": "r"}


def charge(
    sim: PasseurSim, wallet: str, key: str | None, body: Any = None
) -> httpx.Response:
    keyed = {} if key is None else {"Idempotency-Key": key}
    # In escapes, which hold what UTF-8 cannot.
    content = json.dumps({"amount": "1", "reference": "r"} if body is None else body)
    path = f"/escrow/{wallet}/charges"
    return sim.http.post(path, content=content, headers={**ID, **keyed})


class TestRequests:
    def test_need_an_id_and_a_key(self, sim: PasseurSim) -> None:
        wallet = sim.escrow()
        assert sim.http.get("/health").status_code == 400
        assert charge(sim, wallet, None).json() == {"error": "idempotency_key_required"}
        assert sim.effects(wallet=wallet, kind="charge") == []

    @pytest.mark.parametrize(
        "amount",
        [
            "0",
            "0.000000",
            "-1",
            "1.0000001",
            "1e3",
            "",
            "1.",
            ".5",
            " 1",
            1,
            1.5,
            None,
            True,
            ["1"],
            "1000000000000.000001",
            "\ud800",
        ],
    )
    def test_amounts_are_read_strictly(self, sim: PasseurSim, amount: object) -> None:
        wallet = sim.escrow()
        answer = charge(sim, wallet, str(uuid4()), {"amount": amount})
        assert (answer.status_code, answer.json()["error"]) == (422, "invalid_amount")

    @pytest.mark.parametrize(
        "body", [b"{", b"[]", b"7", b"\xff", b"[" * 60_000], ids=lambda body: body[:2]
    )
    def test_bodies_without_sense_are_refused(
        self, sim: PasseurSim, body: bytes
    ) -> None:
        headers = {**ID, "Idempotency-Key": str(uuid4())}
        answer = sim.http.post("/escrow/w/charges", content=body, headers=headers)
        assert (answer.status_code, answer.json()) == (400, {"error": "invalid_json"})

    @pytest.mark.parametrize(
        "headers", [{"Content-Length": "70000"}, {"Content-Length": "x"}]
    )
    def test_bodies_without_measure_end_the_connection(
        self, sim: PasseurSim, headers: dict[str, str]
    ) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with socket.create_connection(("127.0.0.1", sim.port), timeout=10) as raw:
            raw.sendall(f"POST /escrow/w/charges HTTP/1.1\r\n{lines}\r\n".encode())
            assert raw.recv(4096).startswith(b"HTTP/1.1 413 ")
            assert raw.recv(4096) == b""

    @pytest.mark.parametrize(
        ("verb", "path"),
        [
            ("GET", "/"),
            ("GET", "/escrow"),
            ("GET", "/escrow/a/b/c"),
            ("GET", "/escrow/w/charges"),
            ("DELETE", "/health"),
            ("POST", "/_sim/nothing"),
        ],
    )
    def test_what_is_not_there_is_not_found(
        self, sim: PasseurSim, verb: str, path: str
    ) -> None:
        assert sim.http.request(verb, path, headers=ID).status_code == 404

    @pytest.mark.parametrize("query", ["page_token=x", "limit=0", "limit=many"])
    def test_pages_without_sense_are_refused(self, sim: PasseurSim, query: str) -> None:
        path = f"/escrow/{sim.escrow()}/transactions?{query}"
        assert sim.http.get(path, headers=ID).status_code == 400

    def test_a_reference_may_be_anything(self, sim: PasseurSim) -> None:
        wallet = sim.escrow()
        for reference in ("\ud800", "\x00", None, 5, "x" * 10_000):
            body = {"amount": "1", "reference": reference}
            assert charge(sim, wallet, str(uuid4()), body).status_code == 201


def test_a_page_in_a_browser_is_refused(sim: PasseurSim) -> None:
    headers = {"Origin": "https://elsewhere.example"}
    for verb, path in (("POST", "/_sim/faults"), ("GET", "/_sim/effects")):
        assert sim.http.request(verb, path, headers=headers).status_code == 403


class TestFaults:
    def test_apply_to_the_next_calls_that_match(self, sim: PasseurSim) -> None:
        wallet, prefix = sim.escrow(), str(uuid4())
        sim.fault(operation="charge", key_prefix=prefix, status=502, times=2)
        sim.fault(key=f"{prefix}-4", status=418)

        def asked(key: str) -> int:
            return charge(sim, wallet, key).status_code

        assert asked(str(uuid4())) == 201
        assert [asked(f"{prefix}-{number}") for number in range(5)] == [
            502,
            502,
            201,
            201,
            418,
        ]
        assert sim.http.get("/_sim/faults").json() == {"faults": []}

    def test_of_each_key_apply_to_its_first_calls(self, sim: PasseurSim) -> None:
        wallet, keys = sim.escrow(), [str(uuid4()) for _ in range(3)]
        sim.fault(operation="charge", each_key=True, status=502)
        answers = [
            charge(sim, wallet, key).status_code for key in keys for _ in range(2)
        ]
        assert answers == [502, 201] * 3

    def test_of_status_are_not_remembered(self, sim: PasseurSim) -> None:
        wallet, key = sim.escrow(), str(uuid4())
        for status in (429, 503):
            sim.fault(key=key, status=status, retry_after="9")
            answer = charge(sim, wallet, key)
            assert answer.status_code == status
            assert answer.headers["retry-after"] == "9"
        assert charge(sim, wallet, key).status_code == 201

    def test_after_the_effect_leave_it(self, sim: PasseurSim) -> None:
        wallet, key = sim.escrow(), str(uuid4())
        sim.fault(key=key, when="after", drop=True)
        with pytest.raises(httpx.RemoteProtocolError):
            charge(sim, wallet, key)
        assert len(sim.effects(key=key)) == 1

    def test_can_be_taken_back(self, sim: PasseurSim) -> None:
        sim.fault(operation="health", status=500, times=None)
        sim.reset()
        assert sim.http.get("/health", headers=ID).status_code == 200

    @pytest.mark.parametrize(
        "fault",
        [
            {"operation": "nothing"},
            {"nonsense": 1},
            {"status": 200},
            {"status": "500"},
            {"times": 0},
            {"times": True},
            {"when": "later"},
            {"delay_seconds": -1},
            {"delay_seconds": 1e9},
            {"drop": 1},
            {"key": None},
        ],
    )
    def test_without_sense_are_refused(
        self, sim: PasseurSim, fault: dict[str, Any]
    ) -> None:
        answer = sim.http.post("/_sim/faults", json=fault)
        assert (answer.status_code, answer.json()["error"]) == (422, "invalid_fault")
        assert sim.http.get("/_sim/faults").json() == {"faults": []}


def test_a_balance_never_overflows(sim: PasseurSim) -> None:
    wallet = sim.escrow("1000000000000")
    for _ in range(8):
        sim.top_up(wallet, "1000000000000")
    answer = sim.http.post(
        f"/_sim/escrow/{wallet}/top-up", json={"amount": "1000000000000"}
    )
    assert answer.status_code == 422


def test_an_escrow_that_is_not_there_is_not_topped_up(sim: PasseurSim) -> None:
    path = f"/_sim/escrow/{DevWallet.generate().address}/top-up"
    answer = sim.http.post(path, json={"amount": "1"})
    assert (answer.status_code, answer.json()["error"]) == (
        404,
        "escrow_not_initialized",
    )


def test_only_this_machine_reaches_it(sim: PasseurSim) -> None:
    listening = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    own = [line.split() for line in listening]
    hosts = {
        fields[1].rpartition(":")[0]
        for fields in own
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == sim.port
    }
    assert hosts == {"0100007F"}


def test_it_ends_cleanly_and_goes_on_where_it_was(folder: Path) -> None:
    sim = PasseurSim(folder)
    sim.start()
    wallet, key = sim.escrow("5"), str(uuid4())
    first = charge(sim, wallet, key)
    sim.child.stop()
    assert sim.child.poll() == 0
    assert sim.child.log_tail() == sim.url
    sim.start()
    assert charge(sim, wallet, key).json() == first.json()
    assert len(sim.effects(key=key)) == 1
    sim.child.stop()
    sim.http.close()


def test_two_cannot_have_one_ledger(folder: Path) -> None:
    first = Simulator(folder, port=0, settle_seconds=1)
    first.start()
    try:
        with pytest.raises(DevServerError, match="another simulator"):
            Simulator(folder, port=0, settle_seconds=1)
    finally:
        first.stop()


def test_a_taken_port_is_a_sentence(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = quickly("passeur-sim", "--port", port, "--data-dir", folder)
        assert (done.returncode, done.stdout) == (1, "")
        assert "POURTIER_PASSEUR_PORT" in done.stderr
        with pytest.raises(DevServerError, match=f"port {port}"):
            Simulator(folder, port=port, settle_seconds=1)


@pytest.mark.parametrize("content", [b"no database", None])
def test_a_folder_that_holds_no_ledger_is_a_sentence(
    folder: Path, content: bytes | None
) -> None:
    place = folder / "passeur"
    if content is None:
        place.write_text("a file")
    else:
        place.mkdir()
        (place / "ledger.sqlite3").write_bytes(content * 1000)
    with pytest.raises(DevServerError, match="cannot be used"):
        Simulator(place, port=0, settle_seconds=1)


def test_it_stops_at_the_first_signal(folder: Path) -> None:
    sim = PasseurSim(folder)
    sim.start()
    sim.http.get("/health")
    # With a caller's connection open, which need not end first.
    sim.child._stop_signals = (signal.SIGINT,)
    sim.child.stop()
    assert sim.child.poll() == 0
    sim.http.close()
