"""Proofs, good and bad, as wallets and forgers make them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import base58

from pourtier.v1 import auth_service_pb2 as pb
from pourtier_grpc.auth import nonce
from pourtier_grpc.auth.nonce import Binding
from pourtier_grpc.devtools.wallet import DevWallet
from support.service import DOMAIN, Service

PROOF_RPCS = ("VerifyWallet", "Register", "Login")

LABELS = {
    "uri": "URI",
    "version": "Version",
    "chain_id": "Chain ID",
    "nonce": "Nonce",
    "issued_at": "Issued At",
    "expiration_time": "Expiration Time",
    "not_before": "Not Before",
    "request_id": "Request ID",
}


def text_of(source: pb.SignInInput, **changes: str | None) -> str:
    """The text that a wallet makes of its input (Sign-In With Solana).

    `changes` replace fields of the input; None leaves one out.
    """
    given = {field.name: value for field, value in source.ListFields()} | changes
    lines = [
        f"{given['domain']} wants you to sign in with your Solana account:",
        given["address"],
    ]
    if given.get("statement"):
        lines += ["", given["statement"]]
    lines += [
        "",
        *(
            f"{label}: {given[field]}"
            for field, label in LABELS.items()
            if given.get(field) is not None
        ),
    ]
    return "\n".join(lines)


def rfc3339(moment: datetime) -> str:
    """A moment as wallets write it."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def signed(text: str, wallet: DevWallet, **fields: Any) -> dict[str, Any]:
    """The fields of a proof: that text, signed by that wallet."""
    return {
        "wallet_address": wallet.address,
        "message": text,
        "signature": wallet.sign_text(text.encode()),
        **fields,
    }


def send(service: Service, rpc: str, proof: Mapping[str, Any], **fields: Any) -> Any:
    """Presents a proof to one of the RPCs that take one."""
    if rpc == "Register":
        fields = {"wallet_type": "test", **fields}
    request = getattr(pb, f"{rpc}Request")(**proof, **fields)
    return service.api.call(getattr(service.api.auth, rpc), request)


def minted(service: Service, wallet: DevWallet, **changes: Any) -> str:
    """A nonce of the service's own making for another use than a challenge's.

    `changes` are of its binding; `keyring` and `expire_time` may be among them.
    """
    keyring = changes.pop("keyring", service.keyring)
    expire_time = changes.pop("expire_time", None)
    if expire_time is None:
        expire_time = service.clock.now() + timedelta(minutes=10)
    binding = {"chain": "solana", "domain": DOMAIN, "address": wallet.address}
    return nonce.issue(keyring, Binding(**{**binding, **changes}), expire_time)


def challenge_of(
    service: Service, wallet: DevWallet, **fields: str
) -> pb.CreateChallengeResponse:
    """A fresh challenge for a wallet."""
    return service.api.challenge(wallet, **fields)


def tampered(text: str, index: int, value: int) -> str:
    """A base58 text whose byte at that index has another value."""
    raw = bytearray(base58.b58decode(text))
    raw[index] = value
    return base58.b58encode(bytes(raw)).decode()


@dataclass(frozen=True)
class Forger:
    """Somebody with a wallet and a challenge for it."""

    service: Service
    wallet: DevWallet

    @property
    def input(self) -> pb.SignInInput:
        return challenge_of(self.service, self.wallet).sign_in_input

    def proof(self, **changes: str | None) -> dict[str, Any]:
        """A proof over the challenge's text with changed fields."""
        return signed(text_of(self.input, **changes), self.wallet)

    def after(self, **by: float) -> str:
        """A moment that far from now, as a wallet writes it."""
        return rfc3339(self.service.clock.now() + timedelta(**by))

    def raw(self, signed_bytes: bytes) -> dict[str, Any]:
        """A proof over bytes."""
        return {
            "wallet_address": self.wallet.address,
            "signed_message": signed_bytes,
            "signature": self.wallet.sign_text(signed_bytes),
        }
