"""Extracts of the audit log: a part of it that can be checked without the service.

An extract is text, a line each: a header in JSON, an event a line in JSON, and a
statement (see `evidence`) over the SHA-256 of all lines before it, which nobody but the
service can make. Each event has its exact text and its seal; what is personal stands
beside it, with the salt that shows it to be what was sealed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pourtier_grpc.auth.keyring import Keyring
from pourtier_grpc.caller import OPERATOR
from pourtier_grpc.clock import Clock
from pourtier_grpc.compliance.evidence import EvidenceError, Kind, sign, verify
from pourtier_grpc.compliance.sealed import (
    Sealed,
    disagreement,
    id_bytes,
    personal_disagreement,
)
from pourtier_grpc.compliance.sealing import seal_hash
from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.store import audit_walk, seals
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.audit_walk import Part
from pourtier_grpc.store.engine import Database, Reader

FORMAT = "pourtier-audit-extract-v1"
# What comes of a line that is JSON at most.
NO_EVENT = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
# An event has a few hundred bytes, and its details some thousands at most.
MAX_LINE_BYTES = 1024 * 1024


class ExtractError(ExpectedError):
    """An extract that cannot be made or relied on; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """What an extract was found to be: which part of the log, and how many events."""

    header: Mapping[str, Any]
    events: int
    time: str


class Extracts:
    """Makes extracts. Each is in the audit log, since it holds what is personal."""

    def __init__(
        self,
        *,
        database: Database,
        keyring: Keyring,
        audit_log: AuditLog,
        clock: Clock,
    ) -> None:
        self._database = database
        self._keyring = keyring
        self._audit = audit_log
        self._clock = clock

    def write(self, part: Part, write: Callable[[bytes], object]) -> int:
        """Writes a part of the log as it is at this moment; answers how many events.

        What is not sealed yet is left out. Raises ExtractError where an event is not as
        it was sealed; what was written by then is no extract. It is in the audit log
        before its statement is written, without which it is none either.
        """
        with self._database.snapshot() as read:
            digest, count = hashlib.sha256(), 0
            for line in self._lines(read, part):
                digest.update(line)
                write(line)
                count += 1
            count -= 1
            footer = self._footer(read, digest.hexdigest(), count)
        self._record(part, count)
        write(footer)
        return count

    def _lines(self, read: Reader, part: Part) -> Iterator[bytes]:
        yield _line({"format": FORMAT, **stated(part)})
        with closing(audit_walk.part(read, part)) as rows:
            for row in rows:
                yield _line(_told(Sealed(*row)))

    def _footer(self, read: Reader, digest: str, count: int) -> bytes:
        newest = seals.newest_checkpoint(read)
        body = {
            "checkpoint": None if newest is None else newest.body.decode(),
            "events": count,
            "sha256": digest,
            "time": self._clock.now().isoformat(),
        }
        return sign(self._keyring.evidence, Kind.EXTRACT, body) + b"\n"

    def _record(self, part: Part, count: int) -> None:
        event = AuditEvent(
            action=AuditAction.AUDIT_EXPORTED,
            actor=OPERATOR,
            time=self._clock.now(),
            details={**stated(part), "events": count},
        )
        with self._database.transaction() as tx:
            self._audit.append(tx, event)
            tx.commit()


def check(lines: Iterable[bytes], keys: Mapping[str, Ed25519PublicKey]) -> Extract:
    """Checks an extract by itself, with the service's published evidence keys.

    Raises ExtractError, which says what is wrong and where.
    """
    digest, header, before, count = hashlib.sha256(), None, None, 0
    held = None
    for number, line in enumerate(lines, start=1):
        # The last one is the statement over those before it.
        if held is not None:
            digest.update(held)
            if header is None:
                header = _header(held)
            else:
                before = _checked(held, number - 1, before)
                count += 1
        if not line.endswith(b"\n") or len(line) > MAX_LINE_BYTES:
            raise ExtractError(f"line {number} is not whole")
        held = line
    if held is None or header is None:
        raise ExtractError("it has no events and no statement: it is not whole")
    body = _statement(held, keys)
    if body.get("sha256") != digest.hexdigest() or body.get("events") != count:
        raise ExtractError("its statement is about another text")
    _agree(body.get("checkpoint"), before, keys)
    return Extract(header=header, events=count, time=str(body.get("time")))


def stated(part: Part) -> dict[str, str | None]:
    """Which part of the log it is, as an extract says it."""
    return {
        "event_before": _text(part.event_before),
        "event_from": _text(part.event_from),
        "user_id": _text(part.user_id),
    }


def _text(value: datetime | UUID | None) -> str | None:
    if isinstance(value, datetime):
        return value.isoformat()
    return None if value is None else str(value)


def _line(values: Mapping[str, Any]) -> bytes:
    return rfc8785.dumps(dict(values)) + b"\n"


def _told(event: Sealed) -> dict[str, Any]:
    """What an extract says of an event. Raises ExtractError."""
    wrong = (
        disagreement(event)
        if event.holds_as(event.seq)
        else "its seal is not the one that was made"
    )
    if wrong is not None or event.body is None:
        where = f"at {event.seq}, event {event.event_id}"
        raise ExtractError(f"the log is not as it was sealed {where}: {wrong}")
    return {
        "body": event.body.decode(),
        "event_id": event.event_id,
        "hash": event.hash.hex(),
        "personal": None if event.personal is None else json.loads(event.personal),
        "prev_hash": event.prev_hash.hex(),
        "salt": None if event.salt is None else event.salt.hex(),
        "seq": event.seq,
    }


def _header(line: bytes) -> Mapping[str, Any]:
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ExtractError(f"it is no {FORMAT}")
    return header


def _checked(line: bytes, number: int, before: Sealed | None) -> Sealed:
    """The event of a line, which holds and follows on the one before it."""
    try:
        event = _event(json.loads(line))
    except NO_EVENT:
        raise ExtractError(f"line {number} is no event") from None
    if isinstance(event, str):
        raise ExtractError(f"line {number}: {event}")
    if before is not None:
        if event.seq <= before.seq:
            raise ExtractError(f"line {number} is out of order")
        if event.seq == before.seq + 1 and event.prev_hash != before.hash:
            raise ExtractError(f"line {number} does not follow on the one before it")
    return event


def _event(told: Mapping[str, Any]) -> Sealed | str:
    """An event as a line tells it, or what is wrong with it. Raises as JSON does."""
    event = Sealed(
        seq=told["seq"],
        event_id=told["event_id"],
        prev_hash=bytes.fromhex(told["prev_hash"]),
        hash=bytes.fromhex(told["hash"]),
        body=told["body"].encode(),
    )
    said = json.loads(told["body"])
    sealed = seal_hash(
        event.prev_hash, event.seq, id_bytes(event.event_id), told["body"].encode()
    )
    if sealed != event.hash or said["event_id"] != event.event_id:
        return f"event {event.event_id} is not the one that was sealed"
    if told["personal"] is not None:
        salt, personal = bytes.fromhex(told["salt"]), json.dumps(told["personal"])
        wrong = personal_disagreement(salt, personal, said["personal"])
        if wrong is not None:
            return f"event {event.event_id}: {wrong}"
    return event


def _statement(line: bytes, keys: Mapping[str, Ed25519PublicKey]) -> Mapping[str, Any]:
    try:
        return verify(line.removesuffix(b"\n"), Kind.EXTRACT, keys)
    except EvidenceError as error:
        raise ExtractError(f"its last line is no statement over it: {error}") from None


def _agree(
    checkpoint: object, last: Sealed | None, keys: Mapping[str, Ed25519PublicKey]
) -> None:
    """The newest checkpoint, which the statement brings, must hold as well."""
    if checkpoint is None:
        return
    try:
        body = verify(str(checkpoint).encode(), Kind.CHECKPOINT, keys)
    except EvidenceError as error:
        raise ExtractError(f"its checkpoint does not hold: {error}") from None
    if last is not None and body["seq"] == last.seq and body["hash"] != last.hash.hex():
        raise ExtractError("its checkpoint covers another chain")
