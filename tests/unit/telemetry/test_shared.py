"""Places of processes, as several of them in one folder see each other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, values

from pourtier_grpc.telemetry.shared import VARIABLE, Place, place_in

# A process that counts and then waits to be ended, or ends by itself.
OTHER = """
import sys
from pathlib import Path
from prometheus_client import CollectorRegistry, Counter, Gauge
from pourtier_grpc.telemetry.shared import place_in
with place_in(Path(sys.argv[1])) as place:
    registry = CollectorRegistry()
    Counter("things", "Things", registry=registry).inc(float(sys.argv[2]))
    Gauge("now", "Now", registry=registry, multiprocess_mode="livesum").set(1)
    print(place.number, flush=True)
    sys.stdin.read()
"""


@contextmanager
def other(folder: Path, count: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process with a place, and the number of it."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def seen(place: Place) -> dict[str, float]:
    return {
        sample.name: sample.value
        for metric in place.collect()
        for sample in metric.samples
    }


def count(amount: int) -> None:
    registry = CollectorRegistry()
    Counter("things", "Things", registry=registry).inc(amount)
    Gauge("now", "Now", registry=registry, multiprocess_mode="livesum").set(1)


def test_a_place_is_left_as_it_was_found(tmp_path: Path) -> None:
    before = values.ValueClass
    with place_in(tmp_path / "made" / "here") as place:
        assert place.number == 0
        assert os.environ[VARIABLE] == str(tmp_path / "made" / "here")
    assert VARIABLE not in os.environ
    assert values.ValueClass is before


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), place_in(tmp_path / "file" / "in"):
        pass


def test_counters_are_added_and_outlive_their_process_while_gauges_do_not(
    tmp_path: Path,
) -> None:
    with place_in(tmp_path) as place, ExitStack() as stack:
        count(1)
        second, number = stack.enter_context(other(tmp_path, 10))
        third, after = stack.enter_context(other(tmp_path, 100))
        assert (number, after) == (1, 2)
        assert place.bury() == 3
        assert seen(place) == {"things_total": 111, "now": 3}

        second.kill()
        second.wait()
        assert seen(place) == {"things_total": 111, "now": 2}
        assert place.bury() == 2

        # In the dead one's place, which goes on with its counter.
        _, number = stack.enter_context(other(tmp_path, 1000))
        assert number == 1
        assert seen(place) == {"things_total": 1111, "now": 3}
        assert len(list(tmp_path.glob("counter_*.db"))) == 3

        third.kill()
        third.wait()
        assert seen(place) == {"things_total": 1111, "now": 2}


def test_whoever_is_alone_starts_from_nothing(tmp_path: Path) -> None:
    with place_in(tmp_path) as place, other(tmp_path, 10):
        count(1)
        assert seen(place)["things_total"] == 11
    (tmp_path / "counter_7.db").write_bytes(b"left by a machine that fell over")
    with place_in(tmp_path) as place:
        assert place.number == 0
        assert seen(place) == {}
