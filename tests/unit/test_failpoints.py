"""Points at which a process is killed: armed by their names, and only those."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from pourtier_grpc.config import ConfigError, load
from pourtier_grpc.failpoints import Failpoint, read

PASSING = """
import sys
from pourtier_grpc.failpoints import Failpoint, arm, reach
arm([sys.argv[1]])
for time in range(1, 6):
    reach(Failpoint.SEALING_LOCKED)
    print(time, flush=True)
"""


def passed(point: str) -> tuple[int, list[str]]:
    """How a process ends that passes a point five times, and what it came to."""
    command = [sys.executable, "-c", PASSING, point]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout.split()


def test_an_armed_point_kills_at_the_passing_that_was_named() -> None:
    assert passed("sealing.locked") == (-signal.SIGKILL, [])
    assert passed("sealing.locked@3") == (-signal.SIGKILL, ["1", "2"])


def test_another_point_lets_all_pass() -> None:
    assert passed("sealing.written") == (0, ["1", "2", "3", "4", "5"])


def test_points_are_read_with_the_passing_that_kills() -> None:
    assert read(()) == {}
    assert read(("sealing.locked", "sealing.written@12")) == {
        Failpoint.SEALING_LOCKED: 1,
        Failpoint.SEALING_WRITTEN: 12,
    }


@pytest.mark.parametrize(
    "text", ["", "sealing", "sealing.locked@", "sealing.locked@0", "Sealing.locked"]
)
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"is none of the points [a-z., ]*sealing\.locked"
    ):
        read([text])
    with pytest.raises(ConfigError, match=r"FAILPOINTS: .* is none of the points"):
        load(failpoints=(text,))
