"""IntrospectToken: whether a token is alive now, and nothing of a dead one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import jwt
import pytest
from grpc import StatusCode

from pourtier.v1 import auth_service_pb2 as pb
from pourtier_grpc.caller import ADMIN_ROLE
from support.api import refusal
from support.callers import (
    BY_COMMAND,
    Person,
    admin,
    administration,
    api_key,
    person,
)
from support.service import Service
from support.tokens import parts, with_hmac

INACTIVE = pb.IntrospectTokenResponse(active=False)


@pytest.fixture(scope="module")
def key(shared: Service) -> tuple[str, str]:
    return api_key(shared, "auth.introspect")


@pytest.fixture
def ann(shared: Service) -> Person:
    return person(shared)


def introspect(
    service: Service, token: str, *credentials: tuple[str, str]
) -> pb.IntrospectTokenResponse:
    request = pb.IntrospectTokenRequest(token=token)
    return service.api.call(service.api.auth.IntrospectToken, request, *credentials)


def test_a_live_token_is_told_with_whose_it_is(
    shared: Service, key: tuple[str, str], ann: Person
) -> None:
    answer = introspect(shared, ann.bearer, key)
    assert answer.active
    assert answer.user_id == ann.user_id
    assert answer.session_id == ann.tokens.session_id
    assert answer.wallet_address == ann.wallet.address
    assert list(answer.roles) == []
    claims = parts(ann.bearer)[1]
    assert answer.expire_time.ToDatetime(UTC) == datetime.fromtimestamp(
        claims["exp"], UTC
    )


def test_it_writes_nothing(shared: Service, key: tuple[str, str], ann: Person) -> None:
    introspect(shared, ann.bearer, key)
    before = shared.sql.everything()
    introspect(shared, ann.bearer, key)
    introspect(shared, "no token", key)
    assert shared.sql.everything() == before


def test_roles_are_those_of_now(
    shared: Service, key: tuple[str, str], ann: Person
) -> None:
    assert parts(ann.bearer)[1]["roles"] == []
    user_id = UUID(ann.user_id)
    admin(shared)
    administration(shared).grant_role(user_id, ADMIN_ROLE, BY_COMMAND)
    assert introspect(shared, ann.bearer, key).roles == [ADMIN_ROLE]
    administration(shared).revoke_role(user_id, ADMIN_ROLE, BY_COMMAND)
    assert introspect(shared, ann.bearer, key).roles == []


def logged_out(service: Service, ann: Person) -> str:
    request = pb.LogoutRequest(refresh_token=ann.tokens.refresh_token)
    service.api.call(service.api.auth.Logout, request)
    return ann.bearer


def suspended(service: Service, ann: Person) -> str:
    administration(service).suspend(UUID(ann.user_id), BY_COMMAND)
    return ann.bearer


def reinstated(service: Service, ann: Person) -> str:
    """Its session does not come back."""
    suspended(service, ann)
    administration(service).reinstate(UUID(ann.user_id), BY_COMMAND)
    return ann.bearer


def expired(service: Service, ann: Person) -> str:
    service.clock.move(minutes=30)
    return ann.bearer


def over(service: Service, ann: Person) -> str:
    """An old session's, of somebody who has just become an administrator."""
    service.clock.move(minutes=55)
    token = service.api.refresh(ann.tokens.refresh_token).access_token
    service.clock.move(minutes=5)
    administration(service).grant_role(UUID(ann.user_id), ADMIN_ROLE, BY_COMMAND)
    return token


def of_no_session(service: Service, ann: Person) -> str:
    header, claims = parts(ann.bearer)
    signing = service.keyring.access.signing
    return jwt.encode(
        {**claims, "sid": str(uuid4())}, signing, algorithm="EdDSA", headers=header
    )


def of_another(service: Service, ann: Person) -> str:
    header, claims = parts(ann.bearer)
    signing = service.keyring.access.signing
    other = person(service).user_id
    return jwt.encode(
        {**claims, "sub": other}, signing, algorithm="EdDSA", headers=header
    )


DEAD: dict[str, Callable[[Service, Person], str]] = {
    "rubbish": lambda *_: "rubbish",
    "NUL": lambda *_: "\0",
    "damaged": lambda _, ann: ann.bearer[:-4] + "AAAA",
    "a refresh token": lambda _, ann: ann.tokens.refresh_token,
    "forged": lambda _, ann: with_hmac(*parts(ann.bearer), b"secret"),
    "of no session": of_no_session,
    "of another's session": of_another,
    "logged out": logged_out,
    "expired": expired,
    "of a suspended user": suspended,
    "of a reinstated user": reinstated,
    "of a session whose hour is over": over,
}


@pytest.mark.parametrize("case", DEAD)
def test_of_a_token_that_is_not_alive_nothing_else_is_said(
    shared: Service, key: tuple[str, str], ann: Person, case: str
) -> None:
    token = DEAD[case](shared, ann)
    assert introspect(shared, token, key) == INACTIVE


def test_it_is_good_until_its_session_ends_where_that_is_earlier(
    shared: Service, key: tuple[str, str], ann: Person
) -> None:
    """Its user has become an administrator, whose sessions last an hour."""
    began = shared.clock.now()
    shared.clock.move(minutes=50)
    tokens = shared.api.refresh(ann.tokens.refresh_token)
    before = introspect(shared, tokens.access_token, key).expire_time
    assert before.ToDatetime(UTC) > began + timedelta(hours=1)
    user_id = UUID(ann.user_id)
    administration(shared).grant_role(user_id, ADMIN_ROLE, BY_COMMAND)
    answer = introspect(shared, tokens.access_token, key)
    assert answer.expire_time.ToDatetime(UTC) == began + timedelta(hours=1)
    shared.clock.move(minutes=10)
    assert introspect(shared, tokens.access_token, key) == INACTIVE


@pytest.mark.parametrize("size", [0, 4097])
def test_what_cannot_be_a_token_is_refused(
    shared: Service, key: tuple[str, str], size: int
) -> None:
    with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
        introspect(shared, "a" * size, key)
    assert caught[0].violations == ["token"]


def test_only_a_service_with_the_scope_may_ask(shared: Service, ann: Person) -> None:
    chief = admin(shared)
    with refusal("CREDENTIALS_MISSING", StatusCode.UNAUTHENTICATED):
        introspect(shared, ann.bearer)
    for credential in (
        api_key(shared, "users.read"),
        ("authorization", f"Bearer {ann.bearer}"),
        ("authorization", f"Bearer {chief.bearer}"),
    ):
        with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
            introspect(shared, ann.bearer, credential)


def test_a_database_that_is_away_does_not_make_a_token_inactive(
    own: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, key = person(own), api_key(own, "auth.introspect")
    assert introspect(own, ann.bearer, key).active
    own.sql.run("ALTER TABLE sessions RENAME TO away")
    with refusal("INTERNAL"):
        introspect(own, ann.bearer, key)
    own.sql.run("ALTER TABLE away RENAME TO sessions")
    own.clock.move(seconds=timedelta(minutes=1).total_seconds())
    assert introspect(own, ann.bearer, key).active
