"""Checkpoints in a file outside the database, a line each.

Whoever can write to the database can make another chain and take the checkpoints away
that contradict it; a file elsewhere they do not reach.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pourtier_grpc.compliance.evidence import EvidenceError, Kind, verify
from pourtier_grpc.compliance.evidence_keys import known_keys
from pourtier_grpc.expected import ExpectedError
from pourtier_grpc.store import seals
from pourtier_grpc.store.engine import Database, Reader

BATCH = 500
TAIL_BYTES = 64 * 1024


class CheckpointFileError(ExpectedError):
    """The file is not the one that this service wrote; the text says why."""


class CheckpointFile:
    """Keeps a file complete: every checkpoint of the database, in its order."""

    def __init__(self, *, database: Database, path: Path) -> None:
        self._database = database
        self._path = path

    def complete(self) -> int:
        """Appends the checkpoints that the file lacks; answers how many.

        The lines are on the disk when it returns. A line that a crash has torn is
        written anew. Raises CheckpointFileError where the last line is no checkpoint
        of this database: what it may be evidence of is left as it is. Raises OSError.
        """
        with _opened(self._path) as file, self._database.read() as read:
            line = mend(file)
            seq = 0 if line is None else self._agreed(read, line)
            added = 0
            while batch := seals.checkpoints_after(read, seq, BATCH):
                file.write(b"".join(made.body + b"\n" for made in batch))
                file.flush()
                os.fsync(file.fileno())
                seq, added = batch[-1].seq, added + len(batch)
        return added

    def _agreed(self, read: Reader, line: bytes) -> int:
        """The number of the last line's checkpoint, which the database must have."""
        try:
            seq = int(verify(line, Kind.CHECKPOINT, known_keys(read))["seq"])
        except EvidenceError as error:
            raise CheckpointFileError(f"{self._path}: the last line: {error}") from None
        there = seals.checkpoint_at(read, seq)
        if there is None or there.body != line:
            raise CheckpointFileError(
                f"{self._path}: the database lacks the checkpoint at {seq}: was it"
                " restored to an earlier time? Put this file aside, and keep it"
            )
        return seq


def mend(file: BinaryIO) -> bytes | None:
    """Cuts off what a crash has torn, and answers the last whole line, or None.

    A line is whole that ends and has no zeros, which is what a disk holds where it was
    told of a file's length and not yet of its content.
    """
    end = file.seek(0, os.SEEK_END)
    keep, last = _last_whole(file, end)
    if keep != end:
        file.truncate(keep)
        os.fsync(file.fileno())
    file.seek(0, os.SEEK_END)
    return last


def _last_whole(file: BinaryIO, end: int) -> tuple[int, bytes | None]:
    """Where the last whole line ends, and the line."""
    size = TAIL_BYTES
    while True:
        start = max(0, end - size)
        file.seek(start)
        lines = file.read(end - start).split(b"\n")
        # Behind the last newline lies nothing, or what is torn.
        keep = end - len(lines.pop())
        # The first is whole where the file begins with it.
        known = lines if start == 0 else lines[1:]
        while known:
            if b"\0" not in known[-1]:
                return keep, known[-1]
            keep -= len(known.pop()) + 1
        if start == 0:
            return keep, None
        size *= 2


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, made where it is missing; one process at a time has it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_size == 0:
            _keep_name(path.parent)
        yield file


def _keep_name(folder: Path) -> None:
    """Lets a new file's name outlive a crash, as its content does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
