"""What is used of plans: places that services hold for users, and what was counted.

A place is taken, held and given back under the lock of its user's row in `usage`, which
is locked before the user's own row, if that is needed too: a crowd that wants places
waits for each other, and nobody waits for the crowd.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    ColumnElement,
    DateTime,
    Row,
    bindparam,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as pg_insert

from pourtier.v1.usage_pb2 import Reservation, ReservationState
from pourtier_grpc.store.engine import Database, Reader, Transaction
from pourtier_grpc.store.pages import Page
from pourtier_grpc.store.tables import users
from pourtier_grpc.store.usage_tables import HELD, usage, usage_counters
from pourtier_grpc.store.usage_tables import usage_reservations as rows

STRATEGIES = "running_strategies"
BACKTESTS = "backtests"
METRICS = (STRATEGIES, BACKTESTS)

RESERVED = ReservationState.RESERVATION_STATE_RESERVED
COMMITTED = ReservationState.RESERVATION_STATE_COMMITTED
RELEASED = ReservationState.RESERVATION_STATE_RELEASED
LAPSED = ReservationState.RESERVATION_STATE_LAPSED


@dataclass(frozen=True, slots=True)
class Count:
    """How many places of a metric are taken, and how many of those only reserved."""

    used: int
    reserved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationRecord:
    """A place that a service has taken for a user.

    `period_start` is that of the period that it counts in, or None where the metric is
    not counted by period. `state` is never LAPSED, which depends on the time.
    """

    reservation_id: UUID
    user_id: UUID
    service: str
    metric: str
    reference: str
    period_start: datetime | None
    state: ReservationState.ValueType
    create_time: datetime
    expire_time: datetime
    commit_time: datetime | None
    release_time: datetime | None

    def state_at(self, now: datetime) -> ReservationState.ValueType:
        """How far it has come at a moment."""
        over = self.state == RESERVED and self.expire_time <= now
        return LAPSED if over else self.state

    def shown(self, now: datetime) -> Reservation:
        """The place as the contract has it."""
        shown = Reservation(
            reservation_id=str(self.reservation_id),
            user_id=str(self.user_id),
            metric=self.metric,
            state=self.state_at(now),
            reference=self.reference,
        )
        for field in ("create_time", "expire_time", "commit_time", "release_time"):
            time = getattr(self, field)
            if time is not None:
                getattr(shown, field).FromDatetime(time)
        return shown


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationFilter:
    """Which places a list is to hold: a service's; None stands for "whatever"."""

    service: str
    user_id: UUID | None
    metric: str | None


def lock(tx: Transaction, user_id: UUID) -> None:
    """Locks what a user uses until the transaction ends; nothing of an unknown user."""
    known = select(users.c.user_id).where(users.c.user_id == user_id)
    tx.run(pg_insert(usage).from_select(["user_id"], known).on_conflict_do_nothing())
    # A statement of its own, which sees the row of whoever inserted it first.
    locked = select(usage.c.user_id).where(usage.c.user_id == user_id)
    tx.run(locked.with_for_update())


def find(reader: Reader, reservation_id: UUID) -> ReservationRecord | None:
    """The place of that id, or None."""
    row = reader.run(select(rows).where(rows.c.reservation_id == reservation_id))
    return next(map(_place, row), None)


def insert_one(tx: Transaction, place: ReservationRecord) -> None:
    """Writes a place that was taken."""
    tx.run(
        insert(rows).values({name: getattr(place, name) for name in rows.c.keys()})  # noqa: SIM118 - no mapping
    )


def change(
    tx: Transaction, place: ReservationRecord, values: Mapping[str, Any]
) -> ReservationRecord:
    """Changes columns of a place whose user is locked; answers it as it is then."""
    changed = (
        update(rows)
        .where(rows.c.reservation_id == place.reservation_id)
        .values(values)
        .returning(rows)
    )
    return _place(tx.run(changed).one())


def add_one(tx: Transaction, place: ReservationRecord) -> None:
    """Counts one more in the period of a place that is committed."""
    first = pg_insert(usage_counters).values(
        user_id=place.user_id,
        metric=place.metric,
        period_start=place.period_start,
        used=1,
    )
    tx.run(
        first.on_conflict_do_update(
            index_elements=["user_id", "metric", "period_start"],
            set_={"used": usage_counters.c.used + 1},
        )
    )


def counts(
    reader: Reader, asked: Sequence[tuple[str, datetime]], now: datetime
) -> dict[str, Mapping[str, Count]]:
    """What users use at a moment: by id, and by metric.

    Asked for by a user's id, once each, and the beginning of the period in which what
    is counted by period counts for them. One statement, however many users.
    """
    found: Iterable[Any] = reader.run(
        _COUNTS,
        {
            "ids": [user_id for user_id, _ in asked],
            "starts": [start for _, start in asked],
            "now": now,
        },
    )
    return {
        user_id: MappingProxyType(
            {
                STRATEGIES: Count(running + starting, starting),
                BACKTESTS: Count(counted + reserved, reserved),
            }
        )
        for user_id, running, starting, reserved, counted in found
    }


class ReservationStore:
    """Places that services hold, in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(
        self, wanted: ReservationFilter, page: Page, now: datetime
    ) -> list[ReservationRecord]:
        """Places that are held, the newest first, as a filter and a page ask for.

        There is one more than the page's size, where the list goes on.
        """
        query = select(rows).where(rows.c.service == wanted.service, *_held(now))
        if wanted.user_id is not None:
            query = query.where(rows.c.user_id == wanted.user_id)
        if wanted.metric is not None:
            query = query.where(rows.c.metric == wanted.metric)
        at = tuple_(rows.c.create_time, rows.c.reservation_id)
        if page.after is not None:
            query = query.where(at < (page.after.time, page.after.row_id))
        order = rows.c.create_time.desc(), rows.c.reservation_id.desc()
        with self._database.read() as read:
            found = read.run(query.order_by(*order).limit(page.size + 1))
            return [_place(row) for row in found]


def held_by(user_id: ColumnElement[Any], metric: str) -> Any:
    """How many places of a metric a user of an outer statement holds at `:now`."""
    now = bindparam("now", type_=DateTime(timezone=True))
    return (
        select(func.count())
        .select_from(rows)
        .where(rows.c.user_id == user_id, rows.c.metric == metric, *_held(now))
        .scalar_subquery()
    )


def _held(now: Any) -> tuple[ColumnElement[bool], ...]:
    """What is held at a moment, in the words of the indexes."""
    in_time = or_(rows.c.state == COMMITTED, rows.c.expire_time > now)
    return literal_column(f"({HELD})", Boolean), in_time


def _place(row: Row[Any]) -> ReservationRecord:
    return ReservationRecord(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it


# Ids come and go as text, and what belongs to a user is looked up for each: see
# `deployment_facts`.
_COUNTS = text(f"""SELECT asked.user_id, held.running, held.starting, held.testing,
        coalesce((
            SELECT used FROM usage_counters
            WHERE user_id = CAST(asked.user_id AS uuid) AND metric = '{BACKTESTS}'
                AND period_start = asked.period_start
        ), 0)
    FROM unnest(CAST(:ids AS text[]), CAST(:starts AS timestamptz[]))
        AS asked (user_id, period_start)
    CROSS JOIN LATERAL (
        SELECT
            -- None but of strategies: a committed backtest is no longer held.
            count(*) FILTER (WHERE state = {COMMITTED}) AS running,
            count(*) FILTER (
                WHERE state = {RESERVED} AND metric = '{STRATEGIES}'
            ) AS starting,
            count(*) FILTER (
                WHERE state = {RESERVED} AND metric = '{BACKTESTS}'
                    AND usage_reservations.period_start = asked.period_start
            ) AS testing
        FROM usage_reservations
        WHERE user_id = CAST(asked.user_id AS uuid) AND ({HELD})
            AND (state = {COMMITTED} OR expire_time > :now)
    ) AS held
""")  # noqa: S608 - of this code's own words
