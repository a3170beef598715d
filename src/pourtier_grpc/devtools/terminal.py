"""Signing in from a terminal, as a wallet's owner would from the browser."""

from __future__ import annotations

from typing import cast

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.auth_service_pb2_grpc import AuthServiceStub
from pourtier.v1.compliance_service_pb2 import ListDocumentsRequest
from pourtier.v1.compliance_service_pb2_grpc import ComplianceServiceStub
from pourtier.v1.document_pb2 import Document, DocumentStatus
from pourtier_grpc.devtools.process import DevServerError
from pourtier_grpc.devtools.wallet import DevWallet

WALLET_TYPE = "pourtier-cli"
LOCALE = "en"
PATIENCE_SECONDS = 10.0


def sign_in(target: str, wallet: DevWallet) -> pb.Tokens:
    """The tokens of a new session; a wallet without an account gets one.

    Whoever registers accepts the legal texts in force.

    `target` is the native listener, `host:port`. Raises DevServerError, with the
    reason, where the service refuses or does not answer.
    """
    try:
        with grpc.insecure_channel(target) as channel:
            return _sign_in(channel, wallet)
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


def _sign_in(channel: grpc.Channel, wallet: DevWallet) -> pb.Tokens:
    stub = AuthServiceStub(channel)
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
        accepted_document_ids=_in_force(ComplianceServiceStub(channel)),
    )
    return stub.Register(register, timeout=PATIENCE_SECONDS).tokens


def _in_force(stub: ComplianceServiceStub) -> list[str]:
    """The ids of one text of each kind in force: in English, where there is one."""
    chosen: dict[int, Document] = {}
    request = ListDocumentsRequest(
        status=DocumentStatus.DOCUMENT_STATUS_IN_FORCE, page_size=100
    )
    while True:
        page = stub.ListDocuments(request, timeout=PATIENCE_SECONDS)
        for document in page.documents:
            other = chosen.setdefault(document.type, document)
            if _is_english(document) and not _is_english(other):
                chosen[document.type] = document
        if not page.next_page_token:
            return [each.document_id for each in chosen.values()]
        request.page_token = page.next_page_token


def _is_english(document: Document) -> bool:
    return document.locale.lower() == LOCALE
