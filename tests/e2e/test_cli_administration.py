"""The operator's commands, beside a service that runs: API keys, users, keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from uuid import uuid4

import grpc
import pytest

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.auth.api_keys import SCOPES
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import Api, Refused, refusal
from support.commands import pourtier, quickly
from support.processes import serving
from support.rpcs import contract_rpcs, scopes_of
from support.servers import Databases, state_folder
from support.sql import Sql
from support.waiting import eventually


@dataclass(frozen=True, kw_only=True)
class Operated:
    """A `pourtier serve`, and the commands that work on the same database and keys."""

    where: dict[str, object]
    api: Api
    sql: Sql

    def command(self, *words: object, alone: bool = False) -> CompletedProcess[str]:
        """A command; `alone` in a process of its own."""
        return (pourtier if alone else quickly)(*words, **self.where)

    def printed(self, *words: object, alone: bool = False) -> str:
        """What a command that succeeds prints, and that it says nothing else."""
        done = self.command(*words, alone=alone)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def refused(self, *words: object) -> str:
        """The sentence of a command that says no."""
        done = self.command(*words)
        assert (done.returncode, done.stdout) == (1, "")
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith("pourtier: ")
        return sentence.removeprefix("pourtier: ")

    def user(self, *words: object, alone: bool = False) -> dict[str, Any]:
        """The account that a command of `pourtier user` prints."""
        shown: dict[str, Any] = json.loads(self.printed("user", *words, alone=alone))
        return shown

    def rows(self, group: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.printed(group, "list", "--json"))
        return rows

    def read_user(self, key: str, user_id: str) -> User:
        """Calls what an API key with the scope `users.read` is good for."""
        request = user_pb.GetUserRequest(user_id=user_id)
        return self.api.call(self.api.users.GetUser, request, ("x-api-key", key))

    def refusal_of(self, bearer: str) -> str | None:
        """Why a token is refused; None where it is good."""
        try:
            self.api.call(self.api.users.GetMe, user_pb.GetMeRequest(), bearer=bearer)
        except Refused as error:
            return error.reason
        return None

    def published(self) -> list[str]:
        """The ids of the key set, the signing one first."""
        keys = self.api.call(self.api.auth.GetJwks, pb.GetJwksRequest()).keys
        return [key.kid for key in keys]

    def audited(self, action: str) -> list[dict[str, Any]]:
        """The bodies of the audit log's events of an action, the newest last."""
        query = "SELECT body FROM audit_events WHERE action = %s ORDER BY event_time"
        return [json.loads(row["body"]) for row in self.sql.run(query, action)]


@pytest.fixture(scope="module")
def operated(databases: Databases) -> Iterator[Operated]:
    with (
        databases.fresh() as url,
        state_folder() as folder,
        serving(folder, url) as (process,),
        Sql(url) as beside,
    ):
        api = Api(process.target)
        where: dict[str, object] = {"database_url": url, "pourtier_data_dir": folder}
        yield Operated(where=where, api=api, sql=beside)
        api.close()


@dataclass(frozen=True, kw_only=True)
class Ann:
    """Somebody with an account."""

    user_id: str
    address: str
    bearer: str


@pytest.fixture
def ann(operated: Operated, wallet: DevWallet) -> Ann:
    made = operated.api.register(wallet)
    bearer = made.tokens.access_token
    return Ann(user_id=made.user.user_id, address=wallet.address, bearer=bearer)


def test_the_command_knows_every_scope_of_the_contract() -> None:
    assert set(SCOPES) == scopes_of(contract_rpcs())
    assert list(SCOPES) == sorted(SCOPES)


def test_a_new_api_key_is_all_that_is_printed_and_works_at_once(
    operated: Operated, ann: Ann
) -> None:
    words = ("create", "architect", "--scope", "users.read", "--scope", "users.kyc")
    printed = operated.printed("api-key", *words, "--expires-days", 2, alone=True)
    key = printed.removesuffix("\n")
    assert key.startswith("ptk_")
    assert len(key.split()) == 1
    assert operated.read_user(key, ann.user_id).user_id == ann.user_id
    (row,) = [one for one in operated.rows("api-key") if one["name"] == "architect"]
    assert set(row) == {
        "prefix",
        "name",
        "scopes",
        "state",
        "create_time",
        "expire_time",
        "last_used_time",
    }
    assert (row["scopes"], row["state"]) == (["users.kyc", "users.read"], "live")
    assert row["prefix"] == key.split("_")[1]
    assert row["expire_time"] > row["create_time"]
    assert row["last_used_time"] > row["create_time"]
    secret = key.split("_")[2]
    listed = operated.printed("api-key", "list")
    lines = [line for line in listed.splitlines() if "architect" in line]
    assert len(lines) == 1
    assert lines[0].split("  ")[2:4] == ["users.kyc,users.read", "live"]
    assert secret not in listed
    assert secret not in str(operated.sql.everything())


def test_a_revoked_api_key_is_refused_at_once(operated: Operated, ann: Ann) -> None:
    words = ("create", "chevalier", "--scope", "users.read")
    key, other = (operated.printed("api-key", *words).strip() for _ in range(2))
    prefix = key.split("_")[1]
    assert operated.read_user(key, ann.user_id)
    assert operated.printed("api-key", "revoke", prefix) == ""
    with refusal("API_KEY_INVALID", grpc.StatusCode.UNAUTHENTICATED):
        operated.read_user(key, ann.user_id)
    assert operated.read_user(other, ann.user_id)
    states = {row["prefix"]: row["state"] for row in operated.rows("api-key")}
    assert states[prefix] == "revoked"
    for again in (prefix, "nonsense"):
        sentence = operated.refused("api-key", "revoke", again)
        assert sentence == f"there is no key {again} to revoke"
    event = operated.audited("api_key.revoked")[-1]
    assert (event["actor"], event["details"]["prefix"]) == ("operator", prefix)


def test_with_an_overlap_the_old_api_key_lives_on_for_so_long(
    operated: Operated, ann: Ann
) -> None:
    create = ("api-key", "create", "courier", "--scope", "users.read")
    beside = operated.printed("api-key", "create", "beside", *create[3:]).strip()
    first = operated.printed(*create).strip()
    second = operated.printed(*create, "--overlap-hours", 24).strip()
    rows = {row["prefix"]: row for row in operated.rows("api-key")}
    old, new = (rows[key.split("_")[1]] for key in (first, second))
    assert (old["state"], new["expire_time"]) == ("live", None)
    listed = operated.printed("api-key", "list").splitlines()
    (line,) = [each for each in listed if each.startswith(new["prefix"])]
    assert line.split("  ")[-2:] == ["-", "-"]
    assert old["expire_time"] > new["create_time"]
    assert operated.read_user(first, ann.user_id)
    # No overlap at all: the old ones end now.
    third = operated.printed(*create, "--overlap-hours", 0).strip()
    for key in (first, second):
        with refusal("API_KEY_EXPIRED"):
            operated.read_user(key, ann.user_id)
    for key in (third, beside):
        assert operated.read_user(key, ann.user_id)


def test_an_account_is_shown_by_id_and_by_wallet(operated: Operated, ann: Ann) -> None:
    by_id = operated.user("show", ann.user_id, alone=True)
    assert by_id == operated.user("show", ann.address)
    assert by_id["user_id"] == ann.user_id
    assert by_id["wallet_address"] == ann.address
    assert by_id["status"] == "USER_STATUS_ACTIVE"


@pytest.mark.parametrize(
    "words",
    [
        ("show",),
        ("grant-role", "admin", "--reason", "r"),
        ("revoke-role", "admin", "--reason", "r"),
        ("suspend", "--reason", "r"),
        ("reinstate", "--reason", "r"),
    ],
)
@pytest.mark.parametrize(
    ("sentence", "make"),
    [
        ("there is no user {who}", lambda: str(uuid4())),
        ("the wallet has no account", lambda: DevWallet.generate().address),
        ("this is not an address of solana that can sign", lambda: "somebody"),
    ],
)
def test_nobody_is_a_sentence(
    operated: Operated, words: tuple[str, ...], make: Callable[[], str], sentence: str
) -> None:
    who, (verb, *rest) = make(), words
    assert operated.refused("user", verb, who, *rest) == sentence.format(who=who)


@pytest.mark.parametrize(
    "reason", ["", "x" * 501, "nul\0", "two\nlines", "\u202egnirts", "x ", "\udcff"]
)
@pytest.mark.parametrize(
    "words",
    [
        ("user", "suspend", "{who}"),
        ("user", "reinstate", "{who}"),
        ("user", "grant-role", "{who}", "admin"),
        ("user", "revoke-role", "{who}", "admin"),
        ("keys", "revoke", "{who}"),
    ],
)
def test_a_reason_is_one_that_an_rpc_would_take(
    operated: Operated, ann: Ann, words: tuple[str, ...], reason: str
) -> None:
    before = operated.sql.everything()
    done = operated.command(
        *(word.format(who=ann.user_id) for word in words), "--reason", reason
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Invalid value for '--reason'" in done.stderr
    assert operated.sql.everything() == before


def test_a_suspension_is_followed_at_once(
    operated: Operated, wallet: DevWallet, ann: Ann
) -> None:
    why = ("--reason", "a stolen account")
    shown = operated.user("suspend", ann.address, *why)
    assert shown["status"] == "USER_STATUS_SUSPENDED"
    assert operated.refusal_of(ann.bearer) == "USER_SUSPENDED"
    with refusal("USER_SUSPENDED"):
        operated.api.login(wallet)
    event = operated.audited("user.suspended")[-1]
    assert (event["actor"], event["user_id"]) == ("operator", ann.user_id)
    assert event["details"]["reason"] == why[1]
    assert operated.user("suspend", ann.user_id, *why) == shown
    shown = operated.user("reinstate", ann.user_id, *why)
    assert shown["status"] == "USER_STATUS_ACTIVE"
    assert operated.refusal_of(ann.bearer) == "SESSION_ENDED"
    assert operated.api.login(wallet)


def test_a_role_is_given_and_taken_but_never_from_the_last_admin(
    operated: Operated, ann: Ann
) -> None:
    other = operated.api.register(DevWallet.generate()).user.user_id
    listing = user_pb.ListUsersRequest()

    def lists() -> bool:
        users = operated.api.users
        try:
            operated.api.call(users.ListUsers, listing, bearer=ann.bearer)
        except Refused as error:
            return error.reason != "PERMISSION_DENIED"
        return True

    assert not lists()
    why = ("--reason", "the first admin")
    granted = operated.user("grant-role", ann.address, "admin", *why)
    assert granted["roles"] == ["admin"]
    assert lists()
    assert operated.user("grant-role", ann.user_id, "admin", *why) == granted
    for words in (("revoke-role", ann.user_id, "admin"), ("suspend", ann.address)):
        sentence = operated.refused("user", *words, *why)
        assert sentence == "the user is the last active administrator"
    assert lists()
    operated.user("grant-role", other, "admin", *why)
    assert "roles" not in operated.user("revoke-role", ann.user_id, "admin", *why)
    assert not lists()
    sentence = operated.refused("user", "revoke-role", other, "admin", *why)
    assert "last active administrator" in sentence
    actions = [event["actor"] for event in operated.audited("user.role_granted")]
    assert actions == ["operator"] * 2


def keys_of(operated: Operated, use: str) -> dict[str, str]:
    """The states of the keys of a use, by id."""
    rows = operated.rows("keys")
    return {row["key_id"]: row["state"] for row in rows if row["use"] == use}


def in_state(keys: dict[str, str], state: str) -> list[str]:
    return [key_id for key_id, its in keys.items() if its == state]


def test_a_rotated_signing_key_is_followed_within_a_second(
    operated: Operated, wallet: DevWallet, ann: Ann
) -> None:
    before = keys_of(operated, "access")
    (active,), (following,) = in_state(before, "active"), in_state(before, "next")
    # Whoever keeps a copy of the key set has it already.
    assert operated.published()[:2] == [active, following]
    printed = operated.printed("keys", "rotate", "--now", alone=True)
    assert printed == f"{following}\n"
    assert eventually(lambda: operated.published()[0] == following, within=1.0)
    after = keys_of(operated, "access")
    assert "say --now" in operated.refused("keys", "rotate")
    assert (after[active], after[following]) == ("retired", "active")
    assert len(in_state(after, "next")) == 1
    # What the old one has signed stays good.
    assert active in operated.published()
    assert operated.refusal_of(ann.bearer) is None
    assert operated.refusal_of(operated.api.login(wallet).tokens.access_token) is None


def test_a_rotated_hmac_key_is_followed_and_the_old_one_stays_good(
    operated: Operated, wallet: DevWallet
) -> None:
    tokens = operated.api.register(wallet).tokens
    proof = operated.api.proof(wallet)
    before = keys_of(operated, "hmac")
    printed = operated.printed("keys", "rotate", "--use", "hmac", "--now").strip()
    assert before[printed] == "next"
    after = keys_of(operated, "hmac")
    assert after[printed] == "active"
    (retired,) = set(in_state(after, "retired")) - set(in_state(before, "retired"))
    assert before[retired] == "active"
    api = operated.api
    assert api.refresh(tokens.refresh_token)
    assert api.call(api.auth.Login, pb.LoginRequest(**proof))


def test_a_revoked_signing_key_is_refused_within_a_second(
    operated: Operated, wallet: DevWallet, ann: Ann
) -> None:
    (active,) = in_state(keys_of(operated, "access"), "active")
    (following,) = in_state(keys_of(operated, "access"), "next")
    words = ("revoke", active, "--reason", "found in a log")
    assert operated.printed("keys", *words) == ""
    stolen = ann.bearer
    assert eventually(lambda: operated.refusal_of(stolen) == "TOKEN_INVALID", within=1)
    assert active not in operated.published()
    assert operated.published()[0] == following
    assert operated.refusal_of(operated.api.login(wallet).tokens.access_token) is None
    assert keys_of(operated, "access")[active] == "revoked"
    event = operated.audited("key.revoked")[-1]
    assert event["details"]["reason"] == "found in a log"
    (pseudonym,) = keys_of(operated, "pseudonym")
    for key_id in (active, pseudonym, "nonsense"):
        sentence = operated.refused("keys", "revoke", key_id, "--reason", "r")
        assert sentence == f"there is no key {key_id} to revoke"


def test_the_list_of_keys_shows_their_states(operated: Operated) -> None:
    rows = operated.rows("keys")
    lines = operated.printed("keys", "list").splitlines()
    assert [line.split("  ") for line in lines] == [list(row.values()) for row in rows]


def test_a_key_folder_that_cannot_hold_another_is_a_sentence(
    operated: Operated, tmp_path: Path
) -> None:
    elsewhere = {**operated.where, "key_dir": tmp_path / "none"}
    done = quickly("keys", "rotate", "--now", **elsewhere)
    assert (done.returncode, done.stdout) == (1, "")
    assert "KEY_DIR" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_role_of_the_database_gets_what_its_duty_needs(
    database_url: str, folder: Path
) -> None:
    env = {"database_url": database_url, "pourtier_data_dir": folder}
    refused = quickly("grant", "serving", "nobody_at_all", **env)
    assert refused.returncode == 1
    assert refused.stderr == (
        "pourtier: there is no role nobody_at_all: CREATE ROLE first\n"
    )
    with Sql(database_url) as sql:
        sql.run("CREATE ROLE granted_role")
        try:
            granted = quickly("grant", "serving", "granted_role", **env)
            assert (granted.returncode, granted.stdout) == (0, "")
            query = "SELECT has_table_privilege('granted_role', %s, %s) AS may"
            assert sql.one(query, "audit_events", "INSERT")["may"]
            assert not sql.one(query, "audit_events", "UPDATE")["may"]
        finally:
            sql.run("DROP OWNED BY granted_role")
            sql.run("DROP ROLE granted_role")
