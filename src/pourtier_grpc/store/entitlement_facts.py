"""What decides what users may use: their accounts, their plans, and what is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import (
    ARRAY,
    Select,
    Text,
    Uuid,
    any_,
    bindparam,
    cast,
    select,
    true,
)

from pourtier.v1.user_pb2 import UserStatus
from pourtier_grpc.store import usage
from pourtier_grpc.store.engine import Database
from pourtier_grpc.store.plan_terms import PlanTerm, live_of, read_term
from pourtier_grpc.store.tables import users
from pourtier_grpc.store.usage import Count


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitledUser:
    """A user, as far as it matters. `term` is None of whoever has taken no plan."""

    status: UserStatus.ValueType
    term: PlanTerm | None


class EntitlementReader(Protocol):
    """Reads what decides; whoever decides by it does not care from where."""

    def users(self, user_ids: Sequence[str]) -> Mapping[str, EntitledUser]:
        """Users by id, in lower case; those that there are not are left out."""
        ...

    def counts(
        self, asked: Sequence[tuple[str, datetime]], now: datetime
    ) -> Mapping[str, Mapping[str, Count]]:
        """What users use at a moment; see `usage.counts`."""
        ...


class EntitlementFactStore:
    """The facts in PostgreSQL: a statement each, however many users."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def users(self, user_ids: Sequence[str]) -> Mapping[str, EntitledUser]:
        """Users by id, in lower case; those that there are not are left out."""
        with self._database.read() as read:
            rows: Iterable[Any] = read.run(_USERS, {"ids": list(user_ids)})
            return {
                user_id: EntitledUser(status=status, term=read_term(*columns))
                for user_id, status, *columns in rows
            }

    def counts(
        self, asked: Sequence[tuple[str, datetime]], now: datetime
    ) -> Mapping[str, Mapping[str, Count]]:
        """What users use at a moment; see `usage.counts`."""
        with self._database.read() as read:
            return usage.counts(read, asked, now)


_LIVE = live_of(users.c.user_id)
# Ids come and go as text: see `deployment_facts`.
_USERS: Select[Any] = (
    select(cast(users.c.user_id, Text), users.c.status, *_LIVE.c)
    .select_from(users.outerjoin(_LIVE, true()))
    .where(
        users.c.user_id == any_(cast(bindparam("ids", type_=ARRAY(Text)), ARRAY(Uuid)))
    )
)
