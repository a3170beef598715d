from __future__ import annotations

from collections.abc import Iterator

import pytest

from unit.interceptors.rig import Rig, running


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A running server of the synthetic methods, and its client."""
    with running() as made:
        yield made
