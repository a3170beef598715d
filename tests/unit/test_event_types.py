"""Events: every type is defined, and what breaks its definition is found."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from pourtier_grpc.store.event_types import (
    DEFINITIONS,
    ENVELOPE,
    EventType,
    problem_of,
    require_fields,
)

TIME = "2026-11-20T12:00:00.123456+00:00"
ENDED = EventType.SESSION_ENDED
FIELDS = {"session_id": str(uuid4()), "cause": "LOGOUT"}
PAYLOAD = {
    **FIELDS,
    "event_id": str(uuid4()),
    "event_type": "session.ended",
    "user_id": str(uuid4()),
    "wallet_address": "7vQXv9bUYfDN9bDdyTjVxLkhoXQXz5aEoAcuTVbHj7Yz",
    "timestamp": TIME,
    "sequence": 1,
}


def test_every_type_is_defined_and_replaces_nothing_of_the_envelope() -> None:
    assert set(DEFINITIONS) == set(EventType)
    for definition in DEFINITIONS.values():
        assert not set(definition.fields) & set(ENVELOPE)
        assert definition.channel.startswith("lumiere.")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"session_id": FIELDS["session_id"]}, "cause is missing"),
        ({**FIELDS, "cause": "BOREDOM"}, "cause is not one of LOGOUT, REVOKED"),
        ({**FIELDS, "session_id": "7"}, "session_id is not UUID"),
        ({**FIELDS, "email": "a@example.com"}, "email is not defined"),
        ({**FIELDS, "user_id": "x"}, "user_id is not defined"),
    ],
)
def test_nothing_else_is_written(fields: dict[str, object], why: str) -> None:
    require_fields(ENDED, FIELDS)
    with pytest.raises(ValueError, match=f"session.ended: {why}"):
        require_fields(ENDED, fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("event_id", None),
        ("event_id", "0" * 32),
        ("event_type", 1),
        ("user_id", "x"),
        ("wallet_address", 7),
        ("timestamp", "2026-11-20T12:00:00"),
        ("timestamp", "yesterday"),
        ("sequence", 0),
        ("sequence", True),
        ("sequence", "1"),
        ("session_id", None),
        ("cause", "?"),
    ],
)
def test_what_breaks_its_definition_is_not_told(name: str, value: Any) -> None:
    assert problem_of(PAYLOAD) is None
    problem = problem_of({**PAYLOAD, name: value})
    assert problem is not None
    assert problem.startswith(f"{name} is not ")
    lacking = {key: each for key, each in PAYLOAD.items() if key != name}
    assert problem_of(lacking) == f"{name} is missing"


def test_what_a_newer_release_has_written_is_told() -> None:
    assert problem_of({**PAYLOAD, "device": "phone"}) is None
    assert problem_of({**PAYLOAD, "event_type": "session.renamed"}) is None


@pytest.mark.parametrize("value", ["email", [1], None])
def test_a_list_is_of_texts(value: object) -> None:
    with pytest.raises(ValueError, match="changed_fields is not list of texts"):
        require_fields(EventType.USER_UPDATED, {"changed_fields": value})


def test_a_hash_is_in_hex() -> None:
    fields = {
        "document_id": str(uuid4()),
        "type": "T",
        "version": "1.0",
        "locale": "en",
    }
    require_fields(
        EventType.LEGAL_DOCUMENT_ACCEPTED, {**fields, "content_sha256": "0f" * 32}
    )
    with pytest.raises(ValueError, match="content_sha256 is not SHA-256 in hex"):
        require_fields(
            EventType.LEGAL_DOCUMENT_ACCEPTED, {**fields, "content_sha256": "0F" * 32}
        )
