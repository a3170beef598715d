"""Lines of the log: what each has, which are written, and what none ever holds."""

from __future__ import annotations

import io
import json
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from pourtier_grpc import logs
from pourtier_grpc.auth.keyring import HmacKey
from pourtier_grpc.auth.refresh_tokens import write
from pourtier_grpc.devtools.wallet import DevWallet
from support.log_watch import Watch
from support.tokens import with_hmac

WALLET = DevWallet.generate()
SIGNATURE = WALLET.sign_text(b"text")
RAW = bytes(range(64))
JWT = with_hmac({"typ": "at+jwt"}, {"sub": "someone"}, b"secret")
UUID_TEXT = "0191d1f2-aaaa-7bbb-8ccc-123456789012"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged in the test, of every level; the run's own log is put back."""
    stream = io.StringIO()
    root = logging.getLogger()
    before, handlers, level = structlog.get_config(), root.handlers[:], root.level
    logs.configure("debug", stream)
    yield stream
    structlog.configure(**before)
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)


def read(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Call:
    def log_fields(self) -> Mapping[str, str]:
        return {"request_id": "r-1", "trace_id": "t-1"}


class TestFields:
    def test_every_line_has_time_level_message_and_service(
        self, lines: io.StringIO
    ) -> None:
        structlog.get_logger("a").info("hello", number=1)
        logging.getLogger("a.library").warning("of %s", "theirs")
        ours, theirs = read(lines)
        assert ours.pop("timestamp").endswith("Z")
        assert ours == {
            "level": "info",
            "message": "hello",
            "service": "pourtier",
            "number": 1,
        }
        assert theirs.pop("timestamp").endswith("Z")
        assert theirs == {
            "level": "warning",
            "message": "of theirs",
            "service": "pourtier",
        }

    def test_lines_within_a_call_tell_of_which(self, lines: io.StringIO) -> None:
        token = logs.telling(Call())
        structlog.get_logger("a").info("within")
        logging.getLogger("a.library").warning("within too")
        structlog.get_logger("a").info("own", request_id="r-2")
        logs.told(token)
        structlog.get_logger("a").info("after")
        within, too, own, after = read(lines)
        assert (within["request_id"], within["trace_id"]) == ("r-1", "t-1")
        assert too["request_id"] == "r-1"
        assert own["request_id"] == "r-2"
        assert "request_id" not in after

    def test_what_nobody_catches_is_a_line_too(self, lines: io.StringIO) -> None:
        hook = threading.excepthook
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logs.catch_strays()
            thread = threading.Thread(target=lambda: 1 // 0, name="stray")
            thread.start()
            thread.join()
            warnings.warn("old", DeprecationWarning, stacklevel=1)
        threading.excepthook = hook
        defect, warning = read(lines)
        assert (defect["message"], defect["thread"]) == ("defect", "stray")
        assert "ZeroDivisionError" in defect["exception"]
        assert "DeprecationWarning: old" in warning["message"]


class TestChoice:
    def test_the_same_key_is_always_chosen_or_never(self) -> None:
        keys = [str(uuid4()) for _ in range(5000)]
        chosen = [key for key in keys if logs.chosen(key, 0.1)]
        assert chosen == [key for key in keys if logs.chosen(key, 0.1)]
        assert 350 < len(chosen) < 650
        # Whoever chooses more has all that others have.
        assert all(logs.chosen(key, 0.2) for key in chosen)

    def test_none_and_all(self) -> None:
        keys = [str(uuid4()) for _ in range(100)]
        assert not any(logs.chosen(key, 0.0) for key in keys)
        assert all(logs.chosen(key, 1.0) for key in keys)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("B2xbKS4eZTxkKLfGSuTpnVBXWTKZPLZ9wP6jSkR5Nnzc", "B2xb…Nnzc"),
        ("B2xbNnzc", "B2xbNnzc"),
        ("", ""),
    ],
)
def test_a_wallet_is_shortened(address: str, shown: str) -> None:
    assert logs.shortened(address) == shown


SECRETS = {
    "jwt": JWT,
    "jwt without its signature": JWT.rpartition(".")[0],
    "jwt's payload": JWT.split(".")[1],
    "refresh token": write(HmacKey(b"k" * 8, b"m" * 32), b"s" * 32, uuid4(), 3),
    "api key": "ptk_0123456789abcdef_abcdefghijklmnopqrstuv",
    "e-mail": "some.one+tag@mail.example.com",
    "signature in base58": SIGNATURE,
    "signature in base64": "/" * 85 + "w==",
    "signature in base64url": "_" * 85 + "w",
    "signature in hexadecimal": RAW.hex(),
    "password of a URL": "s3cr3t@db.example.com",
}


class TestRedaction:
    @pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
    @pytest.mark.parametrize(
        "around",
        [
            "{}",
            "a {} b",
            "({})",
            "token={}&",
            "Bearer {}",
            "\n{}\n",
            "/{}/",
            "'{}',",
            '"{}"',
        ],
    )
    def test_secrets_are_taken_out_wherever_they_stand(
        self, lines: io.StringIO, secret: str, around: str
    ) -> None:
        text = around.format(secret)
        log = structlog.get_logger("a")
        log.info(text, field=text, nested={"list": [text]}, odd=Odd(text))
        try:
            int(text)
        except ValueError:
            log.exception("defect")
        logging.getLogger("a.library").warning("%s", text)
        written = lines.getvalue()
        assert secret not in written
        assert json.dumps(secret)[1:-1] not in written
        assert len(read(lines)) == 3
        assert written.count(logs.REDACTED) >= 6

    @pytest.mark.parametrize(
        "harmless",
        [
            UUID_TEXT,
            "4bf92f3577b34da6a3ce929d0e0e4736",
            "/pourtier.v1.AuthService/CreateChallenge",
            "B2xbKS4eZTxkKLfGSuTpnVBXWTKZPLZ9wP6jSkR5Nnzc",
            "/usr/lib/python3/site-packages/a_long_folder/another_long_folder/more.py",
            "2026-11-20T10:43:38.123456Z",
            "column users.email does not exist",
            "a" * 200,
            "@",
            "127.0.0.1:50051",
        ],
    )
    def test_what_is_no_secret_stays(self, harmless: str) -> None:
        assert logs.redacted(harmless) == harmless

    @given(st.text(max_size=300))
    def test_it_ends_and_lines_stay_lines(self, text: str) -> None:
        assert isinstance(logs.redacted(text), str)

    def test_long_texts_take_no_longer_than_they_are_long(self) -> None:
        for piece in ("a", "a.", "eyJ", "prt_", "a@", "1", "+", "é"):
            assert isinstance(logs.redacted(piece * 200_000), str)


def test_the_runs_watch_finds_what_was_written_and_what_was_taken_out() -> None:
    watch = Watch()
    for secret in SECRETS.values():
        watch.search("a log", f"one {secret} line\nharmless")
    watch.search("another", f'{{"message": "{logs.REDACTED}"}}\nharmless')
    assert len(watch.found) == len(SECRETS) + 1


class Odd:
    """Something that JSON does not know."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return f"Odd({self._text})"
