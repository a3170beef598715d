"""The tables of what is used of plans."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

from pourtier_grpc.store.schema import metadata, time_column

# What holds a place, unless its time is over, as indexes say it: what is RESERVED, and
# what is COMMITTED of a metric that is not counted by period. A committed backtest is
# in its counter.
HELD = "state = 1 OR (state = 2 AND period_start IS NULL)"

# Locked by whoever takes a place of a user's.
usage = Table(
    "usage", metadata, Column("user_id", ForeignKey("users.user_id"), primary_key=True)
)

# What was committed of a metric that is counted by period.
usage_counters = Table(
    "usage_counters",
    metadata,
    Column("user_id", ForeignKey("users.user_id"), primary_key=True),
    Column("metric", Text, primary_key=True),
    Column("period_start", time_column("period_start").type, primary_key=True),
    Column("used", Integer, nullable=False),
)

usage_reservations = Table(
    "usage_reservations",
    metadata,
    Column("reservation_id", Uuid, primary_key=True),
    Column("user_id", ForeignKey("users.user_id"), nullable=False),
    # The name of the service that took it.
    Column("service", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("reference", Text, nullable=False),
    # The period that it counts in; None where the metric is not counted by period.
    time_column("period_start", nullable=True),
    # Never LAPSED, which is known by the time.
    Column("state", SmallInteger, nullable=False),
    time_column("create_time"),
    time_column("expire_time"),
    time_column("commit_time", nullable=True),
    time_column("release_time", nullable=True),
    Index(
        "usage_reservations_held_idx",
        "user_id",
        "metric",
        postgresql_where=text(HELD),
    ),
    Index(
        "usage_reservations_service_idx",
        "service",
        "create_time",
        "reservation_id",
        postgresql_where=text(HELD),
    ),
)
