"""How long sessions live, and why they are at their end: the one rule."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from pourtier.v1.user_pb2 import UserStatus
from pourtier_grpc.caller import ADMIN_ROLE
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store.sessions import Cutoffs, EndCause


class Aging(Protocol):
    """What of a session decides whether it has ended."""

    @property
    def end_cause(self) -> EndCause | None:
        """Why it was ended, or None."""
        ...

    @property
    def create_time(self) -> datetime:
        """When it began."""
        ...

    @property
    def rotate_time(self) -> datetime:
        """When its tokens were last renewed."""
        ...

    @property
    def expire_time(self) -> datetime:
        """When it is over in any case."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long a session lives without a refresh, how long in all, and as an admin's.

    A session of somebody who is an administrator now is an administrator's, whenever it
    began.
    """

    idle: timedelta
    maximum: timedelta
    admin: timedelta

    def end_of(self, session: Aging, roles: Collection[str]) -> datetime:
        """When a session is over if it is not refreshed before."""
        ends = [session.expire_time, session.rotate_time + self.idle]
        if ADMIN_ROLE in roles:
            ends.append(session.create_time + self.admin)
        return min(ends)

    def cause_of_end(
        self, session: Aging, roles: Collection[str], now: datetime
    ) -> EndCause | None:
        """Why a session is at its end, or None where it is alive."""
        if session.end_cause is not None:
            return session.end_cause
        return EndCause.EXPIRED if now >= self.end_of(session, roles) else None

    def cutoffs(self, now: datetime) -> Cutoffs:
        """The same rule, as the store looks for sessions by it."""
        return Cutoffs(
            now=now, idle_since=now - self.idle, admin_since=now - self.admin
        )


def require_active(status: UserStatus.ValueType) -> None:
    """Raises USER_SUSPENDED where an account must not be used."""
    if status != UserStatus.USER_STATUS_ACTIVE:
        raise PourtierError(
            ErrorReason.ERROR_REASON_USER_SUSPENDED, "the account is suspended"
        )


def session_ended(cause: EndCause, *, reused: bool = False) -> PourtierError:
    """The error of a call whose session has ended; `reused` by this very token."""
    if reused:
        return PourtierError(
            ErrorReason.ERROR_REASON_REFRESH_TOKEN_REUSED,
            "the refresh token was replaced before; the session is ended for all",
        )
    return PourtierError(
        ErrorReason.ERROR_REASON_SESSION_ENDED,
        "the session has ended: {cause}",
        cause=cause.value,
    )
