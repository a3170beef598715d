"""An event as it is sealed, and whether everything that is said of it agrees."""

from __future__ import annotations

import json
from datetime import datetime
from typing import NamedTuple

from pourtier_grpc.compliance.sealing import seal_hash
from pourtier_grpc.store.audit import hashed, personal_hash


class Sealed(NamedTuple):
    """A seal, with its event and the event's personal row where they are there.

    A tuple, since a verification makes one for each of millions of events. Ids are as
    text; of the event all is None where it is gone, of the personal row where it has
    been erased, or never was.
    """

    seq: int
    event_id: str
    prev_hash: bytes
    hash: bytes
    body: bytes | None
    event_time: datetime | None = None
    action: str | None = None
    user_id: str | None = None
    salt: bytes | None = None
    personal: bytes | None = None
    personal_user_id: str | None = None

    def holds_as(self, seq: int) -> bool:
        """Whether the hash is that of this event under a number."""
        # Whoever writes to the table can give any number.
        return (
            self.body is not None
            and seq > 0
            and self.hash
            == seal_hash(self.prev_hash, seq, id_bytes(self.event_id), self.body)
        )


def id_bytes(event_id: str) -> bytes:
    """The 16 bytes of an id."""
    return bytes.fromhex(event_id.replace("-", ""))


def disagreement(event: Sealed) -> str | None:
    """What of an event does not agree with its sealed bytes; None where all does.

    The columns that the log is searched by repeat parts of those bytes; the personal
    fields have their salted hashes in them.
    """
    return None if _plainly_agrees(event) else _disagreement(event)


def _plainly_agrees(event: Sealed) -> bool:
    """Whether the text has, letter by letter, what must be in it; most events have.

    That is a fraction of the time of reading it as JSON. Canonical JSON orders members
    by name: what is looked for stands at the beginning, or behind the last member that
    may hold others. Within a text a quotation mark has a stroke before it, so no text
    looks like a member.
    """
    if event.body is None or event.event_time is None or event.personal is None:
        return False
    try:
        text = event.body.decode()
        personal = json.loads(event.personal.decode())
        hashes = hashed(event.salt or b"", personal).items()
    except (ValueError, AttributeError, RecursionError):
        return False
    user = "null" if event.user_id is None else f'"{event.user_id}"'
    told = ",".join([f'"{name}":"{value}"' for name, value in hashes])
    middle = (
        f',"event_id":"{event.event_id}","event_time":"{event.event_time.isoformat()}"'
        f',"personal":{{{told}}},"request_id":'
    )
    return (
        event.personal_user_id == event.user_id
        and text.startswith(f'{{"action":"{event.action}","actor":"')
        and text.startswith(middle, text.rfind(',"event_id":"'))
        and text.startswith(f',"user_id":{user},', text.rfind(',"user_id":'))
    )


def _disagreement(event: Sealed) -> str | None:
    try:
        said = json.loads((event.body or b"").decode())
        agree = (
            said["event_id"] == event.event_id,
            event.event_time is not None
            and said["event_time"] == event.event_time.isoformat(),
            said["action"] == event.action,
            said["user_id"] == event.user_id,
        )
        if agree != (True, True, True, True):
            return _named(agree)
        if event.personal is None or event.salt is None:
            return None
        if event.personal_user_id != event.user_id:
            return "its personal row is under another user"
        return personal_disagreement(event.salt, event.personal, said["personal"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "its text is not that of an event"


def personal_disagreement(
    salt: bytes, personal: bytes | str, hashes: dict[str, str]
) -> str | None:
    """Which personal field is not the one that was hashed; None where all are.

    `personal` is JSON, of the fields that are still there. Raises as `json.loads` does,
    and LookupError or AttributeError where it is no JSON object of texts.
    """
    for name, value in json.loads(personal).items():
        if name not in hashes or personal_hash(salt, name, value) != hashes[name]:
            return f"its personal field {name} is not the one that it commits to"
    return None


def _named(agree: tuple[bool, bool, bool, bool]) -> str:
    columns = ("event_id", "event_time", "action", "user_id")
    wrong = [column for column, well in zip(columns, agree, strict=True) if not well]
    return f"its column {wrong[0]} says something else than its text"
