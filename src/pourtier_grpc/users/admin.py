"""What administrators, services and operators do to accounts. Every act is audited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from pourtier.v1.user_pb2 import KycLevel, User, UserStatus
from pourtier_grpc.auth.sessions import Sessions
from pourtier_grpc.caller import ADMIN_ROLE, Act, SignedInUser
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import outbox
from pourtier_grpc.store import users as user_rows
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.outbox import EventType, OutboxEvent
from pourtier_grpc.store.sessions import EndCause, SessionFilter
from pourtier_grpc.users.admission import Admission, denied
from pourtier_grpc.users.directory import found

ROLES = (ADMIN_ROLE,)


class Administration:
    """Suspends and reinstates, sets KYC levels, grants and revokes roles.

    Each raises USER_NOT_FOUND and what `Admission.admit` raises, and answers the
    account as it is then. Every transaction locks the active administrators first.
    """

    def __init__(
        self,
        *,
        database: Database,
        sessions: Sessions,
        admission: Admission,
        audit_log: AuditLog,
        clock: Clock,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._admission = admission
        self._audit = audit_log
        self._clock = clock

    def suspend(self, user_id: UUID, act: Act) -> User:
        """Suspends an account and ends all its sessions. Raises LAST_ADMIN."""
        with self._database.transaction() as tx:
            admins = self._admission.admit(tx, act)
            user = found(user_rows.lock(tx, user_id), user_id)
            if user.status == UserStatus.USER_STATUS_SUSPENDED:
                return user
            _refuse_last_admin(admins, user)
            changes = {"status": UserStatus.USER_STATUS_SUSPENDED}
            event = EventType.USER_SUSPENDED
            user = self._change(
                tx, user, changes, event, AuditAction.USER_SUSPENDED, act
            )
            every, cause = SessionFilter(), EndCause.SUSPENDED
            self._sessions.end_those(tx, user, every, cause, act.client, act.actor)
            tx.commit()
        return user

    def reinstate(self, user_id: UUID, act: Act) -> User:
        """Ends a suspension, which nobody does for themselves: PERMISSION_DENIED."""
        if isinstance(act.by, SignedInUser) and act.by.user_id == user_id:
            raise denied("nobody reinstates themselves")
        changes = {"status": UserStatus.USER_STATUS_ACTIVE}
        return self._set(user_id, changes, AuditAction.USER_REINSTATED, act)

    def set_kyc_level(self, user_id: UUID, level: KycLevel.ValueType, act: Act) -> User:
        """Notes how far a person's identity has been checked."""
        changes = {"kyc_level": level}
        return self._set(user_id, changes, AuditAction.USER_KYC_LEVEL_SET, act)

    def grant_role(self, user_id: UUID, role: str, act: Act) -> User:
        """Gives a role. What is too old for an administrator's session ends with it.

        Left to the sweep, it would live again where the role is taken before that.
        """
        with self._database.transaction() as tx:
            self._admission.admit(tx, act)
            user = found(user_rows.lock(tx, user_id), user_id)
            roles = sorted({*user.roles, role})
            user = self._set_roles(tx, user, roles, AuditAction.USER_ROLE_GRANTED, act)
            self._sessions.end_over(tx, user)
            tx.commit()
        return user

    def revoke_role(self, user_id: UUID, role: str, act: Act) -> User:
        """Takes a role. Raises LAST_ADMIN."""
        with self._database.transaction() as tx:
            admins = self._admission.admit(tx, act)
            user = found(user_rows.lock(tx, user_id), user_id)
            if role == ADMIN_ROLE and role in user.roles:
                _refuse_last_admin(admins, user)
            roles = sorted(set(user.roles) - {role})
            user = self._set_roles(tx, user, roles, AuditAction.USER_ROLE_REVOKED, act)
            tx.commit()
        return user

    def _set(
        self, user_id: UUID, changes: Mapping[str, int], action: AuditAction, act: Act
    ) -> User:
        with self._database.transaction() as tx:
            self._admission.admit(tx, act)
            user = found(user_rows.lock(tx, user_id), user_id)
            if any(getattr(user, name) != value for name, value in changes.items()):
                event = EventType.USER_UPDATED
                user = self._change(tx, user, changes, event, action, act)
                tx.commit()
        return user

    def _set_roles(
        self,
        tx: Transaction,
        user: User,
        roles: list[str],
        action: AuditAction,
        act: Act,
    ) -> User:
        if roles == list(user.roles):
            return user
        changes = {"roles": roles}
        return self._change(tx, user, changes, EventType.USER_UPDATED, action, act)

    def _change(
        self,
        tx: Transaction,
        user: User,
        changes: Mapping[str, Any],
        event_type: EventType,
        action: AuditAction,
        act: Act,
    ) -> User:
        now = self._clock.now()
        changed = user_rows.change(tx, UUID(user.user_id), changes, now)
        fields = {"changed_fields": sorted(changes)}
        event = OutboxEvent(event_type=event_type, fields=fields)
        outbox.record_change(tx, changed, now, event)
        details = {"reason": act.reason, "changes": dict(changes)}
        self._audit.append(
            tx,
            AuditEvent(
                action=action,
                actor=act.actor,
                time=now,
                user=changed,
                client=act.client,
                details=details,
            ),
        )
        return changed


def _refuse_last_admin(admins: list[User], user: User) -> None:
    """Raises LAST_ADMIN where the user is the only one of the active administrators."""
    if [admin.user_id for admin in admins] == [user.user_id]:
        raise PourtierError(
            ErrorReason.ERROR_REASON_LAST_ADMIN,
            "the user is the last active administrator",
        )
