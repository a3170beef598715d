"""Tokens that this service did not issue, and whoever made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from grpc import StatusCode

from pourtier_grpc.auth.keyring import public_jwk
from support.api import refusal
from support.service import Service
from support.tokens import (
    decoded,
    encoded,
    me,
    parts,
    unsigned,
    with_ed25519,
    with_hmac,
)


@dataclass(frozen=True)
class Forger:
    """Somebody with a good token of their own, and what is public."""

    service: Service
    token: str

    @property
    def header(self) -> dict[str, Any]:
        return parts(self.token)[0]

    @property
    def claims(self) -> dict[str, Any]:
        return parts(self.token)[1]

    @property
    def key(self) -> Ed25519PrivateKey:
        """The service's own key: nobody has it, but what if."""
        key = self.service.keyring.access.signing
        assert isinstance(key, Ed25519PrivateKey)
        return key

    @property
    def public(self) -> Ed25519PublicKey:
        return self.key.public_key()

    def signed(self, *, without: tuple[str, ...] = (), **changes: Any) -> str:
        """A token with changed claims under the service's own key."""
        claims = {k: v for k, v in self.claims.items() if k not in without} | changes
        return with_ed25519(self.header, claims, self.key)

    def headed(self, *, without: tuple[str, ...] = (), **changes: Any) -> str:
        """A token with a changed header under the service's own key."""
        header = {k: v for k, v in self.header.items() if k not in without} | changes
        return with_ed25519(header, self.claims, self.key)


Make = Callable[[Forger], str]


def without_signature(algorithm: str) -> Make:
    return lambda forger: (
        unsigned(forger.header | {"alg": algorithm}, forger.claims) + "."
    )


def public_key_as_secret(write: Callable[[Ed25519PublicKey], bytes]) -> Make:
    return lambda forger: with_hmac(
        forger.header | {"alg": "HS256"}, forger.claims, write(forger.public)
    )


def pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def der(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def whole_jwk(forger: Forger) -> str:
    jwk = json.dumps(public_jwk(forger.service.keyring.access)).encode()
    return with_hmac(forger.header | {"alg": "HS256"}, forger.claims, jwk)


def by_another_key(forger: Forger) -> str:
    return with_ed25519(forger.header, forger.claims, Ed25519PrivateKey.generate())


def key_in_the_token(forger: Forger) -> str:
    """The forger's own key, offered in the header (CVE-2018-0114)."""
    own = Ed25519PrivateKey.generate()
    x = encoded(own.public_key().public_bytes_raw())
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": x}
    return with_ed25519(forger.header | {"jwk": jwk}, forger.claims, own)


def altered(part: int, change: Callable[[bytes], bytes]) -> Make:
    """The good token with the bytes of one part changed."""

    def case(forger: Forger) -> str:
        pieces = forger.token.split(".")
        pieces[part] = encoded(change(decoded(pieces[part])))
        return ".".join(pieces)

    return case


def lacking(claim: str) -> Make:
    return lambda forger: forger.signed(without=(claim,))


def another_session(forger: Forger) -> str:
    """Somebody else's session in a token of one's own name."""
    other = forger.service.registered()[1].tokens
    return forger.signed(sid=other.session_id)


def another_tokens_signature(forger: Forger) -> str:
    other = forger.service.registered()[1].tokens.access_token
    return f"{forger.token.rpartition('.')[0]}.{other.rpartition('.')[2]}"


def repeated(name: str, value: Any, *, last: bool) -> Make:
    """A claim twice in one token, under the service's own key."""

    def case(forger: Forger) -> str:
        body = json.dumps(forger.claims)
        extra = json.dumps({name: value})
        both = (body, extra) if last else (extra, body)
        payload = f"{both[0][:-1]}, {both[1][1:]}".encode()
        return with_ed25519(forger.header, payload, forger.key)

    return case


NESTED = b"[" * 2500
CASES: dict[str, Make] = {
    **{
        f"without a signature, alg {name}": without_signature(name)
        for name in ("none", "None", "NONE", "", "EdDSA")
    },
    "HS256 with the public key's bytes": public_key_as_secret(
        lambda key: key.public_bytes_raw()
    ),
    "HS256 with the public key as PEM": public_key_as_secret(pem),
    "HS256 with the public key as DER": public_key_as_secret(der),
    "HS256 with the x of the JWK": public_key_as_secret(
        lambda key: encoded(key.public_bytes_raw()).encode()
    ),
    "HS256 with the whole JWK": whole_jwk,
    "HS256 with no secret": public_key_as_secret(lambda _: b""),
    "HS512 with the public key's bytes": lambda f: with_hmac(
        f.header | {"alg": "HS512"},
        f.claims,
        f.public.public_bytes_raw(),
        hashlib.sha512,
    ),
    "an algorithm that is none": lambda f: f.headed(alg="XYZ"),
    "another algorithm's name": lambda f: f.headed(alg="ES256"),
    "no algorithm": lambda f: f.headed(without=("alg",)),
    "another key": by_another_key,
    "another key, offered in the token": key_in_the_token,
    "the signature of another token": another_tokens_signature,
    "a changed payload": altered(1, lambda b: b.replace(b'"roles":[]', b'"roles":[1]')),
    "a flipped bit in the signature": altered(2, lambda b: bytes([b[0] ^ 1]) + b[1:]),
    "a truncated signature": altered(2, lambda b: b[:-1]),
    "a longer signature": altered(2, lambda b: b + b"\0"),
    "a signature of zeros": altered(2, lambda _: bytes(64)),
    "type JWT": lambda f: f.headed(typ="JWT"),
    "type id_token": lambda f: f.headed(typ="id+jwt"),
    "no type": lambda f: f.headed(without=("typ",)),
    "an unknown key id": lambda f: f.headed(kid="unknown"),
    "no key id": lambda f: f.headed(without=("kid",)),
    "a key id that is a list": lambda f: f.headed(kid=[f.header["kid"]]),
    "the HMAC key's id": lambda f: f.headed(kid=f.service.keyring.hmac.key_id.hex()),
    "a critical extension": lambda f: f.headed(crit=["exp"], exp=1),
    "a detached payload": lambda f: f.headed(b64=False, crit=["b64"]),
    **{
        f"no {name}": lacking(name)
        for name in ("exp", "iat", "iss", "aud", "sub", "sid", "jti")
    },
    "another issuer": lambda f: f.signed(iss="other"),
    "a list of issuers": lambda f: f.signed(iss=["pourtier"]),
    "another audience": lambda f: f.signed(aud="other"),
    "no audience's name": lambda f: f.signed(aud=[]),
    "another user's session": another_session,
    "a session that does not exist": lambda f: f.signed(sid=str(uuid4())),
    "a user who does not exist": lambda f: f.signed(sub=str(uuid4())),
    "another user, named last": repeated("sub", str(uuid4()), last=True),
    "a subject that is a number": lambda f: f.signed(sub=7),
    "a subject that is no UUID": lambda f: f.signed(sub="me"),
    "a session that is a number": lambda f: f.signed(sid=7),
    "a session that is a list": lambda f: f.signed(sid=[f.claims["sid"]]),
    "a session that is nothing": lambda f: f.signed(sid=None),
    "an expiry that is a word": lambda f: f.signed(exp="soon"),
    "an expiry that is nothing": lambda f: f.signed(exp=None),
    "an expiry that is a list": lambda f: f.signed(exp=[]),
    "an expiry beyond all years": lambda f: f.signed(exp=10**30),
    "an endless expiry": lambda f: f.signed(exp=float("inf")),
    "claims that are a list": lambda f: with_ed25519(f.header, [], f.key),
    "claims that are no JSON": lambda f: with_ed25519(f.header, b"{", f.key),
    "claims that are no UTF-8": lambda f: with_ed25519(f.header, b"\xff", f.key),
    "a header that is a list": lambda f: with_ed25519([], f.claims, f.key),
    "a header nested without end": lambda f: f"{encoded(NESTED)}.e30.e30",
    "claims nested without end": lambda f: with_ed25519(f.header, NESTED, f.key),
    "a refresh token": lambda f: f.service.registered()[1].tokens.refresh_token,
    "a word": lambda _: "token",
    "dots": lambda _: "..",
    "three letters": lambda _: "a.b.c",
    "five parts": lambda f: f"{f.token}.a.b",
    "a token and a half": lambda f: f.token + f.token[:10],
    "a token in quotes": lambda f: f'"{f.token}"',
    "a token twice": lambda f: f"{f.token}, {f.token}",
    "five thousand letters": lambda _: "a" * 5000,
}


@pytest.fixture(scope="module")
def forger(shared: Service) -> Forger:
    return Forger(shared, shared.registered()[1].tokens.access_token)


@pytest.mark.parametrize("case", CASES)
def test_a_forged_token_is_refused(forger: Forger, case: str) -> None:
    with refusal("TOKEN_INVALID", StatusCode.UNAUTHENTICATED) as caught:
        me(forger.service.api, CASES[case](forger))
    assert caught[0].metadata == {}


def test_the_same_tokens_unforged_are_good(forger: Forger) -> None:
    for token in (forger.token, forger.signed(), forger.headed()):
        assert me(forger.service.api, token).user_id == forger.claims["sub"]


def test_of_a_claim_named_twice_the_last_one_counts(forger: Forger) -> None:
    # RFC 7519 section 4 leaves this or a refusal; the service's own key signs no such.
    token = repeated("sub", str(uuid4()), last=False)(forger)
    assert me(forger.service.api, token).user_id == forger.claims["sub"]


def test_an_expiry_long_past_is_told_as_such(forger: Forger) -> None:
    for past in (0, -1, 1.5):
        with refusal("TOKEN_EXPIRED", StatusCode.UNAUTHENTICATED):
            me(forger.service.api, forger.signed(exp=past))
