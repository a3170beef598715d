"""The runbook, `docs/operating.md`: its commands, followed as they are printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from uuid import UUID

import click
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pourtier_grpc.auth.api_keys import SCOPES
from pourtier_grpc.cli import main
from pourtier_grpc.compliance.sealing import Sealer
from pourtier_grpc.config import Settings
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.store.keys import KeyUse
from pourtier_grpc.store.privileges import Duty
from support import tokens
from support.commands import ROOT, SCRIPT, environment, run
from support.json_api import JsonApi, answered, refused
from support.servers import Databases
from support.stack import Stack, stack
from support.stack import running as stack_on
from support.waiting import eventually

ME = "/api/users/me"
DOCUMENT = (ROOT / "docs" / "operating.md").read_text()
# A dozen processes, one after the other, on a machine that may be busy.
SCRIPT_TIMEOUT = 200.0
pytestmark = pytest.mark.timeout(SCRIPT_TIMEOUT + 40)
FENCED = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SECTIONS = dict(
    re.findall(r"^#+ (.*?)\n(.*?)(?=^#+ |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
)


def commands(*titles: str) -> str:
    """The commands of some sections, in their order, as one script."""
    blocks = [block for title in titles for block in FENCED.findall(SECTIONS[title])]
    assert blocks
    return "set -eu\n" + "".join(blocks)


@pytest.fixture
def running(databases: Databases, redis_url: str) -> Iterator[Stack]:
    with stack(databases, redis_url) as made:
        yield made


def working(url: str, redis_url: str) -> AbstractContextManager[Stack]:
    """Everything, by the role of a worker: it may see how the log is sealed."""
    return stack_on(url, redis_url, duty=Duty.WORKING)


def follow(running: Stack, *titles: str) -> subprocess.CompletedProcess[str]:
    """What an operator sees who types the commands of these sections."""
    settings = running.settings
    public = running.public.http.base_url
    env = environment(
        database_url=running.database_url,
        pourtier_data_dir=settings.pourtier_data_dir,
        grpc_listen=running.native,
        pourtier_http_port=public.port,
    )
    script = commands(*titles)
    for named, listener in (("9000", running.public), ("9001", running.internal)):
        address = listener.http.base_url.netloc.decode()
        script = script.replace(f"localhost:{named}", address)
    path = f"{SCRIPT.parent}{os.pathsep}{env['PATH']}"
    return run("bash", "-c", script, env={**env, "PATH": path}, timeout=SCRIPT_TIMEOUT)


def stolen_keys(running: Stack) -> dict[str, Ed25519PrivateKey]:
    """Every access key of the folder, by id, as a thief has them."""
    found = {}
    for file in (running.settings.keys).glob(f"{KeyUse.ACCESS}-*.jwk"):
        content = json.loads(file.read_text())
        secret = tokens.decoded(content["d"])
        found[content["kid"]] = Ed25519PrivateKey.from_private_bytes(secret)
    return found


def reason_of(web: JsonApi, bearer: str) -> str:
    """Why a token is refused; empty where it is good."""
    answer = web.call("GET", ME, bearer=bearer)
    return (
        "" if answer.status_code == 200 else str(answer.json()["details"][0]["reason"])
    )


def test_after_the_runbook_of_a_stolen_signing_key_only_its_owner_gets_in(
    running: Stack, wallet: DevWallet
) -> None:
    web = running.public
    # A rotation long since has left a retired key beside the active and the next.
    parts = running.server._parts
    rotated = parts.key_rotation.rotate(KeyUse.ACCESS, at_once=True)
    assert eventually(lambda: parts.keyring.access.key_id == rotated)
    honest = web.register(wallet)["tokens"]
    header, claims = tokens.parts(honest["access_token"])
    thief = stolen_keys(running)
    assert len(thief) == 3
    forged = {
        key_id: tokens.with_ed25519({**header, "kid": key_id}, claims, key)
        for key_id, key in thief.items()
    }
    old = [honest["access_token"], *forged.values()]
    assert {reason_of(web, token) for token in old} == {""}

    done = follow(running, "The first admin", "A compromised signing key")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""

    assert {reason_of(web, token) for token in old} == {"TOKEN_INVALID"}
    refused(web.call("GET", ME, bearer=old[0]), "TOKEN_INVALID", 401)
    jwks = answered(web.call("GET", "/.well-known/jwks.json"))
    published = [key["kid"] for key in jwks["keys"]]
    assert len(published) == 2
    assert not set(published) & set(thief)
    # Nobody was signed out, and whoever signs in anew gets in.
    refresh = {"refresh_token": honest["refresh_token"]}
    fresh = answered(web.call("POST", "/api/auth/refresh", refresh))["tokens"]
    again = web.login(wallet)["tokens"]
    for token in (fresh["access_token"], again["access_token"]):
        assert jwt.get_unverified_header(token)["kid"] == published[0]
        assert reason_of(web, token) == ""
    # What the operator has seen: the new key set, themselves, and the audit log.
    assert published[0] in done.stdout
    assert '"roles":["admin"]' in done.stdout
    assert '"next_page_token":""' in done.stdout
    _, admin = running.admin()
    query = {"action": "key.revoked"}
    log = answered(web.call("GET", "/api/audit/events", bearer=admin, params=query))
    revoked = {event["details"]["revoked"] for event in log["events"]}
    assert revoked == set(thief)
    assert {event["actor"] for event in log["events"]} == {"operator"}


def test_after_the_runbook_of_a_stolen_hmac_key_everybody_signs_in_again(
    running: Stack, wallet: DevWallet
) -> None:
    web = running.public
    honest = web.register(wallet)["tokens"]
    old = set(running.settings.keys.glob(f"{KeyUse.HMAC}-*.jwk"))
    done = follow(running, "A compromised HMAC key")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    # Those that are retired come last, and here there were none.
    assert len(set(running.settings.keys.glob(f"{KeyUse.HMAC}-*.jwk")) - old) == 2
    refresh = {"refresh_token": honest["refresh_token"]}

    def is_refused() -> bool:
        return web.call("POST", "/api/auth/refresh", refresh).status_code == 401

    # The last command has just ended; a second is what following may take.
    assert eventually(is_refused, within=1.0)
    refused(web.call("POST", "/api/auth/refresh", refresh), "REFRESH_TOKEN_INVALID")
    assert reason_of(web, honest["access_token"]) == ""
    anew = web.login(wallet)["tokens"]
    refresh = {"refresh_token": anew["refresh_token"]}
    assert answered(web.call("POST", "/api/auth/refresh", refresh))


def test_the_runbook_shows_whether_somebody_may_deploy(running: Stack) -> None:
    done = follow(running, "The first admin", "Who may deploy")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout.splitlines()[-1])
    # The account is new, and has no plan yet.
    assert [each["reason"] for each in answer["denials"]] == ["TIER_INSUFFICIENT"]
    assert not answer["allowed"]


def words_of(script: str) -> Iterator[list[str]]:
    """Every command of ours in a script, as its words."""
    for line in script.splitlines():
        for found in re.finditer(
            r"(?:^ *|\$\()pourtier ((?:\"[^\"]*\"|[^|>)\"])*)", line
        ):
            yield shlex.split(found[1])


def filled(word: str, folder: Path) -> str:
    """A word as the shell makes it, of variables whose value must be of a kind."""
    for name in ("$USER_ID", "$CHARGE_ID"):
        word = word.replace(name, str(UUID(int=1)))
    word = word.replace("$SINCE", "2027-01-01T00:00:00Z")
    if word.startswith("$FOLDER/"):
        path = folder / word.removeprefix("$FOLDER/")
        path.touch()
        return str(path)
    return word


OURS = [words for each in FENCED.findall(DOCUMENT) for words in words_of(each)]


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_command_of_the_document_is_one(words: list[str], tmp_path: Path) -> None:
    command: click.Command | None = main
    context = click.Context(main)
    rest = [filled(word, tmp_path) for word in words]
    while isinstance(command, click.Group):
        _, command, rest = command.resolve_command(context, rest)
    assert command is not None
    # Raises UsageError where an option or an argument is wrong.
    with command.make_context(" ".join(words), rest):
        pass


def test_every_fence_is_a_script_that_the_shell_understands() -> None:
    assert len(OURS) > 15
    assert DOCUMENT.count("```") == 2 * len(FENCED.findall(DOCUMENT))
    whole = "".join(FENCED.findall(DOCUMENT))
    done = run("bash", "-n", "-c", whole)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_document_names_every_scope_and_link() -> None:
    listed = set(
        re.findall(r"^\| `([a-z]+\.[a-z]+)` \|", SECTIONS["API keys"], re.MULTILINE)
    )
    assert listed == set(SCOPES)
    for target in re.findall(r"\]\(([^)#]+)\)", DOCUMENT):
        assert (ROOT / "docs" / target).exists()


def test_every_setting_of_the_document_is_one() -> None:
    rows = re.findall(r"^\| (`[A-Z].*?) \|", DOCUMENT, re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`([A-Z_]+)", row)}
    assert len(names) > 5
    assert {name.lower() for name in names} <= set(Settings.model_fields)


def test_the_runbooks_extract_of_the_sealed_log_holds(
    databases: Databases, redis_url: str
) -> None:
    with databases.fresh() as url, working(url, redis_url) as running:
        parts = running.server._parts
        sealer = Sealer(
            database=parts.database, keyring=parts.keyring, clock=parts.clock
        )
        running.public.register(DevWallet.generate())
        sealer.seal()
        done = follow(running, "Verifying the audit log", "Giving a part of it away")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("whole: ")
    assert "\nholds\nuser    " in done.stdout
