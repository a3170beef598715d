"""What a command imports before it does anything, which is most of what it costs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pourtier_grpc.cli import main
from pourtier_grpc.cli.lazy import Lazy, LazyGroup
from support.commands import ROOT, environment

# Runs a command, then names the modules that there are.
NAMING = """
import sys
from pourtier_grpc.cli import main
main(sys.argv[1:], standalone_mode=False)
print("modules:", *sys.modules)
"""
SERVER = {"grpc", "pourtier_grpc.server", "pourtier_grpc.devtools.edge"}
DATABASE = {"psycopg", "sqlalchemy", "pourtier_grpc.store"}
RARE = {"alembic", "httpx", "opentelemetry", "redis", "tenacity"}
COMMON = {"google", "nacl", "pydantic", "structlog", "yaml"}


def lazy_ones(group: click.Group) -> Iterator[tuple[Lazy, click.Command]]:
    for stands in group.commands.values():
        if not isinstance(stands, Lazy):
            continue
        command = stands.load()
        yield stands, command
        if isinstance(command, click.Group):
            yield from lazy_ones(command)


def modules_after(*words: object) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", NAMING, *map(str, words)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.partition("modules:")[2].split())


def test_a_group_says_of_a_command_what_the_command_says_of_itself() -> None:
    found = list(lazy_ones(main))
    assert len(found) > len(main.commands)
    for stands, command in found:
        assert stands.name == command.name
        # The first sentence, cut to whatever room there is.
        for room in range(20, 120):
            assert stands.get_short_help_str(room) == command.get_short_help_str(room)


def test_the_layers_name_the_module_of_every_command() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
        "importlinter"
    ]["contracts"]
    (independent,) = (each for each in contracts if each["type"] == "independence")
    assert set(independent["modules"]) == {
        stands.module
        for stands, command in lazy_ones(main)
        if not isinstance(command, LazyGroup)
    }


@pytest.mark.parametrize(
    ("words", "spared"),
    [
        (("--help",), SERVER | DATABASE | RARE | COMMON),
        (("wallet", "--help"), SERVER | DATABASE | RARE | COMMON),
        (("wallet", "sign-in", "--help"), DATABASE | RARE),
        (("keys", "list", "--help"), SERVER | RARE | {"pourtier_grpc.wiring"}),
        (("user", "show", "--help"), SERVER | RARE),
        (("serve", "--help"), RARE | {"pourtier_grpc.devtools.edge"}),
        (("passeur-sim", "--help"), SERVER | DATABASE | RARE | COMMON),
        (("migrate", "--help"), SERVER | {"redis", "pourtier_grpc.wiring"}),
    ],
)
def test_a_command_does_without(words: tuple[str, ...], spared: set[str]) -> None:
    assert modules_after(*words) & spared == set()


def test_a_wallet_is_made_without_server_and_database(tmp_path: Path) -> None:
    modules = modules_after("wallet", "new", "--wallet", tmp_path / "wallet.json")
    assert (tmp_path / "wallet.json").exists()
    assert modules & (SERVER | DATABASE | RARE | {"google", "structlog"}) == set()
