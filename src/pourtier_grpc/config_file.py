"""The file of the configuration, and the error of one that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic_settings import PydanticBaseSettingsSource

from pourtier_grpc.expected import ExpectedError

CONFIG_VARIABLE = "POURTIER_CONFIG"
# How YAML writes that there is no value.
EMPTY = ("", "~", "null", "Null", "NULL")


class ConfigError(ExpectedError):
    """The configuration cannot be used; the text says which setting, and why."""


class FileSource(PydanticBaseSettingsSource):
    """The YAML file, with its keys in any case."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the base's signature
        """One field's value; part of the base's interface."""
        return read_file().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Every field's value, by its name in the class."""
        return {key.lower(): value for key, value in read_file().items()}


def read_file() -> dict[str, Any]:
    """The file's settings as text or lists of text; those without a value left out.

    Numbers are not read as such: a password of digits is no number, and 010 not eight.
    No error quotes the file, since the line at fault may hold a secret.
    """
    name = os.environ.get(CONFIG_VARIABLE)
    if not name:
        return {}
    try:
        text = Path(name).read_text(encoding="utf-8")
        content = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - makes text alone
    except OSError as error:
        reason = error.strerror
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        reason = f"it is not YAML{line}"
    except yaml.YAMLError:
        reason = "it is not YAML"
    else:
        if content in (None, *EMPTY):
            return {}
        if isinstance(content, dict):
            return {key: value for key, value in content.items() if value not in EMPTY}
        reason = "it is not a list of settings"
    raise ConfigError(f"{CONFIG_VARIABLE}={name} cannot be read: {reason}")
