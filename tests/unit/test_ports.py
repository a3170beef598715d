"""The ports that tests give to their servers."""

from __future__ import annotations

import socket

from support.ports import PORTS, free_port


def test_no_port_is_handed_out_twice() -> None:
    ports = [free_port() for _ in range(500)]
    assert len(set(ports)) == 500
    assert set(ports) <= set(PORTS)


def test_a_port_that_is_taken_is_passed_over() -> None:
    taken = free_port()
    with socket.create_server(("127.0.0.1", taken)):
        # Once round and more, whatever part of them is this process's.
        assert taken not in {free_port() for _ in PORTS}
