"""What a real `serve` process starts with, and what it refuses to start with."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import psycopg
import pytest

from pourtier.v1.status_service_pb2 import GetStatusRequest
from pourtier_grpc.auth.new_keys import generate_missing
from pourtier_grpc.clock import SystemClock
from pourtier_grpc.config import ConfigError, Settings
from pourtier_grpc.devtools.dev import is_ready
from pourtier_grpc.devtools.process import ChildProcess
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.server import Server
from pourtier_grpc.store.opening import open_database
from support.api import Api
from support.ports import free_port
from support.servers import Databases

PLATFORM = Path(__file__).parents[1] / "data" / "pourtier.yaml"
SERVE = (sys.executable, "-m", "pourtier_grpc", "serve")
SECRET = "s3cr3t"
GRPCIO = re.compile(r"[EWI]\d{4} \d\d:\d\d:\d\d")

Environment = Callable[..., dict[str, str]]
MakeSettings = Callable[..., Settings]


@pytest.fixture
def environment(database_url: str, folder: Path) -> Environment:
    """The environment of a process that starts; arguments change it, None unsets."""

    def make(**changes: object) -> dict[str, str]:
        ours = {name.upper() for name in Settings.model_fields}
        values = {
            **{key: value for key, value in os.environ.items() if key not in ours},
            "DATABASE_URL": database_url,
            "POURTIER_DATA_DIR": folder,
            "POURTIER_GRPC_PORT": free_port(),
            **changes,
        }
        return {key: str(value) for key, value in values.items() if value is not None}

    return make


@contextmanager
def serving(environment: dict[str, str], folder: Path) -> Iterator[ChildProcess]:
    child = ChildProcess(
        "the service",
        SERVE,
        log=folder / "log",
        cwd=Path.cwd(),
        env=environment,
        # Longer than it lets calls end by default, which the platform's file leaves.
        grace=40,
    )
    listen = environment.get("GRPC_LISTEN") or environment["POURTIER_GRPC_PORT"]
    target = f"127.0.0.1:{listen.rpartition(':')[2]}"
    try:
        child.start(lambda: is_ready(target))
        yield child
    finally:
        child.stop()


def refusal_to_start(environment: dict[str, str]) -> str:
    """The one sentence that the process ends with."""
    done = subprocess.run(
        SERVE, env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    # grpcio's own lines, such as that of a port that is taken, cannot be helped.
    (sentence,) = [line for line in done.stderr.splitlines() if not GRPCIO.match(line)]
    name, _, text = sentence.partition(": ")
    assert name == "pourtier"
    return text


class TestPlatformFile:
    @pytest.fixture
    def file(self, database_url: str, redis_url: str, folder: Path) -> Path:
        """The platform's file; only the addresses of its servers are the test's."""
        redis = urlsplit(redis_url)
        addresses = {
            "DATABASE_URL": database_url.replace("://", "+asyncpg://"),
            "REDIS_HOST": redis.hostname,
            "REDIS_PORT": redis.port,
            "REDIS_PASSWORD": redis.password,
        }
        lines = PLATFORM.read_text().splitlines()
        for index, line in enumerate(lines):
            key = line.partition(":")[0]
            if key in addresses:
                lines[index] = f"{key}: {addresses.pop(key)}"
        assert not addresses
        path = folder / "pourtier.yaml"
        path.write_text("\n".join(lines))
        return path

    def test_it_starts_the_server_which_says_what_it_ignores(
        self, environment: Environment, file: Path, folder: Path
    ) -> None:
        changed = environment(
            DATABASE_URL=None, POURTIER_CONFIG=file, REDIS_TIMEOUT_SECONDS=1
        )
        with serving(changed, folder) as child:
            api = Api(f"127.0.0.1:{changed['POURTIER_GRPC_PORT']}")
            status = api.call(api.status.GetStatus, GetStatusRequest())
            tokens = api.register(DevWallet.generate()).tokens
            api.close()
        assert (status.status, status.database, status.redis) == (
            "healthy",
            "up",
            "up",
        )
        header = jwt.get_unverified_header(tokens.access_token)
        assert header["alg"] == "HS256"
        assert tokens.expires_in in range(44 * 60, 45 * 60 + 1)
        assert child.poll() == 0
        first, *rest = (folder / "log").read_text().splitlines()
        assert first == (
            "pourtier: ignored settings: API_HOST, API_PORT, COURIER_URL, "
            "DATABASE_ECHO, DEBUG, ESCROW_PROGRAM_ID, REDIS_DB, SOLANA_RPC_URL"
        )
        assert [json.loads(line)["message"] for line in rest if "serving" in line]
        assert "platform-jwt-secret" not in (folder / "log").read_text()


class TestPlaintext:
    def test_a_listener_off_loopback_does_not_start(
        self, make_settings: MakeSettings
    ) -> None:
        address = f"0.0.0.0:{free_port()}"
        assert refusal_of(make_settings(grpc_listen=(address,))) == (
            f"GRPC_LISTEN={address} is plaintext off loopback: give it TLS "
            "(TLS_CERT_FILE, TLS_KEY_FILE), or put it behind a closed network and say "
            "so with ALLOW_PLAINTEXT=true"
        )

    def test_it_does_where_it_is_allowed_and_replaces_a_dead_servers_socket(
        self, environment: Environment, folder: Path
    ) -> None:
        path = folder / "grpc.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        changed = environment(
            GRPC_LISTEN=f"0.0.0.0:{free_port()}",
            ALLOW_PLAINTEXT="true",
            GRPC_UNIX_SOCKET=path,
        )
        with serving(changed, folder) as child:
            assert is_ready(f"unix:{path}")
            assert path.stat().st_mode & 0o777 == 0o660
        assert child.poll() == 0


class TestRefusals:
    def test_a_database_that_cannot_be_reached_is_a_sentence_without_its_password(
        self, environment: Environment
    ) -> None:
        url = f"postgresql://u:{SECRET}@127.0.0.1:{free_port()}/d"
        said = refusal_to_start(environment(DATABASE_URL=url))
        assert said.startswith("the database cannot be reached")
        assert SECRET not in said

    def test_every_unsafe_setting_of_production_is_named(
        self, make_settings: MakeSettings
    ) -> None:
        unsafe = make_settings(
            env="production",
            jwt_algorithm="HS256",
            jwt_secret_key=SECRET,
            allowed_origins=("*", "http://app.example"),
        )
        sentences = refusal_of(unsafe).split("; ")
        assert [sentence.partition(",")[0] for sentence in sentences] == [
            "ALLOWED_ORIGINS has a wildcard: any site could call",
            "JWT_SECRET_KEY is a default or shorter than 32 bytes",
            "ALLOWED_ORIGINS has http://app.example",
        ]

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"database_url": None}, "DATABASE_URL is not set"),
            ({"database_url": f"mysql://u:{SECRET}@h"}, "DATABASE_URL is not a postgr"),
            ({"jwt_algorithm": "HS256"}, "JWT_ALGORITHM=HS256 needs JWT_SECRET_KEY"),
            ({"grpc_listen": "192.0.2.1:1"}, "192.0.2.1:1 cannot be listened on"),
            *(
                ({"database_url": f"postgresql://{url}"}, "DATABASE_URL cannot be read")
                for url in (
                    f"u:{SECRET}@h:port/d",
                    f"u:{SECRET}@h/d?nonsense=1",
                    f"u:{SECRET}@h/d?port=x",
                    f"u:{SECRET}@[::1/d",
                )
            ),
        ],
    )
    def test_a_setting_that_cannot_be_used_is_named(
        self, make_settings: MakeSettings, changes: dict[str, Any], sentence: str
    ) -> None:
        allowed = {"allow_plaintext": True, **changes}
        said = refusal_of(make_settings(**allowed))
        assert said.startswith(sentence)
        assert SECRET not in said

    def test_a_catalogue_of_plans_that_is_none(
        self, make_settings: MakeSettings, tmp_path: Path
    ) -> None:
        file = tmp_path / "plans.yaml"
        file.write_text("features: {}\nplans: []\n")
        match = f"^PLANS_FILE={file}: exactly one plan has the price 0"
        with pytest.raises(ConfigError, match=match):
            Server(make_settings(plans_file=file))

    def test_a_port_that_is_taken(self, make_settings: MakeSettings) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            said = refusal_of(make_settings(grpc_listen=address))
        assert said.startswith(f"{address} cannot be listened on: is it taken?")

    def test_a_database_that_was_not_migrated(
        self, make_settings: MakeSettings, databases: Databases
    ) -> None:
        with databases.fresh(migrated=False) as url:
            said = refusal_of(make_settings(database_url=url))
        assert said.startswith("the database is at revision none, this version needs")
        assert said.endswith("run `pourtier migrate`")

    @pytest.mark.parametrize("use", ["access", "hmac"])
    def test_a_key_that_is_missing(
        self, make_settings: MakeSettings, database_url: str, use: str
    ) -> None:
        settings = make_settings()
        database = open_database(settings)
        generate_missing(database, settings.keys, SystemClock().now())
        database.close()
        lost, _ = settings.keys.glob(f"{use}-*.jwk")
        lost.unlink()
        said = refusal_of(settings)
        assert said.startswith(f"KEY_DIR lacks {lost.name}, a live key of the database")

    def test_no_key_is_made_in_a_folder_that_is_none(
        self, make_settings: MakeSettings, database_url: str, folder: Path
    ) -> None:
        (folder / "file").write_text("")
        said = refusal_of(make_settings(key_dir=folder / "file"))
        assert str(folder / "file") in said
        with psycopg.connect(database_url) as connection:
            made = connection.execute("SELECT count(*) FROM signing_keys").fetchone()
        assert made == (0,)


class TestUnixSocket:
    def test_a_path_that_is_too_long(
        self, make_settings: MakeSettings, folder: Path
    ) -> None:
        said = refusal_of(make_settings(grpc_unix_socket=folder / ("x" * 100)))
        assert said == "GRPC_UNIX_SOCKET is longer than 107 bytes"

    def test_a_path_that_another_process_serves_is_left_to_it(
        self, make_settings: MakeSettings, folder: Path
    ) -> None:
        path = folder / "taken.sock"
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            other.listen()
            said = refusal_of(make_settings(grpc_unix_socket=path))
            assert said == f"{path} is served by another process"
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))

    def test_a_path_in_no_folder(
        self, make_settings: MakeSettings, folder: Path
    ) -> None:
        (folder / "file").write_text("")
        path = folder / "file" / "grpc.sock"
        said = refusal_of(make_settings(grpc_unix_socket=path))
        assert said.startswith(f"{path} cannot be listened on")

    def test_a_file_that_is_no_socket_is_left_alone(
        self, make_settings: MakeSettings, folder: Path
    ) -> None:
        path = folder / "precious"
        path.write_text("content")
        said = refusal_of(make_settings(grpc_unix_socket=path))
        assert said.startswith(f"{path} cannot be listened on")
        assert path.read_text() == "content"


def refusal_of(settings: Settings) -> str:
    """The sentence of a server that does not come to be."""
    with pytest.raises(ConfigError) as info:
        Server(settings)
    assert "\n" not in str(info.value)
    return str(info.value)
