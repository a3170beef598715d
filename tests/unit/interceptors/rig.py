"""A real gRPC server whose methods are synthetic: one of every kind of policy."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc  # type: ignore[import-untyped] # it has no stubs

from pourtier_grpc.call import Call, Method, methods_of
from pourtier_grpc.caller import ApiKey, Credential, Service, SignedInUser
from pourtier_grpc.devtools.contract import ROOT, validate_descriptors
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.interceptors.chain import interceptors
from pourtier_grpc.interceptors.overload import Overload
from pourtier_grpc.pools import BoundedPool
from pourtier_grpc.server import method_handlers
from support.api import refused
from support.clock import ManualClock

LIMIT_BYTES = 4096
PATIENCE_SECONDS = 10.0

SOURCE = """
syntax = "proto3";
package interceptors.v1;
import "buf/validate/validate.proto";
import "pourtier/v1/policy.proto";

service ThingService {
  rpc Public(Thing) returns (Thing) {
    option (pourtier.v1.policy) = { allow { public {} } LIMITED };
  }
  rpc PublicWithBearer(Thing) returns (Thing) {
    option (pourtier.v1.policy) = {
      allow { public {} } LIMITED reads_bearer: true
    };
  }
  rpc User(Thing) returns (Thing) {
    option (pourtier.v1.policy) = { allow { user {} } LIMITED };
  }
  rpc Escrow(Thing) returns (Thing) {
    option (pourtier.v1.policy) = {
      allow { public {} } LIMITED calls_passeur: true
    };
  }
  rpc Self(Thing) returns (Thing) {
    option (pourtier.v1.policy) = {
      allow { self { field: "owner_id" } } LIMITED
    };
  }
  rpc Admin(Thing) returns (Thing) {
    option (pourtier.v1.policy) = { allow { admin {} } LIMITED };
  }
  rpc Service(Thing) returns (Thing) {
    option (pourtier.v1.policy) = {
      allow { service { scope: "things.read" } } LIMITED
    };
  }
  rpc ServiceOrAdmin(Thing) returns (Thing) {
    option (pourtier.v1.policy) = {
      allow { service { scope: "things.read" } } allow { admin {} } LIMITED
    };
  }
  rpc SelfOrAdmin(Thing) returns (Thing) {
    option (pourtier.v1.policy) = {
      allow { self { field: "owner_id" } } allow { admin {} } LIMITED
    };
  }
}

// Each has one method, named after what is wrong with its policy.
service NoPolicyService {
  rpc Wrong(Thing) returns (Thing);
}
service NobodyService {
  rpc Wrong(Thing) returns (Thing) {
    option (pourtier.v1.policy) = { LIMITED };
  }
}
service NoLimitService {
  rpc Wrong(Thing) returns (Thing) {
    option (pourtier.v1.policy) = { allow { public {} } };
  }
}
service EverybodyAndOthersService {
  rpc Wrong(Thing) returns (Thing) {
    option (pourtier.v1.policy) = {
      allow { user {} } allow { public {} } LIMITED
    };
  }
}
service NeedlessBearerService {
  rpc Wrong(Thing) returns (Thing) {
    option (pourtier.v1.policy) = {
      allow { user {} } LIMITED reads_bearer: true
    };
  }
}
service KeyOfAnybodyService {
  rpc Wrong(Thing) returns (Thing) {
    option (pourtier.v1.policy) = {
      allow { public {} } LIMITED idempotency_key: true
    };
  }
}
service NoSuchFieldService {
  rpc Wrong(Thing) returns (Thing) {
    option (pourtier.v1.policy) = {
      allow { self { field: "user_id" } } LIMITED
    };
  }
}

message Thing {
  string owner_id = 1 [(buf.validate.field).string.max_len = 36];
  Part part = 2;
  repeated Part parts = 3;
  repeated string tags = 4 [(buf.validate.field).repeated.items.string.max_len = 3];
  map<string, Part> by_name = 5;
  map<int32, string> by_number = 6 [
    (buf.validate.field).map.values.string.max_len = 3,
    (buf.validate.field).map.keys.int32.gt = 0
  ];
  oneof choice {
    string first = 7;
    string second = 8;
  }
}

message Part {
  string label = 1 [(buf.validate.field).string.max_len = 3];
  Part inner = 2;
}
""".replace("LIMITED", "rate_limit: RATE_LIMIT_CLASS_USER")


def _compile() -> Any:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "interceptors_test.proto").write_text(SOURCE)
        (folder / "imports.binpb").write_bytes(validate_descriptors())
        arguments = (
            "protoc",
            f"--descriptor_set_in={folder / 'imports.binpb'}",
            f"--proto_path={folder}",
            f"--proto_path={ROOT / 'protos'}",
            f"--descriptor_set_out={folder / 'made.binpb'}",
            "interceptors_test.proto",
        )
        assert protoc.main(arguments) == 0
        made = (folder / "made.binpb").read_bytes()
    (file,) = FileDescriptorSet.FromString(made).file
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindFileByName(file.name)


FILE = _compile()
SERVICE = FILE.services_by_name["ThingService"]
Thing: Any = GetMessageClass(FILE.message_types_by_name["Thing"])


def _user(number: int, *roles: str) -> SignedInUser:
    return SignedInUser(
        user_id=UUID(int=number),
        session_id=UUID(int=10 + number),
        wallet_address=f"wallet{number}",
        roles=roles,
    )


def _service(number: int, name: str, *scopes: str) -> Service:
    return Service(
        key_id=UUID(int=number),
        prefix=f"{number:012x}",
        name=name,
        scopes=frozenset(scopes),
    )


ANN = _user(1)
BOB = _user(2, "helper")
ROOT_USER = _user(3, "helper", "admin")
USERS = {"ann": ANN, "bob": BOB, "root": ROOT_USER}
READER = _service(21, "reader", "other.scope", "things.read")
WRITER = _service(22, "writer", "things.write", "things.reader")
SERVICES = {"reader": READER, "writer": WRITER}

Behaviour = Callable[[Any, Call], Any]


class Names:
    """Access tokens that are the names of users, API keys that are of services."""

    def authenticate(self, credential: Credential) -> SignedInUser | Service:
        if isinstance(credential, ApiKey):
            if credential.text not in SERVICES:
                reason = ErrorReason.ERROR_REASON_API_KEY_INVALID
                raise PourtierError(reason, "unknown key")
            return SERVICES[credential.text]
        if credential.token not in USERS:
            raise PourtierError(ErrorReason.ERROR_REASON_TOKEN_INVALID, "unknown token")
        return USERS[credential.token]


class Servicer:
    """Every method does what the test says, by default give back what it got."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = lambda request, _: request
        self.calls: list[Call] = []

    def __getattr__(self, name: str) -> Behaviour:
        if name not in SERVICE.methods_by_name:
            raise AttributeError(name)
        return self._answer

    def _answer(self, request: Any, call: Call) -> Any:
        self.calls.append(call)
        return self.behaviour(request, call)


def _written(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()


class Rig:
    """A client of the server, and the servicer behind it."""

    def __init__(self, target: str, servicer: Servicer) -> None:
        self.target = target
        self.servicer = servicer
        self.channel = grpc.insecure_channel(target)

    def call(
        self,
        name: str,
        request: Any = None,
        *metadata: tuple[str, str | bytes],
        bearer: str = "",
        api_key: str = "",
        timeout: float | None = PATIENCE_SECONDS,
    ) -> Any:
        """Calls a method; `request` may be bytes that are no message."""
        method = self.channel.unary_unary(
            f"/{SERVICE.full_name}/{name}",
            request_serializer=_written,
            response_deserializer=Thing.FromString,
        )
        if bearer:
            metadata = (*metadata, ("authorization", f"Bearer {bearer}"))
        if api_key:
            metadata = (*metadata, ("x-api-key", api_key))
        try:
            response, self.finished = method.with_call(
                Thing() if request is None else request,
                timeout=timeout,
                metadata=metadata,
            )
        except grpc.RpcError as error:
            raise refused(error) from None
        return response

    @property
    def last(self) -> Call:
        """The newest call that reached the servicer."""
        return self.servicer.calls[-1]

    @property
    def headers(self) -> dict[str, str | bytes]:
        """The initial metadata of the newest call that succeeded."""
        return dict(self.finished.initial_metadata())


@contextmanager
def running(
    address: str = "127.0.0.1:0",
    *,
    pool: BoundedPool | None = None,
    escrow_pool: BoundedPool | None = None,
    **chain: Any,
) -> Iterator[Rig]:
    """A server of the synthetic methods inside the whole chain."""
    servicer = Servicer()
    made = interceptors(
        **{
            "authenticator": Names(),
            "clock": ManualClock(),
            "call_timeout_seconds": PATIENCE_SECONDS,
            "max_request_bytes": LIMIT_BYTES,
            **chain,
        }
    )
    calls = pool or BoundedPool(threads=4, queue_limit=64, name="calls")
    passeur_calls = escrow_pool or BoundedPool(threads=4, queue_limit=64, name="escrow")

    def pool_of(method: Method) -> BoundedPool:
        return passeur_calls if method.policy.calls_passeur else calls

    refusing = ThreadPoolExecutor(1)
    shedding = Overload(methods_of(SERVICE), pool_of=pool_of, refusing=refusing)
    server = grpc.server(calls, interceptors=[shedding])
    handlers = method_handlers(SERVICE, servicer, made, LIMIT_BYTES, pool_of)
    server.add_registered_method_handlers(SERVICE.full_name, handlers)
    port = server.add_insecure_port(address)
    server.start()
    target = address if address.startswith("unix:") else address[:-1] + str(port)
    rig = Rig(target, servicer)
    try:
        yield rig
    finally:
        rig.channel.close()
        server.stop(None).wait()
        calls.shutdown()
        passeur_calls.shutdown()
        refusing.shutdown()
