"""What a role of the database needs to serve, or to work in the background.

Neither can change or remove evidence, whatever becomes of the process that has it: the
triggers refuse that to everybody, and a role without the privilege cannot switch them
off. The owner of the tables, who migrates, is neither of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from psycopg import sql
from sqlalchemy import text

from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.tables import VERSION_TABLE

# Whoever is a member can become the owner, whether it inherits or not.
_OWNS = text("""
    SELECT rolsuper OR EXISTS (
        SELECT FROM (
            SELECT relowner FROM pg_class
            WHERE relnamespace = 'public'::regnamespace
            UNION SELECT proowner FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace
            UNION SELECT nspowner FROM pg_namespace WHERE nspname = 'public'
            UNION SELECT datdba FROM pg_database WHERE datname = current_database()
        ) AS owners (owner)
        WHERE pg_has_role(pg_roles.oid, owner, 'MEMBER')
    )
    FROM pg_roles WHERE rolname = :role
""")
# What a role may do as another of which it is a member, or as everybody.
_BEYOND = text("""
    SELECT name, privilege
    FROM unnest(CAST(:names AS text[]), CAST(:privileges AS text[]))
        AS unwanted (name, privilege)
    WHERE EXISTS (
        SELECT FROM pg_roles
        WHERE pg_has_role(CAST(:role AS name), oid, 'MEMBER')
            AND has_table_privilege(oid, quote_ident(name), privilege)
    )
    LIMIT 1
""")
CHANGING = ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER")
READ = ("SELECT",)
ADD = ("SELECT", "INSERT")
CHANGE = ("SELECT", "INSERT", "UPDATE")

# What is asked of Passeur (whose, how much, under which key) never changes.
TRANSFER_CHANGES = (
    "status",
    "passeur_transaction_id",
    "signature",
    "failure_reason",
    "settle_time",
    "lease_id",
    "next_attempt_time",
    "attempts",
)

# What a charge is for and how much it is, nothing changes either.
CHARGE_CHANGES = (
    "status",
    "failure_reason",
    "refunded",
    "passeur_transaction_id",
    "signature",
    "settle_time",
    "lease_id",
    "next_attempt_time",
    "attempts",
)
REFUND_CHANGES = (
    "status",
    "failure_reason",
    "passeur_transaction_id",
    "settle_time",
    "lease_id",
    "next_attempt_time",
    "attempts",
)

SERVING: Mapping[str, tuple[str, ...]] = {
    "users": CHANGE,
    "wallets": CHANGE,
    "sessions": CHANGE,
    "consumed_nonces": ADD,
    "refused_proofs": CHANGE,
    "api_keys": CHANGE,
    "signing_keys": CHANGE,
    "outbox": ADD,
    "event_sequences": CHANGE,
    "audit_events": ADD,
    "audit_personal": ADD,
    # A trigger queues each event, as the owner.
    "audit_unsealed": (),
    "audit_sealing": (),
    "audit_seals": (),
    "audit_checkpoints": (),
    "legal_documents": (*ADD, "UPDATE (withdraw_time)"),
    "document_acceptances": ADD,
    "acceptance_personal": ADD,
    "idempotency_keys": (*CHANGE, "DELETE"),
    "escrow_accounts": CHANGE,
    "escrow_transactions": (*ADD, "DELETE", f"UPDATE ({', '.join(TRANSFER_CHANGES)})"),
    "subscriptions": CHANGE,
    "subscription_periods": (*ADD, "UPDATE (close_time, credited)"),
    "charges": (*ADD, f"UPDATE ({', '.join(CHARGE_CHANGES)})"),
    # Money given back, and what keeps people from being charged, is for operators.
    "refunds": READ,
    "charging_holds": READ,
    "unmatched_charges": READ,
    # Only to be locked.
    "usage": (*ADD, "UPDATE (user_id)"),
    "usage_counters": CHANGE,
    "usage_reservations": CHANGE,
    VERSION_TABLE: READ,
}
WORKING: Mapping[str, tuple[str, ...]] = {
    **SERVING,
    # What an event says, no duty changes; when it was sent, whoever relays it.
    "outbox": (
        *ADD,
        "UPDATE (publish_time, attempts, retry_time, park_time, park_reason)",
    ),
    "refunds": (*ADD, f"UPDATE ({', '.join(REFUND_CHANGES)})"),
    "charging_holds": CHANGE,
    "unmatched_charges": CHANGE,
    "audit_unsealed": ("SELECT", "DELETE"),
    "audit_sealing": CHANGE,
    "audit_seals": ADD,
    "audit_checkpoints": ADD,
}


class Duty(StrEnum):
    """What a role is for."""

    SERVING = "serving"
    WORKING = "working"


PRIVILEGES = {Duty.SERVING: SERVING, Duty.WORKING: WORKING}


class GrantError(ExpectedError):
    """Privileges cannot be granted; the text says why."""


def grant(database: Database, duty: Duty, role: str) -> None:
    """Gives a role what its duty needs on these tables, and takes all else from it.

    The caller owns the tables. Raises GrantError where the role does not exist, where
    it can act as their owner, or the schema's or the database's, and where it could
    still change a table in a way that its duty does not need; nothing is granted then.
    Raises what every statement raises, too.
    """
    with database.transaction() as tx:
        _refuse_owner(tx, role)
        grantee = sql.Identifier(role)
        for table, privileges in PRIVILEGES[duty].items():
            name = sql.Identifier(table)
            _run(tx, sql.SQL("REVOKE ALL ON {} FROM {}").format(name, grantee))
            for privilege in privileges:
                words = sql.SQL(privilege)
                granting = sql.SQL("GRANT {} ON {} TO {}")
                _run(tx, granting.format(words, name, grantee))
        _refuse_beyond(tx, duty, role)
        tx.commit()


def _run(tx: Transaction, statement: sql.Composed) -> None:
    """Runs what has no parameters in SQL: identifiers, which psycopg has quoted."""
    tx.connection.exec_driver_sql(statement.as_string())


def _refuse_owner(tx: Transaction, role: str) -> None:
    """An owner has every privilege, and could give itself any that it lacks."""
    owns = tx.run(_OWNS, {"role": role}).scalar()
    if owns is None:
        raise GrantError(f"there is no role {role}: CREATE ROLE first")
    if owns:
        raise GrantError(
            f"{role} owns the tables, their schema or the database, or is a member of"
            " a role that does: a role of its own is needed"
        )


def _refuse_beyond(tx: Transaction, duty: Duty, role: str) -> None:
    """A role could undo evidence by what it has through others."""
    unwanted = [
        (table, privilege)
        for table, privileges in PRIVILEGES[duty].items()
        for privilege in CHANGING
        if privilege not in privileges
    ]
    names, privileges = zip(*unwanted, strict=True)
    values = {"role": role, "names": list(names), "privileges": list(privileges)}
    found = tx.run(_BEYOND, values).first()
    if found is not None:
        raise GrantError(
            f"{role} may {found.privilege} on {found.name} through another role, or as"
            " everybody may: take that away first"
        )
