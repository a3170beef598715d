"""How a listener treats HTTP: limits, filters, CORS, what is logged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pourtier_grpc.devtools.edge_contract import Contract
from pourtier_grpc.devtools.edge_guard import cleaning, guard
from pourtier_grpc.devtools.edge_replies import local_reply_config
from pourtier_grpc.devtools.edge_rewrites import head_as_get, trailing_slash
from pourtier_grpc.devtools.edge_settings import (
    Address,
    EdgeSettings,
    EdgeTls,
    seconds,
)
from pourtier_grpc.devtools.edge_yaml import Node, Note, Shared, typed

CORS = "envoy.filters.http.cors"
BUFFER = "envoy.filters.http.buffer"
RECEIVED = f"{BUFFER}.received"
TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
VERB = "pourtier.verb"
PATH = "pourtier.path"

ALLOWED_HEADERS = (
    "authorization",
    "content-type",
    "idempotency-key",
    "x-request-id",
    "x-consistency-token",
    "x-device-fingerprint",
    "x-grpc-web",
    "x-user-agent",
    "grpc-timeout",
    "traceparent",
    "tracestate",
)
EXPOSED_HEADERS = (
    "x-request-id",
    "retry-after",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-consistency-token",
    "idempotency-replayed",
    "grpc-status",
    "grpc-message",
    "grpc-status-details-bin",
)

# Below this, compression costs more than the bytes it saves.
MIN_COMPRESSED = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """What distinguishes the two listeners.

    `strict_transport` tells browsers to come by TLS alone from now on (HSTS).
    """

    name: str
    address: Address
    origins: tuple[str, ...]
    max_body_bytes: int
    max_answer_bytes: int
    trusted_proxies: int = 0
    keeps_request_id: bool = False
    tls: EdgeTls | None = None
    strict_transport: bool = False


class HttpParts:
    """The parts of a connection manager, those that both listeners share made once."""

    def __init__(self, contract: Contract, settings: EdgeSettings) -> None:
        self._contract = contract
        self._settings = settings
        self._access_log = Shared("access_log", [_access_log()])
        self._arrivals = [*self._shared_filters()]
        self._services = Shared("json_services", list(contract.json_services))
        self._ignored = Shared("ignored_queries", list(contract.path_variables))
        self._replies = Shared("local_replies", local_reply_config())

    def connection_manager(self, listener: Listener, route_config: Node) -> Node:
        """The network filter that speaks HTTP on one listener."""
        settings = self._settings
        config = typed(
            "envoy.extensions.filters.network.http_connection_manager.v3"
            ".HttpConnectionManager",
            stat_prefix=listener.name,
            codec_type="AUTO",
            use_remote_address=Note(
                value=True,
                comment="The peer is the client, less the trusted proxies in front:"
                " without this, x-forwarded-for and all x-envoy-* are believed.",
            ),
            xff_num_trusted_hops=listener.trusted_proxies,
            internal_address_config=Note(
                "Nobody has this address. The default obeys the x-envoy-* headers of"
                " loopback and private peers: they could have a mutation repeated.",
                {
                    "cidr_ranges": [
                        {"address_prefix": "255.255.255.255", "prefix_len": 32}
                    ]
                },
            ),
            preserve_external_request_id=_request_id(listener),
            always_set_request_id_in_response=True,
            normalize_path=True,
            merge_slashes=True,
            path_with_escaped_slashes_action="REJECT_REQUEST",
            max_request_headers_kb=settings.max_header_kilobytes,
            common_http_protocol_options={
                "headers_with_underscores_action": "REJECT_REQUEST",
                "max_headers_count": settings.max_headers,
                "idle_timeout": "300s",
            },
            http2_protocol_options={
                "max_concurrent_streams": 100,
                "initial_stream_window_size": 65_536,
                "initial_connection_window_size": 1_048_576,
            },
            request_headers_timeout=seconds(settings.receive_timeout),
            request_timeout=Note(
                "For the whole request. Together with the buffer filter this keeps a"
                " slow sender away from the service, where it would hold a thread.",
                seconds(settings.receive_timeout),
            ),
            stream_idle_timeout=Note(
                "Longer than any call may last, so that it ends streams only.",
                seconds(settings.call_timeout + timedelta(seconds=30)),
            ),
            access_log=self._access_log,
            http_filters=self._http_filters(listener),
            local_reply_config=self._replies,
            route_config=route_config,
        )
        return {
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": config,
        }

    def _shared_filters(self) -> Iterator[Node]:
        """What a request passes before its size matters, on either listener."""
        compressed = Shared(
            "compressed",
            {
                "common_config": {
                    "min_content_length": MIN_COMPRESSED,
                    "content_type_matcher": {"exact": "application/json"},
                }
            },
        )
        yield Shared("cleaning", cleaning())
        yield Note(
            "Verb and path for the log, before transcoding replaces them: the headers"
            " in which it keeps them are a client's own where a request is refused"
            " before it comes here.",
            Shared("remember_request", _remember_request()),
        )
        yield Note(
            "A path also answers with a trailing slash; to the transcoder a verb before"
            " one is none.",
            Shared("trailing_slash", trailing_slash()),
        )
        yield Note(
            "What answers GET answers HEAD, which load balancers probe with.",
            Shared("head_as_get", head_as_get()),
        )
        yield _http_filter(CORS, "cors.v3.Cors")
        for name in ("zstd", "brotli", "gzip"):
            yield Shared(name, _compressor(name, compressed))
        yield _http_filter("envoy.filters.http.grpc_web", "grpc_web.v3.GrpcWeb")
        yield Note(
            "Queries that would reach fields which a query must not set, and gRPC"
            " headers that the service could not read.",
            Shared("guard", guard(self._contract)),
        )

    def _http_filters(self, listener: Listener) -> Sequence[Node]:
        return [
            *self._arrivals,
            Note(
                "The limit of what arrives: the transcoder does not count what it"
                " drops. Off on the routes of streams.",
                _buffer(RECEIVED, listener),
            ),
            self._transcoder(listener),
            Note(
                "A request goes on when it is complete and can be read: the service"
                " never waits for a body, JSON or gRPC. Off on the routes of streams.",
                _buffer(BUFFER, listener),
            ),
            _http_filter(
                "envoy.filters.http.router",
                "router.v3.Router",
                suppress_envoy_headers=True,
            ),
        ]

    def _transcoder(self, listener: Listener) -> Node:
        return _http_filter(
            TRANSCODER,
            "grpc_json_transcoder.v3.GrpcJsonTranscoder",
            proto_descriptor=self._settings.descriptor_set,
            services=self._services,
            convert_grpc_status=True,
            max_request_body_size=listener.max_body_bytes,
            max_response_body_size=listener.max_answer_bytes,
            print_options={
                "preserve_proto_field_names": True,
                "always_print_primitive_fields": True,
            },
            request_validation_options={
                "reject_unknown_method": True,
                "reject_binding_body_field_collisions": True,
            },
            ignore_unknown_query_parameters=True,
            query_param_unescape_plus=True,
            ignored_query_parameters=Note(
                "Every path variable of the contract, in every spelling: in a query it"
                " would override the path. Unknown parameters, such as those against"
                " caches, do nothing, like unknown fields of a body.",
                self._ignored,
            ),
        )

    def cors_policy(self, listener: Listener) -> Node:
        """The CORS policy of a virtual host."""
        return typed(
            "envoy.extensions.filters.http.cors.v3.CorsPolicy",
            allow_origin_string_match=[{"exact": one} for one in listener.origins],
            # gRPC-Web posts, whatever the JSON paths do.
            allow_methods=", ".join(sorted(self._contract.verbs | {"POST"})),
            allow_headers=", ".join(ALLOWED_HEADERS),
            expose_headers=", ".join(EXPOSED_HEADERS),
            # Chrome keeps an answer to a preflight for two hours at most.
            max_age="7200",
        )


def _request_id(listener: Listener) -> Node:
    if listener.keeps_request_id:
        return Note(
            value=True,
            comment="A service's own id stays, so that one id follows a request through"
            " all of them.",
        )
    return Note(
        value=False,
        comment="Strangers get an id of ours: it leads to one call in the logs only if"
        " nobody else can choose it. traceparent passes: the service takes its ids, and"
        " decides by itself whether to sample.",
    )


def _buffer(name: str, listener: Listener) -> Node:
    # gRPC's prefix comes on top of what the limit is for.
    limit = listener.max_body_bytes + 5
    return _http_filter(name, "buffer.v3.Buffer", max_request_bytes=limit)


def _http_filter(name: str, message: str, **fields: Node) -> Node:
    return {
        "name": name,
        "typed_config": typed(f"envoy.extensions.filters.http.{message}", **fields),
    }


def _compressor(name: str, compressed: Node) -> Node:
    library = typed(f"envoy.extensions.compression.{name}.compressor.v3.{name.title()}")
    return _http_filter(
        f"envoy.filters.http.compressor.{name}",
        "compressor.v3.Compressor",
        response_direction_config=compressed,
        compressor_library={"name": name, "typed_config": library},
    )


def _remember_request() -> Node:
    formats = {VERB: "%REQ(:METHOD)%", PATH: "%PATH(NQ:PATH)%"}
    return _http_filter(
        "envoy.filters.http.set_filter_state",
        "set_filter_state.v3.Config",
        on_request_headers=[
            {
                "object_key": key,
                "factory_key": "envoy.string",
                "format_string": {"text_format_source": {"inline_string": text}},
            }
            for key, text in formats.items()
        ],
    )


def _access_log() -> Node:
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": typed(
            "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            log_format=Note(
                "Neither query nor credential: paths without query, no authorization.",
                {
                    "json_format": {
                        "time": "%START_TIME%",
                        "request_id": "%REQ(X-REQUEST-ID)%",
                        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                        "verb": f"%FILTER_STATE({VERB}:PLAIN)%",
                        "path": f"%FILTER_STATE({PATH}:PLAIN)%",
                        "rpc": "%PATH(NQ:PATH)%",
                        "protocol": "%PROTOCOL%",
                        "http": "%RESPONSE_CODE%",
                        "grpc": "%GRPC_STATUS(SNAKE_STRING)%",
                        "why": "%RESPONSE_CODE_DETAILS%",
                        "flags": "%RESPONSE_FLAGS%",
                        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
                        "bytes_in": "%BYTES_RECEIVED%",
                        "bytes_out": "%BYTES_SENT%",
                        "milliseconds": "%DURATION%",
                    }
                },
            ),
        ),
    }
