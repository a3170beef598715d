"""Extracts: what they hold, and that none of it can be changed unnoticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.exc import IntegrityError

from pourtier_grpc.caller import OPERATOR
from pourtier_grpc.compliance.evidence import Kind, keys_of, sign
from pourtier_grpc.compliance.extract import (
    Extract,
    ExtractError,
    Extracts,
    check,
)
from pourtier_grpc.compliance.sealing import seal_hash
from pourtier_grpc.store.audit import AuditLog
from pourtier_grpc.store.audit_walk import Part
from support.audit import Log, log_on

Lines = list[bytes]


@pytest.fixture
def log(database_url: str, folder: Path) -> Iterator[Log]:
    with log_on(database_url, folder) as made:
        made.sealed(6)
        yield made


def extracts_of(log: Log) -> Extracts:
    return Extracts(
        database=log.database,
        keyring=log.keyring,
        audit_log=AuditLog(log.keyring.pseudonym),
        clock=log.clock,
    )


def written(log: Log, **part: Any) -> Lines:
    """The lines of an extract."""
    lines: Lines = []
    count = extracts_of(log).write(Part(**part), lines.append)
    assert count == len(lines) - 2
    return lines


def checked(log: Log, lines: Lines) -> Extract:
    keys = keys_of({"keys": log.keyring.evidence_jwks()})
    return check(lines, keys)


def user_at(log: Log, seq: int) -> UUID:
    row = log.sql.one(
        "SELECT user_id FROM audit_seals JOIN audit_events USING (event_id)"
        " WHERE seq = %s",
        seq,
    )
    user_id = row["user_id"]
    assert isinstance(user_id, UUID)
    return user_id


def test_a_users_events_with_all_that_shows_them(log: Log) -> None:
    user_id = user_at(log, 3)
    lines = written(log, user_id=user_id)
    header, event, footer = map(json.loads, lines)
    assert header == {
        "format": "pourtier-audit-extract-v1",
        "user_id": str(user_id),
        "event_from": None,
        "event_before": None,
    }
    row = log.sql.one(
        "SELECT s.*, e.body, p.salt, p.body AS personal FROM audit_seals s"
        " JOIN audit_events e USING (event_id) JOIN audit_personal p USING (event_id)"
        " WHERE seq = 3"
    )
    assert event == {
        "seq": 3,
        "event_id": str(row["event_id"]),
        "prev_hash": row["prev_hash"].hex(),
        "hash": row["hash"].hex(),
        "body": row["body"].decode(),
        "salt": row["salt"].hex(),
        "personal": json.loads(row["personal"]),
    }
    assert footer["kind"] == "extract"
    assert footer["body"]["events"] == 1
    assert footer["body"]["sha256"] == hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    assert json.loads(footer["body"]["checkpoint"])["body"]["seq"] == 6
    found = checked(log, lines)
    assert (found.events, found.header) == (1, header)


def test_a_time_from_that_moment_and_before_that_moment(log: Log) -> None:
    times = [
        row["event_time"]
        for row in log.sql.run("SELECT event_time FROM audit_events ORDER BY event_id")
    ]
    lines = written(log, event_from=times[1], event_before=times[4])
    assert [json.loads(line)["seq"] for line in lines[1:-1]] == [2, 3, 4]
    assert checked(log, lines).events == 3
    nothing = written(log, event_from=times[-1] + timedelta(days=1))
    assert checked(log, nothing).events == 0


def test_what_is_erased_is_not_there_and_the_rest_holds(log: Log) -> None:
    user_id = user_at(log, 2)
    log.sql.run("DELETE FROM audit_personal WHERE user_id = %s", user_id)
    lines = written(log, user_id=user_id)
    event = json.loads(lines[1])
    assert (event["personal"], event["salt"]) == (None, None)
    assert checked(log, lines).events == 1


def test_what_waits_for_its_seal_is_left_out(log: Log) -> None:
    log.add(2)
    assert checked(log, written(log)).events == 6


def test_making_one_is_in_the_log(log: Log) -> None:
    user_id = user_at(log, 1)
    written(log, user_id=user_id)
    row = log.sql.one("SELECT body FROM audit_events WHERE action = 'audit.exported'")
    body = json.loads(row["body"])
    assert body["actor"] == OPERATOR
    assert body["details"] == {
        "user_id": str(user_id),
        "event_from": None,
        "event_before": None,
        "events": 1,
    }


def test_what_cannot_be_put_into_the_log_does_not_become_an_extract(log: Log) -> None:
    log.sql.run(
        "ALTER TABLE audit_events ADD CONSTRAINT none"
        " CHECK (action <> 'audit.exported') NOT VALID"
    )
    lines: Lines = []
    with pytest.raises(IntegrityError):
        extracts_of(log).write(Part(), lines.append)
    assert len(lines) == 7
    with pytest.raises(ExtractError):
        checked(log, lines)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET body = body || ' '::bytea",
        "UPDATE audit_events SET action = 'a.b'",
        "UPDATE audit_seals SET hash = sha256(hash)",
        'UPDATE audit_personal SET body = \'{"ip":"1"}\'::bytea',
    ],
)
def test_none_is_made_of_a_log_that_is_not_as_it_was_sealed(
    log: Log, statement: str
) -> None:
    log.behind(statement)
    with pytest.raises(ExtractError, match="not as it was sealed at 1, event"):
        written(log)


def resigned(log: Log, lines: Lines) -> Lines:
    """The lines under a statement that fits them, as the service alone can make it."""
    body = json.loads(lines[-1])["body"]
    body["sha256"] = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    return [*lines[:-1], sign(log.keyring.evidence, Kind.EXTRACT, body) + b"\n"]


def changed(line: bytes, **values: Any) -> bytes:
    """An event's line with something else in it."""
    return json.dumps({**json.loads(line), **values}).encode() + b"\n"


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: lines[1:],
        lambda lines: [*lines[:3], *lines[4:]],
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
        lambda lines: [*lines[:3], lines[2], *lines[3:]],
        lambda lines: [lines[0].replace(b"null", b'"x"', 1), *lines[1:]],
        lambda lines: [lines[0], lines[1].replace(b"192.0.2.7", b"1"), *lines[2:]],
        lambda lines: [*lines[:-1], lines[-1].replace(b'"events":6', b'"events":7')],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines, b"\n"],
        lambda lines: [*lines[:-1], lines[-1][:-1]],
        lambda lines: [*lines[:2], b"{", *lines[2:]],
        lambda lines: [],
        lambda lines: lines[:1],
        lambda lines: [b"\xff\n"] * 5,
    ],
)
def test_no_line_can_be_changed(log: Log, change: Callable[[Lines], Lines]) -> None:
    lines = written(log)
    checked(log, lines)
    with pytest.raises(ExtractError):
        checked(log, change(lines))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"seq": 9}, "is not the one that was sealed"),
        ({"hash": "00" * 32}, "is not the one that was sealed"),
        ({"prev_hash": "00" * 32}, "is not the one that was sealed"),
        ({"body": "{}"}, "is not the one that was sealed"),
        ({"body": None}, "is no event"),
        ({"salt": "00" * 16}, "personal field ip is not the one"),
        ({"personal": {"ip": "1"}}, "personal field ip is not the one"),
        ({"personal": {"email": "1"}}, "personal field email is not the one"),
        ({"personal": 1}, "is no event"),
        ({"event_id": "x"}, "is no event"),
        ({"seq": -1}, "is no event"),
    ],
)
def test_even_the_service_can_sign_only_what_was_sealed(
    log: Log, values: dict[str, Any], sentence: str
) -> None:
    lines = written(log)
    lines[2] = changed(lines[2], **values)
    with pytest.raises(ExtractError, match=sentence):
        checked(log, resigned(log, lines))


def test_events_must_follow_on_each_other(log: Log) -> None:
    lines = written(log)
    other = json.loads(lines[3])
    prev = hashlib.sha256(b"x").digest()
    event_id = UUID(other["event_id"]).bytes
    made = seal_hash(prev, 3, event_id, other["body"].encode())
    lines[3] = changed(lines[3], prev_hash=prev.hex(), hash=made.hex())
    with pytest.raises(ExtractError, match="line 4 does not follow on the one before"):
        checked(log, resigned(log, lines))
    swapped = [lines[0], lines[2], lines[1], lines[-1]]
    with pytest.raises(ExtractError, match="is out of order"):
        checked(log, resigned(log, swapped))


def test_another_services_statement_is_none(log: Log, folder: Path) -> None:
    lines = written(log)
    with pytest.raises(ExtractError, match="is not among those given"):
        check(lines, {})


def test_another_kind_of_statement_is_none(log: Log) -> None:
    lines = written(log)
    body = json.loads(lines[-1])["body"]
    lines[-1] = sign(log.keyring.evidence, Kind.RECEIPT, body) + b"\n"
    with pytest.raises(ExtractError, match="it is a receipt"):
        checked(log, lines)


def test_the_checkpoint_that_it_brings_must_hold(log: Log) -> None:
    lines = written(log)
    body = json.loads(lines[-1])["body"]
    body["checkpoint"] = body["checkpoint"].replace('"seq":6', '"seq":7')
    lines[-1] = sign(log.keyring.evidence, Kind.EXTRACT, body) + b"\n"
    with pytest.raises(ExtractError, match="its checkpoint does not hold"):
        checked(log, lines)
