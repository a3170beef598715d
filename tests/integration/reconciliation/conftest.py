"""A service whose operators have commands, and somebody with money."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pourtier_grpc.config import Settings
from pourtier_grpc.store.privileges import Duty
from support.bookkeeping import Bookkeeping
from support.callers import Person
from support.escrow import escrowed
from support.passeur import PasseurSim
from support.roles import as_role
from support.service import Service


@pytest.fixture
def settings(
    make_settings: Callable[..., Settings], database_url: str, sim: PasseurSim
) -> Settings:
    return make_settings(
        database_url=as_role(database_url, Duty.WORKING),
        passeur_url=sim.url,
        passeur_breaker_failures=1000,
    )


@pytest.fixture
def books(own: Service, database_url: str) -> Bookkeeping:
    return Bookkeeping(service=own, database_url=database_url)


@pytest.fixture
def ann(own: Service, sim: PasseurSim) -> Person:
    return escrowed(own, sim, "500")
