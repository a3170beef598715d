"""What each type of event says: its channel, and its fields with their forms.

The one definition: the outbox writes nothing else, the relay sends nothing that lacks
any of it, and a test compares it with docs/events.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pourtier_grpc.store.sessions import EndCause

USERS_CHANNEL = "lumiere.users"
SUBSCRIPTIONS_CHANNEL = "lumiere.subscriptions"
COMPLIANCE_CHANNEL = "lumiere.compliance"
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


class EventType(StrEnum):
    """What an event tells of."""

    USER_CREATED = "user.created"
    USER_UPDATED = "user.updated"
    USER_SUSPENDED = "user.suspended"
    SESSION_ENDED = "session.ended"
    SESSION_REUSE_DETECTED = "session.reuse_detected"
    SUBSCRIPTION_ACTIVATED = "subscription.activated"
    SUBSCRIPTION_RENEWED = "subscription.renewed"
    SUBSCRIPTION_EXPIRED = "subscription.expired"
    SUBSCRIPTION_CANCELLED = "subscription.cancelled"
    SUBSCRIPTION_CHANGED = "subscription.changed"
    LEGAL_DOCUMENT_PUBLISHED = "legal_document.published"
    LEGAL_DOCUMENT_ACCEPTED = "legal_document.accepted"


@dataclass(frozen=True, slots=True)
class Form:
    """What a value looks like in JSON; `name` is what docs/events.md calls it."""

    name: str
    fits: Callable[[object], bool]

    @property
    def or_null(self) -> Form:
        """The same, where there may be nothing."""
        return Form(
            f"{self.name} or null", lambda value: value is None or self.fits(value)
        )


def _is_id(value: object) -> bool:
    try:
        return isinstance(value, str) and str(UUID(value)) == value
    except ValueError:
        return False


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value).tzinfo)
    except ValueError:
        return False


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_limits(value: object) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == set(LIMIT_NAMES)
        and all(each is None or _is_limit(each) for each in value.values())
    )


def _is_limit(value: object) -> bool:
    # A bool is an int, and no number.
    return type(value) is int and value >= 0


def _one_of(*words: str) -> Form:
    return Form("one of " + ", ".join(words), lambda value: value in words)


# What a plan limits.
LIMIT_NAMES = (
    "running_strategies",
    "backtests",
    "devices",
    "sessions",
    "requests_per_minute",
)
ID = Form("UUID", _is_id)
# RFC 3339, with the offset from UTC.
TIME = Form("time", _is_time)
TEXT = Form("text", lambda value: isinstance(value, str))
TEXTS = Form("list of texts", _is_texts)
FLAG = Form("true or false", lambda value: isinstance(value, bool))
# A limit of null is none.
LIMITS = Form("limits", _is_limits)
# A bool is an int, and no number.
COUNT = Form("whole number from 1", lambda value: type(value) is int and value >= 1)
HASH = Form(
    "SHA-256 in hex",
    lambda value: isinstance(value, str) and bool(SHA256.fullmatch(value)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """Where a type is published, and what its events say beside the envelope."""

    channel: str
    fields: Mapping[str, Form] = field(default_factory=dict)


# What every event has.
ENVELOPE = {
    "event_id": ID,
    "event_type": TEXT,
    "user_id": ID.or_null,
    "wallet_address": TEXT.or_null,
    "timestamp": TIME,
    "sequence": COUNT,
}
_DOCUMENT = {
    "document_id": ID,
    "type": TEXT,
    "version": TEXT,
    "locale": TEXT,
    "content_sha256": HASH,
}
_SUBSCRIPTION = {
    "subscription_id": ID,
    "plan_id": TEXT,
    "status": TEXT,
    "period_start": TIME.or_null,
    "period_end": TIME.or_null,
    "access_end": TIME.or_null,
    "auto_renew": FLAG,
    "cancel_at_period_end": FLAG,
    "limits": LIMITS,
    "features": TEXTS,
}
_OF_SUBSCRIPTION = Definition(channel=SUBSCRIPTIONS_CHANNEL, fields=_SUBSCRIPTION)
DEFINITIONS: Mapping[EventType, Definition] = {
    EventType.USER_CREATED: Definition(channel=USERS_CHANNEL),
    EventType.USER_UPDATED: Definition(
        channel=USERS_CHANNEL, fields={"changed_fields": TEXTS}
    ),
    EventType.USER_SUSPENDED: Definition(
        channel=USERS_CHANNEL, fields={"changed_fields": TEXTS}
    ),
    EventType.SESSION_ENDED: Definition(
        channel=USERS_CHANNEL,
        fields={"session_id": ID, "cause": _one_of(*EndCause)},
    ),
    EventType.SESSION_REUSE_DETECTED: Definition(
        channel=USERS_CHANNEL, fields={"session_id": ID}
    ),
    EventType.SUBSCRIPTION_ACTIVATED: _OF_SUBSCRIPTION,
    EventType.SUBSCRIPTION_RENEWED: _OF_SUBSCRIPTION,
    EventType.SUBSCRIPTION_EXPIRED: _OF_SUBSCRIPTION,
    EventType.SUBSCRIPTION_CANCELLED: _OF_SUBSCRIPTION,
    EventType.SUBSCRIPTION_CHANGED: _OF_SUBSCRIPTION,
    EventType.LEGAL_DOCUMENT_PUBLISHED: Definition(
        channel=COMPLIANCE_CHANNEL, fields={**_DOCUMENT, "effective_time": TIME}
    ),
    EventType.LEGAL_DOCUMENT_ACCEPTED: Definition(
        channel=COMPLIANCE_CHANNEL, fields=_DOCUMENT
    ),
}


def require_fields(event_type: EventType, fields: Mapping[str, object]) -> None:
    """Raises ValueError where an event about to be written breaks its definition.

    It has every field of its type, in its form, and no other.
    """
    defined = DEFINITIONS[event_type].fields
    problems = [
        *_problems(defined, fields),
        *(f"{name} is not defined" for name in fields if name not in defined),
    ]
    if problems:
        raise ValueError(f"{event_type}: {', '.join(problems)}")


def problem_of(payload: Mapping[str, object]) -> str | None:
    """Why an event that was written cannot be told, or None.

    Fields that this release does not know, and types, are let pass: a newer one, which
    runs beside it during an upgrade, has written them.
    """
    problems = list(_problems(ENVELOPE, payload))
    defined = {str(each): DEFINITIONS[each].fields for each in EventType}
    problems += _problems(defined.get(str(payload.get("event_type")), {}), payload)
    return ", ".join(problems) or None


def _problems(
    defined: Mapping[str, Form], fields: Mapping[str, object]
) -> Iterator[str]:
    for name, form in defined.items():
        if name not in fields:
            yield f"{name} is missing"
        elif not form.fits(fields[name]):
            # Not the value: it may be personal, and this goes into logs.
            yield f"{name} is not {form.name}"
