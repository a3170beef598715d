"""Where a call comes in: grpcio's context becomes a Call, and the chain runs."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

import grpc
from google.protobuf.message import Message

from pourtier_grpc.call import Call, Handler, Method
from pourtier_grpc.caller import Client

REQUEST_ID = "x-request-id"
# Set by the edge alone, and believed on the edge's own socket alone.
EDGE_CLIENT_ADDRESS = "x-pourtier-client-address"
EDGE_LISTENER = "x-pourtier-listener"
INTERNAL_LISTENER = "internal"
UNIX_PEER = "unix:"
ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
MAX_HEADER = 512
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

GrpcHandler = Callable[[Any, grpc.ServicerContext], Message]


def entry(method: Method, handler: Handler) -> GrpcHandler:
    """The function that grpcio calls: it makes the Call and runs the chain."""

    def handle(request: Any, context: grpc.ServicerContext) -> Message:
        metadata = tuple((key, value) for key, value in context.invocation_metadata())
        call = Call(
            method=method,
            context=context,
            metadata=metadata,
            client=client_of(dict(metadata), context.peer()),
        )
        return handler(request, call)

    return handle


def client_of(metadata: Mapping[str, str | bytes], peer: str) -> Client:
    """The far end of a call, from its metadata and grpcio's name for its peer."""
    sent_id = _text(metadata, REQUEST_ID)
    usable = sent_id is not None and ACCEPTABLE_ID.fullmatch(sent_id) is not None
    return Client(
        request_id=sent_id if usable and sent_id is not None else str(uuid4()),
        address=_address(metadata, peer),
        user_agent=_text(metadata, "user-agent") or "",
        origin=_text(metadata, "origin"),
        outside=peer.startswith(UNIX_PEER)
        and metadata.get(EDGE_LISTENER) != INTERNAL_LISTENER,
    )


def _address(metadata: Mapping[str, str | bytes], peer: str) -> str | None:
    if peer.startswith(UNIX_PEER):
        return _ip(_text(metadata, EDGE_CLIENT_ADDRESS) or "")
    # `ipv4:127.0.0.1:50123`, or `ipv6:%5B::1%5D:50123` (gRPC's address notation).
    host = unquote(peer).partition(":")[2].rpartition(":")[0]
    return _ip(host.strip("[]"))


def _ip(text: str) -> str | None:
    """An address as it is written everywhere: without a zone, IPv4 as IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _text(metadata: Mapping[str, str | bytes], key: str) -> str | None:
    value = metadata.get(key)
    if not isinstance(value, str):
        return None
    # Control characters have no business in a log, and NUL none in the database.
    return CONTROL.sub(" ", value[:MAX_HEADER])
