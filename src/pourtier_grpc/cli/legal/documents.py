"""`pourtier legal list|withdraw`: the texts that there are."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import click
import protovalidate

from pourtier.v1.compliance_service_pb2 import ListDocumentsRequest
from pourtier.v1.document_pb2 import Document, DocumentStatus
from pourtier.v1.user_service_pb2 import SuspendUserRequest
from pourtier_grpc.caller import OPERATOR
from pourtier_grpc.cli.common import fail, json_option, print_rows
from pourtier_grpc.cli.parts import parts
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
@click.option("--reason", default="", help="Why, for the audit log.")
def withdraw(document_id: UUID, reason: str) -> None:
    """Take a text back. Nobody can accept it any more; what was accepted stays so."""
    if reason:
        _require_reason(reason)
    with parts() as made:
        if not made.documents.withdraw(document_id, reason, OPERATOR):
            fail(f"the document {document_id} was withdrawn already")


def _require_reason(reason: str) -> None:
    """Ends the command where the contract would refuse an administrator's reason."""
    sentence = "--reason is a line of text, at most 500 characters"
    try:
        request = SuspendUserRequest(user_id=str(UUID(int=0)), reason=reason)
    except ValueError:
        raise click.UsageError(sentence) from None
    if protovalidate.collect_violations(request):
        raise click.UsageError(sentence)


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
