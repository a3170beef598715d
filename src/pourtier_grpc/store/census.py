"""How many users, sessions and waiting events there are, for metrics.

What PostgreSQL can count with little work is counted, the rest is its planner's
estimate: no look at a metric may cost more than a call does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ClauseElement, Select, func, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import Executable

from pourtier.v1.user_pb2 import UserStatus
from pourtier_grpc.store import relaying
from pourtier_grpc.store.engine import Database, Reader
from pourtier_grpc.store.sessions import Cutoffs, live_conditions
from pourtier_grpc.store.tables import outbox, sessions, users

# In the planner's units, of which a page read in order is one: a few milliseconds.
CHEAP = 5_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was counted.

    `oldest_waiting` is of the events that a relay could send, and None where it could
    send none: what one that has failed holds back says nothing of the relay.
    """

    users_active: int
    sessions_live: int
    events_waiting: int
    oldest_waiting: datetime | None
    events_parked: int


def take(database: Database, now: datetime, cutoffs: Cutoffs) -> Counts:
    """Counts, at that time. Raises as every statement does."""
    active = users.c.status == UserStatus.USER_STATUS_ACTIVE
    waiting = outbox.c.publish_time.is_(None)
    alive = live_conditions(cutoffs)
    with database.read() as read:
        return Counts(
            users_active=_count(read, select(users.c.user_id).where(active)),
            sessions_live=_count(read, select(sessions.c.session_id).where(*alive)),
            events_waiting=_count(read, select(outbox.c.event_id).where(waiting)),
            oldest_waiting=relaying.oldest_sendable(read, now),
            events_parked=read.run(
                # Of the few that have failed, by their index.
                select(func.count()).where(
                    outbox.c.attempts > 0, outbox.c.park_time.is_not(None)
                )
            ).scalar_one(),
        )


class _Explain(Executable, ClauseElement):
    """Asks for the plan of a query."""

    inherit_cache = False

    def __init__(self, query: Select[Any]) -> None:
        self.query = query


@compiles(_Explain)
def _explain(element: _Explain, compiler: SQLCompiler, **options: Any) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(element.query, **options)}"


def _count(read: Reader, rows: Select[Any]) -> int:
    plan = read.run(_Explain(rows)).scalar_one()[0]["Plan"]
    if plan["Total Cost"] > CHEAP:
        return int(plan["Plan Rows"])
    query = select(func.count()).select_from(rows.subquery())
    counted: int = read.run(query).scalar_one()
    return counted
