"""The catalogue of plans: what it holds, and what stops the start."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from grpc import StatusCode
from protovalidate import collect_violations

from pourtier.v1.plan_pb2 import Plan, PlanLimits
from pourtier_grpc.billing.catalogue import (
    Catalogue,
    limit_of,
    price_of,
    read_catalogue,
)
from pourtier_grpc.config import ConfigError
from pourtier_grpc.errors import PourtierError
from pourtier_grpc.interceptors.error_mapping import CODE_OF_REASON

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def packaged() -> Catalogue:
    return read_catalogue(None)


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Change], Catalogue]:
    """Reads the packaged catalogue after a change of its content."""
    text = resources.files("pourtier_grpc.billing").joinpath("plans.yaml").read_text()

    def made(change: Change) -> Catalogue:
        content = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - makes text alone
        change(content)
        file = tmp_path / "plans.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return read_catalogue(file)

    return made


class TestPackaged:
    def test_it_has_the_plans_of_the_platform_the_cheapest_first(
        self, packaged: Catalogue
    ) -> None:
        limits = {
            "free": PlanLimits(
                running_strategies=0,
                backtests=10,
                devices=2,
                sessions=2,
                requests_per_minute=60,
            ),
            "basic": PlanLimits(
                running_strategies=1,
                backtests=100,
                devices=3,
                sessions=3,
                requests_per_minute=120,
            ),
            # Without the first two: they are unlimited.
            "pro": PlanLimits(devices=5, sessions=5, requests_per_minute=600),
        }
        assert {name: plan.limits for name, plan in packaged.plans.items()} == limits
        prices = [plan.price for plan in packaged.plans.values()]
        assert [each.amount for each in prices] == ["0", "29", "99"]
        assert {each.currency for each in prices} == {"USDC"}

    def test_its_plans_keep_the_rules_of_the_contract(
        self, packaged: Catalogue
    ) -> None:
        assert collect_violations(packaged.listed()) == []
        assert list(packaged.listed().plans) == list(packaged.plans.values())

    def test_a_dearer_plan_has_all_that_a_cheaper_one_has(
        self, packaged: Catalogue
    ) -> None:
        features = [set(plan.features) for plan in packaged.plans.values()]
        assert features[0] < features[1] < features[2] == packaged.features

    def test_nobody_can_add_a_plan_to_it(self, packaged: Catalogue) -> None:
        with pytest.raises(TypeError):
            packaged.plans["gold"] = Plan()  # type: ignore[index] # it refuses

    def test_a_limit_that_is_none_is_not_zero(self, packaged: Catalogue) -> None:
        assert limit_of(packaged.free, "running_strategies") == 0
        assert limit_of(packaged.plans["pro"], "running_strategies") is None

    def test_the_cheapest_plan_that_has_something(self, packaged: Catalogue) -> None:
        def name(plan: Plan | None) -> str | None:
            return None if plan is None else plan.plan_id

        assert name(packaged.cheapest_with_feature("backtesting")) == "free"
        assert name(packaged.cheapest_with_feature("live_metrics")) == "basic"
        assert name(packaged.cheapest_with_feature("priority_support")) == "pro"
        assert name(packaged.cheapest_with_feature("teleport")) is None
        assert name(packaged.cheapest_with_metric("backtests")) == "free"
        assert name(packaged.cheapest_with_metric("running_strategies")) == "basic"


class TestPurchasable:
    def test_a_plan_with_a_price_is(self, packaged: Catalogue) -> None:
        assert price_of(packaged.purchasable("basic")) == Decimal(29)

    @pytest.mark.parametrize(
        ("plan_id", "reason", "code"),
        [
            ("free", "PLAN_NOT_PURCHASABLE", StatusCode.FAILED_PRECONDITION),
            ("gold", "PLAN_NOT_FOUND", StatusCode.NOT_FOUND),
            ("Basic", "PLAN_NOT_FOUND", StatusCode.NOT_FOUND),
        ],
    )
    def test_others_are_refused(
        self, packaged: Catalogue, plan_id: str, reason: str, code: StatusCode
    ) -> None:
        with pytest.raises(PourtierError) as info:
            packaged.purchasable(plan_id)
        assert info.value.reason_name == reason
        assert info.value.metadata == {"plan_id": plan_id}
        assert CODE_OF_REASON[info.value.reason] is code


class TestFiles:
    def test_plans_are_ordered_by_price_and_a_price_has_one_text(
        self, read: Callable[[Change], Catalogue]
    ) -> None:
        def change(content: dict[str, Any]) -> None:
            content["plans"].reverse()
            content["plans"][0]["price"] = "3.500"

        made = read(change)
        assert list(made.plans) == ["free", "pro", "basic"]
        assert made.plans["pro"].price.amount == "3.5"

    def test_a_metric_that_no_plan_has_is_in_none(
        self, read: Callable[[Change], Catalogue]
    ) -> None:
        def change(content: dict[str, Any]) -> None:
            for plan in content["plans"]:
                plan["limits"]["backtests"] = "0"

        assert read(change).cheapest_with_metric("backtests") is None

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda of: of.update(more={}), "more: Extra inputs are not permitted"),
            (lambda of: of.pop("plans"), "plans: Field required"),
            (lambda of: plan(of).pop("features"), "plans[1].features: Field required"),
            (lambda of: plan(of).update(cost="1"), "plans[1].cost: Extra inputs "),
            (lambda of: plan(of).update(plan_id="Basic"), "plans[1].plan_id: "),
            (lambda of: plan(of).update(plan_id="a\n"), "plans[1].plan_id: "),
            (lambda of: plan(of).update(plan_id="pro"), "there is more than one plan "),
            (
                lambda of: plan(of).update(price="29.0000001"),
                "plans[1].price: a price ",
            ),
            (lambda of: plan(of).update(price="-1"), "plans[1].price: a price is an "),
            (lambda of: plan(of).update(price="2e1"), "plans[1].price: a price is an "),
            (
                lambda of: plan(of).update(price="0.00"),
                "exactly one plan has the price",
            ),
            (
                lambda of: plan(of, 0).update(price="1"),
                "exactly one plan has the price",
            ),
            (
                lambda of: plan(of, 0).update(plan_id="x"),
                "exactly one plan has the pri",
            ),
            (
                lambda of: plan(of)["features"].append("fly"),
                "plans[1].features has fly,",
            ),
            (
                lambda of: plan(of)["features"].append("backtesting"),
                "plans[1].features has backtesting more than once",
            ),
            (lambda of: of["features"].update(Fly="flies"), "features.Fly.[key]: "),
            (lambda of: of["features"].update(fly=""), "features.fly: "),
            (lambda of: limits(of).pop("devices"), "plans[1].limits.devices: Field "),
            (lambda of: limits(of).update(seats="1"), "plans[1].limits.seats: Extra "),
            (
                lambda of: limits(of).update(devices="-1"),
                "plans[1].limits.devices: a l",
            ),
            (
                lambda of: limits(of).update(devices="1.5"),
                "plans[1].limits.devices: a ",
            ),
            (
                lambda of: limits(of).update(devices="many"),
                "plans[1].limits.devices: a",
            ),
            (lambda of: limits(of).update(devices="2147483648"), "plans[1].limits.dev"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_place(
        self, read: Callable[[Change], Catalogue], change: Change, sentence: str
    ) -> None:
        with pytest.raises(ConfigError) as info:
            read(change)
        said = str(info.value)
        assert said.startswith("PLANS_FILE=/")
        assert f"plans.yaml: {sentence}" in said

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (b"\xff", " is not UTF-8"),
            (b"plans: [\n", ", line 2: "),
            (b"plans: []\nplans: []\n", ", line 1: the key plans is there twice"),
            (b"", ": Input should be a valid dictionary"),
            (b"plans\n", ": Input should be a valid dictionary"),
            (b"[" * 5000, " is not YAML"),
            (b" " * 2**20 + b"a", " is longer than 1048576 bytes"),
        ],
    )
    def test_what_is_no_catalogue_at_all_is_a_sentence_too(
        self, tmp_path: Path, content: bytes, sentence: str
    ) -> None:
        file = tmp_path / "plans"
        file.write_bytes(content)
        with pytest.raises(ConfigError) as info:
            read_catalogue(file)
        assert str(info.value).startswith(f"PLANS_FILE={file}{sentence}")

    def test_a_file_that_is_none_or_missing_is_a_sentence(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "missing"):
            with pytest.raises(ConfigError, match=r"^PLANS_FILE=/.* is not a file$"):
                read_catalogue(path)


def plan(content: dict[str, Any], at: int = 1) -> Any:
    return content["plans"][at]


def limits(content: dict[str, Any]) -> Any:
    return plan(content)["limits"]
