"""Subscriptions, their charges and refunds, and what is used of plans."""

from alembic import op

revision = "0009"
down_revision = "0008"

STATEMENTS = (
    """
    CREATE TABLE subscriptions (
        subscription_id uuid PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users,
        status smallint NOT NULL,
        plan_id text NOT NULL,
        plan jsonb NOT NULL,
        next_plan jsonb,
        auto_renew boolean NOT NULL,
        cancel_at_period_end boolean NOT NULL,
        ordinal integer NOT NULL,
        value text NOT NULL,
        period_start timestamptz,
        period_end timestamptz,
        anchor_time timestamptz,
        anchor_months integer NOT NULL,
        grace_end_time timestamptz,
        failure_reason text,
        due_time timestamptz,
        looks integer NOT NULL,
        revision bigint NOT NULL,
        create_time timestamptz NOT NULL,
        update_time timestamptz NOT NULL,
        end_time timestamptz
    )
    """,
    """
    CREATE UNIQUE INDEX subscriptions_live_key ON subscriptions (user_id)
        WHERE status IN (1, 2, 3, 4)
    """,
    """
    CREATE INDEX subscriptions_user_id_create_time_subscription_id_idx
        ON subscriptions (user_id, create_time, subscription_id)
    """,
    """
    CREATE INDEX subscriptions_due_time_idx ON subscriptions (due_time)
        WHERE due_time IS NOT NULL
    """,
    """
    CREATE TABLE charges (
        charge_id uuid PRIMARY KEY,
        subscription_id uuid NOT NULL REFERENCES subscriptions,
        user_id uuid NOT NULL REFERENCES users,
        ordinal integer NOT NULL,
        attempt integer NOT NULL,
        kind smallint NOT NULL,
        plan_id text NOT NULL,
        plan jsonb NOT NULL,
        wallet_address text NOT NULL,
        reference text NOT NULL,
        amount text NOT NULL,
        credit text NOT NULL,
        refunded text NOT NULL,
        period_start timestamptz,
        automatic boolean NOT NULL,
        status smallint NOT NULL,
        failure_reason text,
        passeur_transaction_id text,
        signature text,
        create_time timestamptz NOT NULL,
        settle_time timestamptz,
        lease_id uuid,
        next_attempt_time timestamptz,
        attempts integer NOT NULL,
        UNIQUE (subscription_id, ordinal, attempt)
    )
    """,
    """
    CREATE UNIQUE INDEX charges_open_key ON charges (subscription_id)
        WHERE status = 1
    """,
    """
    CREATE INDEX charges_pending_idx ON charges (next_attempt_time)
        WHERE status = 1
    """,
    """
    CREATE INDEX charges_subscription_id_create_time_charge_id_idx
        ON charges (subscription_id, create_time, charge_id)
    """,
    """
    CREATE UNIQUE INDEX charges_passeur_transaction_id_key
        ON charges (passeur_transaction_id) WHERE passeur_transaction_id IS NOT NULL
    """,
    """
    CREATE TABLE subscription_periods (
        subscription_id uuid REFERENCES subscriptions,
        ordinal integer,
        plan_id text NOT NULL,
        value text NOT NULL,
        start_time timestamptz NOT NULL,
        end_time timestamptz NOT NULL,
        charge_id uuid REFERENCES charges,
        grant_id uuid,
        grant_reason text,
        close_time timestamptz,
        credited text,
        create_time timestamptz NOT NULL,
        PRIMARY KEY (subscription_id, ordinal),
        CONSTRAINT subscription_periods_paid_check
            CHECK ((charge_id IS NULL) <> (grant_reason IS NULL))
    )
    """,
    """
    CREATE UNIQUE INDEX subscription_periods_charge_id_key
        ON subscription_periods (charge_id) WHERE charge_id IS NOT NULL
    """,
    """
    CREATE TABLE refunds (
        refund_id uuid PRIMARY KEY,
        charge_id uuid NOT NULL REFERENCES charges,
        user_id uuid NOT NULL REFERENCES users,
        amount text NOT NULL,
        reason text NOT NULL,
        status smallint NOT NULL,
        failure_reason text,
        passeur_transaction_id text,
        create_time timestamptz NOT NULL,
        settle_time timestamptz,
        lease_id uuid,
        next_attempt_time timestamptz,
        attempts integer NOT NULL
    )
    """,
    "CREATE UNIQUE INDEX refunds_open_key ON refunds (charge_id) WHERE status = 1",
    """
    CREATE INDEX refunds_pending_idx ON refunds (next_attempt_time)
        WHERE status = 1
    """,
    """
    CREATE UNIQUE INDEX refunds_passeur_transaction_id_key
        ON refunds (passeur_transaction_id) WHERE passeur_transaction_id IS NOT NULL
    """,
    """
    CREATE TABLE charging_holds (
        hold_id uuid PRIMARY KEY,
        reason text NOT NULL,
        begin_time timestamptz NOT NULL,
        mark_time timestamptz,
        try_time timestamptz,
        reconcile_time timestamptz,
        release_time timestamptz
    )
    """,
    """
    CREATE UNIQUE INDEX charging_holds_one_key ON charging_holds ((true))
        WHERE release_time IS NULL
    """,
    """
    CREATE TABLE unmatched_charges (
        passeur_transaction_id text PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users,
        wallet_address text NOT NULL,
        amount text NOT NULL,
        create_time timestamptz NOT NULL,
        find_time timestamptz NOT NULL,
        resolve_time timestamptz,
        resolution text,
        type text NOT NULL DEFAULT 'charge'
    )
    """,
    """
    CREATE INDEX unmatched_charges_open_idx ON unmatched_charges (user_id)
        WHERE resolve_time IS NULL
    """,
    """
    ALTER TABLE escrow_accounts
        ADD COLUMN unreconciled boolean NOT NULL DEFAULT false
    """,
    """
    CREATE INDEX escrow_accounts_unreconciled_idx ON escrow_accounts (user_id)
        WHERE unreconciled
    """,
    "CREATE TABLE usage (user_id uuid PRIMARY KEY REFERENCES users)",
    """
    CREATE TABLE usage_counters (
        user_id uuid REFERENCES users,
        metric text,
        period_start timestamptz,
        used integer NOT NULL,
        PRIMARY KEY (user_id, metric, period_start)
    )
    """,
    """
    CREATE TABLE usage_reservations (
        reservation_id uuid PRIMARY KEY,
        user_id uuid NOT NULL REFERENCES users,
        service text NOT NULL,
        metric text NOT NULL,
        reference text NOT NULL,
        period_start timestamptz,
        state smallint NOT NULL,
        create_time timestamptz NOT NULL,
        expire_time timestamptz NOT NULL,
        commit_time timestamptz,
        release_time timestamptz
    )
    """,
    """
    CREATE INDEX usage_reservations_held_idx ON usage_reservations (user_id, metric)
        WHERE state = 1 OR (state = 2 AND period_start IS NULL)
    """,
    """
    CREATE INDEX usage_reservations_service_idx
        ON usage_reservations (service, create_time, reservation_id)
        WHERE state = 1 OR (state = 2 AND period_start IS NULL)
    """,
)


def upgrade() -> None:
    """Makes what subscriptions and usage need."""
    for statement in STATEMENTS:
        op.execute(statement)
