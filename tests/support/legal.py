"""Legal texts for tests, and people who agree to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier.v1.document_pb2 import Document, DocumentStatus, DocumentType
from pourtier_grpc.caller import Act
from pourtier_grpc.compliance import evidence
from pourtier_grpc.compliance.documents import MAX_PAGE, Draft, type_name
from pourtier_grpc.compliance.evidence import Kind
from support.api import Api
from support.commands import quickly
from support.service import Service

TERMS = DocumentType.DOCUMENT_TYPE_TERMS_OF_SERVICE
PRIVACY = DocumentType.DOCUMENT_TYPE_PRIVACY_POLICY
RISK = DocumentType.DOCUMENT_TYPE_RISK_DISCLOSURE
TYPES = (TERMS, PRIVACY, RISK)

ANNOUNCED = DocumentStatus.DOCUMENT_STATUS_ANNOUNCED
IN_FORCE = DocumentStatus.DOCUMENT_STATUS_IN_FORCE
SUPERSEDED = DocumentStatus.DOCUMENT_STATUS_SUPERSEDED
WITHDRAWN = DocumentStatus.DOCUMENT_STATUS_WITHDRAWN


def publish(
    service: Service,
    kind: DocumentType.ValueType = TERMS,
    version: str = "1.0",
    locale: str = "en",
    **fields: Any,
) -> Document:
    """A text, published by command; `fields` are of its draft."""
    name = f"{type_name(kind)} {version} {locale}"
    values = {"title": name, "content": f"# {name}\n".encode(), **fields}
    draft = Draft(type=kind, version=version, locale=locale, **values)
    return service.server._parts.documents.publish(draft, Act(reason=""))


def publish_all(service: Service, **fields: Any) -> list[Document]:
    """A text of each kind."""
    return [publish(service, kind, **fields) for kind in TYPES]


def withdraw(service: Service, document: Document, reason: str = "a slip") -> bool:
    """Takes a text back, by command; False where it was taken back already."""
    document_id = UUID(document.document_id)
    return service.server._parts.documents.withdraw(document_id, Act(reason=reason))


def ids(*documents: Document) -> list[str]:
    return [document.document_id for document in documents]


def in_force(service: Service) -> list[str]:
    """The ids of every text in force, by which anybody can register."""
    request = pb.ListDocumentsRequest(status=IN_FORCE, page_size=MAX_PAGE)
    page = service.server._parts.documents.page(request)
    assert not page.next_page_token
    return ids(*page.documents)


def accept(service: Service, bearer: str, *documents: Document) -> list[pb.Acceptance]:
    """Somebody agrees to texts."""
    request = pb.AcceptDocumentsRequest(document_ids=ids(*documents))
    compliance = service.api.compliance
    answer = service.api.call(compliance.AcceptDocuments, request, bearer=bearer)
    return list(answer.acceptances)


def standing(service: Service, bearer: str) -> pb.GetComplianceResponse:
    """How somebody stands."""
    compliance = service.api.compliance
    request = pb.GetComplianceRequest()
    return service.api.call(compliance.GetCompliance, request, bearer=bearer)


def missing(service: Service, bearer: str) -> list[tuple[int, int]]:
    """The types and major versions that somebody lacks. They agree with `compliant`."""
    found = standing(service, bearer)
    assert found.compliant == (not found.missing)
    return [(each.type, each.major_version) for each in found.missing]


def jwks(service: Service) -> dict[str, Any]:
    """The evidence keys, as they are published."""
    request = pb.GetEvidenceJwksRequest()
    keys = service.api.call(service.api.compliance.GetEvidenceJwks, request).keys
    names = ("kty", "crv", "x", "kid", "alg", "use")
    return {"keys": [{name: getattr(key, name) for name in names} for key in keys]}


def public_keys(service: Service) -> dict[str, Ed25519PublicKey]:
    return evidence.keys_of(jwks(service))


def verified(service: Service, acceptance: pb.Acceptance) -> dict[str, Any]:
    """What a receipt says. Fails where it does not hold."""
    receipt = acceptance.receipt.encode()
    return evidence.verify(receipt, Kind.RECEIPT, public_keys(service))


def published_by_command(client: Api, url: str, folder: Path) -> tuple[list[str], str]:
    """The texts that a sign-up must accept, and one that can be accepted later."""
    where = {"database_url": url, "pourtier_data_dir": folder}
    assert quickly("legal", "seed", **where).returncode == 0
    texts = client.call(client.compliance.ListDocuments, pb.ListDocumentsRequest())
    required = [text.document_id for text in texts.documents]
    file = folder / "terms.md"
    file.write_text("# Terms, in other words\n")
    words = ("--type", "terms-of-service", "--version", "1.1")
    published = quickly("legal", "publish", file, *words, **where)
    assert published.returncode == 0, published.stderr
    return required, published.stdout.strip()
