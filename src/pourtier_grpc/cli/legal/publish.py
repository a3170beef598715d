"""`pourtier legal publish`: a text from a file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click
import protovalidate

from pourtier.v1.compliance_service_pb2 import PublishDocumentRequest
from pourtier.v1.document_pb2 import DocumentType
from pourtier_grpc.caller import Act
from pourtier_grpc.cli.common import fail, read_file, readable_file
from pourtier_grpc.cli.parts import parts
from pourtier_grpc.cli.times import Moment
from pourtier_grpc.compliance.documents import draft_of, title_of, type_name

# As in the contract, which refuses what is longer; no more of a file is read.
MAX_BYTES = 512 * 1024
TYPES = {
    type_name(each).lower().replace("_", "-"): each
    for each in DocumentType.values()
    if each
}
# What the contract's rules come to, for whoever has broken one.
RULES = {
    "version": "--version is major.minor, such as 1.0",
    "locale": "--locale is a language tag (BCP 47) such as en or pt-BR",
    "title": "--title is one line of 1 to 200 characters",
    "content": "FILE holds 1 byte to 512 KiB of text, without NUL",
}


class _Effective(click.ParamType[datetime | None]):
    """A moment, or `now`, which is None: that of the publication."""

    name = "time"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime | None:
        """The moment; fails where none is meant."""
        return None if value == "now" else Moment().convert(value, param, ctx)


@click.command()
@click.argument("file", type=readable_file)
@click.option(
    "--type",
    "kind",
    type=click.Choice(list(TYPES)),
    required=True,
    help="What kind of text it is.",
)
@click.option("--version", required=True, help="Major and minor number, such as 1.0.")
@click.option("--locale", default="en", show_default=True, help="Its language.")
@click.option("--title", help="Its title; without it, the text's first heading.")
@click.option(
    "--effective",
    type=_Effective(),
    default="now",
    show_default=True,
    help="From when on it is in force; without an offset it is UTC.",
)
def publish(
    file: Path,
    kind: str,
    version: str,
    locale: str,
    title: str | None,
    effective: datetime | None,
) -> None:
    """Publish the text in FILE, for ever; print its id. A new major asks everybody."""
    content = _text(file)
    try:
        request = PublishDocumentRequest(
            type=TYPES[kind],
            version=version,
            locale=locale,
            title=title_of(content, TYPES[kind]) if title is None else title,
            content=content,
        )
    except ValueError:
        raise click.UsageError("an option is not text") from None
    if effective is not None:
        request.effective_time.FromDatetime(effective)
    _require_valid(request)
    with parts() as made:
        document = made.documents.publish(draft_of(request), Act(reason=""))
    click.echo(
        f"pourtier: in force from {document.effective_time.ToJsonString()}, "
        f"SHA-256 {document.content_sha256}",
        err=True,
    )
    click.echo(document.document_id)


def _text(file: Path) -> str:
    content = read_file(file, MAX_BYTES + 1)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        # What was read may end within a character.
        if len(content) <= MAX_BYTES:
            fail(f"{file} is not UTF-8: byte {error.start} is not part of any text")
        fail(f"{file} is refused: {RULES['content']}")


def _require_valid(request: PublishDocumentRequest) -> None:
    """Ends the command where the contract would refuse the request."""
    paths = [
        violation.proto.field for violation in protovalidate.collect_violations(request)
    ]
    broken = {path.elements[0].field_name for path in paths if path is not None}
    if broken == {"content"}:
        fail(RULES["content"])
    if broken:
        raise click.UsageError(
            "; ".join(RULES.get(each, each) for each in sorted(broken))
        )
