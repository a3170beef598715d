"""What the edge takes out of a request, and which requests it refuses at sight."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pourtier_grpc.devtools.edge_contract import Contract
from pourtier_grpc.devtools.edge_yaml import Node, Note, typed

CLEANING = "envoy.filters.http.header_mutation"
GUARD = "envoy.filters.http.rbac"

# gRPC's own headers, of which grpcio refuses a whole call where it cannot read the
# value (INTERNAL, without a reason), and which no caller of ours has to send.
UNREADABLE = (
    "grpc-internal-encoding-request",
    "grpc-message",
    "grpc-previous-rpc-attempts",
    "grpc-retry-pushback-ms",
    "grpc-status",
)

# A letter, digit, `_` or `.` that is escaped in a parameter's name.
ESCAPED_NAME = (
    r"[^?]*\?(?:[^&]*&)*[^=&]*"
    r"%(?:2[Ee]|3[0-9]|4[1-9A-Fa-f]|5[0-9AaFf]|6[1-9A-Fa-f]|7[0-9Aa]).*"
)
ANY_QUERY = r"[^?]*\?.+"
# As gRPC over HTTP/2 writes it: at most eight digits and a unit.
TIMEOUT = r"[0-9]{1,8}[HMSmun]"
ENCODING = "identity|deflate|gzip"
GRPC_CONTENT = r"application/grpc(?:[+;].*)?"


def cleaning() -> Node:
    """The filter that takes away what a client has no business to say."""
    removed: list[Node] = [
        Note(
            "Envoy's own words: the replies below believe x-envoy-original-method.",
            _on_match({"prefix": "x-envoy-"}),
        ),
        Note(
            "Binary metadata. Nothing here takes any, and one that is no base64 fails"
            " the whole call in grpcio.",
            _on_match({"suffix": "-bin"}),
        ),
        Note(
            "What gRPC keeps for itself: the same, where it is no number.",
            {"remove": UNREADABLE[0]},
        ),
        *({"remove": name} for name in UNREADABLE[1:]),
    ]
    return {
        "name": CLEANING,
        "typed_config": typed(
            "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            mutations={
                "request_mutations": removed,
                "request_trailers_mutations": [
                    Note(
                        "No request of gRPC or JSON has trailers.",
                        _on_match({"safe_regex": {"regex": ".*"}}),
                    )
                ],
            },
        ),
    }


def guard(contract: Contract) -> Node:
    """The filter that refuses some queries and gRPC headers; its 403 becomes 400.

    Escaped names: the transcoder unescapes a parameter's name after it has compared it
    with those it ignores, so that `user%5Fid` would set what `user_id` cannot. No
    encoder escapes these characters (RFC 3986 section 2.3).

    Queries beside a body: what the body is for, the transcoder would still take from
    the query, a refresh token or an e-mail address, which would then stand in the logs
    of whatever lies between. Where the body is the whole request no query is taken,
    where it is one field, none that reaches into that field.

    Queries over paths: a path variable that is a query parameter of another method
    cannot be among those that are ignored, so it is refused where it is the path's.

    gRPC's headers: grpcio answers INTERNAL, without a reason, to a timeout or an
    encoding that it cannot read, and to any encoding of what is not gRPC.
    """
    refused: dict[str, Node] = {"escaped-parameter-name": _path(ESCAPED_NAME)}
    if contract.verbs_without_query:
        refused["query-beside-body"] = _all(
            _verb(contract.verbs_without_query), _path(ANY_QUERY)
        )
    for number, (template, names) in enumerate(contract.guarded_paths, 1):
        over = _query_over(template, names, contract.literal_paths)
        refused[f"query-over-path-{number}"] = over
    for verb, fields in contract.body_fields.items():
        refused[f"query-into-body-of-{verb}"] = _all(
            _verb([verb]), _path(_parameter(fields))
        )
    encoded = _header("grpc-encoding", {"present_match": True})
    refused["grpc-timeout"] = _all(
        _header("grpc-timeout", {"present_match": True}),
        _not(_header("grpc-timeout", _regex(TIMEOUT))),
    )
    refused["grpc-encoding"] = _all(
        encoded, _not(_header("grpc-encoding", _regex(ENCODING)))
    )
    refused["grpc-encoding-of-json"] = _all(
        encoded, _not(_header("content-type", _regex(GRPC_CONTENT)))
    )
    policies: dict[str, Node] = {
        name: {"permissions": [permission], "principals": [{"any": True}]}
        for name, permission in refused.items()
    }
    return {
        "name": GUARD,
        "typed_config": typed(
            "envoy.extensions.filters.http.rbac.v3.RBAC",
            rules={"action": "DENY", "policies": policies},
        ),
    }


def _on_match(matcher: Node) -> Node:
    return {"remove_on_match": {"key_matcher": matcher}}


def _query_over(template: str, names: Iterable[str], literals: Iterable[str]) -> Node:
    """Matches a call of that template whose query names one of its variables.

    A path of another method that only looks like it (`/api/users/me`) is left alone.
    """
    fixed = re.split(r"\{[^}]*\}", template)
    path = "[^/?]+".join(re.escape(each) for each in fixed)
    query = rf"/?\?(?:[^&]*&)*(?:{'|'.join(names)})(?:[.=&].*)?"
    others = [re.escape(each) for each in literals if re.fullmatch(path, each)]
    if not others:
        return _path(path + query)
    return _all(_path(path + query), _not(_path(rf"(?:{'|'.join(others)})/?\?.*")))


def _parameter(fields: Iterable[str]) -> str:
    """Matches a path whose query names one of these fields, or a field inside one."""
    return rf"[^?]*\?(?:[^&]*&)*(?:{'|'.join(fields)})(?:[.=&].*)?"


def _verb(verbs: Iterable[str]) -> Node:
    return _header(":method", _regex("|".join(verbs)))


def _path(regex: str) -> Node:
    return _header(":path", _regex(regex))


def _header(name: str, match: Mapping[str, Node]) -> Node:
    return {"header": {"name": name, **match}}


def _regex(regex: str) -> dict[str, Node]:
    return {"string_match": {"safe_regex": {"regex": regex}}}


def _all(*rules: Node) -> Node:
    return {"and_rules": {"rules": rules}}


def _not(rule: Node) -> Node:
    return {"not_rule": rule}
