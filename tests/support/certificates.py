"""Certificates of a test's own making."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

NAMES = x509.SubjectAlternativeName(
    [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes
    serial: int

    def write(self, folder: Path) -> None:
        """Puts `cert.pem` and `key.pem` there, each at once."""
        put(folder / "key.pem", self.key)
        put(folder / "cert.pem", self.certificate)


class Authority:
    """A certificate authority."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("a test's authority")
        ends = timedelta(days=1), timedelta(days=365)
        builder = _builder(self._name, self._name, self._key, *ends)
        ca = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = builder.add_extension(ca, critical=True).sign(
            self._key, SHA256()
        )
        self.pem = self._certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        *,
        since: timedelta = timedelta(days=1),
        left: timedelta = timedelta(days=90),
        password: bytes | None = None,
    ) -> Pair:
        """A certificate for localhost, good for servers and for clients."""
        own = key or ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name("localhost"), self._name, own, since, left)
        certificate = builder.add_extension(NAMES, critical=False).sign(
            self._key, SHA256()
        )
        protection = BestAvailableEncryption(password) if password else NoEncryption()
        return Pair(
            certificate=certificate.public_bytes(Encoding.PEM),
            key=own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection),
            serial=certificate.serial_number,
        )


def put(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replaces a file as a whole, by renaming."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.chmod(mode)
    new.replace(path)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: CertificateIssuerPrivateKeyTypes,
    since: timedelta,
    left: timedelta,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - since)
        .not_valid_after(now + left)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
