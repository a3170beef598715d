"""Keys that change hands: rotated without a pause, revoked at once, everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from structlog.testing import capture_logs

from pourtier.v1 import auth_service_pb2 as pb
from pourtier_grpc.auth.key_rotation import KeyRotation
from pourtier_grpc.auth.new_keys import generate_missing
from pourtier_grpc.config import ConfigError
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.store import sessions as session_rows
from pourtier_grpc.store.audit import AuditLog
from pourtier_grpc.store.keys import KeyUse
from support.api import refusal
from support.callers import Person, person
from support.keys import in_state, signed_by, states
from support.proofs import send
from support.service import Service
from support.stubs import health_stub
from support.tokens import me
from support.waiting import eventually

ACCESS, HMAC, PSEUDONYM = KeyUse.ACCESS, KeyUse.HMAC, KeyUse.PSEUDONYM
SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


def rotation(service: Service) -> KeyRotation:
    return service.server._parts.key_rotation


def follow(service: Service) -> None:
    """What the process does by itself, a few times a second."""
    service.keyring.refresh()


@pytest.fixture
def elsewhere(own: Service, folder: Path) -> KeyRotation:
    """The operator on another machine, whose new files do not come here."""
    shutil.copytree(own.settings.keys, folder / "elsewhere")
    parts = own.server._parts
    return KeyRotation(
        database=parts.database,
        folder=folder / "elsewhere",
        audit_log=AuditLog(own.keyring.pseudonym),
        clock=own.clock,
    )


def bring_files(own: Service, folder: Path) -> None:
    """The files that were made elsewhere arrive."""
    shutil.copytree(folder / "elsewhere", own.settings.keys, dirs_exist_ok=True)
    follow(own)


def readiness(service: Service) -> int:
    request = HealthCheckRequest(service="readiness")
    return health_stub(service.api.channel).Check(request).status


def revoke_after(monkeypatch: pytest.MonkeyPatch, own: Service, function: str) -> None:
    """Revokes the active HMAC key when a store's function has next done its work."""
    before = getattr(session_rows, function)

    def work_and_revoke(*args: Any, **named: Any) -> Any:
        done = before(*args, **named)
        monkeypatch.setattr(session_rows, function, before)
        assert revoke(own, in_state(own.sql, HMAC, "active"))
        return done

    monkeypatch.setattr(session_rows, function, work_and_revoke)


def rotate(service: Service, use: KeyUse = ACCESS) -> str:
    key_id = rotation(service).rotate(use, at_once=True)
    assert key_id is not None
    follow(service)
    return key_id


def revoke(service: Service, key_id: str) -> bool:
    done = rotation(service).revoke(key_id, "a laptop was stolen")
    follow(service)
    return done


def published(service: Service) -> list[str]:
    answer = service.api.call(service.api.auth.GetJwks, pb.GetJwksRequest())
    return [key.kid for key in answer.keys]


def bodies(service: Service, action: str) -> list[dict[str, Any]]:
    query = "SELECT body FROM audit_events WHERE action = %s ORDER BY event_time"
    return [json.loads(row["body"]) for row in service.sql.run(query, action)]


class TestRotation:
    def test_the_next_key_signs_and_was_published_ahead(self, own: Service) -> None:
        ann = person(own)
        first, following = published(own)
        assert signed_by(ann.bearer) == first
        own.clock.move(days=1)
        assert rotate(own) == following
        tokens = own.api.refresh(ann.tokens.refresh_token)
        assert signed_by(tokens.access_token) == following
        new = in_state(own.sql, ACCESS, "next")
        assert published(own) == [following, new, first]
        assert states(own.sql, ACCESS) == {
            first: "retired",
            following: "active",
            new: "next",
        }
        assert me(own.api, tokens.access_token).user_id == ann.user_id

    def test_a_token_of_before_is_good_after(self, own: Service) -> None:
        ann = person(own)
        rotate(own)
        assert me(own.api, ann.bearer).user_id == ann.user_id

    def test_a_retired_key_is_gone_when_its_last_token_is_dead(
        self, own: Service
    ) -> None:
        ann = person(own)
        first = signed_by(ann.bearer)
        rotate(own)
        own.clock.move(minutes=29, seconds=58)
        follow(own)
        assert me(own.api, ann.bearer).user_id == ann.user_id
        own.clock.move(minutes=1, seconds=1)
        follow(own)
        assert first in published(own)
        own.clock.move(seconds=1)
        follow(own)
        assert first not in published(own)
        with refusal("TOKEN_INVALID"):
            me(own.api, ann.bearer)

    def test_refresh_tokens_and_challenges_of_a_retired_key_are_good(
        self, own: Service
    ) -> None:
        ann = person(own)
        proof = own.api.proof(ann.wallet)
        old = in_state(own.sql, HMAC, "active")
        assert rotate(own, HMAC) == in_state(own.sql, HMAC, "active") != old
        assert send(own, "Login", proof)
        own.clock.move(days=20)
        follow(own)
        tokens = own.api.refresh(ann.tokens.refresh_token)
        kept = "SELECT key_id FROM sessions WHERE session_id = %s"
        key_id = own.sql.one(kept, tokens.session_id)["key_id"]
        assert key_id == in_state(own.sql, HMAC, "active")

    def test_a_retired_hmac_key_lives_as_long_as_a_session_may(
        self, own: Service
    ) -> None:
        old = bytes.fromhex(in_state(own.sql, HMAC, "active"))
        rotate(own, HMAC)
        own.clock.move(days=89, hours=23)
        follow(own)
        assert own.keyring.hmac_key(old)
        own.clock.move(hours=1)
        follow(own)
        assert own.keyring.hmac_key(old) is None

    @pytest.mark.parametrize("use", [ACCESS, HMAC])
    def test_many_rotations_leave_one_that_signs_and_one_that_is_next(
        self, own: Service, use: KeyUse
    ) -> None:
        ids = [rotate(own, use) for _ in range(5)]
        assert len(set(ids)) == 5
        now = states(own.sql, use)
        assert sorted(now.values()) == ["active", "next", *["retired"] * 5]
        assert in_state(own.sql, use, "active") == ids[-1]
        assert len(list(own.settings.keys.glob(f"{use.value}-*.jwk"))) == 7

    def test_it_is_audited(self, own: Service) -> None:
        old = in_state(own.sql, ACCESS, "active")
        new = rotate(own)
        (event,) = bodies(own, "key.rotated")
        assert event["actor"] == "operator"
        assert event["details"] == {"use": "access", "retired": old, "active": new}

    @pytest.mark.parametrize("use", [ACCESS, HMAC])
    def test_a_key_that_copies_of_the_key_set_may_lack_does_not_sign(
        self, own: Service, use: KeyUse
    ) -> None:
        own.clock.move(minutes=10)
        first = rotation(own).rotate(use)
        assert first is not None
        before = own.sql.everything()
        own.clock.move(seconds=599)
        assert rotation(own).rotate(use) is None
        assert own.sql.everything() == before
        own.clock.move(seconds=1)
        second = rotation(own).rotate(use)
        assert second not in {None, first}
        assert rotation(own).rotate(use, at_once=True) not in {None, second}

    def test_every_key_that_is_made_is_audited(self, own: Service) -> None:
        rotate(own)
        revoke(own, in_state(own.sql, HMAC, "next"))
        told = bodies(own, "key.generated")
        made = own.sql.run("SELECT key_id, use FROM signing_keys")
        assert {(e["details"]["key_id"], e["details"]["use"]) for e in told} == {
            (row["key_id"], row["use"]) for row in made
        }
        actors = [event["actor"] for event in told]
        assert actors == ["system"] * 7 + ["operator"] * 2
        assert {event["details"]["state"] for event in told} == {"active", "next"}

    def test_a_rotation_that_fails_leaves_everything_as_it_was(
        self, own: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("halfway")

        before = own.sql.everything()
        with monkeypatch.context() as broken:
            broken.setattr(rotation(own), "_record", fail)
            with pytest.raises(RuntimeError, match="halfway"):
                rotation(own).rotate(ACCESS, at_once=True)
        assert own.sql.everything() == before
        # The file that it left behind is taken up by the next one.
        left = {path.name for path in own.settings.keys.iterdir()}
        rotate(own)
        assert {path.name for path in own.settings.keys.iterdir()} == left


class TestRevocation:
    @pytest.mark.parametrize("use", [ACCESS, HMAC])
    @pytest.mark.parametrize("state", ["active", "next"])
    def test_its_file_is_kept_where_no_database_takes_it_for_a_new_key(
        self, own: Service, use: KeyUse, state: str
    ) -> None:
        stolen, folder = in_state(own.sql, use, state), own.settings.keys
        file = folder / f"{use}-{stolen}.jwk"
        content = file.read_text()
        assert revoke(own, stolen)
        assert not file.exists()
        aside = folder / f"{file.name}.revoked"
        assert aside.read_text() == content
        assert aside.stat().st_mode & 0o777 == 0o600
        # As a database that was brought back from before the key was made.
        own.sql.run("SET session_replication_role = replica")
        own.sql.run("DELETE FROM signing_keys WHERE use = %s", use.value)
        own.sql.run("RESET session_replication_role")
        for left in folder.glob(f"{use}-*.jwk"):
            left.unlink()
        database = own.server._parts.database
        made = generate_missing(database, folder, own.clock.now())
        assert stolen not in {record.key_id for record in made}

    def test_a_file_that_cannot_be_renamed_is_told_of_and_the_key_is_revoked(
        self, own: Service
    ) -> None:
        stolen = in_state(own.sql, ACCESS, "active")
        in_the_way = own.settings.keys / f"access-{stolen}.jwk.revoked"
        in_the_way.mkdir()
        with pytest.raises(ConfigError, match=r"is revoked, but .*: rename or remove"):
            revoke(own, stolen)
        assert states(own.sql, ACCESS)[stolen] == "revoked"

    def test_what_it_signed_is_refused_and_the_next_one_signs(
        self, own: Service
    ) -> None:
        ann = person(own)
        stolen, following = published(own)
        assert revoke(own, stolen)
        with refusal("TOKEN_INVALID"):
            me(own.api, ann.bearer)
        assert stolen not in published(own)
        assert states(own.sql, ACCESS)[stolen] == "revoked"
        tokens = own.api.refresh(ann.tokens.refresh_token)
        assert signed_by(tokens.access_token) == following
        assert me(own.api, tokens.access_token).user_id == ann.user_id

    def test_of_an_hmac_key_refresh_tokens_and_challenges_die(
        self, own: Service
    ) -> None:
        ann = person(own)
        proof = own.api.proof(ann.wallet)
        assert revoke(own, in_state(own.sql, HMAC, "active"))
        with refusal("REFRESH_TOKEN_INVALID"):
            own.api.refresh(ann.tokens.refresh_token)
        with refusal("NONCE_INVALID"):
            send(own, "Login", proof)
        # Who can prove their wallet is in again at once.
        tokens = own.api.login(ann.wallet).tokens
        assert own.api.refresh(tokens.refresh_token)

    @pytest.mark.parametrize("state", ["next", "retired"])
    def test_a_key_in_any_state_can_be_revoked(self, own: Service, state: str) -> None:
        ann = person(own)
        rotate(own)
        active, key_id = (in_state(own.sql, ACCESS, s) for s in ("active", state))
        assert revoke(own, key_id)
        assert key_id not in published(own)
        assert in_state(own.sql, ACCESS, "active") == active
        assert in_state(own.sql, ACCESS, "next") != key_id
        assert (signed_by(ann.bearer) == key_id) is (state == "retired")

    def test_it_is_audited_with_its_reason_and_happens_once(self, own: Service) -> None:
        key_id = in_state(own.sql, HMAC, "active")
        assert revoke(own, key_id)
        before = own.sql.everything()
        assert not revoke(own, key_id)
        assert not revoke(own, "nonsense")
        assert own.sql.everything() == before
        (event,) = bodies(own, "key.revoked")
        assert event["details"] == {
            "use": "hmac",
            "revoked": key_id,
            "reason": "a laptop was stolen",
        }

    def test_the_pseudonym_key_cannot_be_revoked(self, own: Service) -> None:
        assert not revoke(own, in_state(own.sql, PSEUDONYM, "active"))

    def test_a_process_without_the_new_file_refuses_the_revoked_key_all_the_same(
        self, own: Service, elsewhere: KeyRotation, folder: Path
    ) -> None:
        ann = person(own)
        elsewhere.revoke(published(own)[0], "stolen")
        missing = in_state(own.sql, ACCESS, "next")
        follow(own)
        with refusal("TOKEN_INVALID"):
            me(own.api, ann.bearer)
        # The one that signs now was here already.
        tokens = own.api.refresh(ann.tokens.refresh_token)
        assert signed_by(tokens.access_token) == in_state(own.sql, ACCESS, "active")
        assert me(own.api, tokens.access_token).user_id == ann.user_id
        assert missing not in published(own)
        bring_files(own, folder)
        assert missing in published(own)

    def test_a_process_without_the_rotated_file_signs_as_before(
        self, own: Service, elsewhere: KeyRotation, folder: Path
    ) -> None:
        ann = person(own)
        between = elsewhere.rotate(ACCESS, at_once=True)
        active = elsewhere.rotate(ACCESS, at_once=True)
        follow(own)
        tokens = own.api.login(ann.wallet).tokens
        # It may have looked between the two, and has had that key's file all along.
        assert signed_by(tokens.access_token) in {signed_by(ann.bearer), between}
        assert me(own.api, tokens.access_token).user_id == ann.user_id
        bring_files(own, folder)
        tokens = own.api.login(ann.wallet).tokens
        assert signed_by(tokens.access_token) == active

    @pytest.mark.parametrize("use", [ACCESS, HMAC])
    def test_a_process_that_has_nothing_but_revoked_keys_signs_with_none(
        self, own: Service, elsewhere: KeyRotation, folder: Path, use: KeyUse
    ) -> None:
        ann, proof = person(own), own.api.proof(DevWallet.generate())
        assert eventually(lambda: readiness(own) == SERVING)
        known = set(states(own.sql, use))
        with capture_logs() as logs:
            for state in ("next", "active"):
                elsewhere.revoke(in_state(own.sql, use, state), "stolen")
            follow(own)
            before = own.sql.everything()
            with refusal("SERVICE_UNAVAILABLE", StatusCode.UNAVAILABLE) as caught:
                own.api.login(ann.wallet)
            assert caught[0].retry is not None
            if use is ACCESS:
                assert published(own) == []
                with refusal("TOKEN_INVALID"):
                    me(own.api, ann.bearer)
                # Neither the proof nor the refresh token is used up.
                with refusal("SERVICE_UNAVAILABLE"):
                    send(own, "Register", proof)
                with refusal("SERVICE_UNAVAILABLE"):
                    own.api.refresh(ann.tokens.refresh_token)
            else:
                with refusal("NONCE_INVALID"):
                    send(own, "VerifyWallet", proof)
                with refusal("REFRESH_TOKEN_INVALID"):
                    own.api.refresh(ann.tokens.refresh_token)
            assert eventually(lambda: readiness(own) == NOT_SERVING)
        counts = "refused_proofs"
        assert {**own.sql.everything(), counts: []} == {**before, counts: []}
        said = [line["event"] for line in logs if line["log_level"] == "error"]
        assert "there is no key to sign with; nobody can sign in here" in said
        # Told once, however often it is found.
        assert said.count("keys cannot be followed") <= 2
        bring_files(own, folder)
        tokens = own.api.login(ann.wallet).tokens
        if use is ACCESS:
            assert signed_by(tokens.access_token) not in known
            assert send(own, "Register", proof)
        assert own.api.refresh(tokens.refresh_token)
        assert eventually(lambda: readiness(own) == SERVING)


class TestRevocationDuringARefresh:
    """The key dies when the session has been moved on, and has no tokens yet."""

    @pytest.fixture
    def ann(self, own: Service) -> Person:
        made = person(own)
        own.clock.move(minutes=1)
        return made

    @pytest.mark.parametrize("function", ["find", "rotate"])
    def test_a_token_under_it_is_refused_as_any_other(
        self,
        own: Service,
        ann: Person,
        monkeypatch: pytest.MonkeyPatch,
        function: str,
    ) -> None:
        revoke_after(monkeypatch, own, function)
        with refusal("REFRESH_TOKEN_INVALID"):
            own.api.refresh(ann.tokens.refresh_token)
        with refusal("REFRESH_TOKEN_INVALID"):
            own.api.refresh(ann.tokens.refresh_token)

    def test_a_token_under_another_gets_tokens_under_the_one_that_signs_then(
        self, own: Service, ann: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rotate(own, HMAC)
        revoke_after(monkeypatch, own, "rotate")
        tokens = own.api.refresh(ann.tokens.refresh_token)
        own.clock.move(minutes=1)
        assert own.api.refresh(tokens.refresh_token)

    def test_a_token_whose_successor_is_under_it_gets_another_successor(
        self, own: Service, ann: Person
    ) -> None:
        rotate(own, HMAC)
        lost = own.api.refresh(ann.tokens.refresh_token)
        assert revoke(own, in_state(own.sql, HMAC, "active"))
        with refusal("REFRESH_TOKEN_INVALID"):
            own.api.refresh(lost.refresh_token)
        tokens = own.api.refresh(ann.tokens.refresh_token)
        assert own.api.refresh(tokens.refresh_token) == tokens
