"""The standard services beside the contract's: health and reflection.

Each has a small pool of its own, so that neither a flood of calls starves a probe nor
open streams do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from pourtier_grpc.pools import in_pool

LIVENESS = ""
READINESS = "readiness"
# What stands in the place of a request that is none.
MALFORMED = object()


class HealthServicer(health.HealthServicer):
    """`grpc.health.v1.Health`: "" is liveness, `readiness` readiness."""

    service = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        super().__init__()
        self._pool = pool
        self.set(READINESS, health_pb2.HealthCheckResponse.NOT_SERVING)

    def set_ready(self, ready: bool) -> None:  # noqa: FBT001 - a listener's one argument
        """Says whether calls should come here."""
        serving = health_pb2.HealthCheckResponse.SERVING
        not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        self.set(READINESS, serving if ready else not_serving)

    def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send_response_callback: Callable[[Any], None] | None = None,
    ) -> Any:
        if request.service in {LIVENESS, READINESS} or send_response_callback is None:
            return super().Watch(request, context, send_response_callback)
        # The base would keep every name that anybody ever asks for.
        unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        send_response_callback(health_pb2.HealthCheckResponse(status=unknown))
        return None

    def end_watches(self) -> None:
        """Ends every open Watch: a stop would wait for them as for calls."""
        with self._lock:  # type: ignore[attr-defined] # the stubs lack it
            waiting = [*self._send_response_callbacks.values()]  # type: ignore[attr-defined] # as above
            for callback in [callback for each in waiting for callback in each]:
                callback(None)

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service, to be added to a server."""
        request = readable(health_pb2.HealthCheckRequest)
        answer = health_pb2.HealthCheckResponse.SerializeToString
        check = in_pool(refusing_malformed(self.Check), self._pool)
        watch = in_pool(refusing_malformed(self.Watch), self._pool, blocking=False)
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(check, request, answer),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, request, answer),
        }
        return grpc.method_handlers_generic_handler(self.service, methods)


class ReflectionServicer(reflection.ReflectionServicer):
    """Server reflection with the contract's comments.

    The descriptors that Python keeps have lost them, so files of the contract come from
    the descriptor set that was generated with them. A stream holds a thread for as long
    as its client likes, so only `streams` may be open.
    """

    service = reflection.SERVICE_NAME

    def __init__(
        self,
        services: tuple[str, ...],
        commented: bytes,
        *,
        pool: ThreadPoolExecutor,
        streams: int,
    ) -> None:
        super().__init__(services)
        self._commented: Mapping[str, bytes] = {
            file.name: file.SerializeToString()
            for file in FileDescriptorSet.FromString(commented).file
        }
        # Not `_pool`, which is the base's own name for its descriptors.
        self._threads = pool
        self._places = threading.BoundedSemaphore(streams)

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service, to be added to a server."""
        serve = grpc.stream_stream_rpc_method_handler(
            in_pool(self._serve, self._threads),
            readable(reflection_pb2.ServerReflectionRequest),
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        methods = {"ServerReflectionInfo": serve}
        return grpc.method_handlers_generic_handler(self.service, methods)

    def _serve(
        self,
        requests: Iterator[reflection_pb2.ServerReflectionRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[reflection_pb2.ServerReflectionResponse]:
        if not self._places.acquire(blocking=False):
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "too many open reflection streams"
            )
        try:
            sound = (_or_abort(request, context) for request in requests)
            yield from super().ServerReflectionInfo(sound, context)
        finally:
            self._places.release()

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


def readable(request_type: type[Message]) -> Callable[[bytes], Any]:
    """Reads requests; grpcio would answer INTERNAL where this raised."""

    def deserialize(data: bytes) -> Any:
        try:
            return request_type.FromString(data)
        except DecodeError:
            return MALFORMED

    return deserialize


def refusing_malformed(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """The same behaviour, but for requests that could not be read."""

    def serve(request: Any, context: grpc.ServicerContext, *more: Any) -> Any:
        return behaviour(_or_abort(request, context), context, *more)

    return serve


def _or_abort(request: Any, context: grpc.ServicerContext) -> Any:
    if request is MALFORMED:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is malformed")
    return request
