"""Transactions whose commit may have been kept without an answer, and how to be sure.

A caller is told of what is certain: what is lost on the way to the database is tried
again until it is known, for as long as the call has time and a little patience.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pourtier_grpc import deadline
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import claims
from pourtier_grpc.store.engine import Database, Transaction

# How long a commit is asked after that was not answered, and how often.
DOUBT_SECONDS = 5.0
LOOK_SECONDS = 0.1


class Doubt:
    """Whether a thing is kept, for as long as nobody knows."""

    def __init__(self, name: str, value: str) -> None:
        """`name` and `value` are the thing's id, as OUTCOME_UNKNOWN tells it."""
        self._name = name
        # Of `Any`: its name, which only the caller knows, is a keyword of the error.
        self._metadata: dict[str, Any] = {name: value}
        self._give_up = time.monotonic() + DOUBT_SECONDS
        self.begun = False

    def wait(self, error: PourtierError) -> None:
        """Lets a moment pass before it is tried again.

        Raises OUTCOME_UNKNOWN where that takes too long, and DEADLINE_EXCEEDED.
        """
        self.begun = True
        deadline.remaining()
        if time.monotonic() > self._give_up:
            raise self.unknown() from error
        time.sleep(LOOK_SECONDS)

    def unknown(self) -> PourtierError:
        """The error of a call that cannot be told: OUTCOME_UNKNOWN."""
        return PourtierError(
            ErrorReason.ERROR_REASON_OUTCOME_UNKNOWN,
            f"the database was lost before it said what became of {{{self._name}}}",
            **self._metadata,
        )


def write_surely(
    database: Database,
    doubt: Doubt,
    write: Callable[[Transaction], None],
    is_kept: Callable[[], bool],
) -> None:
    """Writes in a transaction, and again for as long as it is not known to be kept.

    A commit without an answer may be under way yet. The same id, written once more,
    waits for it. What fails before the first commit is raised: nothing is kept then.
    """
    while True:
        committing = False
        try:
            if doubt.begun and is_kept():
                claims.note_kept()
                return
            with database.transaction() as tx:
                write(tx)
                committing = True
                tx.commit()
        except PourtierError as error:
            if not committing and not doubt.begun:
                raise
            doubt.wait(error)
        else:
            return


def undo_surely(
    doubt: Doubt, undo: Callable[[], bool], is_undone: Callable[[], bool]
) -> bool:
    """Takes something back, and again for as long as it is not known to be undone.

    `undo` says whether it was done, which it is not by who has no right to it any more,
    nor a second time: in doubt, `is_undone` tells the two apart.
    """
    while True:
        try:
            return undo() or (doubt.begun and is_undone())
        except PourtierError as error:
            doubt.wait(error)
