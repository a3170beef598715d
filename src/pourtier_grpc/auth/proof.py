"""A wallet's proof that the caller holds its key: a signed sign-in message.

The order of the checks is part of the contract: form first (INVALID_ARGUMENT), then
what the message says, from who signed it to when, and last the signature, so that the
reason given is the most telling one (UNAUTHENTICATED).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from pourtier.v1.auth_service_pb2 import SignatureEncoding
from pourtier_grpc.auth.wallets import (
    MessageTime,
    SignInMessage,
    WalletChain,
    chain_of,
)
from pourtier_grpc.auth.wallets.encodings import decode_signature
from pourtier_grpc.auth.wallets.message import origin_of
from pourtier_grpc.errors import ErrorReason, PourtierError

_T = TypeVar("_T")

# Says whether this service has issued the message's nonce, which is there, for that
# chain, address and domain. Raises NONCE_INVALID or CHALLENGE_EXPIRED.
NonceCheck = Callable[[str, SignInMessage], None]

# Metadata travels in trailers, which are small; a URI may be as long as a message.
_MAX_URI_METADATA = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a caller presents: the proof of the contract's requests, as it came."""

    wallet_address: str
    signature: str = field(repr=False)
    encoding: SignatureEncoding.ValueType
    signed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInPolicy:
    """What a sign-in message must say to be meant for this service.

    `origins` are those of the pages that sign in, as browsers write them
    (`https://app.lumiere.trade`, `http://localhost:3000`). `chain_ids` has the network
    of each chain by the chain's name (`{"solana": "mainnet"}`); a chain without one
    accepts no message that names a network. `max_skew` bounds how far issued-at may
    lie from the present, either way.
    """

    origins: tuple[str, ...]
    chain_ids: Mapping[str, str]
    max_skew: timedelta = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedProof:
    """A proof that holds, and says who has signed in where.

    Nothing is consumed by it: whoever opens a session spends the nonce first.
    """

    chain: str
    address: str
    public_key: bytes
    domain: str
    nonce: str = field(repr=False)
    message: SignInMessage = field(repr=False)


def domain_of(origin: str) -> str:
    """The sign-in domain of an origin: its host, with the port where it names one."""
    return origin.partition("://")[2]


def check(
    proof: Proof, policy: SignInPolicy, now: datetime, check_nonce: NonceCheck
) -> VerifiedProof:
    """Checks a proof, for any input whatever; raises nothing but PourtierError.

    In this order: MALFORMED_ADDRESS (or UNSUPPORTED_CHAIN), MALFORMED_SIGNATURE,
    MALFORMED_MESSAGE; ADDRESS_MISMATCH, DOMAIN_MISMATCH, CHAIN_ID_MISMATCH;
    MALFORMED_MESSAGE where nonce or issued-at is missing; CHALLENGE_EXPIRED,
    MESSAGE_NOT_YET_VALID, ISSUED_IN_FUTURE, ISSUED_TOO_LONG_AGO; what `check_nonce`
    raises; SIGNATURE_INVALID.
    """
    chain = chain_of(proof.wallet_address, proof.signed)
    public_key = chain.public_key(proof.wallet_address)
    signature = decode_signature(proof.signature, proof.encoding, chain.signature_bytes)
    message = chain.parse(chain.open(proof.signed))
    _check_address(chain, message, proof.wallet_address)
    _check_domain(message, policy)
    _check_network(chain, message, policy)
    nonce = _demanded(chain, "nonce", message.nonce)
    issued_at = _demanded(chain, "issued-at", message.issued_at)
    _check_validity(message, issued_at, now)
    _check_age(issued_at, policy.max_skew, now)
    check_nonce(chain.name, message)
    chain.verify(public_key, proof.signed, signature)
    return VerifiedProof(
        chain=chain.name,
        address=message.address,
        public_key=public_key,
        domain=message.domain,
        nonce=nonce,
        message=message,
    )


def _check_address(chain: WalletChain, message: SignInMessage, claimed: str) -> None:
    """The account that signs may differ from the one asked for: the text says which."""
    if message.address == claimed:
        return
    # A line that holds no address at all is the plainer fault.
    chain.public_key(message.address)
    raise PourtierError(
        ErrorReason.ERROR_REASON_ADDRESS_MISMATCH,
        "the address in the signed message is not the address claimed",
    )


def _check_domain(message: SignInMessage, policy: SignInPolicy) -> None:
    """Domain and URI, compared byte by byte.

    RFC 3986 would let case and default ports differ, but browsers write every origin
    in one way, and a stricter rule leaves a look-alike no room.
    """
    origins = [
        origin for origin in policy.origins if domain_of(origin) == message.domain
    ]
    if not origins:
        raise PourtierError(
            ErrorReason.ERROR_REASON_DOMAIN_MISMATCH,
            "the message is signed for {domain}, which is not this service's",
            domain=message.domain,
        )
    if message.uri is not None and origin_of(message.uri) not in origins:
        raise PourtierError(
            ErrorReason.ERROR_REASON_DOMAIN_MISMATCH,
            "the message's URI {uri} is not of the origin of {domain}",
            domain=message.domain,
            uri=message.uri[:_MAX_URI_METADATA],
        )


def _check_network(
    chain: WalletChain, message: SignInMessage, policy: SignInPolicy
) -> None:
    """The network, where the message names one: bare or as in CAIP-2."""
    if message.chain_id is None:
        return
    expected = policy.chain_ids.get(chain.name, "")
    prefix = f"{chain.name}:"
    if message.chain_id.removeprefix(prefix) != expected.removeprefix(prefix):
        raise PourtierError(
            ErrorReason.ERROR_REASON_CHAIN_ID_MISMATCH,
            "the message is signed for {chain_id}, not for {expected}",
            chain_id=message.chain_id,
            expected=expected,
        )


def _demanded(chain: WalletChain, name: str, value: _T | None) -> _T:
    """A field that the grammar lets a message do without, and this service does not."""
    if value is None:
        raise PourtierError(
            ErrorReason.ERROR_REASON_MALFORMED_MESSAGE,
            "the sign-in message of {chain} has no {missing}",
            chain=chain.name,
            missing=name,
        )
    return value


def _check_validity(
    message: SignInMessage, issued_at: MessageTime, now: datetime
) -> None:
    """Valid from not-before on, and until just before its expiration (CAIP-122)."""
    expires = message.expiration_time
    if expires is not None and not max(now, issued_at.moment) < expires.moment:
        raise PourtierError(
            ErrorReason.ERROR_REASON_CHALLENGE_EXPIRED,
            "the message expired at {expire_time}",
            expire_time=_utc(expires),
        )
    starts = message.not_before
    if starts is not None and now < starts.moment:
        raise PourtierError(
            ErrorReason.ERROR_REASON_MESSAGE_NOT_YET_VALID,
            "the message is not valid before {not_before}",
            not_before=_utc(starts),
        )


def _check_age(issued_at: MessageTime, max_skew: timedelta, now: datetime) -> None:
    """Issued about now, as far as two clocks can agree on it."""
    age = now - issued_at.moment
    if age < -max_skew:
        raise PourtierError(
            ErrorReason.ERROR_REASON_ISSUED_IN_FUTURE,
            "the message was issued at {issued_at}, which has not come",
            issued_at=_utc(issued_at),
        )
    if age > max_skew:
        raise PourtierError(
            ErrorReason.ERROR_REASON_ISSUED_TOO_LONG_AGO,
            "the message was issued at {issued_at}, too long ago",
            issued_at=_utc(issued_at),
        )


def _utc(time: MessageTime) -> str:
    """The moment as the registry's examples write it, whatever the wallet wrote."""
    return MessageTime.of(time.moment).text
