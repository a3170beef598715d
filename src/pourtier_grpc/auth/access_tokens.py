"""Access tokens: JSON Web Tokens of type `at+jwt` (RFC 9068)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import jwt

from pourtier.v1.user_pb2 import User
from pourtier_grpc.auth.keyring import AccessKey, Keyring
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store.sessions import Session

TYPE = "at+jwt"
# Far above any token of ours; whatever is longer is not parsed at all.
MAX_LENGTH = 4096
REQUIRED = ("exp", "iat", "iss", "aud", "sub", "sid", "jti")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """What a token that verifies says: whose session it is, and until when."""

    user_id: UUID
    session_id: UUID
    expire_time: datetime


class AccessTokens:
    """Issues and verifies access tokens."""

    def __init__(
        self, keyring: Keyring, *, issuer: str, audience: str, lifetime: timedelta
    ) -> None:
        self._keyring = keyring
        self._issuer = issuer
        self._audience = audience
        self._lifetime = lifetime

    def issue(
        self, user: User, session: Session, ends: datetime
    ) -> tuple[str, datetime]:
        """The token of a session's present generation, and when it expires.

        Never past `ends`, the session's end. The same generation always gets the same
        token, so that callers who share a refresh token share this one too.
        """
        issued = session.rotate_time.replace(microsecond=0)
        expire_time = min(issued + self._lifetime, ends)
        wallet = _wallet_of(user, session)
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": user.user_id,
            "user_id": user.user_id,
            "wallet_address": session.address,
            "wallet_type": wallet,
            "roles": list(user.roles),
            "sid": str(session.session_id),
            "jti": str(uuid5(session.session_id, str(session.generation))),
            "iat": int(issued.timestamp()),
            "exp": int(expire_time.timestamp()),
        }
        key = self._keyring.access
        headers = {"typ": TYPE, "kid": key.key_id}
        token = jwt.encode(
            claims, key.signing, algorithm=key.algorithm, headers=headers
        )
        return token, expire_time

    def verify(self, token: str, now: datetime) -> AccessToken:
        """What a token says, if this service issued it and it has not expired.

        The algorithm is the key's, never the token's. Raises TOKEN_INVALID or
        TOKEN_EXPIRED.
        """
        key = self._key_of(token)
        try:
            claims = jwt.decode(
                token,
                key.verifying,
                algorithms=[key.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                # Times are compared below, by the clock that is injected.
                options={
                    "require": list(REQUIRED),
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
            verified = _read(claims)
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError):
            raise _invalid() from None
        if now >= verified.expire_time:
            raise PourtierError(
                ErrorReason.ERROR_REASON_TOKEN_EXPIRED, "the access token has expired"
            )
        return verified

    def _key_of(self, token: str) -> AccessKey:
        if len(token) > MAX_LENGTH:
            raise _invalid()
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError:
            raise _invalid() from None
        key_id = header.get("kid")
        key = self._keyring.access_key(key_id) if isinstance(key_id, str) else None
        if key is None or header.get("typ") != TYPE:
            raise _invalid()
        return key


def _read(claims: Mapping[str, Any]) -> AccessToken:
    # Claims of other types become texts that are no UUID: whoever shares an HS256
    # secret with this service may sign anything.
    return AccessToken(
        user_id=UUID(str(claims["sub"])),
        session_id=UUID(str(claims["sid"])),
        expire_time=datetime.fromtimestamp(int(claims["exp"]), UTC),
    )


def _wallet_of(user: User, session: Session) -> str:
    for wallet in user.wallets:
        if (wallet.chain, wallet.address) == (session.chain, session.address):
            return wallet.wallet_type
    return user.wallet_type


def _invalid() -> PourtierError:
    return PourtierError(
        ErrorReason.ERROR_REASON_TOKEN_INVALID,
        "the token is not an access token of this service",
    )
