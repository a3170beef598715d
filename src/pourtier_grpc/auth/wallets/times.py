"""RFC 3339 times of sign-in messages, kept as written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

# RFC 3339 section 5.6; its `T` and `Z` may be lower-case. Narrower in two places: no
# leap second, because no clock that signs here counts them (they run on POSIX time),
# and at most nanoseconds. The ranges stand here because `datetime` is laxer in some
# versions (24:00:00, an offset of +01:75).
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"[Tt](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageTime:
    """A moment, and the text that stands for it in a message.

    `moment` is in UTC and exact to the microsecond; finer digits live in `text` alone.
    """

    text: str
    moment: datetime

    @classmethod
    def of(cls, moment: datetime) -> Self:
        """An aware moment as wallets write it: UTC, whole milliseconds, `Z`.

        What is finer than a millisecond is cut off, so that `read` gives the same.
        """
        utc = moment.astimezone(UTC)
        whole = utc.replace(microsecond=utc.microsecond // 1000 * 1000)
        text = whole.replace(tzinfo=None).isoformat(timespec="milliseconds")
        return cls(text=f"{text}Z", moment=whole)

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The time that an RFC 3339 text names, or None where it names none."""
        if _DATE_TIME.fullmatch(text) is None:
            return None
        try:
            moment = datetime.fromisoformat(text.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            # 31 February, the year 0, or a moment that only its offset makes one of
            # the years 1 to 9999.
            return None
        return cls(text=text, moment=moment)
