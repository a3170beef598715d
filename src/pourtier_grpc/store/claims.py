"""What joins the first transaction of the call that is being served.

A context variable, as the call's deadline is: every rule that writes is concerned, and
none decides by it. `Database.transaction` asks it, and the interceptor sets it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from google.protobuf.message import Message

if TYPE_CHECKING:
    from pourtier_grpc.store.engine import Transaction


class Claim(Protocol):
    """A call's right to its effect, which no other call under the same key has."""

    def begin(self, tx: Transaction) -> None:
        """Claims, before anything else is done in a transaction.

        The first of a call claims, whatever it is for: it has to be the effect's.
        Raises what ends the call instead of its effect, where another has the right.
        """
        ...

    def end(self, tx: Transaction, answer: Message | None) -> None:
        """Writes what a repeat is to be answered, or None where that is still open.

        A call of one transaction commits with its answer. One of several attaches what
        it makes in its first, and has it completed or released in its last.
        """
        ...

    def attach(self, tx: Transaction, resource_id: UUID) -> None:
        """Names what the call makes, where that takes further transactions."""
        ...

    def kept(self) -> None:
        """The transaction was committed: nothing is left to claim."""
        ...


_claim: ContextVar[Claim | None] = ContextVar("claim", default=None)


@contextmanager
def claiming(claim: Claim | None) -> Iterator[None]:
    """Until the block ends, transactions are those of a call that makes that claim.

    With None they are those of a call that makes none.
    """
    token = _claim.set(claim)
    try:
        yield
    finally:
        _claim.reset(token)


def note_kept() -> None:
    """Says that a transaction was kept of which no commit was answered."""
    claim = current()
    if claim is not None:
        claim.kept()


def current() -> Claim | None:
    """The claim of the call that is being served, or None where it makes none."""
    return _claim.get()
