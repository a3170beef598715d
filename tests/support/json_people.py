"""People who subscribe by a browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from pourtier_grpc.devtools.wallet import DevWallet
from support.json_api import JsonApi, answered
from support.passeur import PasseurSim
from support.stack import Stack

SUBSCRIPTIONS = "/api/subscriptions"


@dataclass(frozen=True, kw_only=True)
class Subscriber:
    """Somebody with an account."""

    web: JsonApi
    wallet: DevWallet
    user_id: str
    bearer: str

    def get(self, path: str = "", **query: Any) -> httpx.Response:
        """A read of a path below that of subscriptions."""
        path = SUBSCRIPTIONS + path
        return self.web.call("GET", path, bearer=self.bearer, params=query)

    def send(
        self, verb: str, path: str, body: Any = None, **headers: str
    ) -> httpx.Response:
        """A change at a path below that of subscriptions."""
        path = SUBSCRIPTIONS + path
        return self.web.call(verb, path, body, bearer=self.bearer, headers=headers)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.send("POST", path, body, **headers)

    def buy(self, plan_id: str = "basic", **headers: str) -> httpx.Response:
        return self.post("", {"plan_id": plan_id}, **headers)

    def subscribed(self, plan_id: str = "basic") -> str:
        """The path of a new subscription."""
        return "/" + str(answered(self.buy(plan_id))["subscription_id"])


def subscriber(
    running: Stack, sim: PasseurSim | None = None, amount: str = "0"
) -> Subscriber:
    """Somebody new; with an escrow that holds so much, where there is a Passeur."""
    wallet = DevWallet.generate()
    made = running.public.register(wallet)
    ann = Subscriber(
        web=running.public,
        wallet=wallet,
        user_id=made["user"]["user_id"],
        bearer=made["tokens"]["access_token"],
    )
    if sim is not None:
        path = "/api/escrow/initialize"
        answered(ann.web.call("POST", path, {}, bearer=ann.bearer))
        if amount != "0":
            sim.top_up(wallet.address, amount)
    return ann
