"""Checkpoints compared with the chain that they are about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pourtier_grpc.compliance.chain import Fault, Finding
from pourtier_grpc.compliance.evidence import EvidenceError, Kind, verify
from pourtier_grpc.store import audit_walk, seals
from pourtier_grpc.store.engine import Reader

BATCH = 500
# A checkpoint has a few hundred bytes; what is longer is none.
MAX_LINE_BYTES = 16 * 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A checkpoint that is to be checked, and what to call it.

    `seq` is the number that it must be about; None where any will do.
    """

    name: str
    text: bytes
    seq: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Where a chain begins and ends; `prev_hash` is what its first link follows on."""

    first: int
    prev_hash: bytes
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What checkpoints say: how many there were, and the first that disagrees.

    `begins` where one of them covers just what lies before the chain's first link.
    """

    count: int
    begins: bool
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class _Stated:
    name: str
    seq: int
    hash: str


def in_database(read: Reader) -> Iterator[Given]:
    """The checkpoints of the database, in their order."""
    seq = 0
    while batch := seals.checkpoints_after(read, seq, BATCH):
        for made in batch:
            name = f"the checkpoint at {made.seq}"
            yield Given(name=name, text=made.body, seq=made.seq)
        seq = batch[-1].seq


def in_file(path: Path, size: int) -> Iterator[Given]:
    """The lines of a file up to a size, without one that is not finished."""
    with path.open("rb") as file:
        number = 0
        while file.tell() < size:
            line = file.readline(MAX_LINE_BYTES)
            if not line.endswith(b"\n") and len(line) < MAX_LINE_BYTES:
                return
            number += 1
            name = f"line {number} of {path}"
            yield Given(name=name, text=line.removesuffix(b"\n"))


def compare(
    read: Reader,
    given: Iterable[Given],
    keys: Mapping[str, Ed25519PublicKey],
    bounds: Bounds,
) -> Compared:
    """Compares checkpoints, in ascending order, with the chain as it is stored.

    One about a part of the chain that is gone by retention is only as good as its
    signature.
    """
    count, agreed, begins = 0, 0, False
    for batch in batches(given, BATCH):
        stated: list[_Stated] = []
        for each in batch:
            before = stated[-1].seq if stated else agreed
            made = _read(each, keys, before)
            if isinstance(made, Finding):
                return Compared(count=count, begins=begins, finding=made)
            stated.append(made)
        hashes = audit_walk.hashes_at(read, [made.seq for made in stated])
        hashes[bounds.first - 1] = bounds.prev_hash
        for made in stated:
            found = _disagreement(made, hashes, bounds, agreed)
            if found is not None:
                return Compared(count=count, begins=begins, finding=found)
            begins = begins or made.seq == bounds.first - 1
            count, agreed = count + 1, made.seq
    return Compared(count=count, begins=begins)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items, so many at a time."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _read(
    given: Given, keys: Mapping[str, Ed25519PublicKey], before: int
) -> _Stated | Finding:
    """What a checkpoint states, or why it is none."""
    wrong = None
    try:
        body = verify(given.text, Kind.CHECKPOINT, keys)
        made = _Stated(given.name, int(body["seq"]), str(body["hash"]))
        if given.seq is not None and given.seq != made.seq:
            wrong = f"it is about {made.seq}"
        elif made.seq <= before:
            wrong = f"it is about {made.seq}, after one about {before}"
    except EvidenceError as error:
        wrong = str(error)
    except (LookupError, TypeError, ValueError):
        wrong = "it states no place of the chain"
    if wrong is None:
        return made
    seq = before + 1 if given.seq is None else given.seq
    return Finding(seq=seq, fault=Fault.FORGED, text=f"{given.name}: {wrong}")


def _disagreement(
    made: _Stated, hashes: Mapping[int, bytes], bounds: Bounds, agreed: int
) -> Finding | None:
    if made.seq > bounds.last:
        text = f"{made.name} covers {made.seq}, the chain ends at {bounds.last}"
        return Finding(seq=bounds.last + 1, fault=Fault.CUT, text=text)
    there = hashes.get(made.seq)
    since = min(made.seq, max(agreed + 1, bounds.first))
    if there is None:
        # What lies before the chain is gone by retention.
        if made.seq < bounds.first:
            return None
        text = f"{made.name} covers {made.seq}, whose seal is gone"
        return Finding(seq=since, until=made.seq, fault=Fault.REMOVED, text=text)
    if there.hex() == made.hash:
        return None
    text = f"{made.name} covers another; what was changed lies in {since} to {made.seq}"
    return Finding(seq=since, until=made.seq, fault=Fault.REMADE, text=text)
