"""`pourtier dev`, as a newcomer meets it."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from pourtier_grpc.config import load
from pourtier_grpc.devtools.dev import Stack
from pourtier_grpc.devtools.ports import is_free
from pourtier_grpc.devtools.process import DevServerError
from pourtier_grpc.devtools.state import OUTSIDE, account_of, closed_to
from support.certificates import Authority, put
from support.commands import ROOT, environment, pourtier, run
from support.json_api import JsonApi
from support.ports import free_port
from support.servers import state_folder
from support.sql import Sql
from support.waiting import wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change users")
PORTS = (
    "pourtier_http_port",
    "pourtier_internal_http_port",
    "pourtier_grpc_port",
    "pourtier_metrics_port",
    "pourtier_passeur_port",
)
EMBEDDED = {"postgres", "redis-server"}
# Of a first start, which makes a database, on a busy machine.
PATIENCE = 60.0
# Three starts, and a dozen commands.
pytestmark = pytest.mark.timeout(6 * PATIENCE)


def _parents() -> dict[int, int]:
    """Every living process and its parent; zombies have ended."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(entry.name)] = int(parent)
    return found


def words_of(pid: int) -> list[str]:
    """The command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


@dataclass
class Dev:
    """One `pourtier dev`; ended with the block that started it, whatever happens."""

    settings: Mapping[str, object]
    cwd: Path = ROOT
    python: str = sys.executable
    user: int | None = None
    extra: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] = field(init=False)
    family: dict[int, str] = field(init=False, default_factory=dict)

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="pourtier-dev-"))
        with (
            (self._folder / "out").open("w") as out,
            (self._folder / "err").open("w") as err,
        ):
            self.process = subprocess.Popen(
                [self.python, "-m", "pourtier_grpc", "dev"],
                env=self.environment(**self.settings),
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
                user=self.user,
                group=self.user,
                extra_groups=None if self.user is None else [],
            )
        return self

    def __exit__(self, *_: object) -> None:
        for pid in (*self.descendants(), self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self._folder)

    def environment(self, **settings: object) -> dict[str, str]:
        """The environment of a shell beside it, with these settings alone."""
        return {**environment(**settings), **self.extra}

    @property
    def out(self) -> str:
        return (self._folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self._folder / "err").read_text()

    def descendants(self) -> dict[int, str]:
        """Its children and theirs, by their programs' names."""
        parents, found = _parents(), [self.process.pid]
        for parent in found:
            found += [pid for pid, its in parents.items() if its == parent]
        names = {}
        for pid in found[1:]:
            with suppress(OSError):
                names[pid] = Path(f"/proc/{pid}/exe").readlink().name
        return names

    def running(self, command: str) -> int:
        """The one process of it that runs a command of ours."""
        words = f"pourtier_grpc\0{command}\0".encode()
        (pid,) = [
            pid
            for pid in self.family
            if words in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        return pid

    def started(self) -> Self:
        """Returns when it has greeted."""
        wait_until(
            lambda: "Ctrl-C" in self.out or self.process.poll() is not None, PATIENCE
        )
        assert self.process.poll() is None, self.err
        self.family = self.descendants()
        assert {"envoy"} <= set(self.family.values())
        return self

    def ended(self) -> int:
        """Its exit status; fails where anything of it is left after that."""
        status = self.process.wait(PATIENCE)
        wait_until(lambda: not set(self.family) & set(_parents()))
        for name in PORTS:
            port = self.settings.get(name)
            assert port is None or is_free(int(str(port)))
        return status

    def interrupted(self) -> int:
        """Its exit status after Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return self.ended()

    def commands(self) -> list[str]:
        """The commands that it says to try."""
        return re.findall(r"^  (.*)$", self.out.partition("Try:\n")[2], re.MULTILINE)

    def typed(self, command: str) -> str:
        """What a printed command prints, in a shell that knows no setting."""
        done = run("bash", "-c", command, env=self.environment(), cwd=self.cwd)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout

    def texts(self) -> list[dict[str, Any]]:
        """The legal texts that there are."""
        with JsonApi(f"http://localhost:{self.settings[PORTS[0]]}") as web:
            answer = web.call("GET", "/api/legal/documents").json()
        found: list[dict[str, Any]] = answer["documents"]
        return found

    def me(self) -> dict[str, Any]:
        """The account of its wallet, by the last command printed."""
        found: dict[str, Any] = json.loads(self.typed(self.commands()[-1]))
        return found


def somewhere(data: Path, **settings: object) -> dict[str, object]:
    """Settings for free ports and a data directory."""
    ports = {name: free_port() for name in PORTS}
    return {"pourtier_data_dir": data, **ports, **settings}


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory that is not there yet."""
    with state_folder() as folder:
        yield folder / "data"


def test_it_does_as_it_prints_beside_another_and_finds_its_data_again(
    data: Path, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    """One on embedded servers, another on given ones, the first again, with TLS."""
    settings = somewhere(data)
    with Dev(settings) as dev:
        dev.started()
        for name in PORTS:
            assert f"localhost:{settings[name]}" in dev.out
        assert str(data) in dev.out
        assert set(dev.family.values()) >= EMBEDDED
        assert dev.running("worker")
        health, second, _ = dev.commands()
        status = json.loads(dev.typed(health))
        assert (status["status"], status["redis"]) == ("healthy", "up")
        words = "pourtier.v1.AuthService" if "grpcurl" in second else "."
        assert words in dev.typed(second)
        mine = dev.me()
        assert mine["wallet_type"] == "pourtier-cli"
        with JsonApi(
            f"http://localhost:{settings['pourtier_passeur_port']}"
        ) as passeur:
            answer = passeur.call("GET", "/health", headers={"X-Request-Id": "r"})
        assert answer.json() == {"status": "ok"}
        assert dev.err == ""
        # There is a sample of each kind, and whoever signed in has accepted them.
        texts = dev.texts()
        assert len({text["type"] for text in texts}) == len(texts) == 3
        standing = dev.commands()[-1].replace("/users/me", "/legal/compliance")
        assert json.loads(dev.typed(standing))["compliant"]

        again = pourtier("dev", **somewhere(data))
        assert (again.returncode, again.stdout) == (1, "")
        assert "`pourtier dev` runs already" in again.stderr
        assert len(again.stderr.splitlines()) == 1

        theirs = beside_on(database_url, redis_url)
        assert theirs["user_id"] != mine["user_id"]
        assert dev.me() == mine
        assert dev.err == ""
        dev.process.kill()
        assert dev.ended() == -signal.SIGKILL
    with Dev(somewhere(data, **mutual_tls(tmp_path))) as dev:
        dev.started()
        assert f"localhost:{dev.settings['pourtier_grpc_port']} (TLS)\n" in dev.out
        _, second, _ = dev.commands()
        words = "pourtier.v1.AuthService" if "grpcurl" in second else "."
        assert words in dev.typed(second)
        assert dev.me()["user_id"] == mine["user_id"]
        assert len(dev.texts()) == 3
        os.kill(dev.running("serve"), signal.SIGKILL)
        assert dev.ended() == 1
        first = dev.err.splitlines()[0]
        assert first.startswith("pourtier: the service was ended by SIGKILL")


def beside_on(database_url: str, redis_url: str) -> dict[str, Any]:
    """The account of another one's wallet, which was on given servers and has ended."""
    passeur_url = "http://passeur.example:8766"
    given = {
        "database_url": database_url,
        "redis_url": redis_url,
        "passeur_url": passeur_url,
    }
    with state_folder() as folder, Dev(somewhere(folder / "right", **given)) as dev:
        dev.started()
        assert not EMBEDDED & set(dev.family.values())
        assert not [pid for pid in dev.family if "passeur-sim" in words_of(pid)]
        assert passeur_url in dev.out
        theirs = dev.me()
        with Sql(database_url) as beside:
            (row,) = beside.run("SELECT user_id FROM users")
        assert str(row["user_id"]) == theirs["user_id"]
        with JsonApi(f"http://localhost:{dev.settings[PORTS[0]]}") as web:
            assert web.call("GET", "/health").json()["status"] == "healthy"
        dev.process.send_signal(signal.SIGTERM)
        assert dev.ended() == 0
        assert dev.err == ""
    # A database that was given stays as it is.
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (1,)
    return theirs


def mutual_tls(folder: Path) -> dict[str, Path]:
    """Settings of a native listener that demands certificates."""
    authority = Authority()
    authority.issue().write(folder)
    put(folder / "clients.pem", authority.pem)
    return {
        "tls_cert_file": folder / "cert.pem",
        "tls_key_file": folder / "key.pem",
        "tls_client_ca_file": folder / "clients.pem",
    }


def refusal_to_start(**settings: object) -> str:
    """Why everything is not started; that a command says so is seen above."""
    with pytest.raises(DevServerError) as info:
        Stack(load(**settings), threading.Event()).start()
    return str(info.value)


@pytest.mark.parametrize("name", [*PORTS[:3], PORTS[4]])
def test_a_port_that_is_taken_is_one_sentence(folder: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        sentence = refusal_to_start(**{**somewhere(folder / "data"), name: port})
    assert sentence.startswith(f"port {port} ")
    assert name.upper() in sentence
    assert "\n" not in sentence
    assert not (folder / "data").exists()


def test_one_port_for_two_is_one_sentence(folder: Path) -> None:
    port = free_port()
    twice = {"pourtier_http_port": port, "pourtier_grpc_port": port}
    sentence = refusal_to_start(**{**somewhere(folder / "data"), **twice})
    assert sentence == f"POURTIER_HTTP_PORT and POURTIER_GRPC_PORT are both {port}"
    assert not (folder / "data").exists()


def test_ctrl_c_during_the_start_ends_it_without_a_greeting(folder: Path) -> None:
    with Dev(somewhere(folder / "data")) as dev:
        wait_until(lambda: bool(dev.descendants()))
        dev.family = dev.descendants()
        assert dev.interrupted() == 0
        assert (dev.out, dev.err) == ("", "")


@contextmanager
def closed_checkout() -> Iterator[Path]:
    """A folder to work in below one that only its owner may pass."""
    with state_folder() as folder:
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        # Deeper than the path of a Unix socket may be long.
        checkout = closed / ("deep" * 25) / "checkout"
        checkout.mkdir(parents=True)
        try:
            yield checkout
        finally:
            for note in (one for out in OUTSIDE for one in out.glob("*/belongs-to")):
                if note.read_text().startswith(str(checkout)):
                    shutil.rmtree(note.parent)


@as_root
def test_root_runs_it_in_a_checkout_that_is_closed_to_others() -> None:
    settings = {name: free_port() for name in PORTS}
    with closed_checkout() as checkout, Dev(settings, cwd=checkout) as dev:
        dev.started()
        folders = re.findall(r"data and logs +(.*)", dev.out)[0].split(", ")
        # PostgreSQL does not run as root, and whom it runs as may not pass.
        inside, outside = map(Path, folders)
        assert outside.is_dir()
        assert inside == checkout / ".pourtier"
        owners = {
            name: Path(f"/proc/{pid}").stat().st_uid for pid, name in dev.family.items()
        }
        assert owners["postgres"] != 0
        assert dev.me()["wallet_type"] == "pourtier-cli"
        assert dev.interrupted() == 0
        assert list((inside / "keys").glob("*.jwk"))
        closed = checkout.parents[1]
        assert closed.stat().st_mode & 0o777 == 0o700


@as_root
def test_an_ordinary_user_runs_it_in_a_folder_of_theirs() -> None:
    nobody = pwd.getpwnam("nobody")
    with state_folder() as folder:
        python, extra = python_for(nobody.pw_uid, folder)
        home = folder / "home"
        home.mkdir(mode=0o700)
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        settings = {name: free_port() for name in PORTS}
        dev = Dev(settings, cwd=home, python=python, user=nobody.pw_uid, extra=extra)
        with dev:
            dev.started()
            owners = {Path(f"/proc/{pid}").stat().st_uid for pid in dev.family}
            assert owners == {nobody.pw_uid}
            assert dev.me()["wallet_type"] == "pourtier-cli"
            assert dev.interrupted() == 0
            assert dev.err == ""
        assert list((home / ".pourtier" / "keys").glob("*.jwk"))
        assert (home / ".pourtier").stat().st_mode & 0o777 == 0o700


def python_for(uid: int, folder: Path) -> tuple[str, dict[str, str]]:
    """A Python that a user can run, and the environment with which it finds ours.

    Where ours lies in a home that is closed to others, it is a copy in `folder`.
    """
    account = account_of(uid)
    assert account is not None
    packages = Path(psycopg.__file__).parents[1]
    path = [ROOT / "src", ROOT / "gen", packages]
    if any(closed_to(account, each) for each in path):
        pytest.skip("the packages lie under a folder that is closed to others")
    extra = {"PYTHONPATH": os.pathsep.join(map(str, path))}
    python = Path(sys.executable)
    if not closed_to(account, python):
        return str(python), extra
    library = Path(os.__file__).parent
    ignored = shutil.ignore_patterns("site-packages", "test", "config-*", "idlelib")
    copy = folder / "lib" / library.name
    shutil.copytree(library, copy, ignore=ignored, symlinks=True)
    for shared in library.parent.glob("libpython*.so*"):
        shutil.copy2(shared, folder / "lib", follow_symlinks=False)
    (folder / "bin").mkdir()
    copied = shutil.copy2(python.resolve(), folder / "bin")
    return str(copied), {**extra, "LD_LIBRARY_PATH": str(folder / "lib")}
