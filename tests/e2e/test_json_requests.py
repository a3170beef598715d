"""Requests that are none: bodies without a meaning, too large, and paths to nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pourtier.v1.error_reason_pb2 import ErrorReason
from support.json_api import JsonApi, refused
from support.servers import Databases
from support.stack import Stack, stack

ME = "/api/users/me"
LOGIN = "/api/auth/login"
PROOF = {"wallet_address": "a", "signature": "b", "message": "c"}


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str) -> Iterator[Stack]:
    with stack(databases, redis_url) as made:
        yield made


@pytest.fixture
def web(running: Stack) -> JsonApi:
    return running.public


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'"text"',
        b"{}{}",
        b'{"wallet_address": "\xff\xfe"}',
        b'{"wallet_address": "\xc3"}',
        b'{"wallet_address": "\\ud800"}',
        b'{"wallet_address": 3}',
        b'{"wallet_address": ["a"]}',
        b'{"wallet_address": {}}',
        b'{"message": "a", "signed_message": "YQ=="}',
        b'{"signed_message": "%"}',
        b'{"signature_encoding": "SIGNATURE_ENCODING_NONSENSE"}',
        b'{"signature_encoding": 1.5}',
        b'{"signature_encoding": 99999999999}',
        b"wallet_address=a",
    ],
)
def test_a_body_that_is_no_request_is_refused(web: JsonApi, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = web.call("POST", LOGIN, content=content, headers=headers)
    assert answer.status_code == 400
    told = refused(answer, "MALFORMED_REQUEST")
    assert told.metadata == {"method": "/pourtier.v1.AuthService/Login"}


def test_unknown_fields_of_a_body_are_ignored(web: JsonApi) -> None:
    body = {**PROOF, "unheard_of": {"of": [1, 2]}}
    refused(web.call("POST", LOGIN, body), "MALFORMED_ADDRESS")


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_refused(web: JsonApi, announced: bool) -> None:
    text = json.dumps({"message": "a" * 70_000}).encode()
    content: Any = text if announced else iter([text])
    answer = web.call("POST", LOGIN, content=content)
    told = refused(answer, "REQUEST_TOO_LARGE", 413)
    assert told.metadata == {"limit_bytes": "65536"}


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/"),
        ("GET", "/api/nowhere"),
        ("GET", "/api/users/me/more"),
        ("GET", "/API/users/me"),
        ("POST", ME),
        ("PUT", ME),
        ("DELETE", ME),
        ("GET", LOGIN),
        ("DELETE", "/api/auth/refresh"),
        ("POST", "/pourtier.v1.UserService/GetMe"),
        ("POST", "/api/users"),
        ("GET", "/api/users:batchGet"),
        ("GET", "/api/users:nonsense"),
        ("POST", "/api/users/me:nonsense"),
        ("PATCH", "/api/users/01a1f84d-66f8-7cca-b42b-97caba9a0385"),
        ("DELETE", "/api/auth/sessions"),
        ("GET", "/api/audit/events/1"),
    ],
)
def test_what_is_not_there_is_not_found(web: JsonApi, verb: str, path: str) -> None:
    answer = web.call(verb, path, bearer=web.bearer())
    assert answer.status_code == 404
    assert refused(answer, "METHOD_NOT_FOUND").metadata == {"method": path}


def test_every_reason_of_the_registry_is_met_in_these_files() -> None:
    known = ErrorReason.DESCRIPTOR.values_by_name
    names = {name.removeprefix("ERROR_REASON_") for name in known}
    names -= {"UNSPECIFIED"}
    text = "".join(
        file.read_text() for file in Path(__file__).parent.glob("test_json_*.py")
    )
    assert {name for name in names if f'"{name}"' not in text} == set()
