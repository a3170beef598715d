"""Key material: made once, kept to oneself, and never missing in silence."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from pourtier_grpc.auth import key_files, keyring
from pourtier_grpc.auth.keyring import KeyLifetimes, Keyring, list_keys
from pourtier_grpc.clock import SystemClock
from pourtier_grpc.config import ConfigError
from pourtier_grpc.devtools.process import DevServerError
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.keys import KeyRecord, KeyState, KeyUse
from support.processes import serve_process
from support.proofs import send
from support.servers import Databases
from support.service import running
from support.sql import Sql
from support.threads import successes, together
from support.tokens import me

# What a start makes: a key of each use that signs, and the next of those that rotate.
LIVE = [
    (KeyUse.ACCESS, KeyState.ACTIVE),
    (KeyUse.ACCESS, KeyState.NEXT),
    (KeyUse.HMAC, KeyState.ACTIVE),
    (KeyUse.HMAC, KeyState.NEXT),
    (KeyUse.PSEUDONYM, KeyState.ACTIVE),
    (KeyUse.EVIDENCE, KeyState.ACTIVE),
    (KeyUse.EVIDENCE, KeyState.NEXT),
]
LIFETIMES = KeyLifetimes(access=timedelta(minutes=31), hmac=timedelta(days=90))
FileOf = Callable[..., Path]


def load_keyring(database: Database, folder: Path) -> Keyring:
    return Keyring(database, folder, clock=SystemClock(), lifetimes=LIFETIMES)


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
        # A trigger refuses it to everybody else.
        sql.run("SET session_replication_role = replica")
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
            return load_keyring(database, keys)

    return from_folder


@pytest.fixture
def file_of(database_url: str, keys: Path) -> FileOf:
    """The file of the key of a use that is in that state."""

    def find(use: KeyUse, state: KeyState = KeyState.ACTIVE) -> Path:
        query = "SELECT key_id FROM signing_keys WHERE use = %s AND state = %s"
        with Sql(database_url) as sql:
            key_id = sql.one(query, use.value, state.value)["key_id"]
        path = keys / f"{use.value}-{key_id}.jwk"
        assert path.is_file()
        return path

    return find


def contents(keys: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in keys.iterdir()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_the_keys_of_each_use_for_its_user_alone(
    load: Callable[[], Keyring], keys: Path, file_of: FileOf
) -> None:
    ring = load()
    assert mode(keys) == 0o700
    assert set(keys.iterdir()) == {file_of(*each) for each in LIVE}
    assert {mode(path) for path in keys.iterdir()} == {0o600}
    assert file_of(KeyUse.ACCESS).stem == f"access-{ring.access.key_id}"
    assert file_of(KeyUse.HMAC).stem == f"hmac-{ring.hmac.key_id.hex()}"


def test_what_the_next_key_signs_verifies_already(
    load: Callable[[], Keyring], file_of: FileOf
) -> None:
    ring = load()
    access, hmac = (
        file_of(use, KeyState.NEXT).stem.removeprefix(f"{use.value}-")
        for use in (KeyUse.ACCESS, KeyUse.HMAC)
    )
    assert [key.key_id for key in ring.published] == [ring.access.key_id, access]
    assert ring.access_key(access) is ring.published[1]
    assert ring.hmac_key(bytes.fromhex(hmac)) not in {None, ring.hmac}
    assert ring.access_key("A" * 43) is None
    assert ring.hmac_key(bytes(8)) is None


def test_no_two_keys_are_the_same(load: Callable[[], Keyring], keys: Path) -> None:
    load()
    jwks = [json.loads(text) for text in contents(keys).values()]
    secrets = {jwk.get("d") or jwk["k"] for jwk in jwks}
    assert len(secrets) == len(LIVE)
    assert all(len(base64.urlsafe_b64decode(s + "=")) == 32 for s in secrets)


def test_a_file_is_a_json_web_key_of_its_id(
    load: Callable[[], Keyring], file_of: FileOf
) -> None:
    load()
    access = json.loads(file_of(KeyUse.ACCESS).read_text())
    assert set(access) == {"kty", "crv", "x", "d", "kid"}
    shared = json.loads(file_of(KeyUse.HMAC).read_text())
    assert set(shared) == {"kty", "k", "kid"}
    for use, jwk in ((KeyUse.ACCESS, access), (KeyUse.HMAC, shared)):
        assert file_of(use).stem == f"{use.value}-{jwk['kid']}"


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


@pytest.mark.parametrize(("use", "state"), LIVE)
def test_a_start_without_a_live_keys_file_is_refused(
    load: Callable[[], Keyring],
    keys: Path,
    file_of: FileOf,
    use: KeyUse,
    state: KeyState,
) -> None:
    load()
    path = file_of(use, state)
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
    load: Callable[[], Keyring], file_of: FileOf, use: KeyUse, open_to: int
) -> None:
    load()
    path = file_of(use)
    path.chmod(open_to)
    with pytest.raises(ConfigError, match="can be read by others") as caught:
        load()
    assert str(path) in str(caught.value)
    path.chmod(0o600)
    assert load()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
@pytest.mark.parametrize("use", KeyUse)
def test_a_file_of_somebody_else_is_refused(
    load: Callable[[], Keyring], file_of: FileOf, use: KeyUse
) -> None:
    load()
    path = file_of(use)
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="not a file of the service's own user"):
        load()
    os.chown(path, os.geteuid(), -1)
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
    load: Callable[[], Keyring], file_of: FileOf, use: KeyUse, damage: str
) -> None:
    load()
    path = file_of(use)
    good = path.read_text()
    path.write_text(DAMAGES[damage], encoding="latin-1")
    with pytest.raises(ConfigError, match="is damaged") as caught:
        load()
    assert str(path) in str(caught.value)
    path.write_text(good)
    assert load()


def test_another_key_under_an_access_keys_name_is_refused(
    load: Callable[[], Keyring], file_of: FileOf
) -> None:
    load()
    path = file_of(KeyUse.ACCESS)
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
        ring = load_keyring(database, keys)
    # None of them has signed, so each may be the first to sign or the next.
    ids = {key.key_id for key in first.published}
    assert {key.key_id for key in ring.published} == ids
    assert ring.hmac_key(first.hmac.key_id) == first.hmac
    assert ring.pseudonym("wallet") == first.pseudonym("wallet")
    assert contents(keys) == before


@pytest.mark.parametrize("use", KeyUse)
def test_more_files_than_there_are_places_are_for_a_person_to_choose_from(
    load: Callable[[], Keyring], keys: Path, databases: Databases, use: KeyUse
) -> None:
    load()
    key_files.make(keys, use)
    before = contents(keys)
    with databases.fresh() as url, opened(url) as database:
        with pytest.raises(ConfigError, match=f"has several {use.value} keys"):
            load_keyring(database, keys)
        assert list_keys(database) == []
    assert contents(keys) == before
    # The database that knows the others is not led astray by one more.
    assert load()


@pytest.mark.parametrize("damage", ["empty", "no members", "a short secret"])
@pytest.mark.parametrize("use", KeyUse)
def test_a_damaged_file_of_a_start_that_died_is_not_taken_up(
    load: Callable[[], Keyring],
    keys: Path,
    databases: Databases,
    file_of: FileOf,
    use: KeyUse,
    damage: str,
) -> None:
    load()
    damaged = file_of(use)
    damaged.write_text(DAMAGES[damage])
    with databases.fresh() as url, opened(url) as database:
        with pytest.raises(ConfigError, match="is damaged"):
            load_keyring(database, keys)
        # The database has not learned of it: without the file all is well.
        damaged.unlink()
        assert load_keyring(database, keys)


def test_many_starts_at_once_make_one_set_of_keys(
    database_url: str, keys: Path
) -> None:
    def start(_: int) -> tuple[str, bytes]:
        with opened(database_url) as database:
            ring = load_keyring(database, keys)
            return ring.access.key_id, ring.hmac.key_id

    assert len(set(successes(together(8, start)))) == 1
    assert len(list(keys.iterdir())) == len(LIVE)


def test_two_that_follow_at_once_end_with_what_is_true_last(
    database_url: str, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that has looked first does not bring a revoked key back."""
    looked, followed = threading.Event(), threading.Event()
    look = keyring.list_keys

    def look_and_wait(database: Database) -> list[KeyRecord]:
        found = look(database)
        if not looked.is_set():
            looked.set()
            # In vain, where the other has to wait for this one.
            followed.wait(0.5)
        return found

    with opened(database_url) as database, Sql(database_url) as sql:
        ring = load_keyring(database, keys)
        old = ring.access.key_id
        (following,) = (key.key_id for key in ring.published if key.key_id != old)
        # So that there is something for the first one to follow.
        sql.run("UPDATE signing_keys SET state = 'retired' WHERE key_id = %s", old)
        monkeypatch.setattr(keyring, "list_keys", look_and_wait)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(ring.refresh)
            assert looked.wait(5)
            sql.run("UPDATE signing_keys SET state = 'revoked' WHERE key_id = %s", old)
            sql.run(
                "UPDATE signing_keys SET state = 'active' WHERE key_id = %s", following
            )
            second = pool.submit(ring.refresh)
            second.add_done_callback(lambda _: followed.set())
            for each in (first, second):
                each.result(10)
        assert ring.access_key(old) is None
        assert ring.access.key_id == following


def test_the_command_says_in_a_sentence_which_key_is_missing(
    load: Callable[[], Keyring], file_of: FileOf, folder: Path, database_url: str
) -> None:
    load()
    path = file_of(KeyUse.HMAC)
    path.unlink()
    process = serve_process(folder, database_url)
    with pytest.raises(DevServerError, match="ended with status 1"):
        process.start()
    written = process.child.log_tail()
    assert f"KEY_DIR lacks {path.name}" in written
    assert "Traceback" not in written
