"""A client of the JSON edge, as a browser is one: HTTP/1.1 and nothing of gRPC."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from typing import Any, Self

import httpx

from pourtier_grpc.devtools.wallet import DevWallet

TIMEOUT = 40.0
DOMAIN = "pourtier.lumiere.trade"
TYPE = "type.googleapis.com/google.rpc."
# What google.rpc.Code becomes in HTTP; a body that is too large is 413 all the same.
HTTP_STATUS = {
    3: 400,
    4: 504,
    5: 404,
    6: 409,
    7: 403,
    8: 429,
    9: 400,
    10: 409,
    12: 501,
    13: 500,
    14: 503,
    16: 401,
}


@dataclass(frozen=True)
class Refusal:
    """An error's body, after its form has been checked."""

    reason: str
    message: str
    metadata: dict[str, str]
    violations: list[str]
    retry_seconds: float | None
    quotas: list[dict[str, Any]]


class JsonApi:
    """Calls one listener of an edge."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=TIMEOUT, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def call(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        bearer: str = "",
        api_key: str = "",
        **options: Any,
    ) -> httpx.Response:
        """One call; `body` is sent as JSON, `options` are those of httpx."""
        headers = httpx.Headers(options.pop("headers", None)).multi_items()
        if bearer:
            headers.append(("authorization", f"Bearer {bearer}"))
        if api_key:
            headers.append(("x-api-key", api_key))
        if body is not None:
            options["json"] = body
        return self.http.request(verb, path, headers=headers, **options)

    def challenge(self, wallet: DevWallet, **fields: str) -> dict[str, Any]:
        body = {"wallet_address": wallet.address, **fields}
        return answered(self.call("POST", "/api/auth/challenge", body))

    def proof(self, wallet: DevWallet, message: str | None = None) -> dict[str, str]:
        """The fields of a proof by that wallet, over a fresh challenge by default."""
        if message is None:
            message = self.challenge(wallet)["message"]
        return {
            "wallet_address": wallet.address,
            "message": message,
            "signature": wallet.sign_text(message.encode()),
        }

    def register(self, wallet: DevWallet, **fields: Any) -> dict[str, Any]:
        """Opens an account; answers user and tokens."""
        body = {**self.proof(wallet), "wallet_type": "phantom", **fields}
        return answered(self.call("POST", "/api/auth/register", body))

    def login(self, wallet: DevWallet) -> dict[str, Any]:
        return answered(self.call("POST", "/api/auth/login", self.proof(wallet)))

    def bearer(self) -> str:
        """The access token of a new account."""
        token: str = self.register(DevWallet.generate())["tokens"]["access_token"]
        return token


def answered(answer: httpx.Response) -> dict[str, Any]:
    """The body of a success, which is JSON and has a request id."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    uuid.UUID(answer.headers["x-request-id"])
    body: dict[str, Any] = answer.json()
    return body


def refused(answer: httpx.Response, reason: str, status: int | None = None) -> Refusal:
    """The body of an error, which must have the one form and that reason.

    `status` is for those whose HTTP status is not that of their code.
    """
    body = answer.json()
    assert set(body) == {"code", "message", "details"}
    assert body["message"]
    details = {each["@type"].removeprefix(TYPE): each for each in body["details"]}
    assert len(details) == len(body["details"])
    assert "ErrorInfo" in details, answer.text
    info = details.pop("ErrorInfo")
    assert (info["reason"], info["domain"]) == (reason, DOMAIN)
    assert answer.status_code == (status or HTTP_STATUS[body["code"]])
    assert answer.headers["content-type"] == "application/json"
    uuid.UUID(answer.headers["x-request-id"])
    retry = details.pop("RetryInfo", None)
    seconds = None if retry is None else float(retry["retry_delay"].rstrip("s"))
    told = answer.headers.get("retry-after")
    assert told == (None if seconds is None else str(max(1, math.ceil(seconds))))
    bad = details.pop("BadRequest", {"field_violations": []})
    exhausted = details.pop("QuotaFailure", {"violations": []})
    assert not details
    # gRPC's own headers mean nothing here, and the details stand in the body.
    assert "grpc-status-details-bin" not in answer.headers
    return Refusal(
        reason=reason,
        message=body["message"],
        metadata=info.get("metadata", {}),
        violations=[each["field"] for each in bad["field_violations"]],
        retry_seconds=seconds,
        quotas=exhausted["violations"],
    )
