"""A service for many tests of one module, and what they look at it with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pourtier.v1 import auth_service_pb2 as pb
from pourtier_grpc.auth.keyring import Keyring
from pourtier_grpc.config import Settings, load
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.server import Server
from pourtier_grpc.store.privileges import Duty
from support.api import Api
from support.clock import ManualClock
from support.roles import as_role
from support.servers import Databases, state_folder
from support.sql import Sql

ORIGIN = "https://app.example.com"
OTHER_ORIGIN = "http://localhost:3000"
DOMAIN = "app.example.com"
OTHER_DOMAIN = "localhost:3000"


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running server in this process, its clock, a client, and its database."""

    settings: Settings
    server: Server
    clock: ManualClock
    api: Api
    sql: Sql

    @property
    def keyring(self) -> Keyring:
        return self.server._parts.keyring

    def registered(self, **fields: Any) -> tuple[DevWallet, pb.RegisterResponse]:
        """A new wallet, and the account that it has opened."""
        wallet = DevWallet.generate()
        return wallet, self.api.register(wallet, **fields)


@contextmanager
def service(databases: Databases, **changes: Any) -> Iterator[Service]:
    """A service on a database of its own; `changes` are of the settings."""
    with databases.fresh() as database_url, running(database_url, **changes) as made:
        yield made


@contextmanager
def running(
    database_url: str, duty: Duty = Duty.SERVING, **changes: Any
) -> Iterator[Service]:
    """A service on a database that is there, by the role of a duty."""
    with state_folder() as folder:
        values = {
            "database_url": as_role(database_url, duty),
            "pourtier_data_dir": folder,
            "grpc_listen": ("127.0.0.1:0",),
            "grpc_unix_socket": folder / "grpc-0.sock",
            "pourtier_metrics_port": 0,
            "allowed_origins": (ORIGIN, OTHER_ORIGIN),
            "drain_seconds": 5,
        }
        settings, clock = load(**{**values, **changes}), ManualClock()
        server = Server(settings, clock)
        server.start()
        api = Api(f"127.0.0.1:{server.ports[0]}")
        try:
            with Sql(database_url) as beside:
                yield Service(
                    settings=settings, server=server, clock=clock, api=api, sql=beside
                )
        finally:
            api.close()
            server.stop()
