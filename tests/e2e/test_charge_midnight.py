"""A hundred thousand periods that end at one moment, and one worker."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from psycopg.types.json import Jsonb

from e2e.charge_rig import ChargeHouse, house
from pourtier.v1 import subscription_service_pb2 as pb
from pourtier_grpc.store.subscriptions import plan_column
from support.billing import PLANS
from support.commands import pourtier
from support.ports import free_port
from support.scrapes import Scrape, scrape
from support.servers import Databases, redis
from support.threads import tell

ESCROWS = 50
ASKED = 500
# How long the worker of the long run is watched, and what others do before it.
WATCHED_SECONDS, QUIET_SECONDS = 60.0, 10.0
# Accounts whose plan was granted for a month, which ends when the test says.
FILL = """
    WITH made AS (
        INSERT INTO users SELECT gen_random_uuid(), 1, 1, 0, 'Person ' || n, '', 'en',
            1, '{}', 1, now(), now()
        FROM generate_series(1, %s) AS n RETURNING user_id, display_name
    ), wallet AS (
        INSERT INTO wallets SELECT 'solana', 'wallet-' || user_id, user_id, 'phantom',
            true, now() FROM made
    ), escrow AS (
        INSERT INTO escrow_accounts (user_id, wallet_address, escrow_account,
            initialize_time)
        SELECT user_id, (%s::text[])[1 + substr(display_name, 8)::int
            %% cardinality(%s::text[])], 'escrow', now() FROM made
    ), taken AS (
        INSERT INTO subscriptions (subscription_id, user_id, status, plan_id, plan,
            auto_renew, cancel_at_period_end, ordinal, value, period_start, period_end,
            anchor_time, anchor_months, looks, revision, create_time, update_time)
        SELECT gen_random_uuid(), user_id, 2, 'basic', %s, true, false, 1, '29',
            now() - interval '27 days', now() + interval '1 day',
            now() - interval '27 days', 0, 0, 1, now(), now()
        FROM made RETURNING subscription_id
    )
    INSERT INTO subscription_periods (subscription_id, ordinal, plan_id, value,
        start_time, end_time, grant_reason, create_time)
    SELECT subscription_id, 1, 'basic', '29', now() - interval '27 days',
        now() + interval '1 day', 'a test', now() FROM taken
"""
MIDNIGHT = """
    UPDATE subscriptions SET period_end = now(), due_time = now(),
        anchor_time = now() - interval '1 month'
"""
# Loops that run seldom, and the one whose run is what is watched.
RARE = {"renewals", "idempotency-sweep", "event-stream-trimming"}
RENEWED = "SELECT count(*) FROM subscriptions WHERE status = 2 AND ordinal = 2"


@dataclass(frozen=True, kw_only=True)
class Runs:
    """How often each loop of a worker has run well by a moment, and when last."""

    at: float
    counts: dict[str, float]
    last: dict[str, float]

    def a_second(self, before: Runs) -> dict[str, float]:
        seconds = self.at - before.at
        return {
            loop: (count - before.counts.get(loop, 0)) / seconds
            for loop, count in self.counts.items()
        }


def runs(port: int) -> Runs:
    seen: Scrape = scrape(port)
    loops = seen.labels("pourtier_worker_runs_total", "loop")
    total, last = (
        "pourtier_worker_runs_total",
        "pourtier_worker_last_success_timestamp_seconds",
    )
    return Runs(
        at=time.time(),
        counts={each: seen.total(total, loop=each, outcome="done") for each in loops},
        last={each: seen.total(last, loop=each) for each in loops},
    )


def stale(now: Runs) -> float:
    """For how long a loop that runs every few seconds has not run well."""
    return max(now.at - last for loop, last in now.last.items() if loop not in RARE)


@contextmanager
def crowd(databases: Databases, many: int) -> Iterator[tuple[ChargeHouse, list[str]]]:
    """A house of so many people with a month of Basic; also their ids."""
    with ExitStack() as stack:
        server = stack.enter_context(redis())
        made = stack.enter_context(
            house(databases, redis_url=server.url, rate_limit_enabled=False)
        )
        escrows = [made.sim.escrow("1000000000") for _ in range(ESCROWS)]
        basic = Jsonb(plan_column(PLANS["basic"]))
        made.sql.run(FILL, many, escrows, escrows, basic)
        made.sql.run("ANALYZE")
        ids = [str(row["user_id"]) for row in made.sql.run("SELECT * FROM users")]
        yield made, ids


class Architect:
    """A service that asks whether people may do what their plan has."""

    def __init__(self, made: ChargeHouse, ids: list[str]) -> None:
        words = ("api-key", "create", "architect", "--scope", "entitlements.check")
        done = pourtier(*words, database_url=made.url, pourtier_data_dir=made.folder)
        self._key = done.stdout.strip()
        self._made, self._ids = made, ids
        self.answers = 0

    def ask(self) -> None:
        """Fails where anybody is denied what Basic has."""
        asked = random.sample(self._ids, min(ASKED, len(self._ids)))
        request = pb.BatchCheckEntitlementsRequest(
            questions=[
                pb.EntitlementQuestion(user_id=each, metric="backtests")
                for each in asked
            ]
        )
        api = self._made.client()
        answer = api.call(
            api.subscriptions.BatchCheckEntitlements,
            request,
            ("x-api-key", self._key),
        )
        assert len(answer.results) == len(asked)
        assert all(each.allowed for each in answer.results)
        assert {each.plan_id for each in answer.results} == {"basic"}
        self.answers += len(asked)


def renewed(made: ChargeHouse) -> int:
    return int(made.run(RENEWED)[0]["count"])


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_a_hundred_thousand_renewals_at_midnight_hold_up_nothing(
    databases: Databases, rounds: Callable[[int, int], int]
) -> None:
    many = rounds(150, 100_000)
    port = free_port()
    with crowd(databases, many) as (made, ids):
        architect = Architect(made, ids)
        with made.worker(pourtier_metrics_port=port):
            before = runs(port)
            time.sleep(rounds(1, int(QUIET_SECONDS)))
            quiet = runs(port)
            made.run(MIDNIGHT)
            began, first = time.monotonic(), runs(port)
            oldest = 0.0
            while renewed(made) < many and time.monotonic() - began < WATCHED_SECONDS:
                architect.ask()
                time.sleep(0.25)
                now = runs(port)
                oldest = max(oldest, stale(now))
            seconds, done = time.monotonic() - began, renewed(made)
            busy = runs(port)
        architect.ask()
        effects = len(made.sim.effects(kind="charge"))
        charges = made.run("SELECT count(*) FROM charges WHERE status <> 3")
    assert done == many or seconds >= WATCHED_SECONDS
    assert done <= effects <= charges[0]["count"]
    tell(
        f"{done} of {many} renewals in {seconds:.1f} s, {done / seconds:.0f} a second;"
        f" {architect.answers} questions meanwhile, nobody denied"
    )
    paces = busy.a_second(first)
    for loop, pace in sorted(quiet.a_second(before).items()):
        tell(f"{loop}: {pace:.2f} runs a second before, {paces[loop]:.2f} meanwhile")
    tell(f"no other loop was without a run for longer than {oldest:.1f} s")
    # The slowest of these runs every five seconds.
    assert oldest < 15
