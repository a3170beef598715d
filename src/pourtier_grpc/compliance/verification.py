"""The whole audit log verified: each link, all that repeats it, every checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pourtier_grpc.compliance import checkpoints, segments
from pourtier_grpc.compliance.chain import End, Fault, Finding
from pourtier_grpc.compliance.checkpoints import Bounds, Compared
from pourtier_grpc.compliance.diagnosis import diagnose
from pourtier_grpc.compliance.evidence_keys import known_keys
from pourtier_grpc.compliance.sealing import ORIGIN
from pourtier_grpc.store import audit_walk, seals
from pourtier_grpc.store.engine import Database, Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a verification has seen.

    `events` hold, from number `first` on, up to the first that does not; `waiting` are
    not sealed yet. `checkpoints` and `lines` agree with them. `finding` is the first
    thing that is wrong, or None.
    """

    first: int
    events: int
    waiting: int
    checkpoints: int
    lines: int
    finding: Finding | None


class Verification:
    """Verifies the log of a database, at one moment, in constant memory.

    With `jobs` above one, a long log is walked by so many processes. `keys` are the
    evidence keys to believe; without them, those that the database knows.
    """

    def __init__(
        self,
        database: Database,
        *,
        jobs: int = 1,
        keys: Mapping[str, Ed25519PublicKey] | None = None,
        progress: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._keys = keys
        self._progress = progress

    def run(self, file: Path | None = None) -> Verified:
        """Verifies the log, and with a file of checkpoints that it is still all there.

        Raises OSError where the file cannot be read.
        """
        # What is in the file by now is in the database that is looked at next.
        size = 0 if file is None else file.stat().st_size
        with self._database.snapshot() as read:
            keys = known_keys(read) if self._keys is None else self._keys
            ends = audit_walk.bounds(read)
            bounds = (
                Bounds(first=1, prev_hash=ORIGIN, last=0)
                if ends is None
                else Bounds(first=ends[0], prev_hash=ends[1], last=ends[2])
            )
            stored = checkpoints.in_database(read)
            compared = checkpoints.compare(read, stored, keys, bounds)
            lines = Compared(count=0, begins=False)
            if file is not None:
                given = checkpoints.in_file(file, size)
                lines = checkpoints.compare(read, given, keys, bounds)
            start = _start(bounds, known=compared.begins or lines.begins)
            events, broken = (
                (0, start)
                if isinstance(start, Finding)
                else (self._walk(read, start, bounds.last))
            )
            found = [broken, compared.finding, lines.finding, _beside(read, bounds)]
            return Verified(
                first=bounds.first,
                events=events,
                waiting=seals.state(read).waiting,
                checkpoints=compared.count,
                lines=lines.count,
                finding=min(
                    (each for each in found if each is not None),
                    key=lambda each: each.known_at,
                    default=None,
                ),
            )

    def _walk(self, read: Reader, start: End, last: int) -> tuple[int, Finding | None]:
        """How many links hold, and the first that does not."""
        walked = segments.walk_all(
            self._database, read, start, last, jobs=self._jobs, progress=self._progress
        )
        if walked.broken:
            return walked.count, diagnose(read, walked.end)
        return walked.count, walked.finding


def _start(bounds: Bounds, *, known: bool) -> End | Finding:
    """What the first link follows on.

    A chain begins at its first event, or where a signed checkpoint says that it was
    cut; `known` says that there is one.
    """
    if bounds.first == 1:
        return End(seq=0, event_id=None, hash=ORIGIN)
    if known:
        return End(seq=bounds.first - 1, event_id=None, hash=bounds.prev_hash)
    if bounds.first < 1:
        text = "no seal has a number below 1"
        return Finding(seq=bounds.first, fault=Fault.INSERTED, text=text)
    last = bounds.first - 1
    text = f"1 to {last}: no signed checkpoint says that the chain was cut there"
    return Finding(seq=1, fault=Fault.REMOVED, text=text)


def _beside(read: Reader, bounds: Bounds) -> Finding | None:
    """What lies beside the chain and should not; it is named after all in the chain."""
    behind = bounds.last + 1
    stray = audit_walk.stray(read)
    if stray is not None:
        text = "it is neither sealed nor queued to be"
        return Finding(seq=behind, event_id=stray, fault=Fault.INSERTED, text=text)
    lost = audit_walk.lost(read)
    if lost is not None:
        text = "it is queued to be sealed, and the event is gone"
        return Finding(seq=behind, event_id=lost, fault=Fault.REMOVED, text=text)
    return None
