"""Solana: Sign-In With Solana (CAIP-122's profile) and ed25519 over its bare text."""

from __future__ import annotations

import re
from typing import Final

from pourtier_grpc.auth.wallets import ed25519
from pourtier_grpc.auth.wallets.encodings import decode_base58
from pourtier_grpc.auth.wallets.message import SignInGrammar, SignInMessage
from pourtier_grpc.errors import ErrorReason, PourtierError


class Solana:
    """The chain `solana`. See WalletChain for what each method promises."""

    name: Final = "solana"
    address_form: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,44}")
    signature_bytes: Final = ed25519.SIGNATURE_BYTES

    _grammar: Final = SignInGrammar(
        chain=name,
        title="Solana",
        address=address_form.pattern,
        chain_id=r"(?:solana:)?(?:mainnet|testnet|devnet|localnet)",
    )

    def public_key(self, address: str) -> bytes:
        """The address is the key, in base58.

        MALFORMED_ADDRESS is raised for keys that cannot sign as well, such as the
        addresses that programs derive: they are off the curve.
        """
        key = decode_base58(address) if self.address_form.fullmatch(address) else None
        if key is None or not ed25519.is_public_key(key):
            raise PourtierError(
                ErrorReason.ERROR_REASON_MALFORMED_ADDRESS,
                "this is not an address of {chain} that can sign",
                chain=self.name,
            )
        return key

    def open(self, signed: bytes) -> str:
        """What is signed is the text itself."""
        return self._grammar.text(signed)

    def parse(self, text: str) -> SignInMessage:
        """The text taken apart."""
        return self._grammar.parse(text)

    def write(self, message: SignInMessage) -> str:
        """The text of a message."""
        return self._grammar.write(message)

    def verify(self, public_key: bytes, signed: bytes, signature: bytes) -> None:
        """Ed25519 over the signed bytes."""
        if not ed25519.verify(public_key, signed, signature):
            raise PourtierError(
                ErrorReason.ERROR_REASON_SIGNATURE_INVALID,
                "the signature is not the wallet's over this message",
            )
