"""The errors that Envoy answers by itself, in the form of the service's own.

A JSON caller gets a `google.rpc.Status` with an `ErrorInfo`, as from the service. A
gRPC caller gets code and message alone, as headers over an empty body: Envoy would put
a body into `grpc-message`, and for gRPC-Web replace the code by one of HTTP's status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pourtier_grpc.devtools.edge_yaml import Node, Note, Shared

DOMAIN = "pourtier.lumiere.trade"

# The words of the filter that refused, for whoever debugs a client.
REFUSAL = "%LOCAL_REPLY_BODY%"
# Each listener says in its metadata how large a body it takes.
METADATA, MAX_BODY_BYTES = "pourtier", "max_body_bytes"
LIMIT = f"%METADATA(LISTENER:{METADATA}:{MAX_BODY_BYTES})%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One kind of refusal.

    `statuses` are Envoy's HTTP statuses that it stands for, narrowed by `flag` to one
    of its response flags; `becomes` replaces the status. `code` is the gRPC code,
    `json_code` that in the JSON body where it differs, `reason` the registry's name
    without its prefix. `says` are Envoy's own words, added for JSON callers.
    """

    statuses: tuple[int, ...]
    code: int
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    says: str = ""
    json_code: int = 0
    flag: str = ""
    becomes: int = 0
    retry_after: int = 0


def replies() -> tuple[Reply, ...]:
    """Every refusal that has a reason of its own; the first that fits is sent."""
    return (
        Reply(
            statuses=(400,),
            code=3,
            reason="MALFORMED_REQUEST",
            message="the request is malformed",
            says=f": {REFUSAL}",
            metadata={"method": "%PATH(NQ:PATH)%"},
        ),
        Reply(
            # From the guard; people meet 403 as PERMISSION_DENIED.
            statuses=(403,),
            becomes=400,
            code=3,
            reason="MALFORMED_REQUEST",
            message="the path takes no such query, a parameter's name is escaped, or"
            " gRPC's headers are not gRPC's",
            says=": %RESPONSE_CODE_DETAILS%",
            metadata={"method": "%PATH(NQ:PATH)%"},
        ),
        Reply(
            statuses=(404, 405),
            code=12,
            # By HTTP's status, as in google.rpc.Code's own table.
            json_code=5,
            reason="METHOD_NOT_FOUND",
            message="there is no such method or path",
            metadata={"method": "%PATH(NQ:ORIG_OR_PATH)%"},
        ),
        Reply(
            statuses=(408, 504),
            code=4,
            reason="DEADLINE_EXCEEDED",
            message="the deadline passed before the work was done",
        ),
        Reply(
            statuses=(413, 431),
            code=8,
            reason="REQUEST_TOO_LARGE",
            message=f"the body is larger than {LIMIT} bytes, or the headers"
            " are too many or too large",
            metadata={"limit_bytes": LIMIT},
        ),
        Reply(
            statuses=(503,),
            code=8,
            reason="OVERLOADED",
            message="the service has as much work as it can do",
            flag="UO",
            becomes=429,
            retry_after=1,
        ),
        Reply(
            statuses=(502, 503),
            code=14,
            reason="SERVICE_UNAVAILABLE",
            message="the service cannot be reached",
            retry_after=1,
        ),
    )


# Whatever else Envoy may answer is a defect of ours: its access log says which.
DEFECT = Reply(statuses=(), code=13, reason="INTERNAL", message="internal error")

NATIVE_GRPC: Node = {
    "and_filter": {
        "filters": [
            {
                "header_filter": {
                    "header": {
                        "name": "content-type",
                        "string_match": {"prefix": "application/grpc"},
                    }
                }
            },
            {
                "header_filter": {
                    "header": {
                        "name": "x-envoy-original-method",
                        "present_match": True,
                        "invert_match": True,
                    }
                }
            },
        ]
    }
}
PLAIN_TEXT: Node = {"text_format_source": {"inline_string": REFUSAL}}


def local_reply_config() -> Node:
    """The connection manager's `local_reply_config`."""
    kinds = replies()
    caller = Shared("native_grpc", NATIVE_GRPC)
    text = Shared("plain_text", PLAIN_TEXT)
    native = [_native_mapper(reply, caller, text) for reply in (*kinds, DEFECT)]
    json = [_json_mapper(reply) for reply in kinds]
    native[0] = Note(
        "gRPC and gRPC-Web callers: code and plain message, and no body. Envoy's own"
        " tables would make INTERNAL or UNKNOWN of bad input. A JSON call looks like"
        " gRPC too once it is transcoded, but has its original method.",
        native[0],
    )
    json[0] = Note("JSON callers: google.rpc.Status, as from the service.", json[0])
    return {
        "mappers": [*native, *json],
        "body_format": {"json_format": _status(DEFECT)},
    }


def _native_mapper(reply: Reply, caller: Node, text: Node) -> Node:
    filters = _filters(reply)
    return {
        "filter": {"and_filter": {"filters": [caller, *filters]}}
        if filters
        else caller,
        "status_code": 200,
        "headers_to_add": [
            _header("grpc-status", reply.code),
            _header("grpc-message", reply.message),
        ],
        "body": {"inline_string": ""},
        "body_format_override": text,
    }


def _json_mapper(reply: Reply) -> Node:
    filters = _filters(reply)
    mapper: dict[str, Node] = {
        "filter": filters[0]
        if len(filters) == 1
        else {"and_filter": {"filters": filters}}
    }
    if reply.becomes:
        mapper["status_code"] = reply.becomes
    if reply.retry_after:
        mapper["headers_to_add"] = [_header("retry-after", reply.retry_after)]
    mapper["body_format_override"] = {"json_format": _status(reply)}
    return mapper


def _filters(reply: Reply) -> list[Node]:
    """Conditions that must all hold."""
    found: list[Node] = []
    statuses: list[Node] = [_status_filter(status) for status in reply.statuses]
    if len(statuses) > 1:
        found.append({"or_filter": {"filters": statuses}})
    else:
        found += statuses
    if reply.flag:
        found.append({"response_flag_filter": {"flags": [reply.flag]}})
    return found


def _status_filter(status: int) -> Node:
    comparison: Node = {"op": "EQ", "value": {"default_value": status}}
    return {"status_code_filter": {"comparison": comparison}}


def _header(name: str, value: int | str) -> Node:
    return {
        "header": {"key": name, "value": str(value)},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _status(reply: Reply) -> Node:
    details: list[Node] = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reply.reason,
            "domain": DOMAIN,
            "metadata": dict(reply.metadata),
        }
    ]
    if reply.retry_after:
        details.append(
            {
                "@type": "type.googleapis.com/google.rpc.RetryInfo",
                "retry_delay": f"{reply.retry_after}s",
            }
        )
    return {
        "code": reply.json_code or reply.code,
        "message": reply.message + reply.says,
        "details": details,
    }
