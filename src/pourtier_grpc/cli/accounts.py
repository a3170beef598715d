"""Whom a command is about."""

from __future__ import annotations

from uuid import UUID

from pourtier.v1.user_pb2 import User
from pourtier_grpc.wiring import Parts


def account_of(made: Parts, who: str) -> User:
    """The account of a user id or a wallet address. Raises what its lookup raises."""
    try:
        user_id = UUID(who)
    except ValueError:
        return made.directory.get_by_wallet("", who)
    return made.directory.get(user_id)
