"""Groups of commands that import a command when it is used, and not before."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import click


class Lazy(click.Command):
    """Stands for a command in its group: its name, and what it says of itself there.

    `place` is where the command is, as `module:attribute`; `help` is the first sentence
    of its own.
    """

    def __init__(self, name: str, place: str, help: str) -> None:  # noqa: A002 - click's name
        super().__init__(name, help=help)
        self.module, _, self._attribute = place.partition(":")

    def load(self) -> click.Command:
        """The command itself."""
        command = getattr(importlib.import_module(self.module), self._attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - for the type checker
        return command


class LazyGroup(click.Group):
    """A group whose commands may be `Lazy`: its own help imports none of them."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name, and what is left of them."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Lazy) else command, rest


def lazy(package: str, *rows: Sequence[str]) -> list[click.Command]:
    """The commands of a group, a row each: name, place within the package, help.

    Raises ValueError where two have one name.
    """
    if len({row[0] for row in rows}) < len(rows):
        raise ValueError(f"{package} has two commands of one name")
    return [Lazy(name, f"{package}.{place}", text) for name, place, text in rows]
