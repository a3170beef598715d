"""The chains whose wallets can sign in: one module each, registered here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from pourtier_grpc.auth.wallets.message import SignInMessage, named_chain
from pourtier_grpc.auth.wallets.solana import Solana
from pourtier_grpc.auth.wallets.times import MessageTime
from pourtier_grpc.errors import ErrorReason, PourtierError

__all__ = [
    "WALLET_CHAINS",
    "MessageTime",
    "SignInMessage",
    "WalletChain",
    "chain_named",
    "chain_of",
]


class WalletChain(Protocol):
    """How the wallets of one chain write addresses and messages, and sign them."""

    @property
    def name(self) -> str:
        """The chain's name in the contract, such as `solana`: its CAIP-2 namespace."""
        ...

    @property
    def address_form(self) -> re.Pattern[str]:
        """What its addresses look like; no text has the form of two chains."""
        ...

    @property
    def signature_bytes(self) -> int:
        """The length of its signatures."""
        ...

    def public_key(self, address: str) -> bytes:
        """The key that an address stands for.

        Raises MALFORMED_ADDRESS where it stands for none that can sign, and where
        another text is the address's one right spelling.
        """
        ...

    def open(self, signed: bytes) -> str:
        """The text inside the bytes that a wallet has signed.

        Raises MALFORMED_MESSAGE where there is none.
        """
        ...

    def parse(self, text: str) -> SignInMessage:
        """Takes a sign-in message apart. Raises MALFORMED_MESSAGE."""
        ...

    def write(self, message: SignInMessage) -> str:
        """The text of a sign-in message. Raises ValueError where it has none."""
        ...

    def verify(self, public_key: bytes, signed: bytes, signature: bytes) -> None:
        """Checks a signature over the bytes signed. Raises SIGNATURE_INVALID."""
        ...


_CHAINS: Final[tuple[WalletChain, ...]] = (Solana(),)

WALLET_CHAINS: Final[Mapping[str, WalletChain]] = MappingProxyType(
    {chain.name: chain for chain in _CHAINS}
)
# Of whoever names no chain.
DEFAULT_CHAIN: Final = "solana"


def chain_named(name: str) -> WalletChain:
    """The chain of that name, exactly. Raises UNSUPPORTED_CHAIN."""
    chain = WALLET_CHAINS.get(name)
    if chain is None:
        raise PourtierError(
            ErrorReason.ERROR_REASON_UNSUPPORTED_CHAIN,
            "wallets of {chain} cannot sign in; supported: {supported}",
            chain=name,
            supported=", ".join(WALLET_CHAINS),
        )
    return chain


def chain_of(address: str, signed: bytes) -> WalletChain:
    """The chain by whose rules a claimed address and what it signed are checked.

    The address decides by its form. One that has none may be a slip of the pen or an
    address of a chain not supported: the signed text's first line tells which, so that
    the refusal names the right chain. Raises UNSUPPORTED_CHAIN, or MALFORMED_ADDRESS
    where the text tells nothing either.
    """
    for chain in WALLET_CHAINS.values():
        if chain.address_form.fullmatch(address):
            return chain
    named = named_chain(signed)
    if named is None:
        raise PourtierError(
            ErrorReason.ERROR_REASON_MALFORMED_ADDRESS,
            "this is not an address of {chain}",
            chain=", ".join(WALLET_CHAINS),
        )
    return chain_named(named)
