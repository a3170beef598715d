"""Who calls, and from where."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

# Who acts where nobody called: a rule of the service's own.
SYSTEM = "system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The far end of a call.

    `address` is its IP address without a port, as far as it can be believed, or None
    where it came by a Unix socket from something other than the edge. `origin` is the
    web page's, or None.
    """

    request_id: str
    address: str | None
    user_agent: str
    origin: str | None


@dataclass(frozen=True, slots=True)
class Anonymous:
    """A caller who has shown nothing, or nothing that the method reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedInUser:
    """A person with a live session in an active account.

    The roles are the user's of now, never the token's.
    """

    user_id: UUID
    session_id: UUID
    roles: tuple[str, ...]

    @property
    def actor(self) -> str:
        """Who acts, as the audit log writes it."""
        return actor_of_user(self.user_id)


def actor_of_user(user_id: UUID | str) -> str:
    """A user who acts on their own affairs, as the audit log writes it."""
    return f"user:{user_id}"


Principal = Anonymous | SignedInUser
ANONYMOUS = Anonymous()
