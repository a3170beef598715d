"""The registry of reasons, the table of codes and the source, held together."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from string import Formatter

import pytest
from grpc import StatusCode

from pourtier_grpc.devtools.contract import ROOT
from pourtier_grpc.errors import ErrorReason
from pourtier_grpc.interceptors.error_mapping import CODE_OF_REASON, CODES

SOURCE = ROOT / "src" / "pourtier_grpc"
PREFIX = "ERROR_REASON_"
REASONS = {name.removeprefix(PREFIX) for name, value in ErrorReason.items() if value}
# Taken by the constructor itself; every other keyword is metadata.
NOT_METADATA = {"violations", "quotas", "retry_after"}
PROTO = (ROOT / "protos" / "pourtier" / "v1" / "error_reason.proto").read_text()
VALUE = re.compile(r"((?:  //[^\n]*\n)+)  ERROR_REASON_(\w+) = (\d+);")


@dataclass(frozen=True)
class Documented:
    """What the registry says of a reason."""

    code: str
    metadata: frozenset[str]


@dataclass(frozen=True)
class Raised:
    """A place in the source where an error of a literal reason is made."""

    place: str
    reason: str
    template: str | None
    metadata: frozenset[str]


def documented() -> dict[str, Documented]:
    found = {}
    for comment, name, number in VALUE.findall(PROTO):
        if number == "0":
            continue
        text = " ".join(line.strip(" /") for line in comment.splitlines())
        code = re.match(r"\((\w+)\) ", text)
        assert code is not None, f"{name} names no code"
        example = re.search(r"Metadata: `(\{.*?\})`(, where)?", text)
        always = example is not None and not example[2]
        keys = frozenset(json.loads(example[1])) if example and always else frozenset()
        found[name] = Documented(code[1], keys)
    return found


def raised() -> Iterator[Raised]:
    """Every `PourtierError(…)` of the source, the developer's tools left out."""
    for path in sorted(SOURCE.rglob("*.py")):
        if "devtools" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            reason = node.args[0]
            if not (
                isinstance(reason, ast.Attribute) and reason.attr.startswith(PREFIX)
            ):
                continue
            template = node.args[1] if len(node.args) > 1 else None
            yield Raised(
                place=f"{path.relative_to(SOURCE)}:{node.lineno}",
                reason=reason.attr.removeprefix(PREFIX),
                template=(
                    template.value
                    if isinstance(template, ast.Constant)
                    and isinstance(template.value, str)
                    else None
                ),
                metadata=frozenset(keyword.arg or "**" for keyword in node.keywords)
                - NOT_METADATA,
            )


def named_in_source() -> set[str]:
    """Every reason that the service or its edge may answer with."""
    service = "".join(
        path.read_text()
        for path in SOURCE.rglob("*.py")
        if "devtools" not in path.parts
    )
    edge = (SOURCE / "devtools" / "edge_replies.py").read_text()
    return {
        *re.findall(r"\bERROR_REASON_(\w+)", service),
        *re.findall(r"\breason=\"(\w+)\"", edge),
    }


RAISED = list(raised())
DOCUMENTED = documented()


def test_every_reason_has_exactly_one_code() -> None:
    listed = [name for names in CODES.values() for name in names]
    assert sorted(listed) == sorted(REASONS)
    assert {ErrorReason.Name(each).removeprefix(PREFIX) for each in CODE_OF_REASON} == (
        REASONS
    )


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_the_registry_names_the_code_of_the_table(reason: str) -> None:
    code = CODE_OF_REASON[ErrorReason.Value(f"{PREFIX}{reason}")]
    assert DOCUMENTED[reason].code == code.name


def test_no_reason_is_a_code_for_nobody() -> None:
    assert StatusCode.OK not in CODES
    assert StatusCode.UNKNOWN not in CODES


def test_every_reason_of_the_registry_is_raised_somewhere() -> None:
    assert named_in_source() >= REASONS


def test_every_reason_in_the_source_is_in_the_registry() -> None:
    assert named_in_source() <= REASONS


def test_the_places_where_errors_are_made_are_found() -> None:
    assert len(RAISED) > 30
    assert {each.reason for each in RAISED} <= REASONS


@pytest.mark.parametrize("place", RAISED, ids=lambda each: each.place)
def test_a_message_says_nothing_that_its_metadata_does_not(place: Raised) -> None:
    if place.template is None:
        pytest.skip("the template is not a literal")
    variables = {name for _, name, _, _ in Formatter().parse(place.template) if name}
    assert variables <= place.metadata


@pytest.mark.parametrize("place", RAISED, ids=lambda each: each.place)
def test_an_error_has_the_metadata_that_the_registry_shows(place: Raised) -> None:
    assert place.metadata >= DOCUMENTED[place.reason].metadata
