"""Metrics as Prometheus sees them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.request import Request, urlopen

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from pourtier_grpc.devtools.contract import ROOT

# What workers alone have.
WORKERS = re.compile(
    "pourtier_(worker|audit|events|escrow|subscriptions|renewal|charging|refunds)_"
    "|pourtier_charges_(open|stuck|unmatched)"
)
ROW = re.compile(r"^\| `(pourtier_\w+)` \| (\w+) \|([^|]*)\|", re.MULTILINE)


@dataclass(frozen=True)
class Scrape:
    """What one scrape has found, by the families' names."""

    families: Mapping[str, Metric]

    def values(self, sample: str, **labels: str) -> list[float]:
        """The values of every sample of that name with these labels among its own."""
        return [
            found.value
            for family in self.families.values()
            for found in family.samples
            if found.name == sample and labels.items() <= found.labels.items()
        ]

    def total(self, sample: str, **labels: str) -> float:
        return sum(self.values(sample, **labels))

    def labels(self, sample: str, label: str) -> set[str]:
        """Every value that a label has."""
        return {
            found.labels[label]
            for family in self.families.values()
            for found in family.samples
            if found.name == sample
        }

    @property
    def names(self) -> set[str]:
        """The families' names, as Prometheus keeps them."""
        return {
            f"{family.name}_total" if family.type == "counter" else family.name
            for family in self.families.values()
        }


def read(port: int | None, path: str = "/metrics", accept: str = "") -> str:
    """What the port of the metrics answers."""
    request = Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
        return str(answer.read().decode())


def scrape(port: int | None) -> Scrape:
    """The metrics of whoever serves them at a port of this machine."""
    families = text_string_to_metric_families(read(port))
    return Scrape({family.name: family for family in families})


def documented() -> dict[str, tuple[str, set[str]]]:
    """Type and labels of every metric of the document, by name."""
    rows = ROW.findall((ROOT / "docs" / "metrics.md").read_text())
    found = {
        name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows
    }
    assert len(found) == len(rows)
    return found


def assert_as_documented(found: Scrape) -> None:
    """Whether what a scrape has is of the type, with the labels, that is written."""
    wanted = documented()
    for family in found.families.values():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        kind, labels = wanted[name]
        assert family.type == kind, name
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == labels, name
