"""Real `pourtier serve` and `worker` processes on one database and folder of keys."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pourtier_grpc.devtools.dev import is_ready
from pourtier_grpc.devtools.process import ChildProcess
from pourtier_grpc.store.privileges import Duty
from support.commands import environment
from support.ports import free_port
from support.roles import as_role
from support.service import ORIGIN, OTHER_ORIGIN


@dataclass(frozen=True, kw_only=True)
class ServeProcess:
    """One process of the service; `target` is its native listener."""

    child: ChildProcess
    target: str

    def start(self) -> None:
        """Returns when the process is ready; may be called again after an end."""
        self.child.start(lambda: is_ready(self.target))


def serve_process(
    folder: Path, database_url: str, number: int = 0, **settings: Any
) -> ServeProcess:
    """A process that has not been started; stopping it is the caller's.

    Processes of one folder share its keys; each needs a number of its own. `settings`
    are named as those of the service.
    """
    port = free_port()
    values = {
        "database_url": as_role(database_url, Duty.SERVING),
        "pourtier_data_dir": folder,
        "grpc_listen": f"127.0.0.1:{port}",
        "grpc_unix_socket": folder / f"serve-{number}.sock",
        "allowed_origins": f"{ORIGIN},{OTHER_ORIGIN}",
        "log_level": "warning",
        "pourtier_metrics_port": 0,
        # No test waits for an edge to notice, but for the one that says so.
        "drain_notice_seconds": 0,
        **settings,
    }
    child = ChildProcess(
        f"server {number}",
        [sys.executable, "-m", "pourtier_grpc", "serve"],
        log=folder / f"serve-{number}.log",
        env=environment(**values),
    )
    return ServeProcess(child=child, target=f"127.0.0.1:{port}")


def worker_process(
    folder: Path, database_url: str, number: int = 0, **settings: Any
) -> ChildProcess:
    """A worker that has not been started; see `serve_process`, and `start_worker`."""
    values = {
        "database_url": as_role(database_url, Duty.WORKING),
        "pourtier_data_dir": folder,
        "pourtier_metrics_port": 0,
        **settings,
    }
    return ChildProcess(
        f"worker {number}",
        [sys.executable, "-m", "pourtier_grpc", "worker"],
        log=folder / f"worker-{number}.log",
        env=environment(**values),
    )


def start_worker(worker: ChildProcess) -> None:
    """Returns when a worker's loops run; may be called again after an end."""
    worker.start(lambda: '"working"' in worker.log_tail(), timeout=60)


@contextmanager
def serving(
    folder: Path, database_url: str, count: int = 1, **settings: Any
) -> Iterator[list[ServeProcess]]:
    """That many processes, started at once and ready; stopped afterwards."""
    processes = [
        serve_process(folder, database_url, number, **settings)
        for number in range(count)
    ]
    with ExitStack() as stack:
        for process in processes:
            stack.callback(process.child.stop)
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(ServeProcess.start, processes))
        yield processes
