"""Fixtures: real servers once a run, a database and a server anew for each test."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from pourtier_grpc.config import Settings, load
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.server import Server
from pourtier_grpc.store.privileges import Duty
from support import log_watch
from support.api import Api
from support.clock import ManualClock
from support.edge import Edge, edge
from support.passeur import PasseurSim, passeur_sim
from support.ports import free_port
from support.roles import as_role
from support.servers import Databases, postgres, redis, state_folder

ORIGIN = "https://app.example.com"

# How long an example takes says something of the machine, not of the code.
hypothesis.settings.register_profile("steady", deadline=None)
hypothesis.settings.load_profile("steady")

# Found before any test changes the environment.
EXTERNAL_DATABASE = os.environ.get("DATABASE_URL")
EXTERNAL_REDIS = os.environ.get("REDIS_URL")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--proof", action="store_true", help="run every round, not the stated few"
    )


def pytest_collection_finish() -> None:
    """What is there by then stays: the collector need not look at it ever again."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_log_has_a_secret() -> Iterator[None]:
    """Fails with the last test of a process where any log of its run held a secret."""
    with log_watch.watching():
        yield


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """`rounds(few, many)`: few in `make test`, many in `make proof`."""
    proof = bool(request.config.getoption("--proof"))
    return lambda few, many: many if proof else few


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine reaches a test."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("POURTIER_CONFIG", raising=False)


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """PostgreSQL 18, or the server of DATABASE_URL."""
    with ExitStack() as stack:
        url = EXTERNAL_DATABASE or stack.enter_context(postgres()).url_for("postgres")
        made = Databases(url)
        stack.callback(made.close)
        yield made


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """A migrated database of the test's own."""
    with databases.fresh() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """Redis, or the server of REDIS_URL."""
    if EXTERNAL_REDIS:
        yield EXTERNAL_REDIS
        return
    with redis() as server:
        yield server.url


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    with state_folder() as path:
        yield path


@pytest.fixture
def clock() -> ManualClock:
    """The clock of the test's server."""
    return ManualClock()


@pytest.fixture
def make_settings(
    database_url: str, redis_url: str, folder: Path
) -> Callable[..., Settings]:
    """Settings for a server on this machine's free ports; arguments change them."""

    def make(**changes: Any) -> Settings:
        values = {
            "database_url": as_role(database_url, Duty.SERVING),
            "redis_url": redis_url,
            "redis_timeout_seconds": 1.0,
            "pourtier_data_dir": folder,
            "grpc_listen": ("127.0.0.1:0",),
            "grpc_unix_socket": folder / "grpc-0.sock",
            "pourtier_http_port": free_port(),
            "pourtier_internal_http_port": free_port(),
            "pourtier_metrics_port": 0,
            "allowed_origins": (ORIGIN, "http://localhost:3000"),
            "drain_seconds": 5,
        }
        return load(**{**values, **changes})

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """The settings of `server`. A test module overrides this to change them."""
    return make_settings()


@pytest.fixture
def server(settings: Settings, clock: ManualClock) -> Iterator[Server]:
    """A running server in this process, whose business goes by `clock`."""
    running = Server(settings, clock)
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    """A native client of `server`."""
    client = Api(f"127.0.0.1:{server.ports[0]}")
    yield client
    client.close()


@pytest.fixture
def wallet() -> DevWallet:
    """A wallet without an account."""
    return DevWallet.generate()


@pytest.fixture
def public_edge(server: Server, settings: Settings, folder: Path) -> Iterator[Edge]:
    """A real Envoy in front of `server`."""
    with edge(settings, folder) as running:
        yield running


@pytest.fixture(scope="module")
def sim() -> Iterator[PasseurSim]:
    """A module's own Passeur, simulated: what it takes in, it settles at once."""
    with passeur_sim(settle_seconds=0) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_fault_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    taken = "sim" in request.fixturenames
    sim = request.getfixturevalue("sim") if taken else None
    yield
    if sim is not None:
        sim.reset()
