"""What the commands share that write generated files."""

from __future__ import annotations

import argparse
from collections.abc import Iterable


def only_compares(description: str | None, arguments: Iterable[str] | None) -> bool:
    """Whether a command was told to compare (`--check`), and to write nothing.

    `arguments` None are those of the process.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    given = None if arguments is None else list(arguments)
    check: bool = parser.parse_args(given).check
    return check
