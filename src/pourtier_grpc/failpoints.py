"""Named points at which a test has the process killed, to see what is left whole.

Each flow that moves money, consent or events passes some. Passing costs a look at an
empty dictionary; only a process outside production can have one armed, by FAILPOINTS.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterable
from enum import StrEnum

# A point's name, and the time that it is passed at which the process ends.
ARMED = re.compile(r"(?P<name>[a-z._]+)(?:@(?P<time>[1-9][0-9]{0,8}))?", re.ASCII)


class Failpoint(StrEnum):
    """The points, each named by its flow and by what has just been done there."""

    REGISTRATION_WRITTEN = "registration.written"
    REGISTRATION_COMMITTED = "registration.committed"
    ACCEPTANCE_WRITTEN = "acceptance.written"
    ACCEPTANCE_COMMITTED = "acceptance.committed"
    # A call's: the transfer is written; that is kept; Passeur was asked; the outcome is
    # kept. A worker's: transfers were claimed; Passeur was asked; the outcome is kept.
    TRANSFER_WRITTEN = "transfer.written"
    TRANSFER_RECORDED = "transfer.recorded"
    TRANSFER_ASKED = "transfer.asked"
    TRANSFER_NOTED = "transfer.noted"
    SETTLEMENT_CLAIMED = "settlement.claimed"
    SETTLEMENT_ASKED = "settlement.asked"
    SETTLEMENT_NOTED = "settlement.noted"
    # A charge, whoever makes it: it is written; that is kept; Passeur was asked; the
    # outcome is written; that is kept.
    CHARGE_WRITTEN = "charge.written"
    CHARGE_RECORDED = "charge.recorded"
    CHARGE_ASKED = "charge.asked"
    CHARGE_SETTLED = "charge.settled"
    CHARGE_NOTED = "charge.noted"
    # A worker's: charges were claimed that others left open; the rest is a charge's.
    RECOVERY_CLAIMED = "recovery.claimed"
    # A worker's: subscriptions were claimed that are due.
    RENEWAL_CLAIMED = "renewal.claimed"
    REFUND_WRITTEN = "refund.written"
    REFUND_RECORDED = "refund.recorded"
    REFUND_ASKED = "refund.asked"
    REFUND_SETTLED = "refund.settled"
    REFUND_NOTED = "refund.noted"
    # Of every change that others are told of: its event is written.
    EVENT_WRITTEN = "event.written"
    # Events were read to be sent; Redis has them; they are marked; that is kept.
    RELAY_CLAIMED = "relay.claimed"
    RELAY_SENT = "relay.sent"
    RELAY_MARKED = "relay.marked"
    RELAY_COMMITTED = "relay.committed"
    SEALING_LOCKED = "sealing.locked"
    SEALING_WRITTEN = "sealing.written"
    SEALING_COMMITTED = "sealing.committed"


_lock = threading.Lock()
_armed: dict[Failpoint, int] = {}


def read(texts: Iterable[str]) -> dict[Failpoint, int]:
    """Points as FAILPOINTS names them, `sealing.locked` or `sealing.locked@3`.

    Of each: the how manieth passing kills. Raises ValueError of another text.
    """
    points = {}
    for text in texts:
        found = ARMED.fullmatch(text)
        if found is None or found["name"] not in set(Failpoint):
            raise ValueError(f"{text!r} is none of the points {', '.join(Failpoint)}")
        points[Failpoint(found["name"])] = int(found["time"] or 1)
    return points


def arm(texts: Iterable[str]) -> None:
    """Has this process killed at those points, and at no other."""
    points = read(texts)
    with _lock:
        _armed.clear()
        _armed.update(points)


def reach(point: Failpoint) -> None:
    """Passes a point; where it is armed for this passing, the process is gone."""
    if not _armed:
        return
    with _lock:
        left = _armed.get(point, 0)
        if left > 1:
            _armed[point] = left - 1
    if left == 1:
        # Not an exception, which somebody could catch and clean up after.
        os.kill(os.getpid(), signal.SIGKILL)
