"""Administrators and services, for tests of what only they may do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.caller import ADMIN_ROLE, Act, Client
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.store import users
from pourtier_grpc.users.admin import Administration
from support import legal
from support.service import Service

WHY = "a stolen account"
BY_COMMAND = Act(reason="by command")


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody with an account and its first session."""

    wallet: DevWallet
    user: User
    tokens: pb.Tokens

    @property
    def user_id(self) -> str:
        return self.user.user_id

    @property
    def bearer(self) -> str:
        return self.tokens.access_token


def person(service: Service, **fields: Any) -> Person:
    """A new account."""
    wallet, made = service.registered(**fields)
    return Person(wallet=wallet, user=made.user, tokens=made.tokens)


def tokens_of(service: Service, user_id: str) -> pb.Tokens:
    """Those of another session of somebody whose wallet is not at hand."""
    parts = service.server._parts
    here = Client(request_id="r", address=None, user_agent="", origin=None)
    with parts.database.transaction() as tx:
        user = users.lock(tx, UUID(user_id))
        assert user is not None
        wallet = ("solana", user.wallet_address)
        session = parts.sessions.open(tx, user, wallet, here)
        tx.commit()
    return parts.sessions.tokens(user, session)


def administration(service: Service) -> Administration:
    return service.server._parts.administration


def admin(service: Service, **fields: Any) -> Person:
    """A new account that has the role, by command."""
    agreed = {"accepted_document_ids": legal.in_force(service)}
    made = person(service, **{**agreed, **fields})
    administration(service).grant_role(UUID(made.user_id), ADMIN_ROLE, BY_COMMAND)
    return made


def api_key(service: Service, *scopes: str, name: str = "tester") -> tuple[str, str]:
    """A new service's API key, as the metadata that carries it."""
    api_keys = service.server._parts.api_keys
    text = api_keys.create(name, scopes, expires_in=None, overlap=None)
    return "x-api-key", text


def suspend(service: Service, bearer: str, user_id: str, reason: str = WHY) -> User:
    request = user_pb.SuspendUserRequest(user_id=user_id, reason=reason)
    users = service.api.users
    return service.api.call(users.SuspendUser, request, bearer=bearer).user


def reinstate(service: Service, bearer: str, user_id: str, reason: str = WHY) -> User:
    request = user_pb.ReinstateUserRequest(user_id=user_id, reason=reason)
    users = service.api.users
    return service.api.call(users.ReinstateUser, request, bearer=bearer).user


def audited(service: Service, user_id: str, action: str) -> list[dict[str, Any]]:
    """The bodies of the audit events of a user and an action, the oldest first."""
    rows = service.sql.run(
        "SELECT body FROM audit_events WHERE user_id = %s AND action = %s "
        "ORDER BY event_time, event_id",
        user_id,
        action,
    )
    return [json.loads(row["body"]) for row in rows]


def row_of(service: Service, user_id: str) -> dict[str, Any]:
    """The row of an account."""
    return service.sql.one("SELECT * FROM users WHERE user_id = %s", user_id)
