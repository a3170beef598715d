"""A client of a running server, with a wallet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict, TypeVar, cast

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    QuotaFailure,
    RetryInfo,
)
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.auth_service_pb2_grpc import AuthServiceStub
from pourtier.v1.compliance_service_pb2_grpc import ComplianceServiceStub
from pourtier.v1.escrow_service_pb2_grpc import EscrowServiceStub
from pourtier.v1.status_service_pb2_grpc import StatusServiceStub
from pourtier.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from pourtier.v1.user_service_pb2_grpc import UserServiceStub
from pourtier_grpc.devtools.wallet import DevWallet

TIMEOUT = 20.0

Request = TypeVar("Request")
Response = TypeVar("Response")
Detail = TypeVar("Detail", bound=Message)


class Proof(TypedDict):
    """The fields of a proof, which Register, Login and VerifyWallet have in common."""

    wallet_address: str
    message: str
    signature: str


class Refused(Exception):  # noqa: N818 - reads as what happened
    """A call ended with an error: its code, reason, and details."""

    def __init__(self, error: grpc.Call, status: Status) -> None:
        super().__init__(status.message)
        self.code: grpc.StatusCode = error.code()
        self.trailers = dict(error.trailing_metadata())
        self.infos = list(_details(status, ErrorInfo))
        self.violations = [
            violation.field
            for bad in _details(status, BadRequest)
            for violation in bad.field_violations
        ]
        self.quotas = [
            violation
            for failure in _details(status, QuotaFailure)
            for violation in failure.violations
        ]
        self.retry = next(iter(_details(status, RetryInfo)), None)

    @property
    def reason(self) -> str:
        """The one reason. Fails where there is not exactly one ErrorInfo."""
        (info,) = self.infos
        assert info.domain == "pourtier.lumiere.trade"
        return str(info.reason)

    @property
    def metadata(self) -> dict[str, str]:
        (info,) = self.infos
        return dict(info.metadata)


class UnansweredError(AssertionError):
    """A call ended with `error`, which the transport made, and not the service."""

    def __init__(self, error: grpc.RpcError) -> None:
        super().__init__(f"an error without details: {error}")
        self.error = error


class Api:
    """Calls the services of one server, and turns errors into Refused."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.insecure_channel(target)
        self.auth = AuthServiceStub(self.channel)
        self.users = UserServiceStub(self.channel)
        self.compliance = ComplianceServiceStub(self.channel)
        self.escrow = EscrowServiceStub(self.channel)
        self.status = StatusServiceStub(self.channel)
        self.subscriptions = SubscriptionServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *metadata: tuple[str, str],
        bearer: str = "",
    ) -> Response:
        """Calls a stub's method; `bearer` goes into the metadata."""
        credentials = (("authorization", f"Bearer {bearer}"),) if bearer else ()
        try:
            return method(request, timeout=TIMEOUT, metadata=(*credentials, *metadata))
        except grpc.RpcError as error:
            raise refused(error) from None

    def challenge(self, wallet: DevWallet, **fields: str) -> pb.CreateChallengeResponse:
        request = pb.CreateChallengeRequest(wallet_address=wallet.address, **fields)
        return self.call(self.auth.CreateChallenge, request)

    def proof(self, wallet: DevWallet, message: str | None = None) -> Proof:
        """The fields of a proof by that wallet, over a fresh challenge by default."""
        if message is None:
            message = self.challenge(wallet).message
        return {
            "wallet_address": wallet.address,
            "message": message,
            "signature": wallet.sign_text(message.encode()),
        }

    def register(self, wallet: DevWallet, **fields: Any) -> pb.RegisterResponse:
        values = {"wallet_type": "test", **fields}
        request = pb.RegisterRequest(**self.proof(wallet), **values)
        return self.call(self.auth.Register, request)

    def login(self, wallet: DevWallet) -> pb.LoginResponse:
        return self.call(self.auth.Login, pb.LoginRequest(**self.proof(wallet)))

    def refresh(self, refresh_token: str) -> pb.Tokens:
        request = pb.RefreshTokenRequest(refresh_token=refresh_token)
        return self.call(self.auth.RefreshToken, request).tokens


def refused(error: grpc.RpcError) -> Refused:
    """An error with its details. Raises UnansweredError where it has none."""
    status = status_of(error)
    if status is None:
        raise UnansweredError(error)
    return Refused(_call_of(error), status)


def status_of(error: grpc.RpcError) -> Status | None:
    """What the service says of an error; None of one that the transport made."""
    status: Status | None = rpc_status.from_call(_call_of(error))
    return status


@contextmanager
def refusal(
    reason: str, code: grpc.StatusCode | None = None
) -> Iterator[list[Refused]]:
    """Expects the block to be refused for a reason; the list then holds the error."""
    caught: list[Refused] = []
    with pytest.raises(Refused) as info:
        yield caught
    caught.append(info.value)
    assert info.value.reason == reason
    if code is not None:
        assert info.value.code is code


def _call_of(error: grpc.RpcError) -> grpc.Call:
    # What a stub raises is also its call, which the types of grpc do not say.
    return cast("grpc.Call", error)


def _details(status: Status, kind: type[Detail]) -> Iterator[Detail]:
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            yield detail
