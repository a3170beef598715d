"""What has been done to a chain that does not hold, told from the links around."""

from __future__ import annotations

from collections.abc import Sequence

from pourtier_grpc.compliance.chain import End, Fault, Finding
from pourtier_grpc.compliance.sealed import Sealed, id_bytes
from pourtier_grpc.compliance.sealing import seal_hash
from pourtier_grpc.store import audit_walk
from pourtier_grpc.store.engine import Reader

# How far an event is looked for that stands in another's place.
WINDOW = 1000


def diagnose(read: Reader, end: End) -> Finding:
    """What is wrong with the link that should follow on the last one that holds.

    Whoever changes a chain leaves the hashes of what was there: in the link itself, in
    the one that follows on it, or in one that was moved.
    """
    rows = audit_walk.following(read, end.seq + 1, WINDOW)
    around = [Sealed(*row) for row in rows]
    if not around:
        return _found(end.seq + 1, Fault.REMOVED, "its seal is gone")
    link, expected = around[0], end.seq + 1
    if link.seq == expected and link.body is None:
        return _of(link, Fault.REMOVED, "its seal is there, and the event is gone")
    if link.seq == expected and link.prev_hash == end.hash:
        return _in_its_place(link, around[1:], end)
    found = audit_walk.successor(read, end.hash)
    if found is not None and Sealed(*found).holds_as(expected):
        return _displaced(link, Sealed(*found), expected)
    return _without_successor(link, end)


def _in_its_place(link: Sealed, others: Sequence[Sealed], end: End) -> Finding:
    """It follows on the one before, but its hash is not its own."""
    for other in others:
        if other.body is not None and link.hash == seal_hash(
            link.prev_hash, link.seq, id_bytes(other.event_id), other.body
        ):
            text = f"event {other.event_id} was sealed in its place"
            return _of(link, Fault.REORDERED, text)
    for other in others:
        if other.prev_hash == end.hash and other.holds_as(link.seq):
            text = f"event {other.event_id} was sealed in its place, and it never was"
            return _of(link, Fault.INSERTED, text)
    return _of(link, Fault.ALTERED, "its text is not the one that was sealed")


def _displaced(link: Sealed, true: Sealed, expected: int) -> Finding:
    """What was sealed here stands elsewhere."""
    if link.seq != expected:
        text = f"it was sealed here, and stands at {true.seq}"
        return Finding(
            seq=expected, event_id=true.event_id, fault=Fault.REORDERED, text=text
        )
    sealed_as = _number_of(link, expected + 1)
    if sealed_as is not None:
        text = f"it was sealed at {sealed_as}, event {true.event_id} here"
        return _of(link, Fault.REORDERED, text)
    text = f"event {true.event_id} was sealed in its place, and it never was"
    return _of(link, Fault.INSERTED, text)


def _without_successor(link: Sealed, end: End) -> Finding:
    """What was sealed here is nowhere."""
    expected = end.seq + 1
    if link.seq != expected:
        last = link.seq - 1
        which = f"{expected}" if last == expected else f"{expected} to {last}"
        return _found(expected, Fault.REMOVED, f"{which}, before event {link.event_id}")
    sealed_as = _number_of(link, expected + 1)
    if sealed_as is not None:
        text = f"{sealed_as - expected} before event {link.event_id}, sealed there as"
        return _found(expected, Fault.REMOVED, f"{text} {sealed_as}")
    if link.holds_as(end.seq):
        text = f"event {link.event_id} was sealed in its place, and it never was"
        return Finding(
            seq=end.seq, event_id=end.event_id, fault=Fault.INSERTED, text=text
        )
    if link.holds_as(expected):
        text = "it was sealed anew: what follows was sealed on something else"
        return Finding(
            seq=end.seq, event_id=end.event_id, fault=Fault.ALTERED, text=text
        )
    return _of(link, Fault.ALTERED, "neither its text nor its seal is what was made")


def _number_of(link: Sealed, first: int) -> int | None:
    """The number, of the next ones, under which a link was sealed."""
    numbers = range(first, first + WINDOW)
    return next((number for number in numbers if link.holds_as(number)), None)


def _of(link: Sealed, fault: Fault, text: str) -> Finding:
    return Finding(seq=link.seq, event_id=link.event_id, fault=fault, text=text)


def _found(seq: int, fault: Fault, text: str) -> Finding:
    return Finding(seq=seq, fault=fault, text=text)
