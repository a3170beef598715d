"""Signing in from a terminal, as a wallet's owner would from the browser."""

from __future__ import annotations

from typing import cast

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.auth_service_pb2_grpc import AuthServiceStub
from pourtier_grpc.devtools.process import DevServerError
from pourtier_grpc.devtools.wallet import DevWallet

WALLET_TYPE = "pourtier-cli"
PATIENCE_SECONDS = 10.0


def sign_in(target: str, wallet: DevWallet) -> pb.Tokens:
    """The tokens of a new session; a wallet without an account gets one.

    `target` is the native listener, `host:port`. Raises DevServerError, with the
    reason, where the service refuses or does not answer.
    """
    try:
        with grpc.insecure_channel(target) as channel:
            return _sign_in(AuthServiceStub(channel), wallet)
    except grpc.RpcError as error:
        reason = reason_of(error)
        # Every error of a finished call is that call, too.
        call = cast("grpc.Call", error)
        if reason is None and call.code() is grpc.StatusCode.UNAVAILABLE:
            raise DevServerError(
                f"nothing answers at {target}: does the service run (`pourtier dev`)?"
            ) from None
        raise DevServerError(f"{target} refused: {reason or call.details()}") from None


def reason_of(error: grpc.RpcError) -> str | None:
    """The registered reason of an error, or None where it carries none."""
    # Every error of a finished call is that call, too.
    status = rpc_status.from_call(cast("grpc.Call", error))
    for detail in status.details if status is not None else ():
        info = ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return None


def _sign_in(stub: AuthServiceStub, wallet: DevWallet) -> pb.Tokens:
    challenge = stub.CreateChallenge(
        pb.CreateChallengeRequest(wallet_address=wallet.address),
        timeout=PATIENCE_SECONDS,
    )
    login = pb.LoginRequest(
        wallet_address=wallet.address,
        message=challenge.message,
        signature=wallet.sign_text(challenge.message.encode()),
    )
    try:
        return stub.Login(login, timeout=PATIENCE_SECONDS).tokens
    except grpc.RpcError as error:
        if reason_of(error) != "WALLET_NOT_REGISTERED":
            raise
    # The refusal consumed nothing: the same proof registers.
    register = pb.RegisterRequest(
        wallet_address=login.wallet_address,
        message=login.message,
        signature=login.signature,
        wallet_type=WALLET_TYPE,
    )
    return stub.Register(register, timeout=PATIENCE_SECONDS).tokens
