"""A server that says what it is told to, whatever it is asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Listener:
    """Answers whatever comes with the same bytes, and closes the connection.

    With `drip`, it goes on sending a byte every so many seconds.
    """

    def __init__(self, answer: bytes, drip: float) -> None:
        self._answer, self._drip = answer, drip
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            # Closing it would not wake the thread that accepts.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._thread.join(10)
            self._socket.close()

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                self._read(connection)
                connection.sendall(self._answer)
                while self._drip and not self._closed.wait(self._drip):
                    connection.sendall(b" ")

    @staticmethod
    def _read(connection: socket.socket) -> None:
        """Reads a request: what is left unread would end the connection abruptly."""
        with connection.makefile("rb") as stream:
            length = 0
            while line := stream.readline().strip():
                name, _, value = line.lower().partition(b":")
                length = int(value) if name == b"content-length" else length
            stream.read(length)


@contextmanager
def listener(answer: bytes, drip: float = 0) -> Iterator[Listener]:
    made = Listener(answer, drip)
    try:
        yield made
    finally:
        made.close()
