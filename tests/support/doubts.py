"""A database that is lost at a certain moment."""

from __future__ import annotations

from typing import Any

import pytest

from pourtier_grpc.store.driver_errors import unavailable


class Lost:
    """Has a function fail as it does where the database is lost, the first times."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
    ) -> None:
        self._real = getattr(owner, name)
        self.times = 0
        self.after = False
        lost = self

        def failing(*args: Any, **options: Any) -> Any:
            if lost.times == 0:
                return lost._real(*args, **options)
            lost.times -= 1
            if lost.after:
                lost._real(*args, **options)
            raise unavailable()

        monkeypatch.setattr(owner, name, failing)
