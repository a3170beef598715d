"""What the driver raises, as the errors of this service: the one place for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

import psycopg
from sqlalchemy import exc

from pourtier_grpc import deadline
from pourtier_grpc.errors import ErrorReason, PourtierError

RETRY_AFTER = timedelta(seconds=1)
# What PostgreSQL says of its own state, and not of our statement (appendix A of its
# manual): connection lost, out of resources, operator intervention, read-only standby.
UNAVAILABLE_CLASSES = ("08", "53", "57P", "58", "25006")
# Serialization failure, deadlock, lock not available, unique violation.
CONFLICTS = ("40001", "40P01", "55P03", "23505")
QUERY_CANCELLED = "57014"
# A NUL in a text or in JSON: character not in repertoire, untranslatable character.
NULS = ("22021", "22P05")


class Hurried(Protocol):
    """What runs statements, and may have given one less time than it has by itself."""

    @property
    def shortened(self) -> bool:
        """Whether it has."""
        ...


@contextmanager
def translated_errors(reader: Hurried | None = None) -> Iterator[None]:
    """Turns what the driver raises in the block into the errors of this service."""
    try:
        yield
    except exc.TimeoutError as error:
        raise unavailable() from error
    except exc.DBAPIError as error:
        translated = _translate(error, hurried=reader is not None and reader.shortened)
        if translated is None:
            raise
        raise translated from error


def unavailable() -> PourtierError:
    """The error of a call that the database did not serve."""
    return PourtierError(
        ErrorReason.ERROR_REASON_DATABASE_UNAVAILABLE,
        "the database cannot be reached now",
        retry_after=RETRY_AFTER,
    )


def conflict() -> PourtierError:
    """The error of a call that lost a race; the next try may win."""
    return PourtierError(
        ErrorReason.ERROR_REASON_CONFLICT,
        "another call changed the same thing at the same moment",
        retry_after=timedelta(milliseconds=50),
    )


def _not_text() -> PourtierError:
    """The error of a text that PostgreSQL cannot keep. Which one, it does not say."""
    return PourtierError(
        ErrorReason.ERROR_REASON_INVALID_FIELD,
        "a text has a NUL, which cannot be kept",
        field="",
    )


def _translate(error: exc.DBAPIError, *, hurried: bool) -> PourtierError | None:
    cause = error.orig
    state = cause.sqlstate if isinstance(cause, psycopg.Error) else None
    # The driver refuses most of them itself, without a state.
    if state in NULS or (isinstance(cause, psycopg.DataError) and "NUL" in str(cause)):
        return _not_text()
    if state == QUERY_CANCELLED:
        # By the call's deadline, or because it was slower than any statement may be.
        return deadline.exceeded() if hurried else unavailable()
    if state in CONFLICTS:
        return conflict()
    if state is None and isinstance(error, exc.OperationalError | exc.InterfaceError):
        return unavailable()
    if state is not None and state.startswith(UNAVAILABLE_CLASSES):
        return unavailable()
    return unavailable() if error.connection_invalidated else None
