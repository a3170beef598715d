"""A long log: sealed and verified at a rate that is told, in memory that stays."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.audit import Log, log_on
from support.commands import environment
from support.threads import tell

pytestmark = pytest.mark.no_cover  # others run the same code

# What a verification of a thousand times the events may have more at its peak.
MEMORY_MB = 24.0
SMALL = 1000


@pytest.fixture
def log(database_url: str, folder: Path) -> Iterator[Log]:
    with log_on(database_url, folder) as made:
        yield made


def verified(log: Log, jobs: int) -> tuple[str, float]:
    """What `pourtier audit verify` prints first, and its peak memory in MB.

    The peak is the highest of its processes'.
    """
    assert log.settings.database_url is not None
    process = subprocess.Popen(
        [sys.executable, "-m", "pourtier_grpc", "audit", "verify", "--jobs", str(jobs)],
        env=environment(
            database_url=log.settings.database_url.get_secret_value(),
            pourtier_data_dir=log.settings.pourtier_data_dir,
        ),
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = 0.0
    while process.poll() is None:
        peak = max([peak, *map(highest, family(process.pid))])
        time.sleep(0.02)
    assert process.stdout is not None
    with process.stdout:
        printed = process.stdout.read()
    assert process.returncode == 0
    return printed.splitlines()[0], peak


def family(pid: int) -> list[int]:
    """A process and its children."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        children = []
    return [pid, *map(int, children)]


def highest(pid: int) -> float:
    """The most memory that a process ever had, in MB.

    Not what `wait4` tells: that counts what there was of its parent before it began.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    sizes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return float(sizes[0]) / 1024 if sizes else 0.0


@pytest.mark.proof
@pytest.mark.timeout(1800)
def test_a_long_log_is_verified_in_constant_memory(
    log: Log, rounds: Callable[[int, int], int]
) -> None:
    total = rounds(20_000, 1_000_000)
    log.fill(SMALL)
    log.seal()
    log.file.complete()
    _, least = verified(log, jobs=1)
    log.fill(total - SMALL)
    start = time.monotonic()
    while log.sealer.seal():
        pass
    rate = (total - SMALL) / (time.monotonic() - start)
    assert log.waiting() == 0
    log.file.complete()
    log.sql.run("VACUUM ANALYZE")
    tell(f"{total} events, sealed {rate:.0f} a second")
    for jobs in (1, 2):
        printed, peak = verified(log, jobs)
        assert printed.startswith(f"whole: {total} events")
        tell(f"{jobs} processes: {printed}; peak {peak:.0f} MB, of {SMALL} {least:.0f}")
        assert peak < least + MEMORY_MB
