"""Profiles: what UpdateMe changes, what it refuses, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from grpc import StatusCode

from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.auth_service_pb2 import RegisterResponse
from pourtier.v1.user_pb2 import User
from support.api import Api, refusal
from support.service import Service
from support.tokens import me

ANN = {"display_name": "Ann", "email": "ann@example.com", "locale": "en"}


def update(api: Api, bearer: str, mask: list[str] | None = None, **fields: Any) -> User:
    """UpdateMe; without a mask where that is None."""
    request = user_pb.UpdateMeRequest(
        user=User(**fields),
        update_mask=None if mask is None else FieldMask(paths=mask),
    )
    return api.call(api.users.UpdateMe, request, bearer=bearer)


def clear(message: Message, *names: str) -> None:
    for name in names:
        message.ClearField(name)


def profile(user: User) -> dict[str, str]:
    return {name: getattr(user, name) for name in ANN}


@pytest.fixture
def registered(shared: Service) -> RegisterResponse:
    """An account with every field of the profile filled."""
    response = shared.registered(**ANN)[1]
    shared.clock.move(seconds=1)
    return response


@pytest.fixture
def ann(registered: RegisterResponse) -> User:
    return registered.user


@pytest.fixture
def token(registered: RegisterResponse) -> str:
    return registered.tokens.access_token


@pytest.mark.parametrize(
    ("mask", "fields", "expected"),
    [
        (["display_name"], {"display_name": "Bob"}, {"display_name": "Bob"}),
        (
            ["display_name"],
            {"display_name": "Bob", "locale": "de"},
            {"display_name": "Bob"},
        ),
        (["email"], {}, {"email": ""}),
        (["email", "locale"], {"locale": "pt-BR"}, {"email": "", "locale": "pt-BR"}),
        (["locale", "locale"], {"locale": "de"}, {"locale": "de"}),
        (["*"], {"locale": "de"}, {"display_name": "", "email": "", "locale": "de"}),
        (["*"], {}, {"display_name": "", "email": "", "locale": ""}),
        (None, {"locale": "de"}, {"locale": "de"}),
        (None, {"locale": "de", "email": ""}, {"locale": "de"}),
        ([], {"locale": "de"}, {"locale": "de"}),
        (None, {"locale": "de", "kyc_level": 3, "status": 2}, {"locale": "de"}),
        (None, {"locale": "de", "roles": ["admin"]}, {"locale": "de"}),
        (None, {"display_name": "Z", "wallet_address": "x"}, {"display_name": "Z"}),
        (
            ["*"],
            {**ANN, "roles": ["admin"], "display_name": "Z"},
            {"display_name": "Z"},
        ),
    ],
)
def test_an_update_changes_what_it_names_and_nothing_else(
    shared: Service,
    ann: User,
    token: str,
    mask: list[str] | None,
    fields: dict[str, Any],
    expected: dict[str, str],
) -> None:
    changed = update(shared.api, token, mask, **fields)
    assert profile(changed) == ANN | expected
    assert me(shared.api, token) == changed
    assert changed.etag != ann.etag
    assert changed.update_time.ToMicroseconds() == pytest.approx(
        shared.clock.now().timestamp() * 1_000_000, abs=1
    )
    for each in (changed, ann):
        clear(each, *ANN, "etag", "update_time")
    assert changed == ann


@pytest.mark.parametrize(
    ("mask", "fields"),
    [
        (None, {}),
        ([], {}),
        (None, ANN),
        (["*"], ANN),
        (["display_name"], {"display_name": "Ann", "email": "other@example.com"}),
        (["email", "email"], {"email": ANN["email"]}),
        (None, {"roles": ["admin"], "status": 2, "kyc_level": 3}),
    ],
)
def test_where_nothing_changes_nothing_is_written(
    shared: Service,
    ann: User,
    token: str,
    mask: list[str] | None,
    fields: dict[str, Any],
) -> None:
    before = shared.sql.everything()
    assert update(shared.api, token, mask, **fields) == ann
    assert update(shared.api, token, mask, etag=ann.etag, **fields) == ann
    assert shared.sql.everything() == before


def test_a_repeated_update_is_written_once(shared: Service, token: str) -> None:
    first = update(shared.api, token, display_name="Bob")
    before = shared.sql.everything()
    assert update(shared.api, token, display_name="Bob") == first
    assert shared.sql.everything() == before


@pytest.mark.parametrize(
    ("mask", "path"),
    [
        (["nonsense"], "nonsense"),
        (["roles"], "roles"),
        (["status"], "status"),
        (["user_id"], "user_id"),
        (["wallets"], "wallets"),
        (["wallet_address"], "wallet_address"),
        (["kyc_level"], "kyc_level"),
        (["create_time"], "create_time"),
        (["etag"], "etag"),
        (["user"], "user"),
        (["user.display_name"], "user.display_name"),
        (["display_name.first"], "display_name.first"),
        (["display_name", "roles"], "roles"),
        (["*", "display_name"], "*"),
        (["display_name", "*"], "*"),
        ([""], ""),
        (["displayName"], "displayName"),
        (["DISPLAY_NAME"], "DISPLAY_NAME"),
        ([" display_name"], " display_name"),
        (["`display_name`"], "`display_name`"),
        (["x" * 100], "x" * 64),
        (["ü" * 100], "ü" * 64),
    ],
)
def test_a_mask_that_names_anything_else_is_refused(
    shared: Service, token: str, mask: list[str], path: str
) -> None:
    before = shared.sql.everything()
    with refusal("INVALID_UPDATE_MASK", StatusCode.INVALID_ARGUMENT) as caught:
        update(shared.api, token, mask, display_name="Bob", roles=["admin"])
    assert caught[0].metadata == {"path": path}
    assert shared.sql.everything() == before


def test_a_current_etag_lets_an_update_pass(
    shared: Service, ann: User, token: str
) -> None:
    changed = update(shared.api, token, etag=ann.etag, locale="de")
    assert changed.locale == "de"
    again = update(shared.api, token, etag=changed.etag, locale="fr")
    assert len({ann.etag, changed.etag, again.etag}) == 3


@pytest.mark.parametrize("fields", [{"locale": "fr"}, {"locale": "de"}, {}])
def test_a_stale_etag_is_refused_with_the_present_one(
    shared: Service, ann: User, token: str, fields: dict[str, Any]
) -> None:
    changed = update(shared.api, token, locale="de")
    before = shared.sql.everything()
    for stale in (ann.etag, "nonsense", changed.etag.strip('"'), "*"):
        with refusal("ETAG_MISMATCH", StatusCode.ABORTED) as caught:
            update(shared.api, token, etag=stale, **fields)
        assert caught[0].metadata == {"etag": changed.etag}
    assert shared.sql.everything() == before


BAD = {
    "display_name": [
        " Ann",
        "Ann ",
        "\tAnn",
        "Ann\n",
        "A\nnn",
        "A\0nn",
        "A\x7fnn",
        "A\u0085nn",
        "A\u2028nn",
        "A\u2029nn",
        "\u202eAnn",
        "a" * 65,
        " ",
    ],
    "email": [
        "ann",
        "ann@",
        "@example.com",
        "ann@example.com ",
        "ann@exa mple.com",
        "ann@example.com\n",
        "a\0nn@example.com",
        "Ann <ann@example.com>",
        "ann@example.com,bob@example.com",
        "a" * 64 + "@" + "b" * 60 + ("." + "c" * 60) * 3,
    ],
    "locale": [
        "e",
        "en_GB",
        "en-",
        "-en",
        "en--GB",
        "en\n",
        "en GB",
        "e\0n",
        "englishlanguage",
        "en" + "-abcd" * 7,
        "日本語",
    ],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in BAD for value in BAD[field]]
)
def test_a_bad_value_is_refused_by_its_field(
    shared: Service, token: str, field: str, value: str
) -> None:
    before = shared.sql.everything()
    fields: dict[str, Any] = {field: value}
    with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
        update(shared.api, token, **fields)
    assert set(caught[0].violations) == {f"user.{field}"}
    assert caught[0].metadata == {"field": f"user.{field}"}
    # No error holds what a person wrote of themselves.
    assert len(value) < 4 or value not in str(caught[0])
    assert shared.sql.everything() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("display_name", "A"),
        ("display_name", "a" * 64),
        ("display_name", "é" * 64),
        ("display_name", "Zoë O'Brien-Łuk 3."),
        ("display_name", "山田 太郎"),
        ("display_name", "😀" * 64),
        ("email", "ann+lumiere@sub.example.co.uk"),
        ("locale", "en"),
        ("locale", "pt-BR"),
        ("locale", "zh-Hant-TW"),
        ("locale", "sl-rozaj-biske-1994"),
    ],
)
def test_a_good_value_is_kept_as_it_is(
    shared: Service, token: str, field: str, value: str
) -> None:
    assert getattr(update(shared.api, token, [field], **{field: value}), field) == value
    assert getattr(me(shared.api, token), field) == value


def test_an_update_needs_a_user(shared: Service, token: str) -> None:
    request = user_pb.UpdateMeRequest(update_mask=FieldMask(paths=["locale"]))
    with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
        shared.api.call(shared.api.users.UpdateMe, request, bearer=token)
    assert caught[0].violations == ["user"]


def test_an_update_needs_a_live_session(shared: Service) -> None:
    tokens = shared.registered()[1].tokens
    shared.clock.move(minutes=31)
    before = shared.sql.everything()
    with refusal("TOKEN_EXPIRED", StatusCode.UNAUTHENTICATED):
        update(shared.api, tokens.access_token, locale="de")
    assert shared.sql.everything() == before
