"""Pages of a list (AIP-158): sizes, and tokens that say where to go on.

A token holds the last row's place in the list's order and a digest of the request's
filters. It is opaque to callers and authorises nothing: whoever makes one up sees what
they could have asked for anyway.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.times import EPOCH

DIGEST_BYTES = 8
DEFAULT_SIZE = 50

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Place:
    """A row's place in a list that is ordered by time and then by id."""

    time: datetime
    row_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A part of a list: at most `size` rows after a place; None is the beginning."""

    size: int
    after: Place | None


def read_page(size: int, token: str, filters: Sequence[object], *, most: int) -> Page:
    """The page that a request asks for. Raises INVALID_PAGE_TOKEN.

    `filters` are the request's; a token of another list, or of other filters, is
    refused.
    """
    after = _read_token(token, filters) if token else None
    return Page(size=min(size or DEFAULT_SIZE, most), after=after)


def end_page(
    page: Page,
    rows: Sequence[_Row],
    place_of: Callable[[_Row], Place],
    filters: Sequence[object],
) -> tuple[Sequence[_Row], str]:
    """The rows of a page, and the token that goes on after them; empty at the end.

    `rows` has one more than the page, where the list goes on.
    """
    shown = rows[: page.size]
    goes_on = len(rows) > len(shown)
    return shown, write_token(place_of(shown[-1]), filters) if goes_on else ""


def write_token(place: Place, filters: Sequence[object]) -> str:
    """The token that goes on after a place."""
    micros = (place.time - EPOCH) // timedelta(microseconds=1)
    raw = _digest(filters) + micros.to_bytes(8, "big", signed=True) + place.row_id.bytes
    return base64.urlsafe_b64encode(raw).decode()


def _read_token(token: str, filters: Sequence[object]) -> Place:
    try:
        raw = base64.b64decode(token, b"-_", validate=True)
    except ValueError:
        raise _invalid() from None
    if len(raw) != DIGEST_BYTES + 8 + 16 or raw[:DIGEST_BYTES] != _digest(filters):
        raise _invalid()
    micros = int.from_bytes(raw[DIGEST_BYTES : DIGEST_BYTES + 8], "big", signed=True)
    try:
        time = EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        raise _invalid() from None
    return Place(time, UUID(bytes=raw[DIGEST_BYTES + 8 :]))


def _digest(filters: Sequence[object]) -> bytes:
    text = json.dumps([str(value) for value in filters])
    return hashlib.sha256(text.encode()).digest()[:DIGEST_BYTES]


def _invalid() -> PourtierError:
    return PourtierError(
        ErrorReason.ERROR_REASON_INVALID_PAGE_TOKEN,
        "the page token is not one of an answer to this request",
    )
