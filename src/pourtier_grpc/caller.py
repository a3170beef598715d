"""Who calls, and from where."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

# Who acts where nobody called: a rule of the service's own.
SYSTEM = "system"
# Who acts by the command line, on the machine itself.
OPERATOR = "operator"
ADMIN_ROLE = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The far end of a call.

    `address` is its IP address without a port, as far as it can be believed, or None
    where it came by a Unix socket from something other than the edge. `origin` is the
    web page's, or None. `outside` means that anybody may be there: the public listener,
    or something on the edge's socket that does not say which listener it was.
    """

    request_id: str
    address: str | None
    user_agent: str
    origin: str | None
    outside: bool = False


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
    wallet_address: str
    roles: tuple[str, ...]

    @property
    def is_admin(self) -> bool:
        """Whether the person may act on the affairs of others."""
        return ADMIN_ROLE in self.roles

    @property
    def actor(self) -> str:
        """Who acts on their own affairs, as the audit log writes it."""
        return actor_of_user(self.user_id)

    @property
    def acting_for_others(self) -> str:
        """Who acts on another's affairs, as the audit log writes it."""
        return f"admin:{self.user_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """An internal service, known by its API key."""

    key_id: UUID
    prefix: str
    name: str
    scopes: frozenset[str]

    @property
    def acting_for_others(self) -> str:
        """Who acts, as the audit log writes it: the service, and by which key."""
        return f"service:{self.name}/{self.prefix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What somebody does to another's affairs, and why.

    `by` and `client` are None at the command line, where an operator acts.
    """

    reason: str
    by: SignedInUser | Service | None = None
    client: Client | None = None

    @property
    def actor(self) -> str:
        """Who acts, as the audit log writes it."""
        return OPERATOR if self.by is None else self.by.acting_for_others


@dataclass(frozen=True, slots=True)
class Bearer:
    """A bearer token, as a caller sent it (RFC 6750)."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key, as a caller sent it."""

    text: str = field(repr=False)


Credential = Bearer | ApiKey


def actor_of_user(user_id: UUID | str) -> str:
    """A user who acts on their own affairs, as the audit log writes it."""
    return f"user:{user_id}"


Principal = Anonymous | SignedInUser | Service
ANONYMOUS = Anonymous()
