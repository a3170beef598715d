"""Access tokens taken apart and put together, rightly and wrongly."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import User
from support.api import Api


def encoded(value: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The header and the claims of a token, unverified."""
    header, payload, _ = token.split(".")
    return json.loads(decoded(header)), json.loads(decoded(payload))


def unsigned(header: Any, payload: Any) -> str:
    """What is signed of a token. Bytes are taken as they are, all else as JSON."""
    pieces = (
        part if isinstance(part, bytes) else json.dumps(part).encode()
        for part in (header, payload)
    )
    return ".".join(map(encoded, pieces))


def with_ed25519(header: Any, payload: Any, key: Ed25519PrivateKey) -> str:
    """A token with an Ed25519 signature."""
    text = unsigned(header, payload)
    return f"{text}.{encoded(key.sign(text.encode()))}"


def with_hmac(
    header: Any, payload: Any, secret: bytes, digest: Any = hashlib.sha256
) -> str:
    """A token with an HMAC, whatever the secret is (libraries refuse some)."""
    text = unsigned(header, payload)
    return f"{text}.{encoded(hmac.digest(secret, text.encode(), digest))}"


def me(api: Api, bearer: str) -> User:
    """The account of whoever holds the token."""
    return api.call(api.users.GetMe, user_pb.GetMeRequest(), bearer=bearer)
