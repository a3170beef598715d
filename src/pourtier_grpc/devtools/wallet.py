"""A Solana wallet for the terminal and for tests.

Its key lies in a plain file: nothing of value belongs to it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Self

import base58
from nacl.signing import SigningKey

from pourtier_grpc.expected import ExpectedError

SEED_BYTES = 32
KEYPAIR_BYTES = 64


class DevWalletError(ExpectedError):
    """A wallet's file cannot be read, is none, or would be overwritten."""


class DevWallet:
    """An ed25519 key pair and its Solana address."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> Self:
        """A new wallet, in memory."""
        return cls(SigningKey.generate())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a wallet from a file of `save`, or of `solana-keygen`.

        Raises DevWalletError where there is no such file or it is no key pair.
        """
        try:
            numbers = json.loads(path.read_bytes())
        except OSError as error:
            raise DevWalletError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise DevWalletError(f"{path} is not JSON") from error
        keypair = _keypair(numbers)
        if keypair is None:
            raise DevWalletError(f"{path} is not an array of {KEYPAIR_BYTES} bytes")
        key = SigningKey(keypair[:SEED_BYTES])
        if key.verify_key.encode() != keypair[SEED_BYTES:]:
            raise DevWalletError(f"{path} has another key's public half")
        return cls(key)

    def save(self, path: Path) -> None:
        """Writes the wallet to a new file that its owner alone can read (0600).

        The format is that of `solana-keygen`: a JSON array of the 32 bytes of the seed
        and the 32 of the public key. Raises DevWalletError where the file cannot be
        written or is there already: overwriting a key loses what it owns.
        """
        numbers = json.dumps(list(self._key.encode() + self._key.verify_key.encode()))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            with os.fdopen(os.open(path, flags, 0o600), "w") as file:
                file.write(numbers)
        except OSError as error:
            raise DevWalletError(f"cannot write {path}: {error.strerror}") from error

    @property
    def address(self) -> str:
        """The public key in base58."""
        return base58.b58encode(self._key.verify_key.encode()).decode()

    def sign(self, message: bytes) -> bytes:
        """The signature alone: 64 bytes (RFC 8032)."""
        return self._key.sign(message).signature

    def sign_text(self, message: bytes) -> str:
        """The signature in base58, as the contract takes it by default."""
        return base58.b58encode(self.sign(message)).decode()


def _keypair(numbers: object) -> bytes | None:
    if not isinstance(numbers, list) or len(numbers) != KEYPAIR_BYTES:
        return None
    try:
        return bytes(numbers)
    except (TypeError, ValueError):
        return None
