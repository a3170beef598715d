"""Kills with -9, and many callers with one key: never a second effect."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from uuid import uuid4

import pytest

from pourtier_grpc.passeur.client import Passeur
from pourtier_grpc.passeur.errors import RefusedError, UnavailableError
from pourtier_grpc.passeur.models import Charge
from support.passeur import PasseurSim, passeur_client, passeur_process
from support.threads import tell, together

# Of the many rounds, on a busy machine.
pytestmark = pytest.mark.timeout(900)

Rounds = Callable[[int, int], int]
CALLERS = 4
PLENTY = "1000000"


def charge(passeur: Passeur, wallet: str, key: str) -> Charge:
    return passeur.charge(wallet, Decimal("0.25"), reference="crash", key=key)


class Crash:
    """A round: charges, an end by SIGKILL, a restart, and what is true afterwards."""

    def __init__(self, sim: PasseurSim, wallet: str, passeur: Passeur) -> None:
        self.sim, self.wallet, self.passeur = sim, wallet, passeur
        self.answered: dict[str, Charge] = {}
        self.asked: list[str] = []

    def at_a_point(self, when: str) -> None:
        """It dies before or after a charge's effect, never in its answer."""
        key = str(uuid4())
        self.sim.fault(operation="charge", key=key, when=when, crash=True)
        assert self._until_lost(key)
        self.sim.kill()

    def at_any_time(self) -> None:
        """It is killed while several charge as fast as they can."""
        with ThreadPoolExecutor(CALLERS) as pool:
            ends = [pool.submit(self._go_on) for _ in range(CALLERS)]
            time.sleep(random.uniform(0.0, 0.1))  # noqa: S311 - no secret
            self.sim.kill()
            for end in ends:
                end.result(30)

    def after_the_restart(self) -> int:
        """How many had no answer; what was answered is so still, and nothing twice."""
        self.sim.start()
        done = {each["key"] for each in self.sim.effects(wallet=self.wallet)}
        assert done >= self.answered.keys()
        unanswered = [key for key in self.asked if key not in self.answered]
        for key in unanswered:
            found = self.passeur.charge_of(key)
            assert (found is not None) == (key in done)
            self.answered[key] = charge(self.passeur, self.wallet, key)
            assert found in (None, self.answered[key])
        for key, before in self.answered.items():
            assert charge(self.passeur, self.wallet, key) == before
        effects = self.sim.effects(wallet=self.wallet, kind="charge")
        assert sorted(each["key"] for each in effects) == sorted(self.answered)
        assert {each["transaction_id"] for each in effects} == {
            each.transaction_id for each in self.answered.values()
        }
        spent = Decimal("0.25") * len(effects)
        assert self.passeur.balance(self.wallet).balance == Decimal(PLENTY) - spent
        return len(unanswered)

    def _go_on(self) -> None:
        while not self._until_lost(str(uuid4())):
            pass

    def _until_lost(self, key: str) -> bool:
        """Charges once; whether there was no answer."""
        self.asked.append(key)
        try:
            self.answered[key] = charge(self.passeur, self.wallet, key)
        except UnavailableError:
            return True
        return False


@pytest.fixture(scope="module")
def sim() -> Iterator[PasseurSim]:
    """One that can be killed."""
    with passeur_process(settle_seconds=0) as made:
        yield made


@pytest.mark.proof
def test_a_ledger_killed_with_9_and_its_answers_agree(
    sim: PasseurSim, rounds: Rounds
) -> None:
    count, unanswered, charges = rounds(20, 200), 0, 0
    never = 10**6
    for number in range(count):
        with passeur_client(sim.url, passeur_breaker_failures=never) as client:
            crash = Crash(sim, sim.escrow(PLENTY), client.passeur)
            if number % 2:
                crash.at_any_time()
            else:
                crash.at_a_point("after" if number % 4 else "before")
            unanswered += crash.after_the_restart()
            charges += len(crash.answered)
    tell(f"{count} kills, {charges} charges, {unanswered} unanswered, none twice")


def test_what_was_pending_at_a_kill_settles_afterwards(sim: PasseurSim) -> None:
    with passeur_client(sim.url) as client:
        passeur, wallet = client.passeur, sim.escrow("10")
        sim.fault(operation="withdraw", settle_failed="the chain said no")
        begun = [
            passeur.deposit(wallet, Decimal(5), key=str(uuid4())),
            passeur.withdraw(wallet, Decimal(4), key=str(uuid4())),
        ]
        sim.kill()
        sim.start()
        time.sleep(0.3)
        ends = [passeur.transaction(each.transaction_id) for each in begun]
        assert [(each.status, each.failure) for each in ends if each] == [
            ("confirmed", None),
            ("failed", "the chain said no"),
        ]
        assert passeur.balance(wallet).balance == 15


@pytest.mark.proof
def test_fifty_threads_with_one_key_have_one_effect(
    sim: PasseurSim, rounds: Rounds
) -> None:
    count, twins = rounds(2, 50), 0
    with passeur_client(sim.url, passeur_connections=50) as client:
        passeur = client.passeur
        passeur.caller._sleep = lambda seconds: time.sleep(seconds / 4)
        for _ in range(count):
            wallet, key = sim.escrow("0.25"), str(uuid4())
            sim.fault(operation="charge", key=key, delay_seconds=0.1)

            def twin(_: int, wallet: str = wallet, key: str = key) -> Charge:
                return charge(passeur, wallet, key)

            ends = together(50, twin)
            (effect,) = sim.effects(key=key)
            ids = {each.transaction_id for each in ends if isinstance(each, Charge)}
            assert ids == {effect["transaction_id"]}
            assert len(ends) == 50
            assert passeur.balance(wallet).balance == 0
        twins = int(client.scrape().total("pourtier_passeur_retries_total"))
    assert twins > 0
    tell(f"{count} rounds of 50 threads, {twins} came upon a twin, one effect each")


@pytest.mark.proof
def test_a_charge_and_its_voiding_at_once_never_both_succeed(
    sim: PasseurSim, rounds: Rounds
) -> None:
    count, charged = rounds(20, 1000), 0
    with passeur_client(sim.url) as client:
        passeur, wallet = client.passeur, sim.escrow(PLENTY)
        passeur.caller._sleep = lambda seconds: time.sleep(seconds / 100)
        for _ in range(count):
            key = str(uuid4())

            def race(number: int, key: str = key) -> str:
                try:
                    if number:
                        charge(passeur, wallet, key)
                    else:
                        passeur.void(key)
                except RefusedError as error:
                    return str(error.code)
                return "done"

            voiding, charging = together(2, race)
            effects = sim.effects(key=key)
            charged += len(effects)
            assert (voiding, charging, len(effects)) in {
                ("done", "voided", 0),
                ("already_executed", "done", 1),
            }
    tell(f"{count} races, {charged} charged, {count - charged} voided")
