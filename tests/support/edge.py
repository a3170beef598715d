"""A real Envoy in front of a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pourtier_grpc.config import Settings
from pourtier_grpc.devtools.dev import edge_settings
from pourtier_grpc.devtools.edge import read_contract, render
from pourtier_grpc.devtools.envoy import EmbeddedEnvoy
from pourtier_grpc.server import descriptor_set


@dataclass(frozen=True)
class Edge:
    """Where an edge listens."""

    public: str
    internal: str
    envoy: EmbeddedEnvoy


@contextmanager
def edge(settings: Settings, folder: Path) -> Iterator[Edge]:
    """An edge as `pourtier dev` makes it, for a server with these settings."""
    descriptors = folder / "pourtier.binpb"
    descriptors.write_bytes(descriptor_set())
    configuration = folder / "envoy.yaml"
    rendered = edge_settings(settings, str(settings.grpc_unix_socket), descriptors)
    configuration.write_text(render(rendered, read_contract(descriptor_set())))
    with EmbeddedEnvoy(configuration, folder=folder, drain_seconds=1) as envoy:
        yield Edge(
            public=f"http://127.0.0.1:{settings.pourtier_http_port}",
            internal=f"http://127.0.0.1:{settings.pourtier_internal_http_port}",
            envoy=envoy,
        )
