"""Faults that a test asks for: what goes wrong with the next calls that match."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

When = Literal["before", "after"]
LONGEST_DELAY = 600


class FaultError(ValueError):
    """What was asked for is no fault; the text says why."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """What happens to the next `times` calls of an operation, under a key or prefix.

    Where None, `operation`, `key` and `key_prefix` match every call, and `times` never
    ends. With `each_key` the times are those of each key. `when` says whether it
    happens before a call takes effect, which it then does not, or after. Then it waits
    `delay_seconds`, and after that: the process is killed where `crash`; the connection
    is closed without an answer where `drop`; `status` is the answer, with `retry_after`
    in its header; otherwise the call goes on.

    `settle_failed` is how a deposit or withdrawal fails that is made meanwhile.
    """

    operation: str | None = None
    key: str | None = None
    key_prefix: str | None = None
    times: int | None = 1
    each_key: bool = False
    when: When = "before"
    delay_seconds: float = 0.0
    crash: bool = False
    drop: bool = False
    status: int | None = None
    retry_after: str | None = None
    settle_failed: str | None = None

    def matches(self, operation: str, key: str | None) -> bool:
        """Whether a call is one of those."""
        return (
            self.operation in (None, operation)
            and self.key in (None, key)
            and (self.key_prefix is None or (key or "").startswith(self.key_prefix))
        )


_KINDS: dict[str, type | tuple[type, ...]] = {
    "operation": str,
    "key": str,
    "key_prefix": str,
    "times": int,
    "each_key": bool,
    "when": str,
    "delay_seconds": (int, float),
    "crash": bool,
    "drop": bool,
    "status": int,
    "retry_after": str,
    "settle_failed": str,
}


def read_fault(content: object, operations: Iterable[str]) -> Fault:
    """The fault that a request describes. Raises FaultError."""
    if not isinstance(content, dict):
        raise FaultError("a fault is an object")
    for name, value in content.items():
        if name not in _KINDS:
            raise FaultError(f"a fault has no {name}")
        wrong = not isinstance(value, _KINDS[name]) or (
            isinstance(value, bool) and _KINDS[name] is not bool
        )
        if wrong and not (value is None and name in {"times", "status"}):
            raise FaultError(f"{name} has another type")
    fault = Fault(**content)
    if fault.operation is not None and fault.operation not in set(operations):
        raise FaultError(f"there is no operation {fault.operation}")
    if fault.when not in get_args(When):
        raise FaultError("when is before or after")
    if fault.status is not None and not 400 <= fault.status <= 599:
        raise FaultError("status is 400 to 599")
    if not 0 <= fault.delay_seconds <= LONGEST_DELAY:
        raise FaultError(f"delay_seconds is 0 to {LONGEST_DELAY}")
    if fault.times is not None and fault.times < 1:
        raise FaultError("times is 1 or more")
    return fault


class Faults:
    """The faults that are still to happen, the oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []
        self._taken: Counter[tuple[int, str | None]] = Counter()

    def add(self, fault: Fault) -> None:
        """Puts one in line."""
        with self._lock:
            self._waiting.append(fault)

    def reset(self) -> None:
        """Forgets all of them."""
        with self._lock:
            self._waiting.clear()
            self._taken.clear()

    def take(self, operation: str, key: str | None) -> Fault | None:
        """The fault that happens to a call, or None."""
        with self._lock:
            for fault in self._waiting:
                if fault.matches(operation, key) and self._counted(fault, key):
                    return fault
        return None

    def _counted(self, fault: Fault, key: str | None) -> bool:
        """Whether a fault still happens under a key; then it has once more."""
        if fault.times is None:
            return True
        if fault.each_key:
            self._taken[id(fault), key] += 1
            return self._taken[id(fault), key] <= fault.times
        fault.times -= 1
        if fault.times == 0:
            self._waiting.remove(fault)
        return True

    def listed(self) -> list[dict[str, Any]]:
        """Those that wait, as they were asked for."""
        with self._lock:
            return [asdict(fault) for fault in self._waiting]
