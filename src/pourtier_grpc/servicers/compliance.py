"""ComplianceService."""

from __future__ import annotations

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier_grpc.call import Call
from pourtier_grpc.compliance.audit_trail import AuditTrail


class ComplianceServicer:
    """What can be shown to have happened."""

    def __init__(self, *, audit_trail: AuditTrail) -> None:
        self._audit_trail = audit_trail

    def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, call: Call
    ) -> pb.ListAuditEventsResponse:
        return self._audit_trail.page(request)
