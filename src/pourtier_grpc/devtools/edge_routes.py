"""Which calls a listener passes on, and how each kind is tried again.

Routes match gRPC paths. A JSON call has been transcoded by the time its route counts:
until then it rests on the last route, which exists for that (a filter finds its CORS
policy through a route) and for whatever nothing else matches. A gRPC call that nothing
else matches has a route of its own, on which nobody waits for the rest of it.
"""

from __future__ import annotations

from collections.abc import Iterable

from pourtier_grpc.devtools.edge_contract import INFRASTRUCTURE, Contract, Method
from pourtier_grpc.devtools.edge_http import BUFFER, CORS, RECEIVED, HttpParts, Listener
from pourtier_grpc.devtools.edge_settings import EdgeSettings, seconds
from pourtier_grpc.devtools.edge_tls import STRICT_TRANSPORT
from pourtier_grpc.devtools.edge_yaml import Node, Note, Shared, typed
from pourtier_grpc.interceptors.entry import EDGE_CLIENT_ADDRESS, EDGE_LISTENER

CLUSTER = "pourtier"

# What the transcoder leaves alone, and what the gRPC-Web filter takes for its own, to
# the letter: any other body must not be let past the limit of what arrives.
GRPC_CONTENT = r"application/grpc(?:\+.*|-web(?:-text)?(?:\+proto)?)?"

# Other names under which a client could tell who it is, or what a proxy added: the
# service reads EDGE_CLIENT_ADDRESS.
UNTRUSTED = (
    "forwarded",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded-for",
    "x-real-ip",
)


class Routes:
    """The route tables of both listeners; what they share is made once."""

    def __init__(
        self, contract: Contract, settings: EdgeSettings, http: HttpParts
    ) -> None:
        self._contract = contract
        self._http = http
        self._read = Shared("read", _read_action(settings))
        self._mutation = Shared("mutation", _mutation_action(settings))
        self._stream = Shared("stream", _stream_action())
        self._unbuffered = Shared("unbuffered", _unbuffered())
        self._nowhere = Shared("nowhere", _nowhere())

    def public(self, listener: Listener) -> Node:
        """Everything that people may call, and no API key."""
        methods = [method for method in self._contract.methods if method.public]
        return self._table(listener, methods, (*UNTRUSTED, "x-api-key"))

    def internal(self, listener: Listener) -> Node:
        """The whole contract, health and reflection."""
        methods = (*self._contract.methods, *INFRASTRUCTURE)
        return self._table(listener, methods, UNTRUSTED)

    def _table(
        self, listener: Listener, methods: Iterable[Method], removed: Iterable[str]
    ) -> Node:
        host: Node = {
            "name": listener.name,
            "domains": ["*"],
            "typed_per_filter_config": {CORS: self._http.cors_policy(listener)},
            "routes": [
                *map(self._route, methods),
                self._no_such_method(),
                self._nothing(),
            ],
        }
        return {
            "name": listener.name,
            "request_headers_to_remove": Note(
                "The service believes the headers below and no other.",
                sorted(removed),
            ),
            "request_headers_to_add": [
                _set_header(
                    EDGE_CLIENT_ADDRESS, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
                ),
                _set_header(EDGE_LISTENER, listener.name),
            ],
            "response_headers_to_remove": ["grpc-accept-encoding"],
            "response_headers_to_add": [
                *_strict_transport(listener),
                _set_header("x-content-type-options", "nosniff"),
                Note(
                    "Tokens are kept by nobody on the way (RFC 6749 section 5.1).",
                    _default_header("cache-control", "no-store"),
                ),
            ],
            "validate_clusters": False,
            "virtual_hosts": [host],
        }

    def _route(self, method: Method) -> Node:
        route: dict[str, Node] = {"match": {"path": method.path}}
        if method.streams_in or method.streams_out:
            route["route"] = self._stream
            if method.streams_in:
                route["typed_per_filter_config"] = self._unbuffered
        else:
            route["route"] = self._read if method.read else self._mutation
        return Note(", ".join(method.bindings), route) if method.bindings else route

    def _no_such_method(self) -> Node:
        content = {"safe_regex": {"regex": GRPC_CONTENT}}
        return Note(
            "Every other gRPC call, answered at once: a buffer would wait for the end"
            " of a stream that has none.",
            {
                "match": {
                    "prefix": "/",
                    "headers": [{"name": "content-type", "string_match": content}],
                },
                "route": self._nowhere,
                "typed_per_filter_config": self._unbuffered,
            },
        )

    def _nothing(self) -> Node:
        return Note(
            "Everything else; also where a JSON call stands until it is transcoded.",
            {"match": {"prefix": "/"}, "route": self._nowhere},
        )


def _strict_transport(listener: Listener) -> Iterable[Node]:
    if listener.strict_transport:
        yield _set_header("strict-transport-security", STRICT_TRANSPORT)


def _read_action(settings: EdgeSettings) -> Node:
    retry_on = "connect-failure,refused-stream,unavailable,reset"
    return _unary_action(
        settings,
        Note(
            "Reads: repeating one has no effect.",
            {
                **_retry(retry_on),
                "per_try_timeout": seconds(settings.attempt_timeout),
            },
        ),
    )


def _mutation_action(settings: EdgeSettings) -> Node:
    return _unary_action(
        settings,
        Note(
            "Mutations: again only if the service cannot have begun.",
            _retry("connect-failure,refused-stream"),
        ),
    )


def _retry(retry_on: str) -> dict[str, Node]:
    return {
        "retry_on": retry_on,
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": typed(
                    "envoy.extensions.retry.host.previous_hosts.v3"
                    ".PreviousHostsPredicate"
                ),
            }
        ],
        "host_selection_retry_max_attempts": 8,
    }


def _unary_action(settings: EdgeSettings, retry_policy: Node) -> Node:
    limit = seconds(settings.call_timeout)
    return {
        "cluster": CLUSTER,
        "timeout": Note(
            "Not this one, which the service never hears of, but the deadline below.",
            "0s",
        ),
        "max_stream_duration": {
            "max_stream_duration": limit,
            "grpc_timeout_header_max": limit,
        },
        "retry_policy": retry_policy,
    }


def _stream_action() -> Node:
    return {"cluster": CLUSTER, "timeout": "0s", "idle_timeout": "600s"}


def _unbuffered() -> Node:
    message = "envoy.extensions.filters.http.buffer.v3.BufferPerRoute"
    return {name: typed(message, disabled=True) for name in (RECEIVED, BUFFER)}


def _nowhere() -> Node:
    return {
        "cluster": Note(
            "There is none of that name, which answers 404. A direct_response would do"
            " the same, but without CORS.",
            "nothing",
        ),
        "cluster_not_found_response_code": "NOT_FOUND",
    }


def _default_header(name: str, value: str) -> Node:
    """A header that the service's own, where it sends one, goes before."""
    return {"header": {"key": name, "value": value}, "append_action": "ADD_IF_ABSENT"}


def _set_header(name: str, value: str) -> Node:
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
