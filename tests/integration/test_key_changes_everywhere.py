"""Keys that change hands while two processes are called without a pause."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import pytest

from pourtier.v1 import auth_service_pb2 as pb
from pourtier_grpc.config import load
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.store.keys import KeyUse
from pourtier_grpc.wiring import Parts, build
from support.api import Api, Refused, refusal
from support.callers import Person
from support.keys import in_state, signed_by
from support.processes import serving
from support.servers import Databases, state_folder
from support.sql import Sql
from support.threads import tell
from support.tokens import me

pytestmark = pytest.mark.no_cover  # others run the same code

ACCESS, HMAC = KeyUse.ACCESS, KeyUse.HMAC
CLIENTS = 8
# What every process promises of a revocation, in seconds.
PROMISED = 1.0


@dataclass
class Outcome:
    """What one client has seen; times are of `time.monotonic`."""

    calls: int = 0
    refused: list[tuple[float, str]] = field(default_factory=list)
    last_success: float = 0.0


class Callers:
    """Clients that call without a pause, each one process, until they are stopped."""

    def __init__(self, works: list[Callable[[], object]]) -> None:
        self._stop = threading.Event()
        self.outcomes = [Outcome() for _ in works]
        self._threads = [
            threading.Thread(target=self._run, args=pair, daemon=True)
            for pair in zip(works, self.outcomes, strict=True)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait(self, calls: int) -> None:
        """Until each has called so many times more."""
        wanted = [each.calls + calls for each in self.outcomes]
        give_up = time.monotonic() + 30
        while any(
            each.calls < least
            for each, least in zip(self.outcomes, wanted, strict=True)
        ):
            assert time.monotonic() < give_up, "the clients have stopped"
            time.sleep(0.01)

    @property
    def refused(self) -> list[str]:
        return [reason for each in self.outcomes for _, reason in each.refused]

    def worst_after(self, moment: float) -> float:
        """How long after a moment the last success came."""
        return max(0.0, *(each.last_success - moment for each in self.outcomes))

    def _run(self, work: Callable[[], object], outcome: Outcome) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                work()
                # When it was asked, not when the answer came.
                outcome.last_success = begun
            except Refused as error:
                outcome.refused.append((begun, error.reason))
            outcome.calls += 1
            # Far below what is promised, and not all that the machine can do.
            time.sleep(0.005)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two processes of one database and one folder of keys, and their operator."""

    clients: list[Api]
    sql: Sql
    parts: Parts

    def sign_in(self) -> Person:
        wallet = DevWallet.generate()
        made = self.clients[0].register(wallet)
        return Person(wallet=wallet, user=made.user, tokens=made.tokens)


@pytest.fixture(scope="module")
def pair(databases: Databases) -> Iterator[Pair]:
    with (
        databases.fresh() as url,
        state_folder() as folder,
        serving(folder, url, count=2) as processes,
        Sql(url) as sql,
    ):
        operator = build(load(database_url=url, pourtier_data_dir=folder))
        clients = [Api(processes[n % 2].target) for n in range(CLIENTS)]
        yield Pair(clients=clients, sql=sql, parts=operator)
        for client in clients:
            client.close()
        operator.close()


@pytest.mark.proof
@pytest.mark.timeout(900)
class TestEverywhere:
    def test_an_access_key_is_rotated_in_silence_and_revoked_within_a_second(
        self, pair: Pair, rounds: Callable[[int, int], int]
    ) -> None:
        total, calls, worst = rounds(1, 20), 0, 0.0
        for _ in range(total):
            ann = pair.sign_in()

            def reader(api: Api, of: Person = ann) -> Callable[[], object]:
                return lambda: me(api, of.bearer)

            with Callers([reader(api) for api in pair.clients]) as callers:
                callers.wait(20)
                old = signed_by(ann.bearer)
                pair.parts.key_rotation.rotate(ACCESS, at_once=True)
                # Past the moment at which both have followed.
                _sleep_past_following()
                fresh = [api.login(ann.wallet).tokens for api in pair.clients[:2]]
                for api in pair.clients[:2]:
                    for tokens in fresh:
                        assert me(api, tokens.access_token).user_id == ann.user_id
                callers.wait(20)
                assert callers.refused == []
                assert {signed_by(t.access_token) for t in fresh} != {old}
                assert pair.parts.key_rotation.revoke(old, "stolen")
                revoked = time.monotonic()
                callers.wait(20)
                _sleep_past_following()
            assert set(callers.refused) == {"TOKEN_INVALID"}
            worst = max(worst, callers.worst_after(revoked))
            calls += sum(each.calls for each in callers.outcomes)
            for api in pair.clients[:2]:
                with refusal("TOKEN_INVALID"):
                    me(api, ann.bearer)
                for tokens in fresh:
                    assert me(api, tokens.access_token).user_id == ann.user_id
            assert worst < PROMISED
        tell(
            f"{total} rotations and revocations of an access key under {CLIENTS} "
            f"clients, {calls} calls at two processes: none refused by a rotation, "
            f"the last one let in {worst * 1000:.0f} ms after a revocation"
        )

    def test_an_hmac_key_is_rotated_in_silence_and_revoked_within_a_second(
        self, pair: Pair, rounds: Callable[[int, int], int]
    ) -> None:
        total, calls, worst = rounds(1, 20), 0, 0.0
        for _ in range(total):
            people = [pair.sign_in() for _ in range(CLIENTS)]
            proof = pair.clients[0].proof(people[0].wallet)
            verify = pb.VerifyWalletRequest(**proof)

            def refresher(number: int, of: list[Person] = people) -> Callable[[], Any]:
                held = [of[number].tokens.refresh_token]

                def refresh() -> None:
                    # A shared window: the same tokens, by the server's own account.
                    held[0] = pair.clients[number].refresh(held[0]).refresh_token

                return refresh

            def verifier(
                number: int, request: pb.VerifyWalletRequest = verify
            ) -> Callable[[], object]:
                api = pair.clients[number]
                return lambda: api.call(api.auth.VerifyWallet, request)

            works = [(verifier if n >= 6 else refresher)(n) for n in range(CLIENTS)]
            old = in_state(pair.sql, HMAC, "active")
            with Callers(works) as callers:
                callers.wait(10)
                pair.parts.key_rotation.rotate(HMAC, at_once=True)
                _sleep_past_following()
                callers.wait(10)
                assert callers.refused == []
                assert pair.parts.key_rotation.revoke(old, "stolen")
                revoked = time.monotonic()
                callers.wait(10)
                _sleep_past_following()
            told = set(callers.refused)
            assert told == {"REFRESH_TOKEN_INVALID", "NONCE_INVALID"}
            last = {each.refused[-1][1] for each in callers.outcomes}
            assert last == told
            worst = max(worst, callers.worst_after(revoked))
            calls += sum(each.calls for each in callers.outcomes)
            assert worst < PROMISED
            for api in pair.clients[:2]:
                tokens = api.login(people[1].wallet).tokens
                assert api.refresh(tokens.refresh_token)
        tell(
            f"{total} rotations and revocations of an HMAC key under {CLIENTS} clients,"
            f" {calls} refreshes and proofs at two processes: none refused by a "
            f"rotation, the last one let in {worst * 1000:.0f} ms after a revocation"
        )


def _sleep_past_following() -> None:
    """The promise is of real time: until it must have been kept."""
    time.sleep(PROMISED)
