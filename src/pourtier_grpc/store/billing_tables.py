"""The tables of subscriptions: periods, charges, refunds, and holds.

What a plan was when it was taken is kept with what was paid for it, so that a changed
catalogue changes nothing that was paid. Amounts are canonical decimal strings of USDC.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from pourtier_grpc.store.schema import metadata, time_column

# `SUBSCRIPTION_STATUS_PENDING` to `_PAST_DUE`, and `CHARGE_STATUS_PENDING`, as indexes
# say them. A refund's status is written with the numbers of a charge's.
LIVE = (1, 2, 3, 4)
OPEN = 1

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("subscription_id", Uuid, primary_key=True),
    Column("user_id", ForeignKey("users.user_id"), nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("plan_id", Text, nullable=False),
    # The plan as it was taken, with price, limits and features.
    Column("plan", JSONB, nullable=False),
    # What the next renewal takes; None where that is the present plan.
    Column("next_plan", JSONB(none_as_null=True), nullable=True),
    Column("auto_renew", Boolean, nullable=False),
    Column("cancel_at_period_end", Boolean, nullable=False),
    # Of the period that was paid or granted last, from 1; 0 before the first.
    Column("ordinal", Integer, nullable=False),
    # What is paid of that period, credit included: what an upgrade credits a part of.
    Column("value", Text, nullable=False),
    time_column("period_start", nullable=True),
    time_column("period_end", nullable=True),
    # Periods end whole months after this one, so that the 31st is never lost.
    time_column("anchor_time", nullable=True),
    Column("anchor_months", Integer, nullable=False),
    time_column("grace_end_time", nullable=True),
    Column("failure_reason", Text, nullable=True),
    # When the worker is to look at it next; None where it has nothing to do.
    time_column("due_time", nullable=True),
    # How often it has looked since it ended or fell due.
    Column("looks", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    time_column("create_time"),
    time_column("update_time"),
    time_column("end_time", nullable=True),
    Index(
        "subscriptions_live_key",
        "user_id",
        unique=True,
        postgresql_where=text(f"status IN {LIVE}"),
    ),
    Index(None, "user_id", "create_time", "subscription_id"),
    Index(
        "subscriptions_due_time_idx",
        "due_time",
        postgresql_where=text("due_time IS NOT NULL"),
    ),
)

# What is asked of Passeur never changes: wallet, amount, reference, id.
charges = Table(
    "charges",
    metadata,
    Column("charge_id", Uuid, primary_key=True),
    Column(
        "subscription_id", ForeignKey("subscriptions.subscription_id"), nullable=False
    ),
    Column("user_id", ForeignKey("users.user_id"), nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("plan_id", Text, nullable=False),
    Column("plan", JSONB, nullable=False),
    Column("wallet_address", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("amount", Text, nullable=False),
    Column("credit", Text, nullable=False),
    Column("refunded", Text, nullable=False),
    # When the period begins that it pays for; None: when it is confirmed.
    time_column("period_start", nullable=True),
    # Begun by a worker, and not asked for by a call.
    Column("automatic", Boolean, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("failure_reason", Text, nullable=True),
    Column("passeur_transaction_id", Text, nullable=True),
    Column("signature", Text, nullable=True),
    time_column("create_time"),
    time_column("settle_time", nullable=True),
    # Who asks Passeur about it now; None where nobody does.
    Column("lease_id", Uuid, nullable=True),
    time_column("next_attempt_time", nullable=True),
    Column("attempts", Integer, nullable=False),
    UniqueConstraint("subscription_id", "ordinal", "attempt"),
    Index(
        "charges_open_key",
        "subscription_id",
        unique=True,
        postgresql_where=text(f"status = {OPEN}"),
    ),
    Index(
        "charges_pending_idx",
        "next_attempt_time",
        postgresql_where=text(f"status = {OPEN}"),
    ),
    Index(None, "subscription_id", "create_time", "charge_id"),
    Index(
        "charges_passeur_transaction_id_key",
        "passeur_transaction_id",
        unique=True,
        postgresql_where=text("passeur_transaction_id IS NOT NULL"),
    ),
)

# Every period that somebody had, and what for: a charge, or a reason to grant it.
subscription_periods = Table(
    "subscription_periods",
    metadata,
    Column(
        "subscription_id",
        ForeignKey("subscriptions.subscription_id"),
        primary_key=True,
    ),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),
    Column("plan_id", Text, nullable=False),
    Column("value", Text, nullable=False),
    time_column("start_time"),
    time_column("end_time"),
    Column("charge_id", ForeignKey("charges.charge_id"), nullable=True),
    # What was made for a grant before it was written, to know it by.
    Column("grant_id", Uuid, nullable=True),
    Column("grant_reason", Text, nullable=True),
    # Where it ended early: when, and what of its value the next one was credited with.
    time_column("close_time", nullable=True),
    Column("credited", Text, nullable=True),
    time_column("create_time"),
    CheckConstraint(
        "(charge_id IS NULL) <> (grant_reason IS NULL)",
        name="subscription_periods_paid_check",
    ),
    Index(
        "subscription_periods_charge_id_key",
        "charge_id",
        unique=True,
        postgresql_where=text("charge_id IS NOT NULL"),
    ),
)

refunds = Table(
    "refunds",
    metadata,
    # Its idempotency key at Passeur.
    Column("refund_id", Uuid, primary_key=True),
    Column("charge_id", ForeignKey("charges.charge_id"), nullable=False),
    Column("user_id", ForeignKey("users.user_id"), nullable=False),
    Column("amount", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("failure_reason", Text, nullable=True),
    Column("passeur_transaction_id", Text, nullable=True),
    time_column("create_time"),
    time_column("settle_time", nullable=True),
    Column("lease_id", Uuid, nullable=True),
    time_column("next_attempt_time", nullable=True),
    Column("attempts", Integer, nullable=False),
    Index(
        "refunds_open_key",
        "charge_id",
        unique=True,
        postgresql_where=text(f"status = {OPEN}"),
    ),
    Index(
        "refunds_pending_idx",
        "next_attempt_time",
        postgresql_where=text(f"status = {OPEN}"),
    ),
    Index(
        "refunds_passeur_transaction_id_key",
        "passeur_transaction_id",
        unique=True,
        postgresql_where=text("passeur_transaction_id IS NOT NULL"),
    ),
)

# Times during which nothing is charged; at most one that is not over.
charging_holds = Table(
    "charging_holds",
    metadata,
    Column("hold_id", Uuid, primary_key=True),
    Column("reason", Text, nullable=False),
    time_column("begin_time"),
    # When every escrow had been marked as to be compared; None until then.
    time_column("mark_time", nullable=True),
    # When it had been tried to compare every one of them; None until then.
    time_column("try_time", nullable=True),
    # When every escrow had been compared with what Passeur knows; None until then.
    time_column("reconcile_time", nullable=True),
    time_column("release_time", nullable=True),
    Index(
        "charging_holds_one_key",
        text("(true)"),
        unique=True,
        postgresql_where=text("release_time IS NULL"),
    ),
)

# What Passeur has charged or given back, and nobody here knows what for. Until somebody
# has resolved it, its user is not charged.
unmatched_charges = Table(
    "unmatched_charges",
    metadata,
    Column("passeur_transaction_id", Text, primary_key=True),
    Column("user_id", ForeignKey("users.user_id"), nullable=False),
    Column("wallet_address", Text, nullable=False),
    Column("amount", Text, nullable=False),
    # Passeur's time of it, and when it was found.
    time_column("create_time"),
    time_column("find_time"),
    time_column("resolve_time", nullable=True),
    Column("resolution", Text, nullable=True),
    # `charge` or `refund`, which are Passeur's words.
    Column("type", Text, nullable=False, server_default="charge"),
    Index(
        "unmatched_charges_open_idx",
        "user_id",
        postgresql_where=text("resolve_time IS NULL"),
    ),
)
