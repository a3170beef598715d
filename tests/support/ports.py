"""Ports for the servers of a test run."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator

from pourtier_grpc.devtools.ports import is_free

# Above what services are known by, below what kernels give to clients and to servers
# that ask for any: nobody is handed one of these between its choice and its use.
PORTS = range(10_000, 32_000)


def _own() -> range:
    """This process's part of them: no two workers of a run choose the same."""
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return PORTS[worker % count :: count]


# From somewhere, because another run on the machine has the same workers.
_start = random.randrange(len(_own()))  # noqa: S311 -- no secret
_turn: Iterator[int] = itertools.cycle((*_own()[_start:], *_own()[:_start]))


def free_port() -> int:
    """A port of all interfaces that nobody listens on; handed out once in thousands."""
    return next(port for port in _turn if is_free(port, "0.0.0.0"))  # noqa: S104 -- asks
