"""`pourtier wallet sign-in` at a native listener that speaks TLS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pourtier.v1 import user_service_pb2 as user_pb
from pourtier_grpc.devtools.ports import free_port
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import Api
from support.certificates import Authority, put
from support.commands import pourtier, quickly
from support.servers import Databases
from support.service import Service, service


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def one_way(
    databases: Databases, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A server with a certificate."""
    folder = tmp_path_factory.mktemp("one-way")
    authority.issue().write(folder)
    with served(databases, folder) as made:
        yield made


@pytest.fixture(scope="module")
def mutual(
    databases: Databases, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A server that demands certificates of its clients."""
    folder = tmp_path_factory.mktemp("mutual")
    authority.issue().write(folder)
    put(folder / "clients.pem", authority.pem)
    clients = {"tls_client_ca_file": folder / "clients.pem"}
    with served(databases, folder, **clients) as made:
        yield made


@contextmanager
def served(databases: Databases, folder: Path, **more: Path) -> Iterator[Service]:
    own = {"tls_cert_file": folder / "cert.pem", "tls_key_file": folder / "key.pem"}
    with service(databases, grpc_listen="127.0.0.1:0", **own, **more) as made:
        yield made


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> Path:
    """A folder with a wallet, the authority, and a client's certificate."""
    DevWallet.generate().save(tmp_path / "wallet.json")
    put(tmp_path / "ca.pem", authority.pem)
    authority.issue().write(tmp_path)
    return tmp_path


def words_for(files: Path, target: str, *options: str) -> list[object]:
    """The command, with some of the options for TLS."""
    paths = {"--ca": "ca.pem", "--cert": "cert.pem", "--key": "key.pem"}
    given = [word for each in options for word in (each, files / paths[each])]
    wallet = files / "wallet.json"
    return ["wallet", "sign-in", "--target", target, "--wallet", wallet, *given]


def target_of(server: Service) -> str:
    return f"localhost:{server.server.ports[0]}"


def unix_target_of(server: Service) -> str:
    return f"unix:{server.settings.grpc_unix_socket}"


def assert_signs_in(server: Service, files: Path, target: str, *options: str) -> None:
    done = pourtier(*words_for(files, target, *options))
    assert done.returncode == 0, done.stderr
    unix, bearer = Api(unix_target_of(server)), done.stdout.strip()
    me = unix.call(unix.users.GetMe, user_pb.GetMeRequest(), bearer=bearer)
    unix.close()
    assert me.wallet_address == DevWallet.load(files / "wallet.json").address


def test_it_signs_in(one_way: Service, files: Path) -> None:
    assert_signs_in(one_way, files, target_of(one_way), "--ca")


def test_it_shows_its_certificate(mutual: Service, files: Path) -> None:
    options = ("--ca", "--cert", "--key")
    assert_signs_in(mutual, files, target_of(mutual), *options)


def test_the_unix_socket_needs_no_files(mutual: Service, files: Path) -> None:
    assert_signs_in(mutual, files, unix_target_of(mutual))


def test_without_an_authority_it_is_told_of_the_option(
    one_way: Service, mutual: Service, files: Path
) -> None:
    for target in (target_of(one_way), target_of(mutual)):
        done = quickly(*words_for(files, target))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"pourtier: {target} speaks TLS: name its authority with --ca, and where it"
            " demands one your certificate with --cert and --key\n"
        )


def no_connection(target: str, files: Path) -> str:
    return (
        f"pourtier: no TLS connection to {target}: is its certificate for that name and"
        f" under {files / 'ca.pem'}, and does it demand one of yours (--cert and"
        " --key)?\n"
    )


def test_an_authority_that_is_another_is_a_sentence(
    one_way: Service, files: Path
) -> None:
    put(files / "ca.pem", Authority().pem)
    target = target_of(one_way)
    done = quickly(*words_for(files, target, "--ca"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == no_connection(target, files)


def test_so_is_a_certificate_that_is_demanded(mutual: Service, files: Path) -> None:
    target = target_of(mutual)
    done = quickly(*words_for(files, target, "--ca"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == no_connection(target, files)


@pytest.mark.parametrize(
    "options", [("--cert",), ("--ca", "--key"), ("--cert", "--key")]
)
def test_half_of_what_belongs_together_is_bad_usage(
    files: Path, options: tuple[str, ...]
) -> None:
    done = quickly(*words_for(files, "localhost:1", *options))
    assert (done.returncode, done.stdout) == (2, "")
    assert "--cert and --key go together, and with --ca" in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("ca.pem", None, "--ca={} cannot be read: No such file or directory"),
        ("ca.pem", b"nonsense", "--ca={} holds no certificate in PEM that is whole"),
        ("cert.pem", b"", "--cert={} holds no certificate in PEM that is whole"),
        ("key.pem", b"x", "--key={} holds no private key in PEM that is whole"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_sentence(
    files: Path, name: str, content: bytes | None, sentence: str
) -> None:
    file = files / name
    if content is None:
        file.unlink()
    else:
        put(file, content)
    options = ("--ca", "--cert", "--key")
    done = quickly(*words_for(files, "localhost:1", *options))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"pourtier: {sentence.format(file)}\n"


def test_a_key_of_another_certificate_is_a_sentence(
    files: Path, authority: Authority
) -> None:
    put(files / "key.pem", authority.issue().key)
    options = ("--ca", "--cert", "--key")
    done = quickly(*words_for(files, "localhost:1", *options))
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not the key of --cert=" in done.stderr


@pytest.mark.parametrize("options", [(), ("--ca",)])
def test_where_nobody_listens_it_says_so(files: Path, options: tuple[str, ...]) -> None:
    for nowhere in (f"localhost:{free_port()}", f"unix:{files}/nothing", "nonsense:"):
        done = quickly(*words_for(files, nowhere, *options))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"pourtier: nothing answers at {nowhere}: ")


def test_a_server_without_tls_says_so(
    databases: Databases, one_way: Service, files: Path
) -> None:
    with service(databases) as plain:
        for target in (target_of(plain), unix_target_of(one_way)):
            done = quickly(*words_for(files, target, "--ca"))
            assert (done.returncode, done.stdout) == (1, "")
            said = f"pourtier: {target} speaks no TLS: leave --ca out\n"
            assert done.stderr == said
