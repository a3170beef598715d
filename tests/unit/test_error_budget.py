"""A loop's error budget: what it counts, forgets, shows and tells."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from pourtier_grpc.worker.budget import WINDOW_SECONDS, ErrorBudget


class Rig:
    """A budget, the seconds that it goes by, and what it has shown."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.shown: list[float] = []
        self.budget = ErrorBudget("renewals", self.shown.append, lambda: self.seconds)

    def run(self, well: int = 0, failed: int = 0) -> float:
        for each in [True] * well + [False] * failed:
            self.budget(each, 0.1)
        return self.shown[-1]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_tenth_of_the_runs_may_fail(rig: Rig) -> None:
    assert rig.run(well=99) == 1
    assert rig.run(failed=1) == pytest.approx(0.9)
    assert rig.run(well=95, failed=5) == pytest.approx(0.7)
    assert rig.run(failed=20) == 0


def test_of_few_runs_three_may_fail(rig: Rig) -> None:
    assert rig.run(failed=1) == pytest.approx(2 / 3)
    assert rig.run(well=9) == pytest.approx(2 / 3)
    assert rig.run(failed=2) == 0


def test_what_is_long_past_is_forgotten(rig: Rig) -> None:
    assert rig.run(failed=100) == 0
    rig.seconds += WINDOW_SECONDS
    assert rig.run(well=10) == 0
    rig.seconds += WINDOW_SECONDS / 2
    assert rig.run(well=5) == 1


def test_that_it_is_spent_is_told_once(rig: Rig) -> None:
    with capture_logs() as logs:
        rig.run(failed=50)
        assert [each["log_level"] for each in logs] == ["error"]
        rig.run(well=1000)
        rig.run(failed=1)
        assert [each["log_level"] for each in logs] == ["error", "info"]
    assert {each["loop"] for each in logs} == {"renewals"}
