"""How many users, sessions and waiting events there are, for metrics.

What PostgreSQL can count with little work is counted, the rest is its planner's
estimate: no look at a metric may cost more than a call does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text

from pourtier.v1.user_pb2 import UserStatus
from pourtier_grpc.store.engine import Database, Reader

# In the planner's units, of which a page read in order is one: a few milliseconds.
CHEAP = 5_000.0

_ACTIVE_USERS = "FROM users WHERE status = :active"
_LIVE_SESSIONS = (
    "FROM sessions WHERE end_time IS NULL AND expire_time > :now"
    " AND rotate_time > :idle_since"
)
_WAITING_EVENTS = "FROM outbox WHERE publish_time IS NULL"
_OLDEST_EVENT = text("SELECT min(create_time) FROM outbox WHERE publish_time IS NULL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was counted. `oldest_waiting` is None where no event waits."""

    users_active: int
    sessions_live: int
    events_waiting: int
    oldest_waiting: datetime | None


def take(database: Database, now: datetime, session_idle: timedelta) -> Counts:
    """Counts, at that time, with sessions idle for that long counting as ended.

    Raises as every statement does.
    """
    times = {"now": now, "idle_since": now - session_idle}
    active = {"active": UserStatus.USER_STATUS_ACTIVE}
    with database.read() as read:
        return Counts(
            users_active=_count(read, _ACTIVE_USERS, active),
            sessions_live=_count(read, _LIVE_SESSIONS, times),
            events_waiting=_count(read, _WAITING_EVENTS, {}),
            oldest_waiting=read.run(_OLDEST_EVENT).scalar(),
        )


def _count(read: Reader, rows: str, values: Mapping[str, Any]) -> int:
    explain = text(f"EXPLAIN (FORMAT JSON) SELECT 1 {rows}")
    plan = read.run(explain, values).scalar_one()[0]["Plan"]
    if plan["Total Cost"] > CHEAP:
        return int(plan["Plan Rows"])
    counted: int = read.run(text(f"SELECT count(*) {rows}"), values).scalar_one()
    return counted
