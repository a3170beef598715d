"""Signing in from a terminal, as a wallet's owner would from the browser."""

from __future__ import annotations

import socket
import ssl
from enum import Enum, auto
from pathlib import Path
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
from pourtier_grpc.tls import client_credentials

WALLET_TYPE = "pourtier-cli"
LOCALE = "en"
PATIENCE_SECONDS = 10.0
PROBE_SECONDS = 2.0


class _Far(Enum):
    """What listens at a target."""

    NOTHING = auto()
    PLAINTEXT = auto()
    TLS = auto()


def sign_in(
    target: str,
    wallet: DevWallet,
    *,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
) -> pb.Tokens:
    """The tokens of a new session; a wallet without an account gets one.

    Whoever registers accepts the legal texts in force.

    `target` is the native listener, `host:port`, or `unix:` and a path. It is spoken to
    by TLS where `ca` names the authorities that it is trusted by; `cert` and `key` are
    then shown to a server that demands them. Raises DevServerError, with the reason,
    where the service refuses or does not answer, and ConfigError for a file.
    """
    try:
        with _channel(target, ca, cert, key) as channel:
            return _sign_in(channel, wallet)
    except grpc.RpcError as error:
        reason = reason_of(error)
        # Every error of a finished call is that call, too.
        call = cast("grpc.Call", error)
        if reason is None and call.code() is grpc.StatusCode.UNAVAILABLE:
            raise DevServerError(_why_unavailable(target, ca)) from None
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


def _channel(
    target: str, ca: Path | None, cert: Path | None, key: Path | None
) -> grpc.Channel:
    if ca is None:
        return grpc.insecure_channel(target)
    return grpc.secure_channel(target, client_credentials(ca, cert, key))


def _why_unavailable(target: str, ca: Path | None) -> str:
    match _what_listens(target):
        case _Far.TLS if ca is None:
            return (
                f"{target} speaks TLS: name its authority with --ca, and where it"
                " demands one your certificate with --cert and --key"
            )
        case _Far.TLS:
            return (
                f"no TLS connection to {target}: is its certificate for that name and"
                f" under {ca}, and does it demand one of yours (--cert and --key)?"
            )
        case _Far.PLAINTEXT if ca is not None:
            return f"{target} speaks no TLS: leave --ca out"
    return f"nothing answers at {target}: does the service run (`pourtier dev`)?"


def _what_listens(target: str) -> _Far:
    """Asks for a handshake, which believes anything; nothing is said over it."""
    if target.startswith("unix:"):
        return _Far.PLAINTEXT if Path(target[5:]).is_socket() else _Far.NOTHING
    host, _, port = target.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection((host.strip("[]"), port), PROBE_SECONDS) as one:
            try:
                context.wrap_socket(one).close()
            except OSError:
                return _Far.PLAINTEXT
            return _Far.TLS
    except OSError:
        return _Far.NOTHING


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
