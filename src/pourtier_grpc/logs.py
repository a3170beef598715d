"""Logs: one JSON object a line, on stderr, without anything secret in it."""

from __future__ import annotations

import logging
import re
import sys
import threading
import zlib
from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Protocol, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

SERVICE = "pourtier"
REDACTED = "[redacted]"
# The last line of defence: nothing of this kind is ever meant to be logged, so a test
# run fails where one of these was found.
# Where a secret may begin: not within a word, but after an escape of a quoted text.
_START = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"
_SECRETS = re.compile(
    _START
    + r"""
    (?:
        # JSON Web Tokens, whole or in part; refresh tokens; API keys
        eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*
        | (?:prt|ptk)_[A-Za-z0-9_.-]{6,}
        # e-mail addresses, and the password of a URL with its host
        | [\w.%+-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+
        # signatures of 64 bytes: hexadecimal, base58, base64 of both alphabets
        | [0-9A-Fa-f]{128}(?![A-Za-z0-9])
        | [1-9A-HJ-NP-Za-km-z]{80,90}(?![A-Za-z0-9])
        | [A-Za-z0-9+/]{86}==
        | [A-Za-z0-9_-]{86}(?![A-Za-z0-9_-])
    )
    """,
    re.VERBOSE | re.ASCII,
)
_SPAN = 1 << 32


class Told(Protocol):
    """What lines that are written within it tell of: a call."""

    def log_fields(self) -> Mapping[str, str]:
        """The request's id, and what else is known of it."""
        ...


_telling: ContextVar[Told | None] = ContextVar("telling", default=None)


def telling(of: Told) -> Token[Told | None]:
    """Lines of this thread tell of that from now on, until `told` gets the answer."""
    return _telling.set(of)


def told(token: Token[Told | None]) -> None:
    """Ends what `telling` began."""
    _telling.reset(token)


def current() -> Mapping[str, str]:
    """What lines of this thread tell of; empty outside a call."""
    call = _telling.get()
    return {} if call is None else call.log_fields()


def chosen(key: str, ratio: float) -> bool:
    """Whether a key is among that part of all keys; the same key always is, or not."""
    return ratio >= 1 or zlib.crc32(key.encode()) < ratio * _SPAN


def shortened(wallet_address: str) -> str:
    """A wallet's address as logs show it: enough to know it again."""
    short = len(wallet_address) <= 8
    return wallet_address if short else f"{wallet_address[:4]}…{wallet_address[-4:]}"


def redacted(text: str) -> str:
    """The text, with `REDACTED` in the place of whatever looks like a secret."""
    return _SECRETS.sub(REDACTED, text)


def configure(level: str, stream: TextIO | None = None) -> None:
    """Writes structured lines of that level and above as JSON, to stderr by default.

    Libraries that log through the standard library come out the same way, and so do
    warnings and exceptions that nobody has caught.
    """
    out = sys.stderr if stream is None else stream
    numeric = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.processors.EventRenamer("message"),
        _add_origin,
    ]
    rendering: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info,
        # Before the rendering, whose escapes would hide where a word begins.
        _redact,
        structlog.processors.JSONRenderer(),
    ]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        logger_factory=structlog.PrintLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *rendering,
            ],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(numeric, logging.WARNING))


def catch_strays() -> None:
    """Logs warnings, and the exceptions that end a thread, instead of printing them."""
    logging.captureWarnings(capture=True)
    log = structlog.get_logger("pourtier")

    def of_thread(ended: threading.ExceptHookArgs) -> None:
        log.error("defect", exc_info=ended.exc_value, thread=_name(ended.thread))

    threading.excepthook = of_thread


def _name(thread: threading.Thread | None) -> str:
    return "" if thread is None else thread.name


def _add_origin(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    line["service"] = SERVICE
    call = _telling.get()
    if call is not None and "request_id" not in line:
        line.update(call.log_fields())
    return line


def _redact(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    return {name: _cleaned(value) for name, value in line.items()}


def _cleaned(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {redacted(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_cleaned(item) for item in value]
    return redacted(value if isinstance(value, str) else repr(value))
