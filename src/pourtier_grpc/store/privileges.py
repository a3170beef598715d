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

_OWNS = text(
    "SELECT rolsuper OR pg_has_role(oid, (SELECT relowner FROM pg_class"
    " WHERE oid = 'audit_events'::regclass), 'USAGE')"
    " FROM pg_roles WHERE rolname = :role"
)
READ = ("SELECT",)
ADD = ("SELECT", "INSERT")
CHANGE = ("SELECT", "INSERT", "UPDATE")

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
    VERSION_TABLE: READ,
}
WORKING: Mapping[str, tuple[str, ...]] = {
    **SERVING,
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

    The caller owns the tables. Raises GrantError where the role does not exist, or is
    the owner, and what every statement raises.
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
        raise GrantError(f"{role} owns the tables: a role of its own is needed")
