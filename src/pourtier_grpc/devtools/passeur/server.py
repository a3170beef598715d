"""The simulator's HTTP server, on the loopback interface alone.

`/escrow` and `/health` are Passeur's contract; under `/_sim` a test asks for faults,
tops escrows up, counts effects, and sees what has come in.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from urllib.parse import parse_qsl, unquote, urlsplit

from pourtier_grpc.devtools.passeur.contract import Contract, Request
from pourtier_grpc.devtools.passeur.faults import (
    Fault,
    FaultError,
    Faults,
    read_fault,
)
from pourtier_grpc.devtools.passeur.ledger import Ledger, Reply, refused
from pourtier_grpc.devtools.ports import LOOPBACK
from pourtier_grpc.devtools.process import DevServerError

MAX_BODY = 64 * 1024
IDLE_SECONDS = 75
# Requests that a test may look at.
REMEMBERED = 1000
# Of callers that connect at one moment.
BACKLOG = 256


@dataclass(frozen=True, slots=True)
class Route:
    """A call of the contract or of a test's. `paid` ones need an idempotency key."""

    name: str
    verb: str
    path: re.Pattern[str]
    work: Callable[[Request], Reply]
    paid: bool = False
    # Whether the path names the key, rather than the header.
    by_key: bool = False
    own: bool = False


class Simulator:
    """A simulator with its ledger in a folder, listening from the start.

    Raises DevServerError where the port is taken or the folder cannot be used.
    """

    def __init__(self, folder: Path, *, port: int, settle_seconds: float) -> None:
        self.faults = Faults()
        self.connections = 0
        self.requests: deque[dict[str, str | None]] = deque(maxlen=REMEMBERED)
        self._ledger = Ledger(folder)
        self._pending = threading.Event()
        self._stopped = threading.Event()
        contract = Contract(self._ledger, settle_seconds, self._pending.set)
        self.routes = self._routes(contract)
        self.operations = [route.name for route in self.routes if not route.own]
        self._under_way: dict[str, str] = {}
        self._lock = threading.Lock()
        try:
            self._server = _Server((LOOPBACK, port), self)
        except OSError as error:
            self._ledger.close()
            raise DevServerError(
                f"the simulator cannot listen on port {port}: {error.strerror}"
            ) from None
        self._threads = [
            threading.Thread(target=self._settle, name="settling", daemon=True),
            threading.Thread(
                target=self._server.serve_forever, args=(0.05,), daemon=True
            ),
        ]

    @property
    def port(self) -> int:
        """The port that it listens on."""
        number: int = self._server.server_address[1]
        return number

    def start(self) -> None:
        """Serves, from threads of its own."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the serving, and closes the ledger after what is being written."""
        self._stopped.set()
        self._pending.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()
        self._server.server_close()
        self._ledger.close()

    def enter(self, key: str, sameness: str) -> Reply | None:
        """Notes that a call is under way; a refusal where its twin is."""
        with self._lock:
            twin = self._under_way.get(key)
            if twin is None:
                self._under_way[key] = sameness
                return None
        same = twin == sameness
        return refused(409, "in_progress" if same else "idempotency_key_reused")

    def leave(self, key: str) -> None:
        """Notes that it is not any more."""
        with self._lock:
            del self._under_way[key]

    def is_under_way(self, key: str) -> bool:
        """Whether a call under a key is."""
        with self._lock:
            return key in self._under_way

    def connected(self) -> None:
        """Counts a connection."""
        with self._lock:
            self.connections += 1

    def _settle(self) -> None:
        while not self._stopped.is_set():
            # Before the look, so that what comes in meanwhile is looked at again.
            self._pending.clear()
            following = self._ledger.settle()
            if not self._stopped.is_set():
                self._pending.wait(following)

    def _routes(self, contract: Contract) -> list[Route]:
        def route(name: str, verb: str, path: str, **options: bool) -> Route:
            pattern = re.compile(path.replace("{}", "([^/]+)"))
            return Route(name, verb, pattern, getattr(contract, name), **options)

        return [
            route("initialize", "POST", "/escrow/{}/initialize"),
            # Before those of wallets: no wallet is called "charges".
            route("charge_of", "GET", "/escrow/charges/{}", by_key=True),
            route("void", "DELETE", "/escrow/charges/{}", by_key=True),
            route("refund", "POST", "/escrow/charges/{}/refund", paid=True),
            route("transaction", "GET", "/escrow/transactions/{}"),
            route("balance", "GET", "/escrow/{}/balance"),
            route("deposit", "POST", "/escrow/{}/deposits", paid=True),
            route("withdraw", "POST", "/escrow/{}/withdrawals", paid=True),
            route("charge", "POST", "/escrow/{}/charges", paid=True),
            route("transactions", "GET", "/escrow/{}/transactions"),
            route("health", "GET", "/health"),
            route("top_up", "POST", "/_sim/escrow/{}/top-up", own=True),
            route("effects", "GET", "/_sim/effects", own=True),
            *(
                Route(name, verb, re.compile(path), work, own=True)
                for name, verb, path, work in (
                    ("add_fault", "POST", "/_sim/faults", self._add_fault),
                    ("faults", "GET", "/_sim/faults", self._list_faults),
                    ("reset", "DELETE", "/_sim/faults", self._reset_faults),
                    ("seen", "GET", "/_sim/seen", self._seen),
                )
            ),
        ]

    def _add_fault(self, request: Request) -> Reply:
        try:
            self.faults.add(read_fault(request.body, self.operations))
        except FaultError as error:
            return refused(422, "invalid_fault", why=str(error))
        return Reply(201, {"faults": self.faults.listed()})

    def _list_faults(self, _: Request) -> Reply:
        return Reply(200, {"faults": self.faults.listed()})

    def _reset_faults(self, _: Request) -> Reply:
        self.faults.reset()
        return self._list_faults(_)

    def _seen(self, _: Request) -> Reply:
        seen = {"connections": self.connections, "requests": list(self.requests)}
        return Reply(200, seen)


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = BACKLOG

    def __init__(self, address: tuple[str, int], simulator: Simulator) -> None:
        self.simulator = simulator
        super().__init__(address, _Handler)

    def handle_error(
        self,
        request: socket.socket | tuple[bytes, socket.socket],
        client_address: object,
    ) -> None:
        """Prints a stack, unless the caller has gone."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Dropped(Exception):  # noqa: N818 - no error
    """The connection ends without an answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "passeur-sim"
    sys_version = ""
    timeout = IDLE_SECONDS
    # The answer's head and body go out together, and at once.
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        """Counts the connection."""
        super().setup()
        self.server.simulator.connected()

    def do_GET(self) -> None:
        """Answers a call."""
        with suppress(_Dropped):
            self._send(*self._answer())

    do_POST = do_DELETE = do_GET  # noqa: N815 - the base's names

    def _answer(self) -> tuple[Reply, str | None]:
        """The answer, and what its Retry-After says."""
        if self.headers["Origin"]:
            # A page in this machine's browser, which has no business here.
            return refused(403, "not_for_browsers"), None
        simulator, url = self.server.simulator, urlsplit(self.path)
        content = self._content()
        if isinstance(content, Reply):
            return content, None
        for route in simulator.routes:
            match = route.path.fullmatch(url.path)
            if match is None or route.verb != self.command:
                continue
            about = unquote(match[1]) if match.groups() else ""
            request = Request(
                about=about,
                key=about if route.by_key else self.headers["Idempotency-Key"] or "",
                body=content,
                query=dict(parse_qsl(url.query)),
                sameness=json.dumps([self.command, url.path, content], sort_keys=True),
            )
            if route.own:
                return route.work(request), None
            simulator.requests.append(
                {
                    "operation": route.name,
                    "key": request.key or None,
                    "request_id": self.headers["X-Request-Id"],
                    "traceparent": self.headers["traceparent"],
                }
            )
            return self._call(route, request)
        return refused(404, "not_found"), None

    def _call(self, route: Route, request: Request) -> tuple[Reply, str | None]:
        simulator = self.server.simulator
        if not self.headers["X-Request-Id"]:
            return refused(400, "request_id_required"), None
        if route.paid and not request.key:
            return refused(400, "idempotency_key_required"), None
        if route.name == "void" and simulator.is_under_way(request.key):
            return refused(409, "in_progress"), None
        if not route.paid:
            return self._with_fault(route, request)
        twin = simulator.enter(request.key, request.sameness)
        if twin is not None:
            return twin, None
        try:
            return self._with_fault(route, request)
        finally:
            simulator.leave(request.key)

    def _with_fault(self, route: Route, request: Request) -> tuple[Reply, str | None]:
        fault = self.server.simulator.faults.take(route.name, request.key or None)
        if fault is None:
            return route.work(request), None
        if fault.when == "before" and (reply := self._happens(fault)) is not None:
            return reply, fault.retry_after
        done = route.work(replace(request, settle_failed=fault.settle_failed))
        if fault.when == "after" and (reply := self._happens(fault)) is not None:
            return reply, fault.retry_after
        return done, None

    def _happens(self, fault: Fault) -> Reply | None:
        """Lets a fault happen; None where the call goes on."""
        time.sleep(fault.delay_seconds)
        if fault.crash:
            os.kill(os.getpid(), signal.SIGKILL)
        if fault.drop:
            self.close_connection = True
            raise _Dropped
        if fault.status is None:
            return None
        return refused(fault.status, "fault")

    def _content(self) -> Mapping[str, object] | Reply:
        """The request's JSON object, empty without a body; or what is wrong with it."""
        length = self.headers["Content-Length"] or "0"
        sized = length.isascii() and length.isdigit() and int(length) <= MAX_BODY
        if self.headers["Transfer-Encoding"] or not sized:
            # Whatever follows cannot be told from a next request.
            self.close_connection = True
            return refused(413, "body_too_large")
        body = self.rfile.read(int(length))
        if not body:
            return {}
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            content = None
        return content if isinstance(content, dict) else refused(400, "invalid_json")

    def _send(self, reply: Reply, retry_after: str | None) -> None:
        body = json.dumps(reply.body).encode()
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self._headers_buffer.append(b"\r\n" + body)  # type: ignore[attr-defined] # typeshed lacks it
        with suppress(ConnectionError):
            self.flush_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Says nothing: `/_sim/effects` is what there is to see."""
