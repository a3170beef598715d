"""Child processes that are waited for, watched, and never left behind."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pourtier_grpc.expected import ExpectedError

LAUNCHER = Path(__file__).with_name("launcher.py")
LOG_LIMIT = 5_000_000
TAIL_LINES = 20


class DevServerError(ExpectedError):
    """A development server cannot do what was asked; the text tells a newcomer why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An unprivileged user of this machine that a server runs as."""

    name: str
    uid: int
    gid: int


def find_binary(package: str, relative: str, command: str | None = None) -> Path | None:
    """An executable inside an installed package, or else `command` on the PATH.

    The package is located but not imported: some start servers or make directories
    when imported. None where neither exists.
    """
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(location) / relative
        if binary.is_file():
            return binary
    found = shutil.which(command) if command else None
    return Path(found) if found else None


def server_environment() -> dict[str, str]:
    """The environment for a server: no PG* variable, and no secret of ours."""
    kept = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.environ.get("PATH", os.defpath)}
    for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR"):
        if name in os.environ:
            kept[name] = os.environ[name]
    return kept


class ServerOfABlock(ABC):
    """A server that runs for as long as a `with` block, where it is used as one."""

    @abstractmethod
    def start(self) -> Self:
        """Returns when the server answers; repeating is harmless."""

    @abstractmethod
    def stop(self) -> None:
        """Ends the server; repeating is harmless."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class _Spawner:
    """Starts processes from one thread that lives as long as this process does.

    Linux delivers the parent-death signal when the *thread* that forked ends
    (prctl(2)), so a server started from a worker thread would die with that thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[
            tuple[
                Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]
            ]
        ] = queue.SimpleQueue()
        self._process_id = 0

    def spawn(
        self, job: Callable[[], subprocess.Popen[bytes]]
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            # After a fork the thread is missing in the child.
            if self._process_id != os.getpid():
                self._process_id = os.getpid()
                threading.Thread(
                    target=self._serve, name="devtools-spawner", daemon=True
                ).start()
        done: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((job, done))
        return done.result()

    def _serve(self) -> None:
        while True:
            job, done = self._jobs.get()
            try:
                done.set_result(job())
            except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
                done.set_exception(error)


_spawner = _Spawner()


class ChildProcess:
    """One supervised server process.

    It runs in a process group of its own, so that Ctrl-C in a terminal reaches only
    us and we stop the servers in order. On Linux it gets the first stop signal when
    we die, even by SIGKILL; elsewhere an orphan is found by the next start.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        account: Account | None = None,
        stop_signals: Sequence[signal.Signals] = (signal.SIGTERM,),
        grace: float = 10.0,
    ) -> None:
        """`stop_signals` are tried in turn, each for `grace` seconds, before SIGKILL.

        `env` None is `server_environment()`. `log` receives both output streams; its
        folder exists. `account` None runs the process as we are.
        """
        self.name = name
        self.log = log
        self._argv = [os.fspath(part) for part in argv]
        self._cwd = cwd
        self._env = dict(server_environment() if env is None else env)
        self._account = account
        self._stop_signals = tuple(stop_signals)
        self._grace = grace
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._asked_to_end = False

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id, for signals in failure tests."""
        if self._process is None:
            raise DevServerError(f"{self.name} has not been started")
        return self._process.pid

    def start(
        self, ready: Callable[[], bool] | None = None, timeout: float = 30.0
    ) -> None:
        """Starts it and returns once `ready()` is true, or at once without a probe.

        Raises DevServerError with the end of its log where it ends first, or is
        not ready after `timeout` seconds; nothing is left running then.
        """
        if self.running:
            return
        self._asked_to_end = False
        self._process = self._spawn()
        if ready is None:
            return
        try:
            self._wait_until(ready, timeout)
        except BaseException:
            self.kill()
            raise

    def run(self, timeout: float) -> None:
        """Starts it and waits for its end; anything but status 0 is DevServerError."""
        self.start()
        try:
            process = self._process
            if process is not None and process.wait(timeout) != 0:
                self.check()
        except subprocess.TimeoutExpired:
            raise DevServerError(
                f"{self.name} did not end within {timeout:g} seconds."
                f"{self._quoted_log()}"
            ) from None
        finally:
            self.kill()

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while running or not started."""
        return None if self._process is None else self._process.poll()

    def check(self) -> None:
        """Raises DevServerError if it ended without having been asked to."""
        status = self.poll()
        if status is not None and not self._asked_to_end:
            raise DevServerError(f"{self.name} {_ended(status)}.{self._quoted_log()}")

    def stop(self) -> None:
        """Asks it to end, insists, returns when it is gone. Repeating is harmless."""
        self._asked_to_end = True
        if self._process is None:
            return
        for number in self._stop_signals:
            if not self.running:
                return
            self._process.send_signal(number)
            # A process paused by a test would never see the signal.
            self._process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._grace)
                return
        self.kill()

    def kill(self) -> None:
        """Ends it with SIGKILL, as a crash would, and waits until it is gone."""
        self._asked_to_end = True
        if self._process is None or not self.running:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def log_tail(self) -> str:
        """The last lines that this run wrote."""
        try:
            with self.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, size - 8192))
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def _spawn(self) -> subprocess.Popen[bytes]:
        account = self._account
        argv = [
            sys.executable,
            "-I",
            "-S",
            str(LAUNCHER),
            str(int(self._stop_signals[0])),
            str(os.getpid()),
            str(account.uid if account else -1),
            str(account.gid if account else -1),
            *self._argv,
        ]
        log = self._open_log()
        try:
            return _spawner.spawn(
                lambda: subprocess.Popen(  # noqa: S603 - a fixed argv, no shell
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._cwd or "/",
                    env=self._env,
                    process_group=0,
                )
            )
        except OSError as error:
            raise DevServerError(f"cannot start {self.name}: {error}") from error
        finally:
            os.close(log)

    def _open_log(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        try:
            log = os.open(self.log, flags, 0o600)
        except OSError as error:
            raise DevServerError(
                f"cannot write the log of {self.name}: {error}"
            ) from error
        if os.fstat(log).st_size > LOG_LIMIT:
            os.ftruncate(log, 0)
        self._log_start = os.fstat(log).st_size
        if self._account:
            os.fchown(log, self._account.uid, self._account.gid)
        return log

    def _wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            status = self.poll()
            if status is not None:
                raise DevServerError(
                    f"{self.name} {_ended(status)} at start.{self._quoted_log()}"
                )
            if ready():
                return
            if time.monotonic() >= deadline:
                raise DevServerError(
                    f"{self.name} was not ready after {timeout:g} seconds."
                    f"{self._quoted_log()}"
                )
            time.sleep(0.02)

    def _quoted_log(self) -> str:
        tail = self.log_tail()
        if not tail:
            return f" It wrote nothing to {self.log}."
        return f" The end of {self.log}:\n{tail}"


def _ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
