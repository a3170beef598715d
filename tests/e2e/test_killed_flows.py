"""That no flow with points is forgotten by the tests that kill."""

from __future__ import annotations

import inspect

from e2e import (
    test_charge_processes,
    test_consent_processes,
    test_event_relay,
    test_refund_processes,
    test_transfer_processes,
)
from pourtier_grpc.failpoints import Failpoint
from support.crashes import flow_of

MODULES = (
    test_charge_processes,
    test_consent_processes,
    test_event_relay,
    test_refund_processes,
    test_transfer_processes,
)


def test_every_flow_with_points_has_a_test_that_kills_at_all_of_them() -> None:
    killed = {
        flow
        for module in MODULES
        for name, test in inspect.getmembers(module, inspect.isfunction)
        if name.startswith("test_") and "points" in inspect.signature(test).parameters
        for mark in getattr(test, "pytestmark", [])
        if mark.name == "kills"
        for flow in mark.args
    }
    assert killed == {flow_of(point) for point in Failpoint}
