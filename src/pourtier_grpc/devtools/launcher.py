"""Becomes another program that does not outlive the process that started it.

Run as a script, never imported: between fork and exec, unlike a `preexec_fn`, a fresh
interpreter meets neither other threads' locks nor grpc's fork handlers.
The process id stays the same through the final exec.

Arguments: death signal, parent's process id, user id, group id (-1 and -1 to stay who
we are), program, its arguments.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Executes the program, and so never returns, or exits with a sentence."""
    death_signal, parent, uid, gid = (int(value) for value in argv[:4])
    program = argv[4:]
    try:
        _become(program, death_signal, parent, uid, gid)
    except OSError as error:
        sys.exit(f"cannot start {program[0]} (user id {os.getuid()}): {error}")


def _become(
    program: list[str], death_signal: int, parent: int, uid: int, gid: int
) -> None:
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After setuid, which clears it (prctl(2)).
    if libc and libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise OSError("the starting process has already ended")
    # A shell's `&` and a caller's sigwait would otherwise be inherited.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.umask(0o077)
    os.execv(program[0], program)  # noqa: S606 - the caller's own fixed argv


if __name__ == "__main__":
    main(sys.argv[1:])
