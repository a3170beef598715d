"""TLS of the native listeners: which files it takes, and how they are replaced.

The listeners' files are read again every second, whole, so that it does not matter how
they were replaced: in place, by renaming, or through a link. What cannot be used is
never taken: the server goes on with what it had, and says so. A client's are read once.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

import pourtier_grpc
from pourtier_grpc import ownership
from pourtier_grpc.clock import Clock, SystemClock
from pourtier_grpc.config import ConfigError, Settings

CERTIFICATE = "TLS_CERT_FILE"
KEY = "TLS_KEY_FILE"
CLIENT_CA = "TLS_CLIENT_CA_FILE"

MAX_FILE_BYTES = 1024 * 1024
MIN_RSA_BITS = 2048
# Those whose signatures grpcio offers; P-521 and Ed25519 fail every handshake.
CURVES = ("secp256r1", "secp384r1")

# An end is told of when a fifth of the certificate's life is left, at most two weeks:
# by then whatever renews it should have done so.
LAST_PART = 5
MOST_AHEAD = timedelta(days=14)
REPEAT = timedelta(days=1)

_log = structlog.get_logger("pourtier.tls")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pem:
    """What the files hold, unchecked. `client_ca` is None where none is demanded."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


class Certificates:
    """The files of the settings, as they last were in order.

    `clock` is the one that clients compare a certificate with: the machine's. Raises
    ConfigError, with a sentence that names setting and file, where a file cannot be
    read or used.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        if settings.tls_cert_file is None or settings.tls_key_file is None:
            raise ConfigError(f"TLS needs both {CERTIFICATE} and {KEY}")
        self._certificate_file = settings.tls_cert_file
        self._key_file = settings.tls_key_file
        self._client_ca_file = settings.tls_client_ca_file
        self._clock = clock or SystemClock()
        self._pem = self._read()
        self._begin, self._end = self._check(self._pem)
        self._refused: str | None = None
        self._told: datetime | None = None
        self._tell_of_end()

    def refresh(self) -> None:
        """Takes the files as they are now, if they have changed and are in order.

        A refusal is logged once, until there is another or the files are in order.
        """
        try:
            self._take(self._read())
        except ConfigError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                _log.warning("kept the old TLS files", reason=self._refused)
        else:
            self._refused = None
        self._tell_of_end()

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for one address, which follow the files.

        Each address needs its own: grpcio asks, at every handshake, whether there is
        something newer than what it was last given.
        """
        given = self._pem

        def newer() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            present = self._pem
            if present is given:
                return None
            given = present
            return _configuration(present)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(given),
            newer,  # type: ignore[arg-type] # None is "no change", says its docstring
            require_client_authentication=given.client_ca is not None,
        )

    def _take(self, pem: Pem) -> None:
        if pem == self._pem:
            return
        self._begin, self._end = self._check(pem)
        self._pem, self._told = pem, None
        _log.info("took new TLS files", expires=self._end.isoformat())

    def _read(self) -> Pem:
        return Pem(
            certificate=_read(CERTIFICATE, self._certificate_file),
            key=_read(KEY, self._key_file, private=True),
            client_ca=_read(CLIENT_CA, self._client_ca_file)
            if self._client_ca_file is not None
            else None,
        )

    def _check(self, pem: Pem) -> tuple[datetime, datetime]:
        """When the chain begins and ends to be good. Raises ConfigError."""
        name = f"{CERTIFICATE}={self._certificate_file}"
        chain = _certificates(name, pem.certificate)
        if pem.client_ca is not None:
            _certificates(f"{CLIENT_CA}={self._client_ca_file}", pem.client_ca)
        begin = max(each.not_valid_before_utc for each in chain)
        end = min(each.not_valid_after_utc for each in chain)
        now = self._clock.now()
        if not begin <= now <= end:
            raise ConfigError(
                f"{name} is good from {begin.isoformat()} to {end.isoformat()}, "
                "not now: clients would refuse it"
            )
        key = _private_key(f"{KEY}={self._key_file}", pem.key)
        if not _belongs(key, chain[0]):
            raise ConfigError(
                f"{KEY}={self._key_file} is not the key of the first certificate of "
                f"{name}"
            )
        return begin, end

    def _tell_of_end(self) -> None:
        now = self._clock.now()
        left = self._end - now
        if left > min(MOST_AHEAD, (self._end - self._begin) / LAST_PART):
            return
        if self._told is not None and now - self._told < REPEAT:
            return
        self._told = now
        file, end = str(self._certificate_file), self._end.isoformat()
        if left > timedelta(0):
            _log.warning("the TLS certificate ends soon", file=file, expires=end)
        else:
            _log.error("the TLS certificate has ended", file=file, expires=end)


def certificates_of(settings: Settings) -> Certificates | None:
    """The certificates of the native listeners; None where these are plaintext.

    Raises what Certificates raises. Says in the log where TLS 1.2 is let in.
    """
    if not settings.tls:
        return None
    made = Certificates(settings)
    if not only_tls_1_3():
        _log.warning(
            "the native listeners let TLS 1.2 in",
            reason=f"{pourtier_grpc.CIPHERS_VARIABLE} is set, or grpc was imported "
            "before pourtier_grpc",
        )
    return made


def client_credentials(
    ca: Path, cert: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials:
    """What a client trusts, and what it shows of itself, for the options of a command.

    Raises ConfigError, with a sentence that names option and file, where a file cannot
    be read or used.
    """
    authority = _read("--ca", ca)
    _certificates(f"--ca={ca}", authority)
    if cert is None or key is None:
        return grpc.ssl_channel_credentials(authority)
    shown, secret = _read("--cert", cert), _read("--key", key, private=True)
    chain = _certificates(f"--cert={cert}", shown)
    if not _belongs(_private_key(f"--key={key}", secret), chain[0]):
        raise ConfigError(f"--key={key} is not the key of --cert={cert}")
    return grpc.ssl_channel_credentials(authority, secret, shown)


def only_tls_1_3() -> bool:
    """Whether grpcio, in this process, was told in time to refuse TLS 1.2."""
    ciphers = os.environ.get(pourtier_grpc.CIPHERS_VARIABLE)
    return pourtier_grpc.BEFORE_GRPC and ciphers == pourtier_grpc.TLS_1_3_ALONE


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(pem.key, pem.certificate)], root_certificates=pem.client_ca
    )


def _read(setting: str, path: Path, *, private: bool = False) -> bytes:
    """A file's content. A private one must be its owner's alone, as keys in KEY_DIR."""
    name = f"{setting}={path}"
    try:
        # Opening a pipe would wait for a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{name} is not a file")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            fault = ownership.fault_of_secret(status) if private else None
            if fault is not None:
                raise ConfigError(f"{name} {fault}")
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{name} is longer than {MAX_FILE_BYTES} bytes")
    return content


def _certificates(name: str, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{name} holds no certificate in PEM that is whole") from None


def _private_key(
    name: str, pem: bytes
) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """A key that grpcio can use. Raises ConfigError."""
    try:
        # Its checks of an RSA key take up to a second, and `_belongs` tries the key.
        key = load_pem_private_key(
            pem, password=None, unsafe_skip_rsa_key_validation=True
        )
    except TypeError:
        raise ConfigError(f"{name} is encrypted; it must not be") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{name} holds no private key in PEM that is whole") from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in CURVES:
        return key
    raise ConfigError(
        f"{name} is of a kind that TLS cannot use here: RSA of {MIN_RSA_BITS} bits or "
        "more, ECDSA on P-256 or P-384"
    )


def _belongs(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> bool:
    """Whether the certificate verifies what the key signs."""
    public, proof = certificate.public_key(), b"pourtier"
    try:
        if isinstance(key, rsa.RSAPrivateKey) and isinstance(public, rsa.RSAPublicKey):
            signature = key.sign(proof, padding.PKCS1v15(), SHA256())
            public.verify(signature, proof, padding.PKCS1v15(), SHA256())
            return True
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(
            public, ec.EllipticCurvePublicKey
        ):
            public.verify(
                key.sign(proof, ec.ECDSA(SHA256())), proof, ec.ECDSA(SHA256())
            )
            return True
    except (InvalidSignature, ValueError):
        pass
    return False
