"""`pourtier dev`: everything on one machine, stopped in the reverse of its order."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pourtier_grpc.compliance.samples import publish_samples
from pourtier_grpc.config import Settings
from pourtier_grpc.devtools.edge import Address, EdgeSettings, read_contract, render
from pourtier_grpc.devtools.embedded import EmbeddedServer
from pourtier_grpc.devtools.envoy import EmbeddedEnvoy
from pourtier_grpc.devtools.migrating import migrate_url
from pourtier_grpc.devtools.ports import is_free, require_free
from pourtier_grpc.devtools.postgres import EmbeddedPostgres
from pourtier_grpc.devtools.process import (
    ChildProcess,
    DevServerError,
    server_environment,
)
from pourtier_grpc.devtools.redis import EmbeddedRedis
from pourtier_grpc.devtools.state import State, open_state
from pourtier_grpc.listening import MAX_SOCKET_PATH
from pourtier_grpc.server import descriptor_set
from pourtier_grpc.wiring import build

WATCH_SECONDS = 0.5
PORTS = {
    "pourtier_http_port": "the public HTTP listener",
    "pourtier_internal_http_port": "the internal HTTP listener",
    "pourtier_grpc_port": "native gRPC",
    "pourtier_metrics_port": "metrics",
    "pourtier_passeur_port": "the Passeur simulator",
}


class _ToldToStopError(Exception):
    """The start is of no use any more."""


class Stack:
    """The whole platform of one checkout, as child processes.

    A database or Redis that the settings name is used as it is. `folders` are those
    with data and logs. `told` is set by whoever wants it to stop. Raises
    DevServerError, with what to do about it, where something cannot be started.
    """

    def __init__(self, settings: Settings, told: threading.Event) -> None:
        self.folders: tuple[Path, ...] = (settings.pourtier_data_dir.absolute(),)
        self._settings = settings
        self._told = told
        self._servers: list[EmbeddedServer | EmbeddedEnvoy | ChildProcess] = []
        self._stack = ExitStack()

    def start(self) -> bool:
        """Starts everything; False where it was told to stop before that was done.

        What was started is stopped again then, and where one fails.
        """
        with suppress(_ToldToStopError), ExitStack() as starting:
            starting.callback(self.stop)
            self._require_ports()
            state = open_state(self._settings.pourtier_data_dir)
            if state.directory != self.folders[0].resolve():
                self.folders += (state.directory,)
            self._stack.enter_context(only_one(self._folder()))
            self._start_all(state)
            starting.pop_all()
            return True
        return False

    def stop(self) -> None:
        """Stops everything, in the reverse order of its start."""
        self._stack.close()

    def wait(self) -> None:
        """Returns when told to. Raises DevServerError when a server ends by itself."""
        while not self._told.wait(WATCH_SECONDS):
            for server in self._servers:
                server.check()

    def _require_ports(self) -> None:
        taken: dict[int, str] = {}
        for field, name in PORTS.items():
            if field == "pourtier_passeur_port" and self._settings.passeur_url:
                continue
            port, variable = getattr(self._settings, field), field.upper()
            if port in taken:
                raise DevServerError(f"{taken[port]} and {variable} are both {port}")
            taken[port] = variable
            require_free(port, name, variable)

    def _start_all(self, state: State) -> None:
        environment = {
            "DATABASE_URL": self._database_url(state),
            "REDIS_URL": self._redis_url(state),
            "PASSEUR_URL": self._passeur_url(),
            "GRPC_UNIX_SOCKET": str(socket_path(self._settings.pourtier_data_dir)),
            # The children's working directory is another.
            "POURTIER_DATA_DIR": str(self._settings.pourtier_data_dir.absolute()),
            "KEY_DIR": str(self._settings.keys.absolute()),
        }
        migrate_url(environment["DATABASE_URL"])
        seed(self._settings.with_database(environment["DATABASE_URL"]))
        self._add(self._service(environment))
        self._add(self._worker(environment))
        self._add(self._edge(environment["GRPC_UNIX_SOCKET"]))

    def _database_url(self, state: State) -> str:
        if self._settings.database_url is not None:
            return self._settings.database_url.get_secret_value()
        postgres = EmbeddedPostgres(state)
        self._add(postgres.start(attach=False))
        return postgres.url

    def _redis_url(self, state: State) -> str:
        configured = self._settings.redis_dsn()
        if configured is not None:
            return configured
        redis = EmbeddedRedis(state)
        self._add(redis.start(attach=False))
        return redis.url

    def _passeur_url(self) -> str:
        if self._settings.passeur_url is not None:
            return self._settings.passeur_url
        port = self._settings.pourtier_passeur_port
        folder = self._settings.pourtier_data_dir.absolute() / "passeur"
        words = ["passeur-sim", "--port", str(port), "--data-dir", str(folder)]
        simulator = ChildProcess(
            "the Passeur simulator",
            [sys.executable, "-m", "pourtier_grpc", *words],
            log=self._folder() / "passeur-sim.log",
            cwd=Path.cwd(),
            env={**server_environment(), **os.environ},
        )
        simulator.start(lambda: not is_free(port))
        self._add(simulator)
        return f"http://127.0.0.1:{port}"

    def _service(self, environment: Mapping[str, str]) -> ChildProcess:
        service = self._child("the service", "serve", environment)
        target = f"unix:{environment['GRPC_UNIX_SOCKET']}"
        service.start(lambda: is_ready(target))
        return service

    def _worker(self, environment: Mapping[str, str]) -> ChildProcess:
        worker = self._child("the worker", "worker", environment)
        # Nobody waits for what it does.
        worker.start()
        return worker

    def _child(
        self, name: str, command: str, environment: Mapping[str, str]
    ) -> ChildProcess:
        return ChildProcess(
            name,
            [sys.executable, "-m", "pourtier_grpc", command],
            log=self._folder() / f"{command}.log",
            # Settings may have paths that start here.
            cwd=Path.cwd(),
            env={**server_environment(), **os.environ, **environment},
            grace=self._settings.drain_seconds + 5,
        )

    def _edge(self, unix_socket: str) -> EmbeddedEnvoy:
        folder = self._folder()
        descriptors = folder / "pourtier.binpb"
        descriptors.write_bytes(descriptor_set())
        edge = edge_settings(self._settings, unix_socket, descriptors)
        configuration = folder / "envoy.yaml"
        configuration.write_text(
            render(edge, read_contract(descriptor_set())), encoding="utf-8"
        )
        return EmbeddedEnvoy(configuration, folder=folder).start()

    def _folder(self) -> Path:
        folder = self._settings.pourtier_data_dir / "run"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _add(self, server: EmbeddedServer | EmbeddedEnvoy | ChildProcess) -> None:
        self._servers.append(server)
        self._stack.callback(server.stop)
        if self._told.is_set():
            raise _ToldToStopError


def seed(settings: Settings) -> None:
    """Gives a platform without legal texts samples, so that somebody can register."""
    if settings.production:
        return
    made = build(settings)
    try:
        publish_samples(made.documents)
    finally:
        made.close()


def edge_settings(
    settings: Settings, unix_socket: str, descriptors: Path
) -> EdgeSettings:
    """The edge in front of a service on this machine."""
    return EdgeSettings(
        public=Address(port=settings.pourtier_http_port),
        internal=Address(port=settings.pourtier_internal_http_port),
        # Beside the service's socket, and with a name that is no longer than its.
        admin=str(Path(unix_socket).with_name("admin.sock")),
        sockets=(unix_socket,),
        descriptor_set=str(descriptors.absolute()),
        public_origins=settings.origins,
        trusted_proxies=settings.trusted_proxies,
    )


def socket_path(data_dir: Path) -> Path:
    """The Unix socket between edge and service, in a path short enough for one."""
    path = data_dir.absolute() / "run" / "grpc-0.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    relative = Path(os.path.relpath(path))
    if len(os.fsencode(relative)) > MAX_SOCKET_PATH:
        raise DevServerError(
            f"{path} is too long for a Unix socket: set POURTIER_DATA_DIR to a shorter "
            "path"
        )
    return relative


def is_ready(target: str) -> bool:
    """Whether the service at a gRPC target is up and its database reachable."""
    request = health_pb2.HealthCheckRequest(service="readiness")
    try:
        with grpc.insecure_channel(target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(request, timeout=1.0)  # type: ignore[attr-defined] # the stubs lack it
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def greeting(settings: Settings, folders: Iterable[Path], grpcurl: str | None) -> str:
    """Where everything is, and three commands to try, which work as they are printed.

    `grpcurl` is how it is called here, or None where there is none. Where the native
    listener speaks TLS, which clients' files open it is not known here: the commands
    take the service's Unix socket.
    """
    http, native = settings.pourtier_http_port, settings.listen[0]
    simulated = f"http://localhost:{settings.pourtier_passeur_port} (simulated)"
    native = native.replace("127.0.0.1", "localhost")
    sign_in = f"{_pourtier(settings)} wallet sign-in"
    listed = native
    if settings.tls:
        path = socket_path(settings.pourtier_data_dir)
        sign_in += f" --target {shlex.quote(f'unix:{path}')}"
        listed = f"-unix {shlex.quote(str(path))}"
        native += " (TLS)"
    second = f"{grpcurl} -plaintext {listed} list" if grpcurl else sign_in
    return f"""\
Pourtier is running.

  JSON, gRPC-Web   http://localhost:{http}
  internal JSON    http://localhost:{settings.pourtier_internal_http_port}
  native gRPC      {native}
  metrics          http://localhost:{settings.pourtier_metrics_port}/metrics
  Passeur          {settings.passeur_url or simulated}
  data and logs    {", ".join(map(str, folders))}

Try:
  curl localhost:{http}/health
  {second}
  curl -H "authorization: Bearer $({sign_in})" localhost:{http}/api/users/me

Ctrl-C stops it; the data stays.
"""


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keeps a second `pourtier dev` away from a folder until the first has ended."""
    with (folder / "dev.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DevServerError(
                f"`pourtier dev` runs already with the data in {folder.parent}; stop "
                "it, or set POURTIER_DATA_DIR to another folder"
            ) from None
        yield


def _pourtier(settings: Settings) -> str:
    """The command as it can be typed into any shell that stands in this folder."""
    words = [
        f"{field.upper()}={shlex.quote(text)}"
        for field, text in (
            ("grpc_listen", ",".join(settings.grpc_listen)),
            ("pourtier_grpc_port", str(settings.pourtier_grpc_port)),
            ("pourtier_data_dir", str(settings.pourtier_data_dir)),
        )
        if getattr(settings, field) != Settings.model_fields[field].default
    ]
    script = Path(sys.executable).parent / "pourtier"
    program = script if script.exists() else Path(sys.executable)
    with suppress(ValueError):
        program = program.relative_to(Path.cwd())
    words.append(shlex.quote(str(program)))
    return " ".join(words if script.exists() else [*words, "-m pourtier_grpc"])
