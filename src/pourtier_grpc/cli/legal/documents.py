"""`pourtier legal list|withdraw`: the texts that there are."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import click

from pourtier.v1.compliance_service_pb2 import ListDocumentsRequest
from pourtier.v1.document_pb2 import Document, DocumentStatus
from pourtier_grpc.caller import Act
from pourtier_grpc.cli.common import fail, json_option, print_rows
from pourtier_grpc.cli.parts import parts
from pourtier_grpc.cli.reasons import Reason
from pourtier_grpc.compliance.documents import MAX_PAGE, Documents, type_name


@click.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """Print the texts, the newest first.

    Of each: id, type, version, locale, status, effective time, title.
    """
    with parts() as made:
        rows = [_row(each) for each in _all(made.documents)]
    print_rows(rows, as_json=as_json)


@click.command()
@click.argument("document_id", metavar="ID", type=click.UUID)
@click.option("--reason", type=Reason(), help="Why, for the audit log.")
def withdraw(document_id: UUID, reason: str | None) -> None:
    """Take a text back. Nobody can accept it any more; what was accepted stays so."""
    with parts() as made:
        if not made.documents.withdraw(document_id, Act(reason=reason or "")):
            fail(f"the document {document_id} was withdrawn already")


def _all(documents: Documents) -> Iterator[Document]:
    request = ListDocumentsRequest(page_size=MAX_PAGE)
    while True:
        page = documents.page(request)
        yield from page.documents
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _row(document: Document) -> dict[str, str]:
    status = DocumentStatus.Name(document.status).removeprefix("DOCUMENT_STATUS_")
    return {
        "document_id": document.document_id,
        "type": _dashed(type_name(document.type)),
        "version": document.version,
        "locale": document.locale,
        "status": _dashed(status),
        "effective_time": document.effective_time.ToJsonString(),
        "title": document.title,
    }


def _dashed(name: str) -> str:
    return name.lower().replace("_", "-")
