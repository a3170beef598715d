"""ComplianceService."""

from __future__ import annotations

from uuid import UUID

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier.v1.document_pb2 import Document
from pourtier.v1.json_web_key_pb2 import JsonWebKey
from pourtier_grpc.auth.keyring import Keyring
from pourtier_grpc.call import Call
from pourtier_grpc.compliance.audit_trail import AuditTrail
from pourtier_grpc.compliance.consent import Consent
from pourtier_grpc.compliance.deployments import Deployments
from pourtier_grpc.compliance.documents import Documents, draft_of


class ComplianceServicer:
    """Legal texts, who has agreed to them, who may deploy, and what has happened."""

    def __init__(
        self,
        *,
        audit_trail: AuditTrail,
        documents: Documents,
        consent: Consent,
        deployments: Deployments,
        keyring: Keyring,
    ) -> None:
        self._audit_trail = audit_trail
        self._documents = documents
        self._consent = consent
        self._deployments = deployments
        self._keyring = keyring

    def ListDocuments(
        self, request: pb.ListDocumentsRequest, call: Call
    ) -> pb.ListDocumentsResponse:
        return self._documents.page(request)

    def GetDocument(self, request: pb.GetDocumentRequest, call: Call) -> Document:
        return self._documents.get(UUID(request.document_id))

    def PublishDocument(
        self, request: pb.PublishDocumentRequest, call: Call
    ) -> Document:
        draft = draft_of(request)
        return self._documents.publish(draft, call.act(reason=""))

    def GetEvidenceJwks(
        self, request: pb.GetEvidenceJwksRequest, call: Call
    ) -> pb.GetEvidenceJwksResponse:
        keys = [JsonWebKey(**jwk) for jwk in self._keyring.evidence_jwks()]
        return pb.GetEvidenceJwksResponse(keys=keys)

    def AcceptDocuments(
        self, request: pb.AcceptDocumentsRequest, call: Call
    ) -> pb.AcceptDocumentsResponse:
        ids = [UUID(each) for each in request.document_ids]
        accepted = self._consent.accept(call.signed_in, ids, call.client)
        return pb.AcceptDocumentsResponse(acceptances=accepted)

    def GetCompliance(
        self, request: pb.GetComplianceRequest, call: Call
    ) -> pb.GetComplianceResponse:
        return self._consent.compliance(call.signed_in)

    def ListAcceptances(
        self, request: pb.ListAcceptancesRequest, call: Call
    ) -> pb.ListAcceptancesResponse:
        return self._consent.page(call.signed_in, request.page_size, request.page_token)

    def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, call: Call
    ) -> pb.ListAuditEventsResponse:
        return self._audit_trail.page(request)

    def ValidateDeployment(
        self, request: pb.ValidateDeploymentRequest, call: Call
    ) -> pb.ValidateDeploymentResponse:
        answer = self._deployments.validate([request.user_id], request.consistency)
        (only,) = answer.results
        return pb.ValidateDeploymentResponse(allowed=only.allowed, denials=only.denials)

    def BatchValidateDeployments(
        self, request: pb.BatchValidateDeploymentsRequest, call: Call
    ) -> pb.BatchValidateDeploymentsResponse:
        return self._deployments.validate(request.user_ids, request.consistency)
