"""Clients of grpc's own services, with the types that their packages leave out."""

from __future__ import annotations

from typing import Protocol, cast

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import (
    ServerReflectionRequest,
    ServerReflectionResponse,
)
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub


class Health(Protocol):
    """The methods of grpc.health.v1.Health."""

    Check: grpc.UnaryUnaryMultiCallable[HealthCheckRequest, HealthCheckResponse]
    Watch: grpc.UnaryStreamMultiCallable[HealthCheckRequest, HealthCheckResponse]


class Reflection(Protocol):
    """The method of grpc.reflection.v1alpha.ServerReflection."""

    ServerReflectionInfo: grpc.StreamStreamMultiCallable[
        ServerReflectionRequest, ServerReflectionResponse
    ]


def health_stub(channel: grpc.Channel) -> Health:
    return cast("Health", HealthStub(channel))


def reflection_stub(channel: grpc.Channel) -> Reflection:
    return cast("Reflection", ServerReflectionStub(channel))
