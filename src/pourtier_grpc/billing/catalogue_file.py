"""The file of the catalogue of plans, and what must be so in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from pourtier.v1.plan_pb2 import PlanLimits
from pourtier_grpc.config import ConfigError
from pourtier_grpc.passeur import amounts

SETTING = "PLANS_FILE"
# The catalogue that the service comes with.
PACKAGED = "plans.yaml"
FREE = "free"
UNLIMITED = "unlimited"
# Nobody writes a longer one by hand.
MAX_FILE_BYTES = 1024 * 1024
# The contract's bounds: of its lists, and of a limit.
MOST = 64
MAX_LIMIT = 2**31 - 1
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)


def _limit(text: object) -> object:
    if text == UNLIMITED:
        return None
    if not isinstance(text, str) or not _NUMBER.fullmatch(text):
        raise ValueError(f"a limit is a whole number from 0 on, or `{UNLIMITED}`")
    return int(text)


def _price(text: str) -> str:
    try:
        amounts.parse(text)
    except ValueError as error:
        raise ValueError(f"a price is an amount of USDC: {error}") from None
    return text


Name = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", min_length=1, max_length=64)
]
Sentence = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Price = Annotated[str, AfterValidator(_price)]
Limit = Annotated[int | None, Field(le=MAX_LIMIT), BeforeValidator(_limit)]


class _Strict(BaseModel):
    """What it does not know is mistyped: it would limit nobody."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitsEntry(_Strict):
    """The limits of a plan, each of which must be said; None is unlimited."""

    running_strategies: Limit
    backtests: Limit
    devices: Limit
    sessions: Limit
    requests_per_minute: Limit

    def numbers(self) -> PlanLimits:
        """The limits as the contract has them: one that is none is absent."""
        return PlanLimits(**self.model_dump())


class PlanEntry(_Strict):
    """A plan of the file."""

    plan_id: Name
    display_name: Sentence
    price: Price
    limits: LimitsEntry
    features: tuple[Name, ...]

    @property
    def costs_nothing(self) -> bool:
        """Whether its price is 0."""
        return not amounts.parse(self.price)


class CatalogueFile(_Strict):
    """All that the file has: each feature with its meaning, and the plans."""

    features: Annotated[dict[Name, Sentence], Field(max_length=MOST)]
    plans: Annotated[tuple[PlanEntry, ...], Field(max_length=MOST)]

    @model_validator(mode="after")
    def _check_plans(self) -> CatalogueFile:
        if twice := _twice(plan.plan_id for plan in self.plans):
            raise ValueError(f"there is more than one plan {twice}")
        free = [plan.plan_id for plan in self.plans if plan.costs_nothing]
        if free != [FREE]:
            raise ValueError(f"exactly one plan has the price 0, and is called {FREE}")
        return self

    @model_validator(mode="after")
    def _check_features(self) -> CatalogueFile:
        for at, plan in enumerate(self.plans):
            place = f"plans[{at}].features"
            if twice := _twice(plan.features):
                raise ValueError(f"{place} has {twice} more than once")
            for feature in plan.features:
                if feature not in self.features:
                    raise ValueError(f"{place} has {feature}, which is not declared")
        return self


class _Loader(yaml.BaseLoader):
    """Makes text alone: a price is no floating-point number; refuses a key twice."""

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 - the base's
    ) -> dict[Hashable, Any]:
        if twice := _twice(str(key.value) for key, _ in node.value):
            problem = f"the key {twice} is there twice"
            raise yaml.constructor.ConstructorError(
                None, None, problem, node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


def read_file(path: Path | None) -> CatalogueFile:
    """What a file has, or for None the one that the service comes with.

    Raises ConfigError, with a sentence that names file and place.
    """
    if path is None:
        name = PACKAGED
        raw = resources.files(__package__).joinpath(PACKAGED).read_bytes()
    else:
        name = f"{SETTING}={path}"
        raw = _read(path, name)
    try:
        return CatalogueFile.model_validate(_content(raw, name))
    except ValidationError as error:
        faults = "; ".join(map(_sentence, error.errors(include_url=False)))
        raise ConfigError(f"{name}: {faults}") from None


def _read(path: Path, name: str) -> bytes:
    try:
        # Opening a pipe would wait for a writer.
        if not path.is_file():
            raise ConfigError(f"{name} is not a file")
        with path.open("rb") as opened:
            raw = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{name} is longer than {MAX_FILE_BYTES} bytes")
    return raw


def _content(raw: bytes, name: str) -> object:
    try:
        return yaml.load(raw.decode(), Loader=_Loader)  # noqa: S506 - makes text alone
    except UnicodeDecodeError:
        raise ConfigError(f"{name} is not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{name}{line}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError):
        raise ConfigError(f"{name} is not YAML") from None


def _sentence(fault: Mapping[str, Any]) -> str:
    """What is wrong and where, such as `plans[1].price: …`."""
    place = ""
    for part in fault["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}"
    problem = str(fault["msg"]).removeprefix("Value error, ")
    return f"{place.lstrip('.')}: {problem}" if place else problem


def _twice(names: Iterable[str]) -> str | None:
    """A name that is there more than once, or None."""
    return next((name for name, times in Counter(names).items() if times > 1), None)
