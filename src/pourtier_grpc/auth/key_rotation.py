"""Keys that change hands: rotated without a pause, revoked at once.

The next key is published long before it signs, so whoever keeps a copy of the key set
knows it by then. A rotation makes it the active one, retires the one before, which goes
on verifying until its last token is dead, and publishes another next.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from pourtier_grpc.auth import key_files
from pourtier_grpc.auth.new_keys import (
    add_keys,
    adopt_or_make,
    generate_missing,
    new_record,
)
from pourtier_grpc.caller import OPERATOR
from pourtier_grpc.clock import Clock
from pourtier_grpc.store import keys
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.keys import KeyRecord, KeyState, KeyUse

# Copies of the key set are kept for five minutes: by then every one has the next key.
PUBLISHED_AHEAD = timedelta(minutes=10)
ROTATING = (KeyUse.ACCESS, KeyUse.HMAC, KeyUse.EVIDENCE)
REVOCABLE = (KeyUse.ACCESS, KeyUse.HMAC)


class KeyRotation:
    """Rotates and revokes keys. Other processes follow within a second."""

    def __init__(
        self, *, database: Database, folder: Path, audit_log: AuditLog, clock: Clock
    ) -> None:
        self._database = database
        self._folder = folder
        self._audit = audit_log
        self._clock = clock

    def rotate(self, use: KeyUse, *, at_once: bool = False) -> str | None:
        """Makes the next key of a use the active one; answers its id.

        None where that key was published less than `PUBLISHED_AHEAD` ago, so that it
        would sign what holders of a copy of the key set do not know; `at_once` does so
        all the same. Raises ConfigError where the folder cannot hold another key.
        """
        now = self._clock.now()
        generate_missing(self._database, self._folder, now, OPERATOR)
        with self._database.transaction() as tx:
            keys.lock(tx)
            records = [each for each in keys.all_keys(tx) if each.use is use]
            following = _in_state(records, KeyState.NEXT)
            if not at_once and now < following.create_time + PUBLISHED_AHEAD:
                return None
            active = _in_state(records, KeyState.ACTIVE)
            keys.move(tx, active.key_id, KeyState.RETIRED, now)
            promoted = self._promote(tx, records, now)
            details = {"use": use.value, "retired": active.key_id, "active": promoted}
            self._record(tx, AuditAction.KEY_ROTATED, details, now)
            tx.commit()
        return promoted

    def revoke(self, key_id: str, reason: str) -> bool:
        """Makes a key good for nothing; False where there is none such.

        What it has signed is refused from then on. Where it was the active key, the
        next one takes its place. The pseudonym key proves nothing, evidence keys prove
        what people hold in their hands: neither can be revoked. Raises ConfigError
        where the folder cannot hold another key, or where the key is revoked but its
        file cannot be set aside.

        A file that stays as it is would be taken for a new key by a database that does
        not know it, such as one that was brought back from an older copy.
        """
        now = self._clock.now()
        generate_missing(self._database, self._folder, now, OPERATOR)
        with self._database.transaction() as tx:
            keys.lock(tx)
            found = [each for each in keys.all_keys(tx) if each.key_id == key_id]
            if not found or found[0].use not in REVOCABLE:
                return False
            (record,) = found
            if record.state is KeyState.REVOKED:
                return False
            keys.move(tx, key_id, KeyState.REVOKED, now)
            records = [each for each in keys.all_keys(tx) if each.use is record.use]
            if record.state is KeyState.ACTIVE:
                self._promote(tx, records, now)
            elif record.state is KeyState.NEXT:
                self._add_next(tx, record.use, now)
            details = {"use": record.use.value, "revoked": key_id, "reason": reason}
            self._record(tx, AuditAction.KEY_REVOKED, details, now)
            tx.commit()
        key_files.set_aside(self._folder, record.use, key_id)
        return True

    def _promote(self, tx: Transaction, records: list[KeyRecord], now: datetime) -> str:
        following = _in_state(records, KeyState.NEXT)
        keys.move(tx, following.key_id, KeyState.ACTIVE, now)
        self._add_next(tx, following.use, now)
        return following.key_id

    def _add_next(self, tx: Transaction, use: KeyUse, now: datetime) -> None:
        known = {record.key_id for record in keys.all_keys(tx)}
        (key_id,) = adopt_or_make(self._folder, use, known)
        record = new_record(self._folder, key_id, use, KeyState.NEXT, now)
        add_keys(tx, [record], OPERATOR)

    def _record(
        self,
        tx: Transaction,
        action: AuditAction,
        details: dict[str, str],
        now: datetime,
    ) -> None:
        event = AuditEvent(action=action, actor=OPERATOR, time=now, details=details)
        self._audit.append(tx, event)


def _in_state(records: list[KeyRecord], state: KeyState) -> KeyRecord:
    return next(record for record in records if record.state is state)
