"""Whose a file is: what holds a secret must be the service's user's alone."""

from __future__ import annotations

import os


def fault_of_secret(status: os.stat_result) -> str | None:
    """Why an open file must not hold a secret, as the end of a sentence; or None."""
    if status.st_mode & 0o077:
        return "can be read by others: its mode must be 0600"
    if not is_trusted(status.st_uid):
        return "is not a file of the service's own user"
    return None


def is_trusted(owner: int) -> bool:
    """Whether a user is the service's own; or root, who can do everything anyway."""
    return owner in {0, os.geteuid()}
