"""Builds the edge: the configuration of the Envoy that turns JSON into gRPC.

Run as `python -m pourtier_grpc.devtools.edge` it writes `envoy.yaml`, for a deployment
that mounts the file; with `--check` it writes nothing and fails where the committed
file differs (part of `make lint`). `pourtier dev` and the tests render the same with
ports of their own.

Two listeners, whose routes follow from the policy that the contract declares beside
each RPC: the public one has what people may call, the internal one everything.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from pourtier_grpc.devtools.edge_contract import (
    Contract,
    EdgeError,
    Method,
    read_contract,
)
from pourtier_grpc.devtools.edge_http import HttpParts, Listener
from pourtier_grpc.devtools.edge_replies import MAX_BODY_BYTES, METADATA
from pourtier_grpc.devtools.edge_routes import CLUSTER, Routes
from pourtier_grpc.devtools.edge_settings import (
    Address,
    EdgeSettings,
    EdgeTls,
    seconds,
)
from pourtier_grpc.devtools.edge_tls import secrets, transport_socket
from pourtier_grpc.devtools.edge_yaml import Node, Note, typed
from pourtier_grpc.devtools.edge_yaml import render as render_yaml
from pourtier_grpc.devtools.generated import only_compares
from pourtier_grpc.interceptors.entry import INTERNAL_LISTENER

__all__ = [
    "Address",
    "Contract",
    "EdgeError",
    "EdgeSettings",
    "EdgeTls",
    "Method",
    "build",
    "read_contract",
    "render",
    "secrets",
    "write",
]

ROOT = Path(__file__).parents[3]
TARGET = ROOT / "envoy.yaml"

HEAP = "envoy.resource_monitors.fixed_heap"

HEADER = """\
# Pourtier's edge: JSON, gRPC-Web and gRPC in, gRPC out.
#
# Generated from the contract (gen/pourtier/pourtier.binpb: its HTTP rules, policies and
# idempotency levels) by `python -m pourtier_grpc.devtools.edge`. Do not edit.
# For Envoy 1.40.

"""


def build(contract: Contract, settings: EdgeSettings) -> dict[str, Node]:
    """Envoy's whole configuration, as data with comments."""
    http = HttpParts(contract, settings)
    routes = Routes(contract, settings, http)
    public = Listener(
        name="public",
        address=settings.public,
        origins=settings.public_origins,
        max_body_bytes=settings.max_body_bytes,
        max_answer_bytes=settings.max_answer_bytes,
        trusted_proxies=settings.trusted_proxies,
        tls=settings.public_tls,
        # Browsers hold to it for every port of a host, so only here, where they come.
        strict_transport=settings.public_tls is not None,
    )
    internal = Listener(
        name=INTERNAL_LISTENER,
        address=settings.internal,
        origins=settings.internal_origins,
        max_body_bytes=settings.max_internal_body_bytes,
        max_answer_bytes=settings.max_internal_answer_bytes,
        keeps_request_id=True,
        tls=settings.internal_tls,
    )
    return {
        "node": {"id": "pourtier-edge", "cluster": CLUSTER},
        "admin": {
            "address": Note(
                "It can stop and reconfigure this Envoy: mode 384 is 0600.",
                {"pipe": {"path": settings.admin, "mode": 0o600}},
            )
        },
        "overload_manager": _overload_manager(settings),
        "static_resources": {
            "listeners": [
                Note(
                    "People: the methods that PUBLIC, USER, SELF or ADMIN may call.",
                    _listener(public, http, routes.public(public), settings),
                ),
                Note(
                    "Internal services and engineers: every method.",
                    _listener(internal, http, routes.internal(internal), settings),
                ),
            ],
            "clusters": [_cluster(settings)],
        },
    }


def render(settings: EdgeSettings, contract: Contract | None = None) -> str:
    """The text of the configuration file, for the committed contract by default."""
    return HEADER + render_yaml(build(contract or committed_contract(), settings))


def write(folder: Path, settings: EdgeSettings) -> None:
    """Puts an edge's files there: `envoy.yaml`, and what `settings.secrets` holds.

    The secrets' files name certificates and keys, and have none in them.
    """
    (folder / "secrets").mkdir(exist_ok=True)
    (folder / "envoy.yaml").write_text(render(settings), encoding="utf-8")
    for name, text in secrets(settings):
        (folder / "secrets" / name).write_text(text, encoding="utf-8")


def committed_contract() -> Contract:
    """The contract that `gen/` holds."""
    return read_contract((ROOT / "gen" / "pourtier" / "pourtier.binpb").read_bytes())


def main(arguments: Iterable[str] | None = None) -> int:
    """The command; answers 0, or 1 where the edge is not in order."""
    check = only_compares(__doc__, arguments)
    try:
        text = render(EdgeSettings())
    except EdgeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if not check:
        TARGET.write_text(text)
    elif not TARGET.exists() or TARGET.read_text() != text:
        sys.stderr.write(
            "envoy.yaml is not what the contract says; run"
            " `python -m pourtier_grpc.devtools.edge`\n"
        )
        return 1
    return 0


def _listener(
    listener: Listener, http: HttpParts, route_config: Node, settings: EdgeSettings
) -> Node:
    chain: dict[str, Node] = {
        "filters": [http.connection_manager(listener, route_config)]
    }
    if listener.tls is not None:
        chain["transport_socket"] = transport_socket(
            listener.name, listener.tls, settings
        )
        chain["transport_socket_connect_timeout"] = Note(
            "For the handshake, which nothing else limits.",
            seconds(settings.receive_timeout),
        )
    return {
        "name": listener.name,
        "address": _socket_address(listener.address),
        "metadata": {
            "filter_metadata": {
                METADATA: {MAX_BODY_BYTES: str(listener.max_body_bytes)}
            }
        },
        "per_connection_buffer_limit_bytes": 32_768,
        "filter_chains": [chain],
    }


def _cluster(settings: EdgeSettings) -> Node:
    protocol = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": Note(
            "In turn, so that a call tried again lands elsewhere. By least requests it"
            " would return to the dead worker, which has the fewest.",
            "ROUND_ROBIN",
        ),
        "per_connection_buffer_limit_bytes": 32_768,
        "typed_extension_protocol_options": {
            protocol: typed(
                protocol,
                explicit_http_config={
                    "http2_protocol_options": {
                        "hpack_table_size": Note(
                            "No memory of headers. Where grpcio cannot read a value, it"
                            " would from then on refuse that header in every call of"
                            " the connection, which is everybody's.",
                            0,
                        )
                    }
                },
            )
        },
        "health_checks": Note(
            "Liveness: an endpoint that says NOT_SERVING or nothing gets no calls, also"
            " where no other is left. A draining worker sends GOAWAY and finishes what"
            " it has accepted. No outlier detection: errors of one caller must not"
            " take an endpoint from the others.",
            [
                {
                    "timeout": "1s",
                    "interval": "1s",
                    "no_traffic_interval": "1s",
                    "unhealthy_interval": "0.25s",
                    "unhealthy_threshold": 2,
                    "healthy_threshold": 1,
                    "grpc_health_check": {},
                }
            ],
        ),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "circuit_breakers": Note(
            "Above what the workers take before they refuse by themselves, with a"
            " reason; below what would fill the memory.",
            {
                "thresholds": [
                    {
                        "max_connections": 1024,
                        "max_pending_requests": settings.max_calls,
                        "max_requests": settings.max_calls,
                        "retry_budget": {
                            "budget_percent": {"value": 20},
                            "min_retry_concurrency": 16,
                        },
                    }
                ]
            },
        ),
        "load_assignment": {
            "cluster_name": CLUSTER,
            "endpoints": [{"lb_endpoints": [_endpoint(s) for s in settings.sockets]}],
        },
    }


def _endpoint(socket: str) -> Node:
    return {"endpoint": {"address": {"pipe": {"path": socket}}}}


def _overload_manager(settings: EdgeSettings) -> Node:
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [_connection_limit(settings), _heap_limit(settings)],
        "actions": [
            Note(
                "Free memory goes back to the system; then new requests are refused.",
                _heap_action("shrink_heap", 0.9),
            ),
            _heap_action("stop_accepting_requests", 0.95),
        ],
    }


def _heap_limit(settings: EdgeSettings) -> Node:
    return {
        "name": HEAP,
        "typed_config": typed(
            "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
            max_heap_size_bytes=settings.max_heap_bytes,
        ),
    }


def _heap_action(name: str, threshold: float) -> Node:
    return {
        "name": f"envoy.overload_actions.{name}",
        "triggers": [{"name": HEAP, "threshold": {"value": threshold}}],
    }


def _connection_limit(settings: EdgeSettings) -> Node:
    return {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": typed(
            "envoy.extensions.resource_monitors.downstream_connections.v3"
            ".DownstreamConnectionsConfig",
            max_active_downstream_connections=settings.max_connections,
        ),
    }


def _socket_address(address: Address) -> Node:
    return {"socket_address": {"address": address.host, "port_value": address.port}}


if __name__ == "__main__":
    sys.exit(main())
