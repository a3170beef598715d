"""StatusService."""

from __future__ import annotations

from pourtier.v1 import status_service_pb2 as pb
from pourtier_grpc.call import Call
from pourtier_grpc.readiness import Readiness


class StatusServicer:
    """How the service is, for people."""

    def __init__(self, *, readiness: Readiness, version: str) -> None:
        self._readiness = readiness
        self._version = version

    def GetStatus(
        self, request: pb.GetStatusRequest, call: Call
    ) -> pb.GetStatusResponse:
        now = self._readiness.now
        return pb.GetStatusResponse(
            status="healthy" if now.database and now.redis else "degraded",
            database="up" if now.database else "down",
            redis="up" if now.redis else "down",
            version=self._version,
        )
