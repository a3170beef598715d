"""Key material: made once, kept to oneself, and never missing in silence."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pourtier_grpc.auth.keyring import Keyring, load_keyring
from pourtier_grpc.config import ConfigError
from pourtier_grpc.devtools.process import DevServerError
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.keys import KeyUse
from support.processes import serve_process
from support.proofs import send
from support.servers import Databases
from support.service import running
from support.sql import Sql
from support.threads import successes, together
from support.tokens import me


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database(url.replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        yield database
    finally:
        database.close()


@pytest.fixture(scope="module")
def database(databases: Databases) -> Iterator[str]:
    with databases.fresh() as url:
        yield url


@pytest.fixture
def database_url(database: str) -> str:
    """One database for all tests here, each of which finds no key in it."""
    with Sql(database) as sql:
        sql.run("DELETE FROM signing_keys")
    return database


@pytest.fixture
def keys(folder: Path) -> Path:
    return folder / "keys"


@pytest.fixture
def load(database_url: str, keys: Path) -> Callable[[], Keyring]:
    """Loads the keys as a start does."""

    def from_folder() -> Keyring:
        with opened(database_url) as database:
            return load_keyring(database, keys, now=datetime.now(UTC))

    return from_folder


def file_of(keys: Path, use: KeyUse) -> Path:
    (path,) = keys.glob(f"{use.value}-*.jwk")
    return path


def contents(keys: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in keys.iterdir()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_a_key_of_each_use_for_its_user_alone(
    load: Callable[[], Keyring], keys: Path
) -> None:
    ring = load()
    assert mode(keys) == 0o700
    assert {path.name.split("-")[0] for path in keys.iterdir()} == {
        use.value for use in KeyUse
    }
    assert len(list(keys.iterdir())) == len(KeyUse)
    assert {mode(path) for path in keys.iterdir()} == {0o600}
    assert file_of(keys, KeyUse.ACCESS).stem == f"access-{ring.access.key_id}"
    assert file_of(keys, KeyUse.HMAC).stem == f"hmac-{ring.hmac.key_id.hex()}"


def test_no_two_keys_are_the_same(load: Callable[[], Keyring], keys: Path) -> None:
    load()
    jwks = [json.loads(text) for text in contents(keys).values()]
    secrets = {jwk.get("d") or jwk["k"] for jwk in jwks}
    assert len(secrets) == len(KeyUse)
    assert all(len(base64.urlsafe_b64decode(s + "=")) == 32 for s in secrets)


def test_a_file_is_a_json_web_key_of_its_id(
    load: Callable[[], Keyring], keys: Path
) -> None:
    load()
    access = json.loads(file_of(keys, KeyUse.ACCESS).read_text())
    assert set(access) == {"kty", "crv", "x", "d", "kid"}
    shared = json.loads(file_of(keys, KeyUse.HMAC).read_text())
    assert set(shared) == {"kty", "k", "kid"}
    for use, jwk in ((KeyUse.ACCESS, access), (KeyUse.HMAC, shared)):
        assert file_of(keys, use).stem == f"{use.value}-{jwk['kid']}"


def test_the_second_start_uses_the_keys_of_the_first(
    load: Callable[[], Keyring], keys: Path
) -> None:
    first, before = load(), contents(keys)
    second = load()
    assert contents(keys) == before
    assert first.access.key_id == second.access.key_id
    assert first.hmac == second.hmac


def test_tokens_and_challenges_outlive_a_restart(
    database_url: str, keys: Path, wallet: DevWallet
) -> None:
    with running(database_url, key_dir=keys) as first:
        tokens = first.api.register(wallet).tokens
        proof = first.api.proof(wallet)
    with running(database_url, key_dir=keys) as second:
        assert me(second.api, tokens.access_token).wallet_address == wallet.address
        assert second.api.refresh(tokens.refresh_token)
        assert send(second, "Login", proof)


@pytest.mark.parametrize("use", KeyUse)
def test_a_start_without_a_live_keys_file_is_refused(
    load: Callable[[], Keyring], keys: Path, use: KeyUse
) -> None:
    load()
    path = file_of(keys, use)
    path.unlink()
    left = contents(keys)
    with pytest.raises(ConfigError, match="KEY_DIR lacks") as caught:
        load()
    assert path.name in str(caught.value)
    # Above all it makes no new key in the place of the old.
    assert contents(keys) == left


def test_a_start_with_an_empty_folder_is_refused_where_the_database_has_keys(
    load: Callable[[], Keyring], keys: Path
) -> None:
    load()
    keys.rename(keys.with_name("elsewhere"))
    with pytest.raises(ConfigError, match="KEY_DIR lacks"):
        load()
    assert not keys.exists()


@pytest.mark.parametrize("use", KeyUse)
@pytest.mark.parametrize("open_to", [0o640, 0o604, 0o660, 0o610, 0o601, 0o777])
def test_a_file_that_others_can_read_is_refused(
    load: Callable[[], Keyring], keys: Path, use: KeyUse, open_to: int
) -> None:
    load()
    path = file_of(keys, use)
    path.chmod(open_to)
    with pytest.raises(ConfigError, match="can be read by others") as caught:
        load()
    assert str(path) in str(caught.value)
    path.chmod(0o600)
    assert load()


DAMAGES = {
    "empty": "",
    "no JSON": "{",
    "not text": "\xff",
    "a list": "[]",
    "a word": '"key"',
    "nothing": "null",
    "no members": "{}",
    "the public half": '{"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}',
    "an empty secret": '{"k": "", "d": ""}',
    "a short secret": '{"k": "AAAA", "d": "AAAA"}',
    "a long secret": json.dumps({"k": "A" * 50, "d": "A" * 50}),
    "a secret that is no base64": '{"k": "!!!!", "d": "!!!!"}',
    "a secret of five letters": '{"k": "AAAAA", "d": "AAAAA"}',
    "a number": '{"k": 5, "d": 5}',
    "a null": '{"k": null, "d": null}',
}


@pytest.mark.parametrize("use", KeyUse)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(
    load: Callable[[], Keyring], keys: Path, use: KeyUse, damage: str
) -> None:
    load()
    path = file_of(keys, use)
    good = path.read_text()
    path.write_text(DAMAGES[damage], encoding="latin-1")
    with pytest.raises(ConfigError, match="is damaged") as caught:
        load()
    assert str(path) in str(caught.value)
    path.write_text(good)
    assert load()


def test_another_key_under_an_access_keys_name_is_refused(
    load: Callable[[], Keyring], keys: Path
) -> None:
    load()
    path = file_of(keys, KeyUse.ACCESS)
    secret = base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")
    path.write_text(json.dumps({"kty": "OKP", "crv": "Ed25519", "d": secret}))
    with pytest.raises(ConfigError, match="holds another key"):
        load()


def test_files_of_a_start_that_died_are_taken_up(
    load: Callable[[], Keyring], keys: Path, databases: Databases
) -> None:
    first, before = load(), contents(keys)
    # The files are there, and a database that has not heard of them.
    with databases.fresh() as url, opened(url) as database:
        ring = load_keyring(database, keys, now=datetime.now(UTC))
    assert ring.access.key_id == first.access.key_id
    assert ring.hmac == first.hmac
    assert contents(keys) == before


@pytest.mark.parametrize("damage", ["empty", "no members", "a short secret"])
@pytest.mark.parametrize("use", KeyUse)
def test_a_damaged_file_of_a_start_that_died_is_not_taken_up(
    load: Callable[[], Keyring],
    keys: Path,
    databases: Databases,
    use: KeyUse,
    damage: str,
) -> None:
    load()
    file_of(keys, use).write_text(DAMAGES[damage])
    with databases.fresh() as url, opened(url) as database:
        with pytest.raises(ConfigError, match="is damaged"):
            load_keyring(database, keys, now=datetime.now(UTC))
        # The database has not learned of it: without the file all is well.
        file_of(keys, use).unlink()
        assert load_keyring(database, keys, now=datetime.now(UTC))


def test_many_starts_at_once_make_one_set_of_keys(
    database_url: str, keys: Path
) -> None:
    def start(_: int) -> tuple[str, bytes]:
        with opened(database_url) as database:
            ring = load_keyring(database, keys, now=datetime.now(UTC))
            return ring.access.key_id, ring.hmac.key_id

    assert len(set(successes(together(8, start)))) == 1
    assert len(list(keys.iterdir())) == len(KeyUse)


def test_the_command_says_in_a_sentence_which_key_is_missing(
    load: Callable[[], Keyring], keys: Path, folder: Path, database_url: str
) -> None:
    load()
    path = file_of(keys, KeyUse.HMAC)
    path.unlink()
    process = serve_process(folder, database_url)
    with pytest.raises(DevServerError, match="ended with status 1"):
        process.start()
    written = process.child.log_tail()
    assert f"KEY_DIR lacks {path.name}" in written
    assert "Traceback" not in written
