"""The standard services beside the contract's: health, reflection, and what is unknown.

Each has a small pool of its own, so that neither a flood of calls starves a probe nor a
flood of probes the calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from pourtier.v1.policy_pb2 import MethodPolicy
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.interceptors.call import Call, Method, compose
from pourtier_grpc.interceptors.error_mapping import error_mapping
from pourtier_grpc.interceptors.request_context import access_log, entry

READINESS = "readiness"
LIVENESS = ""


def in_pool(
    behaviour: Callable[..., Any], pool: ThreadPoolExecutor, *, blocking: bool = True
) -> Callable[..., Any]:
    """A behaviour whose calls grpcio runs in that pool."""
    pooled = functools.partial(behaviour)
    # grpcio reads these attributes of a handler's behaviour.
    pooled.experimental_thread_pool = pool  # type: ignore[attr-defined] # as above
    pooled.experimental_non_blocking = not blocking  # type: ignore[attr-defined] # as above
    return pooled


class HealthServicer(health.HealthServicer):
    """`grpc.health.v1.Health`: "" is liveness, `readiness` readiness."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        super().__init__()
        # On the instance: grpcio's own attributes would be shared by all servers.
        vars(self)["Check"] = in_pool(super().Check, pool)
        vars(self)["Watch"] = in_pool(super().Watch, pool, blocking=False)
        self.set(READINESS, health_pb2.HealthCheckResponse.NOT_SERVING)

    def set_ready(self, ready: bool) -> None:  # noqa: FBT001 - a listener's one argument
        """Says whether calls should come here."""
        serving = health_pb2.HealthCheckResponse.SERVING
        not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        self.set(READINESS, serving if ready else not_serving)


class ReflectionServicer(reflection.ReflectionServicer):
    """Server reflection with the contract's comments.

    The descriptors that Python keeps have lost them, so files of the contract come from
    the descriptor set that was generated with them.
    """

    def __init__(
        self, services: tuple[str, ...], commented: bytes, pool: ThreadPoolExecutor
    ) -> None:
        super().__init__(services)
        self._commented: Mapping[str, bytes] = {
            file.name: file.SerializeToString()
            for file in FileDescriptorSet.FromString(commented).file
        }
        vars(self)["ServerReflectionInfo"] = in_pool(super().ServerReflectionInfo, pool)

    def _file_by_filename(
        self, request: Message, filename: str
    ) -> reflection_pb2.ServerReflectionResponse:
        found = super()._file_by_filename(request, filename)  # type: ignore[misc] # the stubs lack it
        return self._with_comments(found)

    def _file_containing_symbol(
        self, request: Message, fully_qualified_name: str
    ) -> reflection_pb2.ServerReflectionResponse:
        find = super()._file_containing_symbol  # type: ignore[misc] # as above
        found = find(request, fully_qualified_name)
        if found.HasField("error_response"):
            # Python's pool does not know the names of methods, but those of services.
            found = find(request, fully_qualified_name.rpartition(".")[0])
        return self._with_comments(found)

    def _with_comments(
        self, response: reflection_pb2.ServerReflectionResponse
    ) -> reflection_pb2.ServerReflectionResponse:
        files = response.file_descriptor_response.file_descriptor_proto
        for index, plain in enumerate(files):
            name = FileDescriptorProto.FromString(plain).name
            files[index] = self._commented.get(name, plain)
        return response


class UnknownMethods(grpc.GenericRpcHandler):
    """Answers calls of methods that do not exist, with a reason as every error has."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler that refuses."""
        method = Method(
            path=handler_call_details.method,
            name="",
            policy=MethodPolicy(),
            request_type=Empty,
            response_type=Empty,
        )
        handler = compose((access_log, error_mapping), method, _refuse)
        return grpc.unary_unary_rpc_method_handler(
            in_pool(entry(method, handler), self._pool),
            request_deserializer=bytes,
        )


def _refuse(request: object, call: Call) -> Message:  # noqa: ARG001 - the protocol
    raise PourtierError(
        ErrorReason.ERROR_REASON_METHOD_NOT_FOUND,
        "there is no method {method}",
        method=call.method.path[:128],
    )
