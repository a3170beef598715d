"""Commands as a user types them, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from click.testing import CliRunner

from pourtier_grpc import logs
from pourtier_grpc.cli import main
from pourtier_grpc.config import Settings
from pourtier_grpc.config_file import CONFIG_VARIABLE
from support.log_watch import WATCH

ROOT = Path(__file__).parents[2]
# As it was installed beside the interpreter.
SCRIPT = Path(sys.executable).with_name("pourtier")
TIMEOUT = 60.0


def environment(**settings: object) -> dict[str, str]:
    """This process's environment, with these settings of the service and no other."""
    ours = {name.upper() for name in Settings.model_fields} | {CONFIG_VARIABLE}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, **{name.upper(): str(value) for name, value in settings.items()}}


def run(
    *words: object,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout: float = TIMEOUT,
) -> subprocess.CompletedProcess[str]:
    """Any command, until it ends."""
    done = subprocess.run(
        list(map(str, words)),
        env=environment() if env is None else dict(env),
        cwd=cwd,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=timeout,
        check=False,
    )
    WATCH.search("stderr", done.stderr)
    return done


def pourtier(*words: object, **settings: object) -> subprocess.CompletedProcess[str]:
    """A command of ours, with these settings in its environment."""
    return run(
        sys.executable, "-m", "pourtier_grpc", *words, env=environment(**settings)
    )


def quickly(*words: object, **settings: object) -> subprocess.CompletedProcess[str]:
    """A command of ours in this process, where it leaves no traces.

    Starting a process takes a second. Commands that run until they are told to stop
    need one of their own; so does what calls a service in this process, whose log would
    be taken for the command's. Logs are configured for a whole process, so these
    commands go without.
    """
    assert words[0] not in {"serve", "dev"}
    texts = list(map(str, words))
    env = {name.upper(): str(value) for name, value in settings.items()}
    with mock.patch.object(logs, "configure"):
        done = CliRunner().invoke(main, texts, env=env, catch_exceptions=False)
    return subprocess.CompletedProcess(texts, done.exit_code, done.stdout, done.stderr)
