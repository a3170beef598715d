"""What the README says to type, typed beside `pourtier dev`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from e2e.test_dev import PATIENCE, Dev, somewhere
from support.commands import ROOT, SCRIPT, run
from support.json_api import JsonApi
from support.rpcs import contract_rpcs
from support.servers import state_folder
from support.waiting import wait_until

README = (ROOT / "README.md").read_text()
FENCED = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = dict(
    re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
)
# A path that is listed, and the body that belongs to it.
LISTED = re.compile(r"^(GET|POST|PATCH|DELETE) +(/\S+)(?: +(\{.*\}))?$", re.MULTILINE)
PORTS = {
    9000: "pourtier_http_port",
    9001: "pourtier_internal_http_port",
    9100: "pourtier_passeur_port",
    50051: "pourtier_grpc_port",
}
# Of what was topped up, deposited and withdrawn, after a month of `basic`.
LEFT = "90.5"
SUBSCRIPTIONS = "/api/subscriptions"
OF_USERS = {
    (binding.verb, binding.template)
    for rpc in contract_rpcs()
    for binding in rpc.bindings
    if binding.template.startswith(SUBSCRIPTIONS)
    and rpc.policy.allow[0].HasField("user")
}
pytestmark = pytest.mark.timeout(3 * PATIENCE)


@dataclass(frozen=True, kw_only=True)
class Newcomer:
    """Somebody who reads, with everything that runs."""

    dev: Dev

    def types(self, *titles: str) -> list[dict[str, Any]]:
        """Types the commands of sections; answers what was printed as JSON."""
        blocks = [
            block
            for title in titles
            for block in FENCED.findall(SECTIONS[title])
            if not LISTED.match(block)
        ]
        assert len(blocks) >= len(titles)
        script = "set -eu\n" + "".join(blocks)
        for number, name in PORTS.items():
            port = self.dev.settings[name]
            script = script.replace(f"localhost:{number}", f"localhost:{port}")
        script = script.replace(".venv/bin/pourtier", str(SCRIPT))
        # Answers of curl end without a new line.
        script = script.replace("\ncurl ", "\ncurl -sS --fail-with-body -w '\\n' ")
        env = self.dev.environment(**self.dev.settings)
        done = run("bash", "-c", script, env=env, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [line for line in done.stdout.splitlines() if line]
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def newcomer() -> Iterator[Newcomer]:
    with state_folder() as folder, Dev(somewhere(folder / "data")) as dev:
        yield Newcomer(dev=dev.started())


def test_escrows_pay_for_subscriptions_as_it_is_written(newcomer: Newcomer) -> None:
    printed = newcomer.types("Escrows", "Subscriptions")
    (plans,) = [each["plans"] for each in printed if "plans" in each]
    assert [each["plan_id"] for each in plans] == ["free", "basic", "pro"]
    bought, current = printed[-2:]
    assert bought["status"] == "SUBSCRIPTION_STATUS_ACTIVE"
    assert current["subscription"] == bought
    # The paths that are listed after it, in their order, on what was bought.
    settings, sign_in = newcomer.dev.settings, (SCRIPT, "wallet", "sign-in")
    token = run(*sign_in, env=newcomer.dev.environment(**settings)).stdout.strip()
    calls = LISTED.findall(SECTIONS["Subscriptions"])
    typed = {("POST", SUBSCRIPTIONS), ("GET", f"{SUBSCRIPTIONS}/current")}
    assert {(verb, path) for verb, path, _ in calls} | typed == OF_USERS
    with JsonApi(f"http://localhost:{settings['pourtier_http_port']}") as web:

        def settled() -> bool:
            path = "/api/escrow/balance"
            balance = web.call("GET", path, bearer=token).json()["balance"]
            return bool(balance["amount"] == LEFT)

        # Whoever reads has let the deposit settle meanwhile.
        wait_until(settled, PATIENCE)
        for verb, path, body in calls:
            path_of_it = path.format(subscription_id=bought["subscription_id"])
            sent = json.loads(body) if body else None
            answer = web.call(verb, path_of_it, sent, bearer=token)
            assert answer.status_code == 200, f"{verb} {path}: {answer.text}"
    assert answer.json()["cancel_at_period_end"] is True
