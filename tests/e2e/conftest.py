"""Fixtures of tests that kill processes."""

from __future__ import annotations

import pytest

from pourtier_grpc.failpoints import Failpoint
from support.crashes import points_of


def pytest_configure(config: pytest.Config) -> None:
    line = "kills(*flows): kills processes at all points of those flows, its `points`"
    config.addinivalue_line("markers", line)


@pytest.fixture
def points(request: pytest.FixtureRequest) -> list[Failpoint]:
    """All points of the flows that the test's mark `kills` names."""
    mark = request.node.get_closest_marker("kills")
    assert mark is not None, "which flows does it kill?"
    return points_of(*mark.args)
