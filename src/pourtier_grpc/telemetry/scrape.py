"""Metrics by HTTP, on a port of their own that all processes of an instance share.

The first to bind it serves the metrics of all; when it ends, another takes over within
a second.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer

import structlog
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

PATH = "/metrics"
TAKEOVER_SECONDS = 1.0
# How long a scraper may take to ask, and the server to notice that it is to stop.
PATIENCE_SECONDS = 5.0
POLL_SECONDS = 0.1

_log = structlog.get_logger("pourtier.metrics")


class MetricsPort:
    """Serves a collector's metrics where it can bind the port, and keeps trying.

    `among_others` says whether another process of the instance lives, which then may
    hold the port. Without the port the service is none the worse, so a taken one is
    a warning and no more.
    """

    def __init__(
        self,
        collector: Collector,
        *,
        host: str,
        port: int,
        among_others: Callable[[], bool] = lambda: False,
    ) -> None:
        self._collector = collector
        self._address = host, port
        self._among_others = among_others
        self._server: _Server | None = None
        self._stopped = threading.Event()
        self._said = False
        self._thread = threading.Thread(target=self._keep, name="metrics", daemon=True)

    @property
    def port(self) -> int | None:
        """The port, where this process holds it."""
        server = self._server
        return None if server is None else server.server_address[1]

    def start(self) -> None:
        """Binds the port if it is free, and serves from a thread of its own."""
        self._bind()
        self._thread.start()

    def stop(self) -> None:
        """Lets the port go."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _keep(self) -> None:
        while self._server is None:
            if self._stopped.wait(TAKEOVER_SECONDS):
                return
            self._bind()
        with self._server as server:
            while not self._stopped.is_set():
                server.handle_request()

    def _bind(self) -> None:
        try:
            self._server = _Server(self._address, self._collector)
        except OSError as error:
            if not self._said and not self._among_others():
                self._said = True
                _log.warning(
                    "metrics cannot be served",
                    host=self._address[0],
                    port=self._address[1],
                    why=error.strerror,
                )


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    timeout = POLL_SECONDS

    def __init__(self, address: tuple[str, int], collector: Collector) -> None:
        self.collector = collector
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def handle_error(
        self,
        request: socket.socket | tuple[bytes, socket.socket],  # noqa: ARG002 - the base's
        client_address: object,  # noqa: ARG002 - signature
    ) -> None:
        """Logs it, unless the scraper has gone: the base would print a stack."""
        if not isinstance(sys.exception(), OSError):
            _log.exception("defect")


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE_SECONDS
    server_version = "pourtier"
    sys_version = ""

    def do_GET(self) -> None:
        """Answers with the metrics, in the format that was asked for."""
        assert isinstance(self.server, _Server)  # noqa: S101 - for the type checker
        if self.path.partition("?")[0] != PATH:
            self.send_error(404)
            return
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        body = encode(self.server.collector)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Says nothing: a scrape every few seconds is no news."""
