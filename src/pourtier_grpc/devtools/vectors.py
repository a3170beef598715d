"""Runs files of wallet test vectors against the service's own check.

A file is a JSON array. An entry has the signed message, its signature in the encodings
of wallets, the policy to check it under, and how the check must end: a label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from pourtier.v1.auth_service_pb2 import SignatureEncoding
from pourtier_grpc.auth import proof
from pourtier_grpc.auth.wallets import SignInMessage
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.expected import ExpectedError

# What is checked so far, as (chain, form, layer).
SUPPORTED: Final = frozenset({("solana", "raw", "sign_in")})

# The labels that an outcome has in vector files; None is a proof that holds. The first
# is the one reported.
LABELS: Final[Mapping[ErrorReason.ValueType | None, tuple[str, ...]]] = {
    None: ("valid", "valid_if_lenient"),
    ErrorReason.ERROR_REASON_MALFORMED_ADDRESS: ("malformed_address",),
    ErrorReason.ERROR_REASON_MALFORMED_SIGNATURE: ("malformed_signature",),
    ErrorReason.ERROR_REASON_MALFORMED_MESSAGE: ("malformed_message",),
    ErrorReason.ERROR_REASON_ADDRESS_MISMATCH: ("address_mismatch",),
    ErrorReason.ERROR_REASON_DOMAIN_MISMATCH: ("domain_mismatch", "uri_mismatch"),
    ErrorReason.ERROR_REASON_CHAIN_ID_MISMATCH: ("chain_id_mismatch",),
    ErrorReason.ERROR_REASON_CHALLENGE_EXPIRED: ("expired",),
    ErrorReason.ERROR_REASON_MESSAGE_NOT_YET_VALID: ("not_yet_valid",),
    ErrorReason.ERROR_REASON_ISSUED_IN_FUTURE: ("issued_in_future",),
    ErrorReason.ERROR_REASON_ISSUED_TOO_LONG_AGO: ("issued_too_long_ago",),
    ErrorReason.ERROR_REASON_NONCE_INVALID: ("nonce_mismatch",),
    ErrorReason.ERROR_REASON_SIGNATURE_INVALID: ("bad_signature",),
}

ENCODINGS: Final = {
    "base58": SignatureEncoding.SIGNATURE_ENCODING_BASE58,
    "base64": SignatureEncoding.SIGNATURE_ENCODING_BASE64,
    "hex": SignatureEncoding.SIGNATURE_ENCODING_HEX,
    "hex0x": SignatureEncoding.SIGNATURE_ENCODING_HEX,
}


class VectorFileError(ExpectedError):
    """A file cannot be read, is not an array of entries, or has none to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFailure:
    """An entry that did not end as its label.

    `expected` are the labels that would have been right, the entry's own first; `got`
    is the label of what happened, or a phrase where no label says it.
    """

    name: str
    expected: tuple[str, ...]
    got: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorReport:
    """How many entries were run, and those that failed, in the file's order."""

    run: int
    failures: tuple[VectorFailure, ...]


@checked_dataclass(frozen=True, slots=True, kw_only=True)
class _Policy:
    verify_at: AwareDatetime
    address: str
    domain: str = ""
    uri: str = "https:"
    chain_id: str | int = ""
    nonce: str = ""

    def sign_in(self, chain: str) -> proof.SignInPolicy:
        """Signing in on the policy's domain, by the scheme of its URI."""
        scheme = self.uri.partition(":")[0]
        return proof.SignInPolicy(
            origins=(f"{scheme}://{self.domain}",),
            chain_ids={chain: str(self.chain_id)},
        )

    def check_nonce(self, _: str, message: SignInMessage) -> None:
        """The policy's nonce counts as issued and unused, and no other."""
        if message.nonce != self.nonce:
            raise PourtierError(
                ErrorReason.ERROR_REASON_NONCE_INVALID, "the nonce is not the entry's"
            )


@checked_dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    name: str
    chain: str
    form: str
    layer: str
    signature: dict[str, str]
    expect: str
    policy: _Policy
    also_acceptable: tuple[str, ...] = ()
    strict_expect: str | None = None
    message: str = ""

    @property
    def expected(self) -> tuple[str, ...]:
        """Every label that is right, the entry's own first."""
        strict = () if self.strict_expect is None else (self.strict_expect,)
        return (self.expect, *strict, *self.also_acceptable)


ENTRIES: Final = TypeAdapter(tuple[_Entry, ...])


def check_file(path: Path, form: str | None) -> VectorReport:
    """Runs a file's entries, those of one form where `form` is given.

    An entry that is not supported is a failure: what was not checked has not passed.
    Raises VectorFileError where the file cannot be run.
    """
    entries = [entry for entry in _read(path) if form in (None, entry.form)]
    if not entries:
        of_form = "" if form is None else f" of form {form!r}"
        raise VectorFileError(f"{path} has no entry{of_form}")
    failures = (_failure(entry) for entry in entries)
    return VectorReport(
        run=len(entries),
        failures=tuple(failure for failure in failures if failure is not None),
    )


def _read(path: Path) -> tuple[_Entry, ...]:
    try:
        return ENTRIES.validate_json(path.read_bytes())
    except OSError as error:
        raise VectorFileError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise VectorFileError(
            f"{path} is not a file of vectors: {place}: {first['msg']}"
        ) from error


def _failure(entry: _Entry) -> VectorFailure | None:
    """Runs one entry; None is a pass."""
    outcomes = _outcomes(entry)
    agreed = set(outcomes.values())
    if len(agreed) == 1:
        labels = agreed.pop()
        if set(labels) & set(entry.expected):
            return None
        got = labels[0]
    elif agreed:
        got = "; ".join(f"{name}: {labels[0]}" for name, labels in outcomes.items())
    else:
        got = "no signature"
    return VectorFailure(name=entry.name, expected=entry.expected, got=got)


def _outcomes(entry: _Entry) -> dict[str, tuple[str, ...]]:
    """The labels of the outcome, by encoding of the signature: all must be the same."""
    if (entry.chain, entry.form, entry.layer) not in SUPPORTED:
        return {"": (f"not supported: {entry.chain} {entry.form} {entry.layer}",)}
    return {name: _outcome(entry, name) for name in entry.signature}


def _outcome(entry: _Entry, encoding: str) -> tuple[str, ...]:
    if encoding not in ENCODINGS:
        return (f"unknown encoding {encoding}",)
    policy = entry.policy
    presented = proof.Proof(
        wallet_address=policy.address,
        signature=entry.signature[encoding],
        encoding=ENCODINGS[encoding],
        signed=entry.message.encode(),
    )
    sign_in = policy.sign_in(entry.chain)
    try:
        proof.check(presented, sign_in, policy.verify_at, policy.check_nonce)
    except PourtierError as error:
        return LABELS.get(error.reason, (error.reason_name.lower(),))
    return LABELS[None]
