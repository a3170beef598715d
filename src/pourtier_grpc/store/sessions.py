"""Sessions and the generations of their refresh tokens.

Sessions change only under the lock of their user's row.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    CompoundSelect,
    Row,
    Uuid,
    and_,
    any_,
    bindparam,
    literal,
    not_,
    or_,
    select,
    tuple_,
    union,
    update,
)

from pourtier.v1.user_pb2 import UserStatus
from pourtier_grpc.caller import ADMIN_ROLE
from pourtier_grpc.store.engine import Database, Reader, Transaction
from pourtier_grpc.store.pages import Page
from pourtier_grpc.store.tables import sessions, users


class EndCause(StrEnum):
    """Why a session ended."""

    LOGOUT = "LOGOUT"
    REVOKED = "REVOKED"
    EXPIRED = "EXPIRED"
    SUSPENDED = "SUSPENDED"
    REUSE_DETECTED = "REUSE_DETECTED"
    # By a newer one, where the user has as many as they may.
    REPLACED = "REPLACED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutoffs:
    """What decides whether a session is over by time, at `now`.

    It is where it was not refreshed since `idle_since`, and where it is an
    administrator's and began before `admin_since`; either moment included.
    """

    now: datetime
    idle_since: datetime
    admin_since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFilter:
    """Which sessions of a user's are meant; None stands for "whatever".

    `alive_at` are those that are alive then, `over_at` those that time has ended.
    """

    ids: Collection[UUID] | None = None
    other_than: UUID | None = None
    alive_at: Cutoffs | None = None
    over_at: Cutoffs | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The filter as conditions of SQL, all of which must hold."""
        conditions: list[ColumnElement[bool]] = []
        if self.ids is not None:
            # As one parameter, of which a statement may have 65,535.
            ids = bindparam(None, list(self.ids), type_=ARRAY(Uuid))
            conditions.append(sessions.c.session_id == any_(ids))
        if self.other_than is not None:
            conditions.append(sessions.c.session_id != self.other_than)
        if self.alive_at is not None:
            conditions += live_conditions(self.alive_at)
        if self.over_at is not None:
            conditions.append(or_(*_over(self.over_at)))
        return conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session, as it is kept."""

    session_id: UUID
    user_id: UUID
    chain: str
    address: str
    secret: bytes = field(repr=False)
    key_id: str
    generation: int
    parent_generation: int | None
    presented: bool
    create_time: datetime
    rotate_time: datetime
    expire_time: datetime
    end_time: datetime | None
    end_cause: EndCause | None
    client_address: str | None
    user_agent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionState:
    """What a call needs to know of its session: is it alive, and whose is it."""

    user_id: UUID
    wallet_address: str
    end_cause: EndCause | None
    create_time: datetime
    rotate_time: datetime
    expire_time: datetime
    user_status: UserStatus.ValueType
    roles: tuple[str, ...]


class SessionStore:
    """Sessions in PostgreSQL, for reading."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def state(self, session_id: UUID) -> SessionState | None:
        """The state of a session and of its user, or None where there is none."""
        with self._database.read() as read:
            row = read.run(_STATE, {"id": session_id}).first()
        if row is None:
            return None
        return SessionState(
            user_id=row.user_id,
            wallet_address=row.address,
            end_cause=_cause(row.end_cause),
            create_time=row.create_time,
            rotate_time=row.rotate_time,
            expire_time=row.expire_time,
            user_status=row.status,
            roles=tuple(row.roles),
        )

    def owner(self, session_id: UUID) -> UUID | None:
        """Whose session it is, or None where there is none. It never changes."""
        query = select(sessions.c.user_id).where(sessions.c.session_id == session_id)
        with self._database.read() as read:
            return read.run(query).scalar()

    def find(self, session_id: UUID) -> Session | None:
        """The session as it is now, or None; it may change at once."""
        with self._database.read() as read:
            return find(read, session_id)


def insert(tx: Transaction, session: Session) -> None:
    """Opens a session."""
    tx.run(
        sessions.insert().values(
            {name: getattr(session, name) for name in Session.__slots__}
        )
    )


def find(reader: Reader, session_id: UUID) -> Session | None:
    """The session of that id, or None."""
    query = select(sessions).where(sessions.c.session_id == session_id)
    row = reader.run(query).first()
    return None if row is None else _session(row)


def find_own(reader: Reader, user_id: UUID, session_id: UUID) -> Session | None:
    """The session of that id, if it is that user's, or None."""
    query = select(sessions).where(
        sessions.c.user_id == user_id, sessions.c.session_id == session_id
    )
    row = reader.run(query).first()
    return None if row is None else _session(row)


def rotate(
    tx: Transaction, session: Session, *, presented: int, key_id: str, now: datetime
) -> Session | None:
    """Moves a session on to the next generation, whose parent is the one presented.

    The generation that the caller has seen is compared in the same statement: None
    means that another call has moved it on.
    """
    row = tx.run(
        update(sessions)
        .where(
            sessions.c.session_id == session.session_id,
            sessions.c.generation == session.generation,
            sessions.c.end_time.is_(None),
        )
        .values(
            generation=max(session.generation, presented) + 1,
            parent_generation=presented,
            presented=False,
            key_id=key_id,
            rotate_time=now,
        )
        .returning(sessions)
    ).first()
    return None if row is None else _session(row)


def mark_presented(tx: Transaction, session_id: UUID) -> None:
    """Notes that the present generation has come back, and so had arrived."""
    tx.run(
        update(sessions)
        .where(sessions.c.session_id == session_id)
        .values(presented=True)
    )


def end(
    tx: Transaction,
    user_id: UUID,
    wanted: SessionFilter,
    cause: EndCause,
    now: datetime,
) -> list[UUID]:
    """Ends sessions of a user; answers which: those that nobody had ended."""
    ended = tx.run(
        update(sessions)
        .where(
            sessions.c.user_id == user_id,
            sessions.c.end_time.is_(None),
            *wanted.conditions(),
        )
        .values(end_time=now, end_cause=cause.value)
        .returning(sessions.c.session_id)
    )
    return sorted(ended.scalars())


def live_of(reader: Reader, user_id: UUID, page: Page) -> list[Session]:
    """A page of a user's sessions that nobody has ended, the newest first.

    Among them may be some whose time is over. There is one more than asked for, where
    the list goes on.
    """
    order = (sessions.c.create_time.desc(), sessions.c.session_id.desc())
    query = (
        select(sessions)
        .where(sessions.c.user_id == user_id, sessions.c.end_time.is_(None))
        .order_by(*order)
        .limit(page.size + 1)
    )
    if page.after is not None:
        place = tuple_(sessions.c.create_time, sessions.c.session_id)
        query = query.where(place < (page.after.time, page.after.row_id))
    return [_session(row) for row in reader.run(query)]


def beyond(reader: Reader, user_id: UUID, cutoffs: Cutoffs, keep: int) -> list[UUID]:
    """A user's live sessions but for so many of the newest."""
    newest_first = sessions.c.create_time.desc(), sessions.c.session_id.desc()
    query = (
        select(sessions.c.session_id)
        .where(sessions.c.user_id == user_id, *live_conditions(cutoffs))
        .order_by(*newest_first)
        .offset(keep)
    )
    return list(reader.run(query).scalars())


def expired(
    reader: Reader,
    cutoffs: Cutoffs,
    limit: int,
    after: tuple[UUID, UUID] | None = None,
) -> list[tuple[UUID, UUID]]:
    """Sessions whose time is over and that nobody has ended: (user, session) ids.

    They come in the order of their ids; with `after`, those that follow it.
    """
    query = _expired(cutoffs, limit, after)
    return [(row.user_id, row.session_id) for row in reader.run(query)]


def live_conditions(cutoffs: Cutoffs) -> list[ColumnElement[bool]]:
    """What holds of a session that is alive: `Lifetimes`' rule as conditions of SQL."""
    alive = [not_(over) for over in _over(cutoffs)]
    return [sessions.c.end_time.is_(None), *alive]


def _over(cutoffs: Cutoffs) -> list[ColumnElement[bool]]:
    """The rules by which time ends a session; one that holds is enough."""
    admins = select(users.c.user_id).where(literal(ADMIN_ROLE) == any_(users.c.roles))
    return [
        sessions.c.expire_time <= cutoffs.now,
        sessions.c.rotate_time <= cutoffs.idle_since,
        and_(
            sessions.c.create_time <= cutoffs.admin_since,
            sessions.c.user_id.in_(admins),
        ),
    ]


def _expired(
    cutoffs: Cutoffs, limit: int, after: tuple[UUID, UUID] | None = None
) -> CompoundSelect[Any]:
    """Finds by one index each what is over by each rule: together none would serve."""
    live = select(sessions.c.user_id, sessions.c.session_id).where(
        sessions.c.end_time.is_(None)
    )
    if after is not None:
        live = live.where(tuple_(sessions.c.user_id, sessions.c.session_id) > after)
    found = union(*(live.where(over) for over in _over(cutoffs)))
    return found.order_by("user_id", "session_id").limit(limit)


_STATE = (
    select(
        sessions.c.user_id,
        sessions.c.address,
        sessions.c.end_cause,
        sessions.c.create_time,
        sessions.c.rotate_time,
        sessions.c.expire_time,
        users.c.status,
        users.c.roles,
    )
    .join_from(sessions, users)
    .where(sessions.c.session_id == bindparam("id"))
)


def _session(row: Row[Any]) -> Session:
    address = row.client_address
    values = {
        **row._mapping,  # noqa: SLF001 - the documented name
        "client_address": None if address is None else str(address),
        "end_cause": _cause(row.end_cause),
    }
    return Session(**values)


def _cause(text: str | None) -> EndCause | None:
    return None if text is None else EndCause(text)
