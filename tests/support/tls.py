"""Looking at a TLS listener from outside."""

from __future__ import annotations

import socket
import ssl
from tempfile import NamedTemporaryFile

from cryptography import x509

from support.certificates import Pair

TIMEOUT = 5.0


def context(
    authority: bytes,
    pair: Pair | None = None,
    *,
    version: ssl.TLSVersion | None = None,
    protocols: tuple[str, ...] = ("h2",),
) -> ssl.SSLContext:
    """A client that trusts that authority, and has that certificate."""
    made = ssl.create_default_context(cadata=authority.decode())
    made.set_alpn_protocols(list(protocols))
    if version is not None:
        made.minimum_version = made.maximum_version = version
    if pair is not None:
        with NamedTemporaryFile() as file:
            file.write(pair.certificate + pair.key)
            file.flush()
            made.load_cert_chain(file.name)
    return made


def connect(port: int, client: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection after its handshake. Raises OSError where there is none."""
    plain = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    try:
        return client.wrap_socket(plain, server_hostname="localhost")
    except BaseException:
        plain.close()
        raise


def serial(port: int, client: ssl.SSLContext) -> int:
    """The serial number of the certificate that a new connection is shown."""
    with connect(port, client) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number
