"""Writes plain data as YAML that a person likes to read.

PyYAML cannot write comments and breaks lines where it pleases. Envoy's configuration
needs few of YAML's features: mappings, lists, scalars, anchors for what two places
share, and comments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, TypeAlias

WIDTH = 88

# Scalars that YAML reads as text without quotes, in flow style too.
PLAIN = re.compile(
    r"(?:[A-Za-z_/][A-Za-z0-9_./-]*|\d+(?:\.\d+)?s|\d+\.\d+\.\d+\.\d+)\Z"
)
# A script: whole lines, which are written as they are.
LINES = re.compile(r"(?!\s)(?:[ -~]*(?<! )\n)+(?<!\n\n)")
NOT_TEXT = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


@dataclass(frozen=True, slots=True)
class Note:
    """A value with the comment that stands above it."""

    comment: str
    value: Node


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """A value that is written once, under an anchor, and referred to afterwards.

    The same object must be used in every place; two objects of one name are a mistake
    that `render` refuses with ValueError.
    """

    name: str
    value: Node


Node: TypeAlias = (
    "Mapping[str, Node] | Sequence[Node] | str | int | float | bool | Note | Shared"
)


def typed(message: str, **fields: Node) -> dict[str, Node]:
    """A `typed_config`: the type's name, then its fields."""
    return {"@type": f"type.googleapis.com/{message}", **fields}


def plain(node: Node) -> Any:
    """The data without comments and anchors: what a YAML parser reads back."""
    match node:
        case Note(value=value) | Shared(value=value):
            return plain(value)
        case Mapping():
            return {key: plain(value) for key, value in node.items()}
        case str() | int() | float():
            return node
        case _:
            return [plain(item) for item in node]


def render(root: Mapping[str, Node]) -> str:
    """The document's text, ending in a newline."""
    return "\n".join(_Writer().mapping(root, 0)) + "\n"


class _Writer:
    def __init__(self) -> None:
        self._anchors: dict[str, Shared] = {}

    def mapping(self, node: Mapping[str, Node], indent: int) -> Iterator[str]:
        """The lines of a mapping in block style."""
        for key, value in node.items():
            yield from self._entry(f"{_scalar(key)}:", value, indent)

    def _nested(self, node: Node, indent: int) -> Iterator[str]:
        if isinstance(node, Mapping):
            yield from self.mapping(node, indent)
        elif isinstance(node, Sequence):
            for item in node:
                yield from self._entry("-", item, indent)
        else:
            # A comment or an anchor around a comment or an anchor.
            raise TypeError(f"{type(node).__name__} cannot be written here")

    def _entry(self, lead: str, value: Node, indent: int) -> Iterator[str]:
        pad = " " * indent
        if isinstance(value, Note):
            for line in wrap(value.comment, WIDTH - indent - 2):
                yield f"{pad}# {line}"
            value = value.value
        if isinstance(value, Shared):
            if self._known(value):
                yield f"{pad}{lead} *{value.name}"
                return
            lead, value = f"{lead} &{value.name}", value.value
        if _has_lines(value):
            yield f"{pad}{lead} |"
            for line in str(value).splitlines():
                yield f"{pad}  {line}" if line else ""
            return
        line = f"{pad}{lead} {_flow(value)}"
        if _is_scalar(value) or (_flow(value) and len(line) <= WIDTH):
            yield line
            return
        nested = self._nested(value, indent + 2)
        if lead == "-":
            # The first line of an item stands beside its dash.
            lines = list(nested)
            first = next(n for n, line in enumerate(lines) if not _is_comment(line))
            yield from lines[:first]
            yield f"{pad}- {lines[first].lstrip()}"
            yield from lines[first + 1 :]
        else:
            yield f"{pad}{lead}"
            yield from nested

    def _known(self, shared: Shared) -> bool:
        known = self._anchors.get(shared.name)
        if known is not None and known is not shared:
            raise ValueError(f"two values are called {shared.name}")
        self._anchors[shared.name] = shared
        return known is not None


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _has_lines(node: Node) -> bool:
    return isinstance(node, str) and LINES.fullmatch(node) is not None


def _is_scalar(node: Node) -> bool:
    return isinstance(node, str | int | float)


def _flow(node: Node) -> str | None:
    """The value in one line, or None where something in it forbids that."""
    match node:
        case Note() | Shared():
            return None
        case str() | bool() | int() | float():
            return None if _has_lines(node) else _scalar(node)
        case Mapping():
            pairs = [(_scalar(key), _flow(value)) for key, value in node.items()]
            if any(value is None for _, value in pairs):
                return None
            inside = ", ".join(f"{key}: {value}" for key, value in pairs)
            return f"{{ {inside} }}" if inside else "{}"
        case _:
            items = [_flow(item) for item in node]
            if any(item is None for item in items):
                return None
            inside = ", ".join(item for item in items if item is not None)
            return f"[ {inside} ]" if inside else "[]"


def _scalar(value: float | str) -> str:
    if isinstance(value, str) and PLAIN.match(value) and value not in NOT_TEXT:
        return value
    return json.dumps(value, ensure_ascii=False)
