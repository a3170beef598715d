"""TLS of the edge: who gets in, what stays as it was, how certificates change."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import httpx
import pytest

from e2e.edge_rig import CONTRACT, Service, call_grpc, contract_services
from pourtier_grpc.devtools.edge import Address, EdgeSettings, EdgeTls, write
from pourtier_grpc.devtools.envoy import EmbeddedEnvoy, validate
from support import tls
from support.certificates import Authority, Pair, put
from support.ports import free_port
from support.waiting import eventually

ME = "/pourtier.v1.UserService/GetMe"
# What mutual TLS is for.
ANY = "0.0.0.0"  # noqa: S104 - for a second or two
NONE = b"-----BEGIN CERTIFICATE-----\n"


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A running Envoy; its certificates lie in `folder`."""

    settings: EdgeSettings
    service: Service
    folder: Path

    @property
    def public(self) -> int:
        return self.settings.public.port

    @property
    def internal(self) -> int:
        return self.settings.internal.port


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def stranger() -> Authority:
    """An authority that the edge does not know."""
    return Authority()


@pytest.fixture(scope="module")
def edge(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    authority.issue().write(folder)
    put(folder / "clients.pem", authority.pem)
    settings = settings_of(folder)
    write(folder, settings)
    service = Service(folder / "grpc-0.sock", contract_services())
    service.start()
    file = folder / "envoy.yaml"
    try:
        with EmbeddedEnvoy(file, folder=folder, drain_seconds=0):
            made = Edge(settings=settings, service=service, folder=folder)
            assert eventually(lambda: status(made, authority) == 200, within=10)
            yield made
    finally:
        service.stop().wait()


def settings_of(folder: Path, *, encrypted: bool = True) -> EdgeSettings:
    """An edge whose files are all in one folder."""
    names = "cert.pem", "key.pem", "clients.pem"
    certificate, key, clients = (str(folder / name) for name in names)
    return EdgeSettings(
        public=Address(port=free_port()),
        internal=Address(port=free_port(), host=ANY if encrypted else "127.0.0.1"),
        public_tls=EdgeTls(certificate=certificate, key=key) if encrypted else None,
        internal_tls=EdgeTls(certificate=certificate, key=key, client_ca=clients)
        if encrypted
        else None,
        admin=str(folder / "admin.sock"),
        sockets=(str(folder / "grpc-0.sock"),),
        descriptor_set=str(CONTRACT),
        secrets=str(folder / "secrets"),
        receive_timeout=timedelta(seconds=1),
    )


@contextmanager
def client(
    port: int,
    authority: Authority,
    pair: Pair | None = None,
    address: str | None = None,
    *,
    http2: bool = False,
) -> Iterator[httpx.Client]:
    """An HTTP client, which calls from an address of loopback."""
    protocols = ("h2",) if http2 else ("http/1.1",)
    context = tls.context(authority.pem, pair, protocols=protocols)
    transport = httpx.HTTPTransport(verify=context, local_address=address)
    url = f"https://localhost:{port}"
    with httpx.Client(base_url=url, transport=transport, timeout=10) as made:
        yield made


def status(edge: Edge, authority: Authority, pair: Pair | None = None) -> int | None:
    """How the public listener answers, or with a certificate the internal one."""
    port = edge.public if pair is None else edge.internal
    try:
        with client(port, authority, pair) as made:
            return made.get("/health").status_code
    except httpx.TransportError:
        return None


def shown(edge: Edge, authority: Authority, pair: Pair) -> Callable[[], bool]:
    """Whether the public listener shows new connections that certificate."""
    context = tls.context(authority.pem)
    return lambda: tls.serial(edge.public, context) == pair.serial


def link(name: Path, target: Path) -> None:
    """Makes a name lead there, in one step."""
    new = name.with_suffix(".new")
    new.symlink_to(target)
    new.replace(name)


class TestPublic:
    def test_json_is_answered_and_browsers_are_told_to_stay(
        self, edge: Edge, authority: Authority
    ) -> None:
        with client(edge.public, authority) as made:
            answers = [made.get("/health"), made.get("/api/nowhere")]
        assert [answer.status_code for answer in answers] == [200, 404]
        told = [answer.headers["strict-transport-security"] for answer in answers]
        assert told == ["max-age=31536000"] * 2

    def test_grpc_is_answered(self, edge: Edge, authority: Authority) -> None:
        credentials = grpc.ssl_channel_credentials(authority.pem)
        with grpc.secure_channel(f"localhost:{edge.public}", credentials) as channel:
            assert call_grpc(channel, ME) == b""

    def test_http_2_and_1_1_are_offered(self, edge: Edge, authority: Authority) -> None:
        for offered in (("h2", "http/1.1"), ("http/1.1",)):
            context = tls.context(authority.pem, protocols=offered)
            with tls.connect(edge.public, context) as connection:
                assert connection.version() == "TLSv1.3"
                assert connection.selected_alpn_protocol() == offered[0]

    def test_the_clients_address_is_the_peers(
        self, edge: Edge, authority: Authority
    ) -> None:
        edge.service.forget()
        forged = {
            "x-forwarded-for": "6.6.6.6",
            "x-pourtier-client-address": "6.6.6.6",
            "x-forwarded-client-cert": "By=6.6.6.6",
        }
        with client(edge.public, authority, address="127.0.0.9") as made:
            made.get("/api/users/me", headers=forged)
        (call,) = edge.service.calls
        assert call.values("x-pourtier-client-address") == ["127.0.0.9"]
        assert not [each for each in call.metadata if "6.6.6.6" in str(each)]

    def test_plaintext_gets_no_answer_on_either_listener(self, edge: Edge) -> None:
        for port in (edge.public, edge.internal):
            with pytest.raises(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/health")

    def test_tls_1_2_is_refused(self, edge: Edge, authority: Authority) -> None:
        old = tls.context(authority.pem, version=ssl.TLSVersion.TLSv1_2)
        for port in (edge.public, edge.internal):
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                tls.connect(port, old)

    def test_who_trusts_another_authority_does_not_connect(
        self, edge: Edge, stranger: Authority
    ) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            tls.connect(edge.public, tls.context(stranger.pem))

    def test_a_handshake_that_does_not_come_is_not_waited_for(self, edge: Edge) -> None:
        with socket.create_connection(("127.0.0.1", edge.public), 5) as silent:
            begin = time.monotonic()
            assert silent.recv(1) == b""
        assert 0.5 < time.monotonic() - begin < 4


class TestInternal:
    def test_a_certificate_of_the_right_authority_is_let_in(
        self, edge: Edge, authority: Authority
    ) -> None:
        with client(edge.internal, authority, authority.issue()) as made:
            answer = made.get("/health")
        assert answer.status_code == 200
        # Browsers hold to it for every port of a host.
        assert "strict-transport-security" not in answer.headers

    def test_others_are_refused(
        self, edge: Edge, authority: Authority, stranger: Authority
    ) -> None:
        ended = authority.issue(left=-timedelta(minutes=1))
        for pair in (None, stranger.issue(), ended):
            with (
                client(edge.internal, authority, pair) as made,
                pytest.raises(httpx.TransportError),
            ):
                made.get("/health")

    def test_no_session_is_resumed_without_its_certificate(
        self, edge: Edge, authority: Authority
    ) -> None:
        context = tls.context(authority.pem, authority.issue(), protocols=("http/1.1",))
        assert resumes(edge.public, context)
        assert not resumes(edge.internal, context)


class TestRotation:
    def test_no_call_of_four_clients_fails(
        self, edge: Edge, authority: Authority
    ) -> None:
        stopped = threading.Event()

        def call(number: int) -> list[int | None]:
            outcomes = []
            with client(edge.public, authority) as kept:
                while not stopped.is_set():
                    # Half of them on a new connection each time.
                    new = number % 2 == 0
                    outcomes.append(
                        status(edge, authority)
                        if new
                        else kept.get("/health").status_code
                    )
            return outcomes

        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(call, number) for number in range(4)]
            try:
                for _ in range(20):
                    pair = authority.issue()
                    pair.write(edge.folder)
                    assert eventually(shown(edge, authority, pair), within=10)
                    time.sleep(0.05)
            finally:
                stopped.set()
        for outcomes in (each.result() for each in calls):
            assert set(outcomes) == {200}
            assert len(outcomes) > 10

    def test_what_cannot_be_used_changes_nothing(
        self, edge: Edge, authority: Authority, stranger: Authority
    ) -> None:
        before = authority.issue()
        before.write(edge.folder)
        assert eventually(shown(edge, authority, before))
        for name, content in {
            "key.pem": stranger.issue().key,
            "cert.pem": NONE,
            "clients.pem": NONE,
        }.items():
            put(edge.folder / name, content)
            time.sleep(0.3)
            assert shown(edge, authority, before)()
            assert status(edge, authority, authority.issue()) == 200
            assert status(edge, authority, stranger.issue()) is None
        put(edge.folder / "clients.pem", authority.pem)
        after = authority.issue()
        after.write(edge.folder)
        assert eventually(shown(edge, authority, after), within=10)

    def test_files_may_be_links_that_change_all_at_once(
        self, edge: Edge, authority: Authority
    ) -> None:
        """As Kubernetes mounts a secret."""
        data = edge.folder / "..data"
        for name in ("first", "second"):
            pair = authority.issue()
            (edge.folder / name).mkdir()
            pair.write(edge.folder / name)
            link(data, edge.folder / name)
            if name == "first":
                for file in ("key.pem", "cert.pem"):
                    link(edge.folder / file, data / file)
            assert eventually(shown(edge, authority, pair), within=10)

    def test_the_authority_of_clients_changes_too(
        self, edge: Edge, authority: Authority, stranger: Authority
    ) -> None:
        newcomer = stranger.issue()
        assert status(edge, authority, newcomer) is None
        put(edge.folder / "clients.pem", stranger.pem)
        assert eventually(lambda: status(edge, authority, newcomer) == 200, within=10)
        assert status(edge, authority, authority.issue()) is None
        put(edge.folder / "clients.pem", authority.pem)
        assert eventually(lambda: status(edge, authority, newcomer) is None, within=10)


class TestStart:
    def test_without_the_authorities_of_clients_nobody_is_let_in(
        self, authority: Authority, tmp_path: Path
    ) -> None:
        authority.issue().write(tmp_path)
        settings = settings_of(tmp_path)
        write(tmp_path, settings)
        file = tmp_path / "envoy.yaml"
        with EmbeddedEnvoy(file, folder=tmp_path, drain_seconds=0):
            port = settings.internal.port
            for pair in (None, authority.issue()):
                with (
                    client(port, authority, pair) as made,
                    pytest.raises(httpx.TransportError),
                ):
                    made.get("/health")
            put(tmp_path / "clients.pem", authority.pem)
            let_in = tls.context(authority.pem, authority.issue())
            assert eventually(lambda: connects(port, let_in), within=10)


class TestSettings:
    @pytest.mark.parametrize("encrypted", [False, True])
    def test_envoy_accepts_it(
        self, authority: Authority, tmp_path: Path, *, encrypted: bool
    ) -> None:
        authority.issue().write(tmp_path)
        put(tmp_path / "clients.pem", authority.pem)
        write(tmp_path, settings_of(tmp_path, encrypted=encrypted))
        validate(tmp_path / "envoy.yaml")

    @pytest.mark.parametrize(
        "given",
        [
            pytest.param(None, id="plaintext"),
            pytest.param(EdgeTls(certificate="/c", key="/k"), id="one-way"),
        ],
    )
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])  # noqa: S104
    def test_the_internal_listener_leaves_loopback_with_mutual_tls_alone(
        self, given: EdgeTls | None, host: str
    ) -> None:
        address = Address(host=host, port=9001)
        with pytest.raises(ValueError, match=f"{host} is off loopback"):
            EdgeSettings(internal=address, internal_tls=given)
        mutual = EdgeTls(certificate="/c", key="/k", client_ca="/a")
        EdgeSettings(internal=address, internal_tls=mutual)
        EdgeSettings(internal=Address(host="::1", port=9001), internal_tls=given)


def connects(port: int, context: ssl.SSLContext) -> bool:
    """Whether a handshake is made."""
    try:
        tls.connect(port, context).close()
    except OSError:
        return False
    return True


def resumes(port: int, context: ssl.SSLContext) -> bool:
    """Whether a second connection goes on with the session of the first."""
    with tls.connect(port, context) as first:
        # The session comes with the first answer.
        first.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert first.recv(1024).startswith(b"HTTP/1.1 200")
        session = first.session
    plain = socket.create_connection(("127.0.0.1", port), tls.TIMEOUT)
    with context.wrap_socket(
        plain, server_hostname="localhost", session=session
    ) as second:
        return second.session_reused is True
