"""The command `pourtier`: what it prints where, and how it exits."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from pourtier.v1 import user_service_pb2 as user_pb
from pourtier_grpc.cli import main
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.store import revisions
from support.commands import ROOT, SCRIPT, environment, pourtier, quickly, run
from support.ports import free_port
from support.servers import Databases, state_folder
from support.service import Service, service

# The uses and states of the keys that a fresh service makes for itself.
FRESH = [
    ("access", "active"),
    ("access", "next"),
    ("evidence", "active"),
    ("evidence", "next"),
    ("hmac", "active"),
    ("hmac", "next"),
    ("pseudonym", "active"),
]
VECTORS = ROOT / "tests" / "data" / "wallets" / "siws.json"


@pytest.fixture(scope="module")
def served(databases: Databases) -> Iterator[Service]:
    with service(databases) as made:
        yield made


@pytest.fixture
def target(served: Service) -> str:
    return f"127.0.0.1:{served.server.ports[0]}"


@pytest.fixture
def unmigrated_url(databases: Databases) -> Iterator[str]:
    with databases.fresh(migrated=False) as url:
        yield url


def test_help_names_every_command() -> None:
    done = quickly("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for command in main.commands:
        assert f"  {command} " in done.stdout


def test_the_installed_script_is_the_same_command() -> None:
    script = run(SCRIPT, "--version")
    assert script.returncode == 0
    assert script.stdout == f"pourtier, version {version('pourtier-grpc')}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("--nonsense",),
        ("wallet",),
        ("wallet", "new", "surplus"),
        ("wallet", "check-vectors"),
        ("wallet", "sign-in", "--target"),
        ("wallet", "sign-in", "--ca"),
        ("api-key", "create", "chevalier"),
        ("api-key", "create", "--scope", "users.read"),
        ("api-key", "create", "chevalier", "--scope", "nonsense.scope"),
        ("api-key", "create", "Chevalier!", "--scope", "users.read"),
        ("api-key", "create", "c", "--scope", "users.read", "--expires-days", "0"),
        ("api-key", "create", "c", "--scope", "users.read", "--overlap-hours", "-1"),
        ("api-key", "revoke"),
        ("user", "show"),
        ("user", "grant-role", "me", "emperor", "--reason", "r"),
        ("user", "suspend", "me"),
        ("keys", "rotate", "--use", "pseudonym"),
        ("keys", "revoke", "id"),
        ("legal", "publish"),
        ("legal", "publish", "README.md", "--type", "terms-of-service"),
        ("legal", "publish", "README.md", "--version", "1.0"),
        ("legal", "withdraw", "nonsense"),
        ("legal", "verify-receipt", "README.md"),
        ("passeur-sim", "--port", "65536"),
        ("passeur-sim", "--settle-seconds", "-1"),
    ],
)
def test_bad_usage_exits_with_2(words: tuple[str, ...]) -> None:
    done = quickly(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: " in done.stderr or "Error: " in done.stderr


def test_migrate_prints_the_revision_and_nothing_else(
    unmigrated_url: str, folder: Path
) -> None:
    for command in (pourtier, quickly):
        done = command("migrate", database_url=unmigrated_url, pourtier_data_dir=folder)
        assert (done.returncode, done.stdout) == (0, f"{revisions.head()}\n")
        assert "Traceback" not in done.stderr


def test_without_a_database_named_migrate_and_keys_use_the_embedded_one() -> None:
    with state_folder() as folder:
        data = folder / ".pourtier"
        done = pourtier("migrate", pourtier_data_dir=data)
        assert (done.returncode, done.stdout) == (0, f"{revisions.head()}\n")
        made = quickly("keys", "generate", pourtier_data_dir=data)
        assert made.returncode == 0, made.stderr
        assert len(made.stdout.splitlines()) == len(FRESH)


def test_keys_are_listed_without_their_material(
    database_url: str, folder: Path
) -> None:
    where = {"database_url": database_url, "pourtier_data_dir": folder}
    made = quickly("keys", "generate", **where)
    assert made.returncode == 0, made.stderr
    keys = json.loads(quickly("keys", "list", "--json", **where).stdout)
    fields = {"key_id", "use", "algorithm", "state", "create_time"}
    assert all(set(key) == fields for key in keys)
    assert sorted((key["use"], key["state"]) for key in keys) == FRESH
    files = list((folder / "keys").glob("*.jwk"))
    assert len(files) == len(keys)
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        secrets = {
            value
            for name, value in json.loads(file.read_text()).items()
            if name in {"d", "k"}
        }
        assert secrets
        assert not [secret for secret in secrets if secret in made.stdout]


@pytest.mark.parametrize(
    ("command", "url", "sentence"),
    [
        (
            "migrate",
            "postgresql://u:secret@127.0.0.1:1/x",
            "the database cannot be reached: ",
        ),
        (
            "serve",
            "mysql://u:secret@127.0.0.1:1/x",
            "DATABASE_URL is not a postgresql:// URL",
        ),
    ],
)
def test_a_database_that_cannot_be_used_is_a_sentence(
    folder: Path, command: str, url: str, sentence: str
) -> None:
    alone = pourtier if command == "serve" else quickly
    done = alone(command, database_url=url, pourtier_data_dir=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"pourtier: {sentence}")
    assert "secret" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_database_that_is_not_migrated_says_what_to_do(
    unmigrated_url: str, folder: Path
) -> None:
    done = pourtier("serve", database_url=unmigrated_url, pourtier_data_dir=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "run `pourtier migrate`" in done.stderr


def test_a_setting_without_meaning_is_a_sentence() -> None:
    done = quickly("keys", "list", threads="many")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pourtier: THREADS: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_new_wallet_is_made_once(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "down" / "wallet.json"
    made = quickly("wallet", "new", "--wallet", file)
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() == DevWallet.load(file).address
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    again = quickly("wallet", "new", "--wallet", file)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"pourtier: {file} exists; it is not overwritten\n"
    assert file.read_bytes() == before


def test_a_wallet_that_cannot_be_kept_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = quickly("wallet", "new", "--wallet", tmp_path / "file" / "wallet.json")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1


def test_signing_in_prints_the_token_and_nothing_else(
    served: Service, target: str, folder: Path
) -> None:
    # The first time it makes the data directory's wallet, and registers it.
    first = pourtier("wallet", "sign-in", "--target", target, pourtier_data_dir=folder)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("\n") == 1
    user_id = whose(served, first.stdout.strip())
    words = ("wallet", "sign-in", "--target", target, "--json")
    again = pourtier(*words, pourtier_data_dir=folder)
    tokens = json.loads(again.stdout)
    assert set(tokens) == {
        "access_token",
        "refresh_token",
        "token_type",
        "expires_in",
        "session_id",
    }
    assert whose(served, tokens["access_token"]) == user_id


def whose(served: Service, bearer: str) -> str:
    """The user whom an access token lets in."""
    api = served.api
    me = api.call(api.users.GetMe, user_pb.GetMeRequest(), bearer=bearer)
    return str(me.user_id)


def test_signing_in_where_nobody_listens_is_a_sentence(tmp_path: Path) -> None:
    DevWallet.generate().save(tmp_path / "wallet.json")
    nowhere = f"127.0.0.1:{free_port()}"
    words = ("--target", nowhere, "--wallet", tmp_path / "wallet.json")
    done = quickly("wallet", "sign-in", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"pourtier: nothing answers at {nowhere}: does the service run "
        "(`pourtier dev`)?\n"
    )


@pytest.mark.parametrize("content", [None, "{}", "[1, 2, 3]", "no JSON"])
def test_signing_in_without_a_wallet_is_a_sentence(
    target: str, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "wallet.json"
    if content is not None:
        file.write_text(content)
    done = quickly("wallet", "sign-in", "--target", target, "--wallet", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert str(file) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_suspended_wallet_is_told_the_reason(
    served: Service, target: str, tmp_path: Path
) -> None:
    wallet, made = served.registered()
    wallet.save(tmp_path / "wallet.json")
    statement = "UPDATE users SET status = 2 WHERE user_id = %s"
    served.sql.run(statement, made.user.user_id)
    words = ("--target", target, "--wallet", tmp_path / "wallet.json")
    done = pourtier("wallet", "sign-in", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"pourtier: {target} refused: USER_SUSPENDED\n"


def test_vectors_that_hold_exit_with_0() -> None:
    done = quickly("wallet", "check-vectors", VECTORS, "--form", "raw")
    assert (done.returncode, done.stdout) == (0, "")
    raw = [one for one in json.loads(VECTORS.read_text()) if one["form"] == "raw"]
    assert done.stderr == f"{len(raw)} entries, 0 not as labelled\n"


def test_vectors_that_are_not_supported_are_each_named() -> None:
    done = quickly("wallet", "check-vectors", VECTORS)
    assert done.returncode == 1
    others = {
        one["name"]
        for one in json.loads(VECTORS.read_text())
        if (one["form"], one["layer"]) != ("raw", "sign_in")
    }
    named = [line.partition(": expected ") for line in done.stdout.splitlines()]
    assert {name for name, _, _ in named} == others
    assert all("got not supported: solana " in rest for _, _, rest in named)


def test_a_vector_that_was_tampered_with_is_named(tmp_path: Path) -> None:
    entries = [one for one in json.loads(VECTORS.read_text()) if one["form"] == "raw"]
    valid = next(one for one in entries if one["expect"] == "valid")
    valid["message"] = valid["message"].replace("Issued At: 2", "Issued At: 1")
    file = tmp_path / "tampered.json"
    file.write_text(json.dumps(entries))
    done = quickly("wallet", "check-vectors", file, "--form", "raw")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{valid['name']}: expected valid")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read"),
        ("{", "is not a file of vectors"),
        ('[{"name": "a"}]', "is not a file of vectors"),
        ("[]", "has no entry"),
    ],
)
def test_a_file_that_holds_no_vectors_is_a_sentence(
    tmp_path: Path, content: str | None, words: str
) -> None:
    file = tmp_path / "vectors.json"
    if content is not None:
        file.write_text(content)
    done = quickly("wallet", "check-vectors", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_ignored_settings_of_a_file_are_named_on_stderr(
    database_url: str, folder: Path
) -> None:
    (folder / "pourtier.yaml").write_text(
        f"DATABASE_URL: {database_url}\nSERVICE_NAME: old\n"
    )
    env = environment(
        pourtier_config=folder / "pourtier.yaml", pourtier_data_dir=folder
    )
    done = run(SCRIPT, "keys", "list", "--json", env=env)
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
    assert done.stderr == "pourtier: ignored settings: SERVICE_NAME\n"
