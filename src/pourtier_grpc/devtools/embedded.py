"""What embedded servers have in common: who runs one, who else uses it, attaching."""

from __future__ import annotations

import fcntl
import os
import time
from abc import abstractmethod
from pathlib import Path
from typing import Self

from pourtier_grpc.devtools.ports import free_port, is_free, require_free
from pourtier_grpc.devtools.process import (
    ChildProcess,
    DevServerError,
    ServerOfABlock,
)
from pourtier_grpc.devtools.state import State


class Lease:
    """Says across processes who runs the server of a folder, and who else uses it.

    Two locks of flock(2), which the kernel drops when their holder dies: `owner`,
    exclusive while one process runs the server, and `users`, shared by those attached.
    """

    def __init__(self, state: State, folder: Path) -> None:
        self._state = state
        self._owner_path = folder / "owner.lock"
        self._users_path = folder / "users.lock"
        self._owner: int | None = None
        self._users: int | None = None

    def try_own(self) -> bool:
        """Makes this the one process that may run the server; False if another is."""
        self._owner = self._try_lock(self._owner_path, fcntl.LOCK_EX)
        if self._owner is None:
            return False
        os.ftruncate(self._owner, 0)
        os.write(self._owner, f"{os.getpid()}\n".encode())
        return True

    def try_share(self) -> bool:
        """Keeps an owner that waits for others from stopping the server."""
        self._users = self._try_lock(self._users_path, fcntl.LOCK_SH)
        return self._users is not None

    def wait_for_others(self, timeout: float) -> None:
        """As the owner: waits until nobody shares, at most that many seconds.

        From then on nobody attaches any more, until `release`.
        """
        deadline = time.monotonic() + timeout
        while self._users is None:
            self._users = self._try_lock(self._users_path, fcntl.LOCK_EX)
            if self._users is None and time.monotonic() >= deadline:
                return
            if self._users is None:
                time.sleep(0.05)

    def release(self) -> None:
        """Gives up both locks."""
        for held in (self._users, self._owner):
            if held is not None:
                # Explicitly: a forked child may hold a copy of the descriptor.
                fcntl.flock(held, fcntl.LOCK_UN)
                os.close(held)
        self._owner = self._users = None

    @property
    def owner_name(self) -> str:
        """The process that runs the server, for sentences."""
        number = self._state.read(self._owner_path)
        return f"process {number}" if number else "another process"

    def _try_lock(self, path: Path, kind: int) -> int | None:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            file = os.open(path, flags, 0o600)
        except OSError as error:
            raise DevServerError(f"cannot lock {path}: {error}") from error
        keeper = self._state.keeper
        if keeper and os.fstat(file).st_uid != keeper.uid:
            os.fchown(file, keeper.uid, keeper.gid)
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        return file


class EmbeddedServer(ServerOfABlock):
    """A server whose data lives in a `State`, run by one process, used by several.

    `start` attaches to the server that another process runs from the same data, and
    otherwise runs it; `stop` ends only what this object runs. The port, where none is
    given, is a free one that is kept, so that addresses survive a restart.
    """

    name: str
    host = "127.0.0.1"

    def __init__(
        self, state: State, folder: str, *, port: int, port_variable: str | None
    ) -> None:
        self._state = state
        self._folder_name = folder
        self._wanted_port = port
        self._port_variable = port_variable
        self._port = 0
        self._lease: Lease | None = None
        self._child: ChildProcess | None = None
        self._attached_pid: int | None = None

    @property
    def folder(self) -> Path:
        """The folder inside the state directory; holds `log` too."""
        return self._state.directory / self._folder_name

    @property
    def port(self) -> int:
        """The port on 127.0.0.1, once started."""
        if not self._port:
            raise DevServerError(f"{self.name} has not been started")
        return self._port

    @property
    def pid(self) -> int:
        """The server's process id, for signals in failure tests."""
        if self._child is not None:
            return self._child.pid
        if self._attached_pid is not None:
            return self._attached_pid
        raise DevServerError(f"{self.name} has not been started")

    @property
    def owned(self) -> bool:
        """Whether this object runs the server, rather than having attached to it."""
        return self._child is not None

    def start(self, *, attach: bool = True, timeout: float = 60.0) -> Self:
        """Returns when the server answers.

        With `attach` False this object must be the one that runs it: it waits
        `timeout` seconds for another process to let go. Repeating is harmless; after
        `kill` it starts the server again. Raises DevServerError.
        """
        if self._child is not None:
            if not self._child.running:
                self._run(timeout)
            return self
        if self._attached_pid is not None:
            return self
        self._state.folder(self._folder_name)
        lease = Lease(self._state, self.folder)
        try:
            self._obtain(lease, timeout, attach=attach)
        except BaseException:
            self._child = None
            lease.release()
            raise
        self._lease = lease
        return self

    def stop(self, *, wait_for_others: float = 0.0) -> None:
        """Ends the server, if this object runs it; repeating is harmless.

        A command that ran it only for itself gives processes attached meanwhile
        `wait_for_others` seconds to finish.
        """
        try:
            if self._child is not None:
                if self._lease is not None and wait_for_others:
                    self._lease.wait_for_others(wait_for_others)
                self._child.stop()
        finally:
            self._child = self._attached_pid = None
            if self._lease is not None:
                self._lease.release()
            self._lease = None

    def kill(self) -> None:
        """Crashes the server; `start` runs it again, at the same port."""
        self._owned_child().kill()

    def restart(self, *, timeout: float = 60.0) -> None:
        """Stops and starts again, at the same port; nobody else gets in between."""
        self._owned_child().stop()
        self._run(timeout)

    def check(self) -> None:
        """Raises DevServerError if the server that we run ended by itself."""
        if self._child is not None:
            self._child.check()

    @abstractmethod
    def _launch(self, timeout: float) -> ChildProcess:
        """Starts the server on `self._port`; we own the lease."""

    @abstractmethod
    def _find_running(self) -> int | None:
        """The process id of the running server, `self._port` set; None if none."""

    @abstractmethod
    def _end_orphan(self) -> None:
        """Ends a server that outlived its owner; we own the lease."""

    def _owned_child(self) -> ChildProcess:
        if self._child is None:
            raise DevServerError(f"{self.name} is not run by this process")
        return self._child

    @property
    def _kept_port(self) -> int:
        return int(self._state.read(self.folder / "port") or 0)

    def _obtain(self, lease: Lease, timeout: float, *, attach: bool) -> None:
        deadline = time.monotonic() + timeout
        while True:
            if lease.try_own():
                self._end_orphan()
                self._run(timeout)
                return
            if attach and lease.try_share():
                self._attached_pid = self._find_running()
                if self._attached_pid is not None:
                    return
                lease.release()
            if time.monotonic() >= deadline:
                raise DevServerError(
                    f"{lease.owner_name} already runs {self.name} in {self.folder};"
                    " stop it, or set POURTIER_DATA_DIR to another folder"
                )
            time.sleep(0.05)

    def _run(self, timeout: float) -> None:
        given = self._wanted_port or self._port
        if given:
            require_free(given, self.name, self._port_variable)
            self._port = given
            self._child = self._launch(timeout)
        else:
            kept = self._kept_port
            self._port = kept if kept and is_free(kept) else free_port()
            self._child = self._launch_somewhere(timeout)
        self._state.write(self.folder / "port", f"{self._port}\n")

    def _launch_somewhere(self, timeout: float) -> ChildProcess:
        for _ in range(3):
            try:
                return self._launch(timeout)
            except DevServerError as error:
                # Between `free_port` and the server's bind someone else was quicker.
                if "Address already in use" not in str(error):
                    raise
            self._port = free_port()
        return self._launch(timeout)
