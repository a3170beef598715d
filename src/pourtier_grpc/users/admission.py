"""Whether whoever acts on what is not their own still may, in the transaction itself.

Whoever acts may have lost the right to since they were let in: a suspension, or the
loss of a role, that was acknowledged before must not be undone by a call that waited.
"""

from __future__ import annotations

from pourtier.v1.user_pb2 import User
from pourtier_grpc.auth.api_keys import ApiKeys
from pourtier_grpc.auth.lifetimes import require_active
from pourtier_grpc.caller import Act, Service, SignedInUser
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import users as user_rows
from pourtier_grpc.store.engine import Transaction


class Admission:
    """Admits acts of administrators, services and operators."""

    def __init__(self, *, api_keys: ApiKeys) -> None:
        self._api_keys = api_keys

    def admit(self, tx: Transaction, act: Act) -> list[User]:
        """The active administrators, locked until the transaction ends.

        Raises USER_SUSPENDED or PERMISSION_DENIED where who acts is none of them, and
        API_KEY_INVALID or API_KEY_EXPIRED where their API key has ended.
        """
        admins = user_rows.lock_admins(tx)
        match act.by:
            case SignedInUser(user_id=actor_id):
                if str(actor_id) not in {admin.user_id for admin in admins}:
                    actor = user_rows.lock(tx, actor_id)
                    if actor is not None:
                        require_active(actor.status)
                    raise denied("the caller is no administrator any more")
            case Service() as service:
                self._api_keys.require_live(tx, service)
            case None:
                pass
        return admins


def denied(message: str) -> PourtierError:
    """The error of whoever may not do what they ask for."""
    return PourtierError(ErrorReason.ERROR_REASON_PERMISSION_DENIED, message)
