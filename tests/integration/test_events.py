"""What is told of a change, to others by the outbox and to auditors by the log."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
import rfc8785

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.devtools.wallet import DevWallet
from support.service import Service
from support.threads import successes, tell, together
from support.tokens import me

PERSON = {"display_name": "Ann Ångström", "email": "ann@example.com", "locale": "sv"}
AGENT = "grpc-python"
# Our own triggers, and before them the foreign key of what lies beside the events.
REFUSALS = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.FeatureNotSupported,
)
ENVELOPE = {
    "event_id",
    "event_type",
    "user_id",
    "wallet_address",
    "timestamp",
    "sequence",
}


def update(service: Service, bearer: str, **fields: Any) -> User:
    request = user_pb.UpdateMeRequest(user=User(**fields))
    return service.api.call(service.api.users.UpdateMe, request, bearer=bearer)


def bodies(service: Service) -> list[dict[str, object]]:
    rows = service.sql.run(
        "SELECT body FROM audit_events WHERE user_id IS NOT NULL ORDER BY event_id"
    )
    return [json.loads(bytes(row["body"])) for row in rows]


@pytest.fixture
def story(own: Service) -> tuple[DevWallet, pb.RegisterResponse]:
    """An account that has been through everything there is."""
    wallet, registered = own.registered(**PERSON)
    own.clock.move(seconds=1)
    update(own, registered.tokens.access_token, email="b@example.com", locale="de")
    own.api.call(
        own.api.auth.Logout,
        pb.LogoutRequest(),
        ("x-request-id", "the-logout"),
        bearer=own.api.login(wallet).tokens.access_token,
    )
    return wallet, registered


def test_events_tell_what_happened_in_its_order(
    own: Service, story: tuple[DevWallet, pb.RegisterResponse]
) -> None:
    wallet, registered = story
    events = own.sql.events(registered.user.user_id)
    assert [event["event_type"] for event in events] == [
        "user.created",
        "user.updated",
        "session.ended",
    ]
    assert [set(event) - ENVELOPE for event in events] == [
        set(),
        {"changed_fields"},
        {"session_id", "cause"},
    ]
    assert events[1]["changed_fields"] == ["email", "locale"]
    for number, event in enumerate(events, 1):
        assert event["sequence"] == number
        assert event["user_id"] == registered.user.user_id
        assert event["wallet_address"] == wallet.address
        assert datetime.fromisoformat(event["timestamp"]).tzinfo is not None
        assert UUID(event["event_id"]).version == 7


def test_an_event_repeats_its_row(
    own: Service, story: tuple[DevWallet, pb.RegisterResponse]
) -> None:
    for row in own.sql.run("SELECT * FROM outbox"):
        payload = row["payload"]
        assert str(row["event_id"]) == payload["event_id"]
        assert str(row["user_id"]) == payload["user_id"]
        assert row["sequence"] == payload["sequence"]
        assert row["event_type"] == payload["event_type"]
        assert row["create_time"] == datetime.fromisoformat(payload["timestamp"])
        assert row["channel"] == "lumiere.users"
        assert row["publish_time"] is None


def test_no_event_says_more_of_a_person_than_their_wallet(
    own: Service, story: tuple[DevWallet, pb.RegisterResponse]
) -> None:
    written = json.dumps(own.sql.events(story[1].user.user_id), ensure_ascii=False)
    for value in (*PERSON.values(), "b@example.com", "127.0.0.1"):
        assert f'"{value}"' not in written


def test_every_change_is_in_the_audit_log(
    own: Service, story: tuple[DevWallet, pb.RegisterResponse]
) -> None:
    user_id = story[1].user.user_id
    events = bodies(own)
    assert sorted(str(event["action"]) for event in events) == [
        "session.ended",
        "session.started",
        "session.started",
        "user.registered",
        "user.updated",
    ]
    assert {event["actor"] for event in events} == {f"user:{user_id}"}
    by_action = {event["action"]: event for event in events}
    assert by_action["user.updated"]["details"] == {
        "changed_fields": ["email", "locale"]
    }
    assert by_action["session.ended"]["request_id"] == "the-logout"
    assert by_action["user.registered"]["session_id"] is None


def test_a_change_has_one_time_wherever_it_is_told(
    own: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, registered = own.registered()
    bearer, user_id = registered.tokens.access_token, registered.user.user_id
    now = own.clock.now

    def ticking() -> datetime:
        own.clock.move(milliseconds=1)
        return now()

    monkeypatch.setattr(own.clock, "now", ticking)
    update(own, bearer, locale="de")
    changed = own.sql.one("SELECT * FROM users WHERE user_id = %s", user_id)
    query = "SELECT * FROM outbox WHERE event_type = 'user.updated'"
    assert own.sql.one(query)["create_time"] == changed["update_time"]
    query = "SELECT * FROM audit_events WHERE action = 'user.updated'"
    assert own.sql.one(query)["event_time"] == changed["update_time"]
    wallet, registered = own.registered()
    for tokens in (registered.tokens, own.api.login(wallet).tokens):
        began = "SELECT * FROM sessions WHERE session_id = %s"
        session = own.sql.one(began, tokens.session_id)
        query = "SELECT * FROM audit_events WHERE action = 'session.started'"
        times = [row["event_time"] for row in own.sql.run(query)]
        assert session["create_time"] in times


def test_audit_events_are_canonical_and_repeat_their_columns(
    own: Service, story: tuple[DevWallet, pb.RegisterResponse]
) -> None:
    for row in own.sql.run("SELECT * FROM audit_events"):
        body = json.loads(bytes(row["body"]))
        assert rfc8785.dumps(body) == bytes(row["body"])
        assert body["event_id"] == str(row["event_id"])
        assert body["action"] == row["action"]
        assert body["user_id"] == (row["user_id"] and str(row["user_id"]))
        assert datetime.fromisoformat(body["event_time"]) == row["event_time"]


def test_what_is_personal_of_an_audit_event_lies_beside_it(
    own: Service, story: tuple[DevWallet, pb.RegisterResponse]
) -> None:
    wallet, _ = story
    everything = "".join(map(json.dumps, bodies(own)))
    for personal in (wallet.address, "127.0.0.1", AGENT, *PERSON.values()):
        assert personal not in everything
    rows = own.sql.run(
        "SELECT e.body, p.body AS personal, p.salt FROM audit_events e "
        "JOIN audit_personal p USING (event_id) WHERE e.user_id IS NOT NULL"
    )
    assert len(rows) == len(bodies(own)) == 5
    for row in rows:
        event, kept = json.loads(bytes(row["body"])), json.loads(bytes(row["personal"]))
        assert (kept["ip"], kept["wallet_address"]) == ("127.0.0.1", wallet.address)
        assert AGENT in kept["user_agent"]
        # Each field can be shown by itself, with a salt of its own.
        for name, value in kept.items():
            salt = hmac.digest(bytes(row["salt"]), name.encode(), hashlib.sha256)
            shown = hashlib.sha256(salt + value.encode()).hexdigest()
            assert event["personal"][name] == shown
        assert set(event["personal"]) == set(kept)
    assert len({bytes(row["salt"]) for row in rows}) == 5
    assert len({event["wallet"] for event in bodies(own)}) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET action = 'nothing'",
        "UPDATE audit_events SET body = body",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "TRUNCATE audit_events CASCADE",
        "TRUNCATE audit_events, audit_personal, audit_seals",
        "UPDATE audit_personal SET body = ''",
    ],
)
def test_what_was_logged_cannot_be_changed(shared: Service, statement: str) -> None:
    shared.registered()
    before = shared.sql.everything()
    with pytest.raises(REFUSALS):
        shared.sql.run(statement)
    assert shared.sql.everything() == before


def test_what_is_personal_can_be_erased(own: Service) -> None:
    own.registered()
    before = bodies(own)
    own.sql.run("DELETE FROM audit_personal")
    assert bodies(own) == before


def test_thirty_changes_at_once_are_numbered_without_a_gap(own: Service) -> None:
    wallet, registered = own.registered()
    token, user_id = registered.tokens.access_token, registered.user.user_id
    others = [own.api.login(wallet).tokens for _ in range(10)]

    def change(number: int) -> object:
        if number < 10:
            request = pb.LogoutRequest(refresh_token=others[number].refresh_token)
            return own.api.call(own.api.auth.Logout, request)
        return update(own, token, display_name=f"Ann {number}")

    assert len(successes(together(30, change))) == 30
    rows = own.sql.run("SELECT * FROM outbox ORDER BY sequence")
    assert [row["sequence"] for row in rows] == list(range(1, 32))
    user = own.sql.one("SELECT * FROM users WHERE user_id = %s", user_id)
    assert user["event_sequence"] == 31
    # Registered at 2: one by the insert, one by its event.
    assert user["version"] == 32
    assert user["revision"] == 21
    assert me(own.api, token).display_name == user["display_name"]
    tell("30 concurrent changes: sequences 1 to 31, no gap")
