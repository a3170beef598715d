"""A person's profile: what they may change, and how."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pourtier.v1.user_pb2 import User
from pourtier_grpc.caller import Client, SignedInUser
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import outbox
from pourtier_grpc.store import users as user_rows
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.outbox import EventType, OutboxEvent
from pourtier_grpc.store.users import UserReader

CHANGEABLE = ("display_name", "email", "locale")
WILDCARD = "*"


class Profiles:
    """Reads and changes profiles."""

    def __init__(
        self,
        *,
        database: Database,
        users: UserReader,
        audit_log: AuditLog,
        clock: Clock,
    ) -> None:
        self._database = database
        self._users = users
        self._audit = audit_log
        self._clock = clock

    def get(self, caller: SignedInUser) -> User:
        """The caller's account."""
        user = self._users.find(caller.user_id)
        if user is None:
            raise _gone()
        return user

    def update(
        self,
        caller: SignedInUser,
        wanted: User,
        mask: Sequence[str] | None,
        client: Client,
    ) -> User:
        """Changes the caller's profile; answers the account as it is then.

        `mask` is None where the request had none: then the fields that are present
        count. Raises INVALID_UPDATE_MASK or ETAG_MISMATCH.
        """
        paths = _paths(wanted, mask)
        with self._database.transaction() as tx:
            user = user_rows.lock(tx, caller.user_id)
            if user is None:
                raise _gone()
            if wanted.etag and wanted.etag != user.etag:
                raise PourtierError(
                    ErrorReason.ERROR_REASON_ETAG_MISMATCH,
                    "the profile has changed; its etag is {etag} now",
                    etag=user.etag,
                )
            changes = {
                path: getattr(wanted, path)
                for path in paths
                if getattr(wanted, path) != getattr(user, path)
            }
            if not changes:
                return user
            now = self._clock.now()
            changed = user_rows.change(tx, caller.user_id, changes, now)
            self._record(tx, caller, changed, sorted(changes), client, now)
            tx.commit()
        return changed

    def _record(
        self,
        tx: Transaction,
        caller: SignedInUser,
        user: User,
        fields: list[str],
        client: Client,
        now: datetime,
    ) -> None:
        updated = OutboxEvent(
            event_type=EventType.USER_UPDATED, fields={"changed_fields": fields}
        )
        outbox.record_change(tx, user, now, updated)
        event = AuditEvent(
            action=AuditAction.USER_UPDATED,
            actor=caller.actor,
            time=now,
            user=user,
            client=client,
            session_id=caller.session_id,
            details={"changed_fields": fields},
        )
        self._audit.append(tx, event)


def _paths(wanted: User, mask: Sequence[str] | None) -> tuple[str, ...]:
    if mask is None:
        return tuple(path for path in CHANGEABLE if getattr(wanted, path))
    if list(mask) == [WILDCARD]:
        return CHANGEABLE
    for path in mask:
        if path not in CHANGEABLE:
            raise PourtierError(
                ErrorReason.ERROR_REASON_INVALID_UPDATE_MASK,
                "the update mask names {path}, which cannot be changed",
                path=path[:64],
            )
    return tuple(mask)


def _gone() -> PourtierError:
    return PourtierError(
        ErrorReason.ERROR_REASON_TOKEN_INVALID, "the token's account does not exist"
    )
