"""Credentials, and what each policy makes of their owner."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch
from uuid import UUID

import pytest
from grpc import StatusCode

from pourtier_grpc.caller import ANONYMOUS
from support.api import refusal
from unit.interceptors.rig import ANN, READER, USERS, Rig, Thing

ANNS = str(ANN.user_id)
BEARER = ("authorization", "Bearer ann")
API_KEY = ("x-api-key", "key")


class TestCredentials:
    @pytest.mark.parametrize(
        "value", ["Bearer ann", "bearer ann", "BEARER ann", "Bearer   ann  "]
    )
    def test_the_scheme_is_read_in_any_case(self, rig: Rig, value: str) -> None:
        rig.call("User", None, ("authorization", value))
        assert rig.last.principal == ANN
        assert rig.last.signed_in == ANN

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "ann",
            "Bearer",
            "Bearer ",
            "Bearer   ",
            "Basic ann",
            "Bearerann",
        ],
    )
    def test_what_is_no_bearer_token_is_an_invalid_one(
        self, rig: Rig, value: str
    ) -> None:
        with refusal("TOKEN_INVALID", StatusCode.UNAUTHENTICATED):
            rig.call("User", None, ("authorization", value))
        assert rig.servicer.calls == []

    def test_an_api_key_is_a_services(self, rig: Rig) -> None:
        rig.call("Service", api_key="reader")
        assert rig.last.principal == READER
        assert rig.last.act("why").actor == f"service:reader/{READER.prefix}"
        with pytest.raises(TypeError, match="lets in others"):
            _ = rig.last.signed_in

    @pytest.mark.parametrize("key", ["", "key", "ann", "Bearer ann", "reader "])
    @pytest.mark.parametrize("method", ["Service", "User"])
    def test_what_is_no_api_key_is_an_invalid_one(
        self, rig: Rig, method: str, key: str
    ) -> None:
        with refusal("API_KEY_INVALID", StatusCode.UNAUTHENTICATED):
            rig.call(method, None, ("x-api-key", key))
        assert rig.servicer.calls == []

    def test_an_api_key_is_no_bearer_token(self, rig: Rig) -> None:
        with refusal("TOKEN_INVALID", StatusCode.UNAUTHENTICATED):
            rig.call("Service", bearer="reader")

    def test_the_authenticators_refusal_is_the_answer(self, rig: Rig) -> None:
        with refusal("TOKEN_INVALID", StatusCode.UNAUTHENTICATED) as caught:
            rig.call("User", bearer="nobody")
        assert str(caught[0]) == "unknown token"

    @pytest.mark.parametrize(
        "credentials",
        [(BEARER, BEARER), (BEARER, API_KEY), (API_KEY, API_KEY)],
        ids=["two bearers", "a bearer and a key", "two keys"],
    )
    @pytest.mark.parametrize("method", ["User", "PublicWithBearer"])
    def test_more_than_one_credential_is_refused(
        self, rig: Rig, method: str, credentials: tuple[tuple[str, str], ...]
    ) -> None:
        with refusal("MULTIPLE_CREDENTIALS", StatusCode.INVALID_ARGUMENT):
            rig.call(method, None, *credentials)

    def test_binary_metadata_is_no_credential(self, rig: Rig) -> None:
        binary = ("authorization-bin", b"Bearer ann")
        with refusal("CREDENTIALS_MISSING", StatusCode.UNAUTHENTICATED):
            rig.call("User", None, binary)

    @pytest.mark.parametrize(
        "credentials", [(), (BEARER, API_KEY), (("authorization", "rubbish"),)]
    )
    def test_a_public_method_ignores_them(
        self, rig: Rig, credentials: tuple[tuple[str, str], ...]
    ) -> None:
        rig.call("Public", None, *credentials)
        assert rig.last.principal is ANONYMOUS
        assert rig.last.bearer is None
        with pytest.raises(TypeError, match="lets in others"):
            _ = rig.last.signed_in

    @pytest.mark.parametrize("token", ["ann", "unknown", None])
    def test_a_public_method_that_reads_the_bearer_proves_nothing_by_it(
        self, rig: Rig, token: str | None
    ) -> None:
        rig.call("PublicWithBearer", bearer=token or "")
        assert rig.last.bearer == token
        assert rig.last.principal is ANONYMOUS


class TestPolicies:
    ALLOWED = (
        ("User", "ann", ""),
        ("User", "bob", "not asked"),
        ("Self", "ann", ANNS),
        ("Admin", "root", ""),
        ("SelfOrAdmin", "ann", ANNS),
        ("SelfOrAdmin", "root", ANNS),
        ("ServiceOrAdmin", "root", ""),
    )
    REFUSED = (
        ("Self", "bob", ANNS),
        ("Self", "ann", ""),
        ("Self", "root", ANNS),
        ("Admin", "ann", ANNS),
        ("Admin", "bob", ""),
        ("SelfOrAdmin", "bob", ANNS),
        ("Service", "ann", ""),
        ("Service", "root", ""),
        ("ServiceOrAdmin", "ann", ANNS),
    )

    @pytest.mark.parametrize(("method", "user", "owner"), ALLOWED)
    def test_whoever_satisfies_an_alternative_is_let_in(
        self, rig: Rig, method: str, user: str, owner: str
    ) -> None:
        rig.call(method, Thing(owner_id=owner), bearer=user)
        assert rig.last.principal == USERS[user]

    @pytest.mark.parametrize(("method", "user", "owner"), REFUSED)
    def test_whoever_satisfies_none_is_not(
        self, rig: Rig, method: str, user: str, owner: str
    ) -> None:
        with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
            rig.call(method, Thing(owner_id=owner), bearer=user)
        assert rig.servicer.calls == []

    def test_ones_own_id_is_ones_own_in_capitals_too(self, rig: Rig) -> None:
        shouted = "ABCDEFAB-0000-7000-8000-000000000001"
        own = replace(ANN, user_id=UUID(shouted))
        with patch.dict(USERS, {"eve": own}):
            rig.call("Self", Thing(owner_id=shouted), bearer="eve")
            assert rig.last.principal == own
            rig.call("Self", Thing(owner_id=shouted.lower()), bearer="eve")

    @pytest.mark.parametrize("method", ["Service", "ServiceOrAdmin"])
    def test_a_service_needs_the_very_scope(self, rig: Rig, method: str) -> None:
        rig.call(method, api_key="reader")
        with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
            rig.call(method, api_key="writer")
        assert len(rig.servicer.calls) == 1

    @pytest.mark.parametrize("method", ["User", "Self", "Admin", "SelfOrAdmin"])
    def test_a_service_is_no_user(self, rig: Rig, method: str) -> None:
        with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
            rig.call(method, Thing(owner_id=str(READER.key_id)), api_key="reader")
        assert rig.servicer.calls == []

    @pytest.mark.parametrize(
        "method", ["User", "Self", "Admin", "SelfOrAdmin", "Service", "ServiceOrAdmin"]
    )
    def test_without_a_credential_nothing_but_the_public_is_open(
        self, rig: Rig, method: str
    ) -> None:
        with refusal("CREDENTIALS_MISSING", StatusCode.UNAUTHENTICATED):
            rig.call(method, Thing(owner_id=ANNS))
