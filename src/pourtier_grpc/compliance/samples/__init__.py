"""Sample texts, so that a fresh platform has something to agree to.

They are never production's.
"""

from __future__ import annotations

from importlib import resources

from pourtier.v1.compliance_service_pb2 import ListDocumentsRequest
from pourtier.v1.document_pb2 import Document, DocumentType
from pourtier_grpc.caller import Act
from pourtier_grpc.compliance.documents import Documents, Draft, title_of, type_name
from pourtier_grpc.errors import ErrorReason, PourtierError


def publish_samples(documents: Documents) -> list[Document]:
    """Publishes a sample of each kind of which nothing was ever published.

    Answers those that it has published; none, where it was here before.
    """
    kinds = [each for each in DocumentType.values() if each]
    published = [_publish(documents, kind) for kind in kinds]
    return [each for each in published if each is not None]


def _publish(documents: Documents, kind: DocumentType.ValueType) -> Document | None:
    if documents.page(ListDocumentsRequest(type=kind, page_size=1)).documents:
        return None
    try:
        return documents.publish(_sample(kind), Act(reason="samples"))
    except PourtierError as error:
        if error.reason != ErrorReason.ERROR_REASON_DOCUMENT_ALREADY_PUBLISHED:
            raise
        # Somebody else did, at the same moment.
        return None


def _sample(kind: DocumentType.ValueType) -> Draft:
    name = type_name(kind).lower().replace("_", "-")
    content = resources.files(__name__).joinpath(f"{name}.md").read_bytes()
    return Draft(
        type=kind,
        version="1.0",
        locale="en",
        title=title_of(content.decode(), kind),
        content=content,
    )
