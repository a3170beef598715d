"""What decides who may deploy: the users asked about, and the legal texts in force."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Protocol

from sqlalchemy import (
    ARRAY,
    Select,
    Text,
    Uuid,
    any_,
    bindparam,
    cast,
    func,
    select,
    true,
)
from sqlalchemy.types import NullType

from pourtier.v1.document_pb2 import DocumentType
from pourtier.v1.user_pb2 import KycLevel, UserStatus
from pourtier_grpc.store import documents
from pourtier_grpc.store.documents import Version
from pourtier_grpc.store.engine import Database, Reader
from pourtier_grpc.store.plan_terms import PlanTerm, live_of, read_term
from pourtier_grpc.store.tables import (
    document_acceptances,
    users,
    wallets,
)
from pourtier_grpc.store.usage import STRATEGIES, held_by


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFacts:
    """A user, as far as it matters.

    `wallets` are addresses. `accepted` is all that the user ever agreed to, whatever
    has become of the texts. `term` is None of whoever has taken no plan; `strategies`
    is how many places of running strategies are taken.
    """

    status: UserStatus.ValueType
    kyc_level: KycLevel.ValueType
    wallets: tuple[str, ...]
    accepted: frozenset[Version]
    term: PlanTerm | None
    strategies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentFacts:
    """All that decides, for many users at one moment.

    `required` is what everybody must have accepted at that moment. `users` are by id,
    in lower case; those that there are not are left out.
    """

    required: frozenset[Version]
    users: Mapping[str, UserFacts]


class DeploymentReader(Protocol):
    """Reads what decides; whoever decides by it does not care from where."""

    def read(self, user_ids: Sequence[str], now: datetime) -> DeploymentFacts:
        """The facts about users, who may be named more than once, at a moment."""
        ...


class DeploymentFactStore:
    """The facts in PostgreSQL: two statements, however many users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, user_ids: Sequence[str], now: datetime) -> DeploymentFacts:
        """The facts about users, who may be named more than once, at a moment."""
        with self._database.read() as reader:
            # Before the acceptances, which are only ever added to: who accepts in
            # between what has just come into force is not denied for it.
            required = documents.required(reader, now)
            return DeploymentFacts(
                required=required, users=_users(reader, user_ids, now)
            )


def _users(
    reader: Reader, user_ids: Sequence[str], now: datetime
) -> dict[str, UserFacts]:
    rows: Iterable[Any] = reader.run(_USERS, {"ids": list(user_ids), "now": now})
    return {
        user_id: UserFacts(
            status=status,
            kyc_level=kyc_level,
            wallets=tuple(addresses or ()),
            accepted=_versions(accepted or ""),
            term=read_term(*term),
            strategies=strategies,
        )
        for user_id, status, kyc_level, addresses, accepted, strategies, *term in rows
    }


@lru_cache(maxsize=1024)
def _versions(text: str) -> frozenset[Version]:
    """Versions as SQL has written them; most people have accepted the same."""
    pairs = (version.split(".") for version in text.split())
    return frozenset(
        (DocumentType.ValueType(int(kind)), int(major)) for kind, major in pairs
    )


def _addresses_of_user() -> Any:
    # Without a type that SQLAlchemy would go through item by item: they are text.
    return (
        select(func.array_agg(wallets.c.address, type_=NullType()))
        .where(wallets.c.user_id == users.c.user_id)
        .scalar_subquery()
    )


def _accepted_by_user() -> Any:
    accepted = document_acceptances.c
    version = func.concat(accepted.type, ".", accepted.major)
    return (
        select(func.string_agg(version, " "))
        .where(accepted.user_id == users.c.user_id)
        .scalar_subquery()
    )


_LIVE = live_of(users.c.user_id)
# Ids come and go as text: ten thousand objects of Python are not made of them. What
# belongs to a user is looked up for each: a join would be planned for ten ids, since
# PostgreSQL does not see how many an array holds, and be very slow for ten thousand.
_USERS: Select[Any] = (
    select(
        cast(users.c.user_id, Text),
        users.c.status,
        users.c.kyc_level,
        _addresses_of_user(),
        _accepted_by_user(),
        held_by(users.c.user_id, STRATEGIES),
        *_LIVE.c,
    )
    .select_from(users.outerjoin(_LIVE, true()))
    .where(
        users.c.user_id == any_(cast(bindparam("ids", type_=ARRAY(Text)), ARRAY(Uuid)))
    )
)
