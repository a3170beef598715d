"""Commands as a user types them, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner

from pourtier_grpc.cli import main
from pourtier_grpc.config import CONFIG_VARIABLE, Settings

ROOT = Path(__file__).parents[2]
TIMEOUT = 60.0


def environment(**settings: object) -> dict[str, str]:
    """This process's environment, with these settings of the service and no other."""
    ours = {name.upper() for name in Settings.model_fields} | {CONFIG_VARIABLE}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, **{name.upper(): str(value) for name, value in settings.items()}}


def run(
    *words: object, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Any command, until it ends."""
    return subprocess.run(
        list(map(str, words)),
        env=environment() if env is None else dict(env),
        cwd=cwd,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def pourtier(*words: object, **settings: object) -> subprocess.CompletedProcess[str]:
    """A command of ours, with these settings in its environment."""
    return run(
        sys.executable, "-m", "pourtier_grpc", *words, env=environment(**settings)
    )


def quickly(*words: object, **settings: object) -> subprocess.CompletedProcess[str]:
    """A command of ours in this process, where it leaves no traces.

    Starting a process takes a second. Commands of the service itself configure logs
    for a whole process, and so need one of their own; so does what calls a service in
    this process, whose log would be taken for the command's.
    """
    assert words[0] not in {"serve", "dev", "migrate", "keys"}
    texts = list(map(str, words))
    env = {name.upper(): str(value) for name, value in settings.items()}
    done = CliRunner().invoke(main, texts, env=env, catch_exceptions=False)
    return subprocess.CompletedProcess(texts, done.exit_code, done.stdout, done.stderr)
