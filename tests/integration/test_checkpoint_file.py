"""Checkpoints outside the database: complete, whole, and nobody else's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pourtier_grpc.compliance import checkpoint_file
from pourtier_grpc.compliance.checkpoint_file import CheckpointFile, CheckpointFileError
from support.audit import Log, log_on


@pytest.fixture
def log(database_url: str, folder: Path) -> Iterator[Log]:
    with log_on(database_url, folder) as made:
        for _ in range(3):
            made.add(2)
            made.clock.move(minutes=2)
            made.seal()
        yield made


def stored(log: Log) -> bytes:
    """What the file should be."""
    rows = log.sql.run("SELECT body FROM audit_checkpoints ORDER BY seq")
    return b"".join(row["body"] + b"\n" for row in rows)


def test_it_gets_a_line_for_each_checkpoint(log: Log) -> None:
    assert log.path.name == "audit-checkpoints.jsonl"
    assert log.file.complete() == 3
    text = log.path.read_bytes()
    assert text == stored(log)
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["body"]["seq"] for line in lines] == [2, 4, 6]
    assert {line["kind"] for line in lines} == {"checkpoint"}


def test_only_what_is_missing_is_added(log: Log) -> None:
    log.file.complete()
    assert log.file.complete() == 0
    log.sealed(1)
    assert log.file.complete() == 0
    assert log.path.read_bytes() == stored(log)


def test_its_setting_and_its_mode(log: Log, folder: Path) -> None:
    path = folder / "elsewhere" / "log.jsonl"
    elsewhere = CheckpointFile(database=log.database, path=path)
    elsewhere.complete()
    assert path.read_bytes() == stored(log)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "tear",
    [
        lambda text: text[:-1],
        lambda text: text[:-40],
        lambda text: text[: -len(text.splitlines()[-1])],
        lambda text: text + b"{",
        lambda text: text + text.splitlines()[0][:30],
        lambda text: text + bytes(5000),
        lambda text: text[:-40] + bytes(39) + b"\n",
        lambda text: text[:-40] + bytes(200_000),
        lambda text: text[: text.index(b"\n")] + bytes(300) + b"\n" + bytes(9) + b"\n",
        lambda text: text[:10],
        lambda text: bytes(70_000),
        lambda text: b"",
    ],
)
def test_what_a_crash_has_torn_is_written_anew(
    log: Log, tear: Callable[[bytes], bytes]
) -> None:
    log.file.complete()
    torn = tear(log.path.read_bytes())
    log.path.write_bytes(torn)
    log.file.complete()
    assert log.path.read_bytes() == stored(log)


def test_many_lines_behind_are_caught_up_with_in_batches(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_file, "BATCH", 2)
    assert log.file.complete() == 3
    assert log.path.read_bytes() == stored(log)


def test_a_line_is_on_the_disk_when_it_counts_as_written(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    log.file.complete()
    assert sizes[-1] == len(stored(log))


def test_two_that_write_one_file_write_each_line_once(log: Log) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: log.file.complete(), range(16)))
    assert log.path.read_bytes() == stored(log)


def test_a_last_line_that_nobody_signed_is_left_and_told(log: Log) -> None:
    log.file.complete()
    text = log.path.read_bytes()
    forged = text.splitlines()[-1].replace(b'"seq":6', b'"seq":9999')
    log.path.write_bytes(text + forged + b"\n")
    with pytest.raises(CheckpointFileError, match="its signature does not hold"):
        log.file.complete()
    assert log.path.read_bytes() == text + forged + b"\n"


def test_a_file_that_knows_more_than_the_database_is_left_and_told(log: Log) -> None:
    log.file.complete()
    before = log.path.read_bytes()
    log.behind("DELETE FROM audit_checkpoints WHERE seq = 6")
    with pytest.raises(CheckpointFileError, match="lacks the checkpoint at 6: was it"):
        log.file.complete()
    assert log.path.read_bytes() == before
