"""A real Envoy before a real gRPC server that answers as a test tells it to."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pourtier_grpc.devtools.contract import ROOT, validate_descriptors
from pourtier_grpc.devtools.edge import EdgeSettings, read_contract, render
from pourtier_grpc.devtools.edge_settings import Address
from pourtier_grpc.devtools.envoy import EmbeddedEnvoy
from support import rpcs
from support.ports import free_port
from support.waiting import wait_until

ORIGIN = "https://app.example"
CONTRACT = ROOT / "gen" / "pourtier" / "pourtier.binpb"
contract_services = rpcs.contract_services

# One method of every kind that the contract does not have yet.
SYNTHETIC = """
syntax = "proto3";
package synthetic.v1;
import "google/api/annotations.proto";
import "pourtier/v1/policy.proto";

service ThingService {
  rpc GetThing(Thing) returns (Thing) {
    option (google.api.http) = {
      get: "/api/things/{thing_id}"
      additional_bindings { get: "/api/owners/{owner.owner_id}/thing" }
    };
    option (pourtier.v1.policy) = { allow { self { field: "thing_id" } } };
    option idempotency_level = NO_SIDE_EFFECTS;
  }
  rpc PutThing(Thing) returns (Thing) {
    option (google.api.http) = { post: "/api/things/{thing_id}" body: "*" };
    option (pourtier.v1.policy) = {
      allow { service { scope: "things.write" } }
      allow { admin {} }
    };
  }
  rpc PutOwner(PutOwnerRequest) returns (Thing) {
    option (google.api.http) = { put: "/api/owners" body: "new_owner" };
    option (pourtier.v1.policy) = { allow { admin {} } };
  }
  rpc PurgeThings(Thing) returns (Thing) {
    option (google.api.http) = { post: "/api/things:purge" body: "*" };
    option (pourtier.v1.policy) = { allow { service { scope: "things.write" } } };
  }
}

message Thing {
  string thing_id = 1;
  Owner owner = 2;
  string note_text = 3;
}

message Owner { string owner_id = 1; }

message PutOwnerRequest {
  Owner new_owner = 1;
  string note_text = 2;
}
"""


def compile_contract(folder: Path, source: str = SYNTHETIC) -> Path:
    """The file with a contract's descriptor set, made from the source of one proto."""
    (folder / "synthetic.proto").write_text(source)
    (folder / "imports.binpb").write_bytes(validate_descriptors())
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--descriptor_set_in={folder / 'imports.binpb'}",
            f"--proto_path={folder}",
            f"--proto_path={ROOT / 'protos'}",
            f"--proto_path={sysconfig.get_path('purelib')}",
            "--include_imports",
            f"--descriptor_set_out={folder / 'synthetic.binpb'}",
            "synthetic.proto",
            "google/rpc/error_details.proto",
        ],
        check=True,
    )
    return folder / "synthetic.binpb"


@dataclass(frozen=True, slots=True)
class Call:
    """A call that reached the service."""

    method: str
    request: Any
    metadata: list[tuple[str, str | bytes]]
    seconds_left: float

    def values(self, name: str) -> list[str | bytes]:
        """Every value of one header."""
        return [value for key, value in self.metadata if key == name]


Answer = Callable[[Any, grpc.ServicerContext], Message | None]


@dataclass
class Service:
    """A gRPC server with every method of some services, and health and reflection.

    A method answers with an empty message until `answers` says otherwise.
    """

    socket: Path
    services: list[ServiceDescriptor]
    calls: list[Call] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)

    def start(self) -> None:
        self.server = grpc.server(ThreadPoolExecutor(4))
        self.health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        reflection.enable_server_reflection([reflection.SERVICE_NAME], self.server)
        for service in self.services:
            handlers = {m.name: self._handler(m) for m in service.methods}
            self.server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(service.full_name, handlers)]
            )
        assert self.server.add_insecure_port(f"unix:{self.socket}")
        self.server.start()

    def stop(self, grace: float | None = None) -> threading.Event:
        return self.server.stop(grace)

    def forget(self) -> None:
        """Drops what was recorded, and answers like a new one."""
        self.calls.clear()
        self.answers.clear()

    def _handler(self, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        request_type = message_factory.GetMessageClass(method.input_type)
        response_type = message_factory.GetMessageClass(method.output_type)

        def answer(request: Message, context: grpc.ServicerContext) -> Message:
            metadata = [(key, value) for key, value in context.invocation_metadata()]
            left = context.time_remaining()
            self.calls.append(Call(method.name, request, metadata, left))
            behave = self.answers.get(method.name)
            return (behave and behave(request, context)) or response_type()

        return grpc.unary_unary_rpc_method_handler(
            answer, request_type.FromString, response_type.SerializeToString
        )


class Edge:
    """An Envoy with a configuration of ours, and clients for it."""

    def __init__(
        self,
        folder: Path,
        descriptors: Path,
        sockets: Iterable[Path],
        **settings: Any,
    ) -> None:
        self.settings = EdgeSettings(
            public=Address(port=free_port()),
            internal=Address(port=free_port()),
            admin=str(folder / "admin.sock"),
            sockets=tuple(map(str, sockets)),
            descriptor_set=str(descriptors),
            public_origins=(ORIGIN,),
            **settings,
        )
        file = folder / "envoy.yaml"
        file.write_text(render(self.settings, read_contract(descriptors.read_bytes())))
        self.log = folder / "envoy.log"
        self._envoy = EmbeddedEnvoy(file, folder=folder, drain_seconds=0)
        self._stack = ExitStack()

    def start(self) -> None:
        self._stack.enter_context(self._envoy)
        self.public = self._client(self.settings.public)
        self.internal = self._client(self.settings.internal)

    def stop(self) -> None:
        self._stack.close()

    def channel(self, address: Address) -> grpc.Channel:
        return self._stack.enter_context(
            grpc.insecure_channel(f"{address.host}:{address.port}")
        )

    def _client(self, address: Address) -> httpx.Client:
        return self._stack.enter_context(
            httpx.Client(base_url=f"http://{address.host}:{address.port}", timeout=10)
        )


@contextmanager
def contract_edge(folder: Path, **settings: Any) -> Iterator[tuple[Edge, Service]]:
    """The committed contract, served and fronted."""
    service = Service(folder / "grpc-0.sock", contract_services())
    with running(folder, CONTRACT, service, **settings) as edge:
        yield edge, service


@contextmanager
def running(
    folder: Path, descriptors: Path, *services: Service, **settings: Any
) -> Iterator[Edge]:
    """An edge and the services behind it, until the block ends."""
    edge = Edge(folder, descriptors, [one.socket for one in services], **settings)
    for service in services:
        service.start()
    try:
        edge.start()
        wait_until(lambda: edge.internal.get("/health").status_code != 503)
        yield edge
    finally:
        edge.stop()
        for service in services:
            service.stop().wait()


def call_grpc(
    channel: grpc.Channel,
    method: str,
    request: bytes = b"",
    *,
    metadata: Iterable[tuple[str, str]] = (),
    timeout: float = 5,
) -> bytes:
    """A native call with bytes, so that no stub is needed."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    return call(request, metadata=tuple(metadata), timeout=timeout)


def services_of(descriptors: Path, *names: str) -> list[ServiceDescriptor]:
    """Descriptors of services, in a pool of their own."""
    files = FileDescriptorSet.FromString(descriptors.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return [pool.FindServiceByName(name) for name in names]


def assert_error(
    answer: httpx.Response, status: int, code: int, reason: str
) -> dict[str, Any]:
    """The answer is an error in the form that the service's own have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert body["code"] == code
    assert body["message"]
    (info,) = [d for d in body["details"] if d["@type"].endswith("ErrorInfo")]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert info["reason"] == reason
    assert info["domain"] == "pourtier.lumiere.trade"
    return body
