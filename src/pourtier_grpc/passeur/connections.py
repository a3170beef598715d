"""Connections to Passeur that are kept open, each used by one thread at a time.

httpx has a pool of its own, in which any thread looks whether idle connections can
still be used: one that has something to read counts as closed by its server. Between
the two looks another thread may have sent its request there, and what can be read is
its answer. The connection is then closed under it, and it waits for nothing until its
time is up. So each client here has one connection, and is lent to one thread.
"""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import httpx


class Connections:
    """At most `limit` connections to `url`, made as they are needed."""

    def __init__(self, url: str, *, limit: int, headers: Mapping[str, str]) -> None:
        self._url = url
        self._headers = headers
        # Certificates are believed as the system says.
        self._tls = ssl.create_default_context()
        self._room = threading.Semaphore(limit)
        self._idle: deque[httpx.Client] = deque()
        self._closed = False

    @contextmanager
    def lent(self, seconds: float) -> Iterator[httpx.Client]:
        """A client for the block; the one that was used last, so that few are open.

        Raises httpx.PoolTimeout where all are in use for so many seconds.
        """
        if not self._room.acquire(timeout=seconds):
            raise httpx.PoolTimeout("all connections are in use")
        try:
            client = self._take()
            try:
                yield client
            finally:
                self._give_back(client)
        finally:
            self._room.release()

    def close(self) -> None:
        """Closes them; those in use when they are given back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> httpx.Client:
        try:
            return self._idle.pop()
        except IndexError:
            return httpx.Client(
                base_url=self._url,
                headers=self._headers,
                verify=self._tls,
                # A neighbour: no proxy of the environment stands in between.
                trust_env=False,
                limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            )

    def _give_back(self, client: httpx.Client) -> None:
        self._idle.append(client)
        if self._closed:
            self.close()
