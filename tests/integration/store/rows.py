"""Rows for the store's tests."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from pourtier.v1.user_pb2 import User
from pourtier_grpc.store import sessions, users
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.sessions import Session
from pourtier_grpc.store.users import NewUser, UserStore

NOW = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


_numbers = itertools.count()


def new_user(address: str = "", **changes: Any) -> NewUser:
    """An account about to be opened, by default of a wallet that has none."""
    values = {
        "user_id": new_id(NOW),
        "chain": "solana",
        "address": address or f"address{next(_numbers)}",
        "wallet_type": "phantom",
        "display_name": "Ann Ünïcödé 🦊",
        "email": "ann@example.com",
        "locale": "en",
    }
    return NewUser(**{**values, **changes})


def make_user(tx: Transaction, address: str = "", **changes: Any) -> User:
    user = users.insert(tx, new_user(address, **changes), NOW)
    assert user is not None
    return user


def make_session(tx: Transaction, user: User, **changes: Any) -> Session:
    values = {
        "session_id": new_id(NOW),
        "user_id": UUID(user.user_id),
        "chain": "solana",
        "address": user.wallet_address,
        "secret": bytes(range(32)),
        "key_id": "0011223344556677",
        "generation": 1,
        "parent_generation": None,
        "presented": False,
        "create_time": NOW,
        "rotate_time": NOW,
        "expire_time": LATER,
        "end_time": None,
        "end_cause": None,
        "client_address": "192.0.2.7",
        "user_agent": "test/1",
    }
    session = Session(**{**values, **changes})
    sessions.insert(tx, session)
    return session


def known(database: Database, user: User) -> bool:
    """Whether an account was kept."""
    return UserStore(database).find(UUID(user.user_id)) is not None
