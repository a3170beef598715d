"""The documents: links lead somewhere, and tables say what the code says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin
from urllib.parse import unquote

import annotated_types
import pytest
from pydantic.fields import FieldInfo

from pourtier.v1 import policy_pb2
from pourtier_grpc.config import Settings
from pourtier_grpc.devtools.contract import ROOT
from pourtier_grpc.store.audit import AuditAction
from pourtier_grpc.store.event_types import DEFINITIONS, ENVELOPE, EventType
from pourtier_grpc.worker.worker import services

DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
)
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
# `[text](target)`, and the target of `[text]: target`.
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]\n]+\]: (\S+)$", re.MULTILINE)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
ROW = re.compile(r"^\| (.*) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Link:
    """A link from one document to a place in this repository."""

    source: Path
    target: str

    def __str__(self) -> str:
        return f"{self.source.relative_to(ROOT)}: {self.target}"


def prose(document: Path) -> str:
    """A document without its examples."""
    return FENCE.sub("", document.read_text())


def links(document: Path) -> Iterator[Link]:
    """The links that leave no repository."""
    for found in LINK.finditer(CODE.sub("", prose(document))):
        target = found[1] or found[2]
        if not re.match(r"[a-z]+:", target):
            yield Link(document, target)


def slug_of(heading: str) -> str:
    """What the first heading of that text is called in a link."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def anchors(document: Path) -> set[str]:
    """What a document's headings are called in a link, as GitHub makes it of them."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in HEADING.findall(prose(document)):
        slug = slug_of(heading)
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def fault_of(link: Link) -> str | None:
    """What is wrong with a link, or None."""
    path, _, anchor = unquote(link.target).partition("#")
    file = (link.source.parent / path).resolve() if path else link.source
    if not file.is_relative_to(ROOT):
        return "it leads out of the repository"
    if not file.exists():
        return "there is no such file"
    if anchor and (file.suffix != ".md" or anchor not in anchors(file)):
        return "there is no such heading"
    return None


def rows(document: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    text = document.read_text()
    section = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert table is not None
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", row)]
        for row in ROW.findall(table[0])[1:]
    ]


LINKS = [link for document in DOCUMENTS for link in links(document)]


@pytest.mark.parametrize("link", LINKS, ids=str)
def test_a_link_leads_to_a_file_and_a_heading(link: Link) -> None:
    assert fault_of(link) is None


def test_links_are_found_and_wrong_ones_noticed(tmp_path: Path) -> None:
    assert len(LINKS) > 20
    assert any("#" in link.target for link in LINKS)
    readme = ROOT / "README.md"
    assert fault_of(Link(readme, "docs/nothing.md")) == "there is no such file"
    assert fault_of(Link(readme, "docs/tls.md#rotating")) == "there is no such heading"
    assert fault_of(Link(readme, "../x")) == "it leads out of the repository"
    document = tmp_path / "a.md"
    document.write_text(
        "# A `b`, [c](d)!\n## Twice\n## Twice\n```\n# no heading [x](no-link)\n```\n"
        "[one](a.md#twice-1) [two](https://example.com) `[three](x)`\n\n[four]: b.md\n"
    )
    assert [link.target for link in links(document)] == ["d", "a.md#twice-1", "b.md"]
    assert anchors(document) == {"a-b-c", "twice", "twice-1"}


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        document = ahead.pop()
        if document in reached:
            continue
        reached.add(document)
        for link in links(document):
            path = (document.parent / link.target.partition("#")[0]).resolve()
            index = path / "README.md"
            ahead += [one for one in (path, index) if one in DOCUMENTS]
    assert reached == set(DOCUMENTS)


def test_the_index_of_decisions_has_every_record_by_its_title() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(
        r"^\| \[(\d{4})\]\((.*?)\) \| (.*?) \|$",
        (folder / "README.md").read_text(),
        re.MULTILINE,
    )
    records = [
        (path.name[:4], path.name, path.read_text().splitlines()[0])
        for path in sorted(folder.glob("[0-9]*.md"))
    ]
    assert [
        (number, name, f"# {int(number)}. {title}") for number, name, title in listed
    ] == records


def default_of(field: FieldInfo) -> str:
    """A default, as docs/settings.md writes it."""
    value = field.default
    if value in (None, ()):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def bounds_of(field: FieldInfo) -> str:
    """What a setting may be, as docs/settings.md writes it."""
    if field.annotation is bool:
        return "`true`, `false`"
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    low = high = ""
    for rule in field.metadata:
        match rule:
            case annotated_types.Ge(ge=least):
                low = str(least)
            case annotated_types.Le(le=most):
                high = str(most)
            case annotated_types.Gt(gt=least):
                return f"more than {least}"
            case _ if getattr(rule, "pattern", None):
                return f"`{rule.pattern}`"
    if high:
        return f"{low} to {high}"
    return f"at least {low}" if low else ""


def test_every_setting_is_documented_with_its_default_and_bounds() -> None:
    documented = rows(ROOT / "docs" / "settings.md", "Settings")
    assert [row[:3] for row in documented] == [
        [f"`{name.upper()}`", default_of(field), bounds_of(field)]
        for name, field in Settings.model_fields.items()
    ]
    assert all(len(row) == 4 and row[3] for row in documented)


def test_every_audit_action_is_documented() -> None:
    documented = rows(ROOT / "docs" / "operating.md", "Reading the audit log")
    assert [row[0] for row in documented] == [f"`{each}`" for each in AuditAction]


def test_every_method_that_takes_an_idempotency_key_is_documented() -> None:
    table = rows(ROOT / "docs" / "idempotency.md", "Which methods take one")
    documented = [name for row in table for name in re.findall(r"`(\w+)`", row[0])]
    taking = [
        method.name
        for service in services()
        for method in service.methods
        if method.GetOptions().Extensions[policy_pb2.policy].idempotency_key
    ]
    assert sorted(documented) == sorted(taking)


EVENTS = ROOT / "docs" / "events.md"


def test_the_envelope_of_events_is_documented() -> None:
    documented = rows(EVENTS, "What every event has")
    assert [row[:2] for row in documented] == [
        [f"`{name}`", form.name] for name, form in ENVELOPE.items()
    ]
    assert all(len(row) == 3 and row[2] for row in documented)


def shared_heading(section: str) -> str | None:
    """The heading of the table to which a section without one leads, or None."""
    led_to = {link.partition("#")[2] for link, _ in LINK.findall(section)}
    headings = HEADING.findall(EVENTS.read_text())
    return next((each for each in headings if slug_of(each) in led_to), None)


def test_every_event_is_documented_with_its_channel_and_fields() -> None:
    text = EVENTS.read_text()
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == list(EventType)
    for event_type, definition in DEFINITIONS.items():
        section = re.split(rf"^### {event_type}$", text, flags=re.MULTILINE)[1]
        section = re.split(r"^#", section, flags=re.MULTILINE)[0]
        assert section.strip().startswith(f"On `{definition.channel}`: ")
        heading = event_type if "|" in section else shared_heading(section)
        documented = [] if heading is None else rows(EVENTS, heading)
        assert [row[:2] for row in documented] == [
            [f"`{name}`", form.name] for name, form in definition.fields.items()
        ]
        assert all(len(row) == 3 and row[2] for row in documented)
