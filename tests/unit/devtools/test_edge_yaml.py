"""Plain data as YAML, with comments and anchors, as a YAML parser reads it back."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pourtier_grpc.devtools.edge_yaml import Note, Shared, render


def test_what_needs_quotes_has_them() -> None:
    values: list[Any] = [
        "*",
        "",
        "true",
        "1",
        "1e3",
        "a: b",
        "#",
        "é",
        'x"y',
        "30s",
    ]
    values += [True, 1, 0.5, [], {}, ["-"], {"@": "%"}, {"no": "null", "k": "~"}]
    assert yaml.safe_load(render({"v": values, "on": values})) == {
        "v": values,
        "on": values,
    }


def test_lines_stay_lines() -> None:
    value: dict[str, Any] = {"a": "if x:\n  y\n\nend\n", "b": ["1\n", 2], "c": 3}
    text = render(value)
    assert yaml.safe_load(text) == value
    assert text.splitlines()[:4] == ["a: |", "  if x:", "    y", ""]
    for other in ("a\nb", " a\n", "a \nb\n", "a\n\n", "\n", "é\n", "\tb\n"):
        assert yaml.safe_load(render({"a": other})) == {"a": other}


def test_comments_and_anchors() -> None:
    shared = Shared("same", [Note("first", {"a": 1})])
    text = render({"x": Note("why", shared), "z": shared})
    assert text.splitlines() == [
        "# why",
        "x: &same",
        "  # first",
        "  - { a: 1 }",
        "z: *same",
    ]


def test_two_values_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same"):
        render({"x": Shared("same", 1), "y": Shared("same", 1)})
