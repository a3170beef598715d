"""Whose a file with a secret must be."""

from __future__ import annotations

import os
import stat

import pytest

from pourtier_grpc.ownership import fault_of_secret, is_trusted


def status(mode: int, owner: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))


@pytest.mark.parametrize("owner", [0, os.geteuid()])
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700, 0o000])
def test_ours_and_roots_are_well_where_nobody_else_reads_them(
    mode: int, owner: int
) -> None:
    assert fault_of_secret(status(mode, owner)) is None


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601])
def test_any_way_for_others_is_a_fault(mode: int) -> None:
    fault = fault_of_secret(status(mode, os.geteuid()))
    assert fault == "can be read by others: its mode must be 0600"


def test_another_users_is_a_fault() -> None:
    stranger = os.geteuid() + 1
    assert not is_trusted(stranger)
    fault = fault_of_secret(status(0o600, stranger))
    assert fault == "is not a file of the service's own user"
