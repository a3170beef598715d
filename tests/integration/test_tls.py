"""TLS of the native listeners: who gets in, how files change, what stops a start."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from structlog.testing import capture_logs

from pourtier.v1.status_service_pb2 import GetStatusRequest
from pourtier.v1.status_service_pb2_grpc import StatusServiceStub
from pourtier_grpc import CIPHERS_VARIABLE, server
from pourtier_grpc.config import ConfigError, load
from pourtier_grpc.tls import Certificates
from support import tls
from support.certificates import Authority, Pair, put
from support.clock import ManualClock
from support.commands import pourtier
from support.processes import ServeProcess, serve_process
from support.servers import Databases
from support.service import Service, service
from support.waiting import eventually

PATIENCE = 10.0
EVERYWHERE = "0.0.0.0:0"

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def stranger() -> Authority:
    """An authority that the server does not know."""
    return Authority()


@pytest.fixture(scope="module")
def one_way(
    databases: Databases, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A server with a certificate, on two addresses."""
    folder = tmp_path_factory.mktemp("one-way")
    authority.issue().write(folder)
    addresses = ("127.0.0.1:0", EVERYWHERE)
    with service(databases, grpc_listen=addresses, **settings_of(folder)) as made:
        yield made


@pytest.fixture(scope="module")
def mutual(
    databases: Databases, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A server that demands certificates of its clients."""
    folder = tmp_path_factory.mktemp("mutual")
    authority.issue().write(folder)
    put(folder / "clients.pem", authority.pem)
    with service(databases, grpc_listen=EVERYWHERE, **settings_of(folder)) as made:
        yield made


@pytest.fixture
def folder_of_files(tmp_path: Path, authority: Authority) -> Path:
    authority.issue().write(tmp_path)
    return tmp_path


def settings_of(folder: Path) -> dict[str, Path]:
    """The settings for the files that are in a folder."""
    files = {
        "tls_cert_file": folder / "cert.pem",
        "tls_key_file": folder / "key.pem",
        "tls_client_ca_file": folder / "clients.pem",
    }
    return {name: file for name, file in files.items() if file.exists()}


@contextmanager
def channel(
    port: int, authority: Authority, pair: Pair | None = None
) -> Iterator[grpc.Channel]:
    """A channel with a connection of its own."""
    key, certificate = (pair.key, pair.certificate) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.pem, key, certificate)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"localhost:{port}", credentials, options) as made:
        yield made


def call(made: grpc.Channel) -> str:
    """Calls the service; answers how its database is."""
    answer = StatusServiceStub(made).GetStatus(GetStatusRequest(), timeout=PATIENCE)
    return answer.database


def refused(made: grpc.Channel) -> str:
    """What grpcio says of a call that cannot be made."""
    with pytest.raises(grpc.RpcError) as info:
        call(made)
    # What a stub raises is also its call, which the types of grpc do not say.
    error = cast("grpc.Call", info.value)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    return str(error.details())


class TestOneWay:
    def test_each_address_answers_those_who_know_the_authority(
        self, one_way: Service, authority: Authority
    ) -> None:
        assert len(one_way.server.ports) == 2
        for port in one_way.server.ports:
            with channel(port, authority) as made:
                assert call(made) == "up"

    def test_who_trusts_another_authority_does_not_connect(
        self, one_way: Service, stranger: Authority
    ) -> None:
        with channel(one_way.server.ports[0], stranger) as made:
            assert "certificate" in refused(made)

    def test_plaintext_gets_no_answer(self, one_way: Service) -> None:
        for port in one_way.server.ports:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as made:
                refused(made)

    def test_the_edges_socket_stays_plaintext(self, one_way: Service) -> None:
        with grpc.insecure_channel(f"unix:{one_way.settings.grpc_unix_socket}") as made:
            assert call(made) == "up"

    def test_tls_1_2_is_refused(self, one_way: Service, authority: Authority) -> None:
        port = one_way.server.ports[0]
        new = tls.context(authority.pem, version=ssl.TLSVersion.TLSv1_3)
        with tls.connect(port, new) as connection:
            assert connection.version() == "TLSv1.3"
            assert connection.selected_alpn_protocol() == "h2"
        old = tls.context(authority.pem, version=ssl.TLSVersion.TLSv1_2)
        with pytest.raises(OSError, match=r"EOF|ALERT|reset"):
            tls.connect(port, old)


class TestMutual:
    def test_a_certificate_of_the_right_authority_is_let_in(
        self, mutual: Service, authority: Authority
    ) -> None:
        with channel(mutual.server.ports[0], authority, authority.issue()) as made:
            assert call(made) == "up"

    def test_a_client_without_a_certificate_is_refused(
        self, mutual: Service, authority: Authority
    ) -> None:
        with channel(mutual.server.ports[0], authority) as made:
            refused(made)

    def test_a_certificate_of_another_authority_is_refused(
        self, mutual: Service, authority: Authority, stranger: Authority
    ) -> None:
        with channel(mutual.server.ports[0], authority, stranger.issue()) as made:
            refused(made)

    def test_a_certificate_that_has_ended_is_refused(
        self, mutual: Service, authority: Authority
    ) -> None:
        ended = authority.issue(left=-timedelta(minutes=1))
        with channel(mutual.server.ports[0], authority, ended) as made:
            refused(made)


class TestRotation:
    def test_no_call_of_four_clients_fails(
        self, databases: Databases, authority: Authority, folder_of_files: Path
    ) -> None:
        following = [authority.issue() for _ in range(3)]
        with service(databases, **settings_of(folder_of_files)) as made:
            (port,) = made.server.ports
            client = tls.context(authority.pem)
            with calling(port, authority) as callers:
                for pair in following:
                    pair.write(folder_of_files)
                    written = time.monotonic()
                    assert eventually(shown(port, client, pair))
                    # It looks once a second; the rest is for a busy machine.
                    assert time.monotonic() - written < 3
        assert callers.failures == []
        assert min(callers.calls) > 10

    def test_the_authority_of_clients_changes_too(
        self,
        databases: Databases,
        authority: Authority,
        stranger: Authority,
        folder_of_files: Path,
    ) -> None:
        put(folder_of_files / "clients.pem", authority.pem)
        with service(databases, **settings_of(folder_of_files)) as made:
            (port,) = made.server.ports
            assert gets_in(port, authority, authority.issue())
            put(folder_of_files / "clients.pem", stranger.pem)
            newcomer = stranger.issue()
            assert eventually(lambda: gets_in(port, authority, newcomer))
            assert not gets_in(port, authority, authority.issue())

    def test_what_cannot_be_used_changes_nothing_and_is_logged_once(
        self,
        databases: Databases,
        authority: Authority,
        stranger: Authority,
        folder_of_files: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(server, "CERTIFICATE_SECONDS", 0.05)
        put(folder_of_files / "clients.pem", authority.pem)
        before, good = authority.issue(), authority.issue()
        before.write(folder_of_files)
        with service(databases, **settings_of(folder_of_files)) as made:
            (port,) = made.server.ports
            client = tls.context(authority.pem, authority.issue())
            for harm, words in HARM.items():
                with capture_logs() as logs:
                    DOING[harm](folder_of_files)
                    assert eventually(told(logs, words)), harm
                    time.sleep(0.2)
                # Between two files of a pair it may have looked, too.
                (line,) = [line for line in logs if words in line["reason"]]
                assert line["log_level"] == "warning"
                assert tls.serial(port, client) == before.serial, harm
                before.write(folder_of_files)
                put(folder_of_files / "clients.pem", authority.pem)
            assert not gets_in(port, authority, stranger.issue())
            good.write(folder_of_files)
            assert eventually(shown(port, client, good))


def _truncate(folder: Path) -> None:
    whole = (folder / "cert.pem").read_bytes()
    (folder / "cert.pem").write_bytes(whole[: len(whole) // 2])


DOING: dict[str, Change] = {
    "half a certificate": _truncate,
    "another key": lambda folder: put(folder / "key.pem", Authority().issue().key),
    "no key": lambda folder: (folder / "key.pem").unlink(),
    "an open key": lambda folder: (folder / "key.pem").chmod(0o640),
    "an ended one": lambda folder: (
        Authority().issue(left=-timedelta(minutes=1)).write(folder)
    ),
    "no clients": lambda folder: put(folder / "clients.pem", b""),
    "no file of clients": lambda folder: (folder / "clients.pem").unlink(),
}
HARM = {
    "half a certificate": "holds no certificate in PEM that is whole",
    "another key": "is not the key of the first certificate of TLS_CERT_FILE",
    "no key": "key.pem cannot be read: No such file or directory",
    "an open key": "can be read by others: its mode must be 0600",
    "an ended one": "clients would refuse it",
    "no clients": "clients.pem holds no certificate",
    "no file of clients": "clients.pem cannot be read",
}


class TestExpiry:
    @pytest.mark.parametrize(
        ("since", "left", "quiet_days"),
        [
            # Of 90 days a fifth is 18, of which the last 14 count; of 10 it is 2.
            pytest.param(timedelta(0), timedelta(days=90), 76, id="long"),
            pytest.param(timedelta(0), timedelta(days=10), 8, id="short"),
        ],
    )
    def test_it_is_told_ahead_and_daily_until_another_is_there(
        self,
        authority: Authority,
        folder_of_files: Path,
        since: timedelta,
        left: timedelta,
        quiet_days: int,
    ) -> None:
        clock = ManualClock()
        authority.issue(since=since, left=left).write(folder_of_files)
        clock.move(seconds=1)
        settings = load(**settings_of(folder_of_files))
        with capture_logs() as logs:
            certificates = Certificates(settings, clock)
            clock.move(days=quiet_days, hours=-1)
            certificates.refresh()
            assert logs == []
            clock.move(hours=2)
            certificates.refresh()
            clock.move(hours=23)
            certificates.refresh()
            assert [line["log_level"] for line in logs] == ["warning"]
            clock.move(hours=2)
            certificates.refresh()
            assert [line["log_level"] for line in logs] == ["warning"] * 2
            clock.move(days=left.days)
            certificates.refresh()
            assert [line["log_level"] for line in logs] == ["warning"] * 2 + ["error"]
            authority.issue(left=timedelta(days=200)).write(folder_of_files)
            certificates.refresh()
            clock.move(days=2)
            certificates.refresh()
        assert [line["event"] for line in logs[3:]] == ["took new TLS files"]


class TestStart:
    @pytest.mark.parametrize("harm", HARM)
    def test_files_that_cannot_be_used_stop_it(
        self, authority: Authority, folder_of_files: Path, harm: str
    ) -> None:
        put(folder_of_files / "clients.pem", authority.pem)
        settings = load(**settings_of(folder_of_files))
        Certificates(settings)
        DOING[harm](folder_of_files)
        with pytest.raises(ConfigError) as info:
            Certificates(settings)
        assert HARM[harm] in str(info.value)

    @pytest.mark.parametrize(
        ("key", "words"),
        [
            pytest.param(
                lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505 - the case
                "RSA",
                id="rsa-1024",
            ),
            pytest.param(ed25519.Ed25519PrivateKey.generate, "kind", id="ed25519"),
            pytest.param(
                lambda: ec.generate_private_key(ec.SECP521R1()), "P-384", id="p521"
            ),
        ],
    )
    def test_kinds_of_key_that_fail_every_handshake_stop_it(
        self, authority: Authority, tmp_path: Path, key: Callable[[], Any], words: str
    ) -> None:
        authority.issue(key()).write(tmp_path)
        with pytest.raises(ConfigError, match=words):
            Certificates(load(**settings_of(tmp_path)))

    def test_an_encrypted_key_stops_it(
        self, authority: Authority, tmp_path: Path
    ) -> None:
        authority.issue(password=b"secret").write(tmp_path)
        with pytest.raises(ConfigError, match=r"key\.pem is encrypted"):
            Certificates(load(**settings_of(tmp_path)))

    def test_one_that_is_not_good_yet_stops_it(
        self, authority: Authority, tmp_path: Path
    ) -> None:
        authority.issue(since=-timedelta(hours=1)).write(tmp_path)
        with pytest.raises(ConfigError, match="not now"):
            Certificates(load(**settings_of(tmp_path)))

    @pytest.mark.skipif(os.geteuid() != 0, reason="files of others are root's to make")
    def test_a_key_of_another_user_stops_it(self, folder_of_files: Path) -> None:
        os.chown(folder_of_files / "key.pem", 65534, 65534)
        with pytest.raises(ConfigError, match="service's own user"):
            Certificates(load(**settings_of(folder_of_files)))

    @pytest.mark.parametrize("kind", ["pipe", "folder", "endless"])
    def test_what_is_no_file_stops_it(self, folder_of_files: Path, kind: str) -> None:
        file = folder_of_files / "cert.pem"
        file.unlink()
        if kind == "pipe":
            os.mkfifo(file)
        elif kind == "folder":
            file.mkdir()
        else:
            file.write_bytes(bytes(1024 * 1024 + 1))
        expected = "is longer than" if kind == "endless" else "is not a file"
        with pytest.raises(ConfigError, match=expected):
            Certificates(load(**settings_of(folder_of_files)))

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            pytest.param(["tls_cert_file"], "needs both", id="certificate"),
            pytest.param(["tls_key_file"], "needs both", id="key"),
            pytest.param(["tls_client_ca_file"], "demands nothing", id="clients"),
        ],
    )
    def test_half_of_the_settings_is_unsafe(
        self, folder_of_files: Path, given: list[str], words: str
    ) -> None:
        (sentence,) = load(**dict.fromkeys(given, folder_of_files)).unsafe()
        assert words in sentence

    def test_off_loopback_only_tls_needs_no_leave(self, folder_of_files: Path) -> None:
        plain: dict[str, Any] = {"grpc_listen": (EVERYWHERE,)}
        (sentence,) = load(**plain).unsafe()
        assert "TLS_CERT_FILE" in sentence
        assert load(**plain, **settings_of(folder_of_files)).unsafe() == []

    def test_a_process_ends_with_the_sentence(
        self, folder_of_files: Path, database_url: str
    ) -> None:
        (folder_of_files / "key.pem").chmod(0o644)
        done = pourtier(
            "serve", database_url=database_url, **settings_of(folder_of_files)
        )
        assert done.returncode == 1
        file = folder_of_files / "key.pem"
        assert done.stderr == (
            f"pourtier: TLS_KEY_FILE={file} can be read by others: its mode must be"
            " 0600\n"
        )


class TestProcess:
    """In a process of its own, as in production, no test has imported anything."""

    def test_tls_1_2_is_refused(
        self, folder: Path, database_url: str, authority: Authority
    ) -> None:
        with serving_tls(folder, database_url, authority) as port:
            assert versions(port, authority) == {"TLSv1.3"}

    def test_who_names_ciphers_lets_tls_1_2_in_and_is_told(
        self,
        folder: Path,
        database_url: str,
        authority: Authority,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv(CIPHERS_VARIABLE, "ECDHE-ECDSA-AES128-GCM-SHA256")
        with serving_tls(folder, database_url, authority) as port:
            assert versions(port, authority) == {"TLSv1.2", "TLSv1.3"}
        log = (folder / "serve-0.log").read_text()
        assert "the native listeners let TLS 1.2 in" in log


class Callers:
    """What clients did that call without pause."""

    def __init__(self, count: int) -> None:
        self.calls = [0] * count
        self.failures: list[str] = []
        self.stopped = threading.Event()


@contextmanager
def calling(port: int, authority: Authority, count: int = 4) -> Iterator[Callers]:
    """Clients that call while the block runs, half on a new channel each time."""
    callers = Callers(count)

    def run(number: int) -> None:
        with channel(port, authority) as kept:
            while not callers.stopped.is_set():
                try:
                    if number % 2:
                        call(kept)
                    else:
                        with channel(port, authority) as new:
                            call(new)
                except grpc.RpcError as error:
                    callers.failures.append(str(error))
                callers.calls[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    with ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(callers.stopped.set)
        yield callers


def shown(port: int, client: ssl.SSLContext, pair: Pair) -> Callable[[], bool]:
    """Whether a new connection is shown that certificate."""
    return lambda: tls.serial(port, client) == pair.serial


def told(logs: Sequence[Mapping[str, Any]], words: str) -> Callable[[], bool]:
    """Whether a line of the log has a reason with those words."""
    return lambda: any(words in line["reason"] for line in logs)


def gets_in(port: int, authority: Authority, pair: Pair) -> bool:
    """Whether a client with that certificate has its call answered."""
    with channel(port, authority, pair) as made:
        try:
            return call(made) == "up"
        except grpc.RpcError:
            return False


@contextmanager
def serving_tls(folder: Path, database_url: str, authority: Authority) -> Iterator[int]:
    """A process of the service with TLS; the port of its native listener."""
    authority.issue().write(folder)
    files: dict[str, Any] = {**settings_of(folder)}
    process = serve_process(folder, database_url, **files)
    child = process.child
    try:
        # Whether it is ready is asked at the edge's socket, which is plaintext.
        ServeProcess(child=child, target=f"unix:{folder / 'serve-0.sock'}").start()
        yield int(process.target.rpartition(":")[2])
    finally:
        child.stop()


def versions(port: int, authority: Authority) -> set[str | None]:
    """The versions of TLS in which a connection can be made."""
    found = set()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        try:
            client = tls.context(authority.pem, version=version)
            with tls.connect(port, client) as connection:
                found.add(connection.version())
        except OSError:
            continue
    return found
