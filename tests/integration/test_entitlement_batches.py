"""BatchCheckEntitlements: ten thousand questions, as cheaply as a few."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb
from sqlalchemy import event

from pourtier.v1 import subscription_service_pb2 as pb
from pourtier_grpc.store.subscriptions import plan_column
from support.api import refusal
from support.billing import PLANS
from support.servers import Databases
from support.service import Service, service
from support.threads import tell
from support.usage import BACKTESTS, STRATEGIES, Meter

pytestmark = pytest.mark.no_cover  # others run the same code

MANY = 10_000
# Beside the one of the API key there are to be no more than three in all.
MOST_STATEMENTS = 2
FEATURE = "live_metrics"

# Of users by number: every fifth is suspended, every third on free, every seventh has a
# strategy running, every eleventh has used up the backtests of `basic`.
USERS = """
    INSERT INTO users SELECT lpad(to_hex(n), 32, '0')::uuid, 1, 1, 0, '', '', 'en',
        CASE WHEN n %% 5 = 0 THEN 2 ELSE 1 END, '{}', 1, now(), now()
    FROM generate_series(1, %s) AS n
"""
SUBSCRIPTIONS = """
    INSERT INTO subscriptions (subscription_id, user_id, status, plan_id, plan,
        auto_renew, cancel_at_period_end, ordinal, value, period_start, period_end,
        anchor_months, looks, revision, create_time, update_time)
    SELECT gen_random_uuid(), lpad(to_hex(n), 32, '0')::uuid, 2, 'basic', %s, true,
        false, 1, '29', %s, %s::timestamptz + interval '28 days', 1, 0, 1, now(), now()
    FROM generate_series(1, %s) AS n WHERE n %% 3 <> 0
"""
RUNNING = """
    INSERT INTO usage_reservations
    SELECT gen_random_uuid(), lpad(to_hex(n), 32, '0')::uuid, 'architect',
        'running_strategies', '', NULL, 2, now(), now(), now(), NULL
    FROM generate_series(7, %s, 7) AS n
"""
COUNTED = """
    INSERT INTO usage_counters
    SELECT lpad(to_hex(n), 32, '0')::uuid, 'backtests', %s, 100
    FROM generate_series(11, %s, 11) AS n
"""


@pytest.fixture(scope="module")
def crowd(databases: Databases) -> Iterator[Service]:
    """A service with ten thousand users of every kind."""
    with service(databases) as running:
        sql, now = running.sql, running.clock.now()
        plan = Jsonb(plan_column(PLANS["basic"]))
        sql.run(USERS, MANY)
        sql.run(SUBSCRIPTIONS, plan, now, now, MANY)
        sql.run(RUNNING, MANY)
        sql.run(COUNTED, now, MANY)
        sql.run("ANALYZE")
        yield running


@pytest.fixture(scope="module")
def meter(crowd: Service) -> Meter:
    return Meter(crowd)


def id_of(number: int) -> str:
    return str(UUID(int=number))


def question(number: int, kind: int) -> pb.EntitlementQuestion:
    asked = ({"metric": STRATEGIES}, {"metric": BACKTESTS}, {"feature": FEATURE})
    return pb.EntitlementQuestion(user_id=id_of(number), **asked[kind])


def wanted(number: int, kind: int) -> list[str]:
    """Why it must be denied to the user of that number."""
    if number > MANY:
        return ["USER_NOT_FOUND"]
    free = number % 3 == 0
    reasons = ["USER_SUSPENDED"] if number % 5 == 0 else []
    if free and kind != 1:
        reasons.append("TIER_INSUFFICIENT")
    elif not free and number % (7, 11, MANY * 2)[kind] == 0:
        reasons.append("QUOTA_EXCEEDED")
    return reasons


@contextmanager
def statements(running: Service) -> Iterator[list[str]]:
    """The statements of calls; those of the server's own threads are left out."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "subscriptions" in statement or "usage" in statement:
            seen.append(statement)

    engine = running.server._parts.database.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def said(answer: Any) -> list[str]:
    return [each.reason for each in answer.denials]


# `make proof` asks ten thousand times, on a machine that may be busy.
@pytest.mark.timeout(600)
def test_a_batch_answers_each_as_when_asked_alone(
    meter: Meter, rounds: Callable[[int, int], int]
) -> None:
    # Fifty numbers have no user; a few users are asked about twice.
    numbers = [*range(1, MANY - 100), *range(MANY + 1, MANY + 51), *range(1, 52)]
    random.Random(7).shuffle(numbers)  # noqa: S311 - an order, and no secret
    asked = [(number, at % 3) for at, number in enumerate(numbers)]
    assert len(asked) == MANY
    questions = [question(*each) for each in asked]
    answers = meter.check_all(questions)
    for (number, kind), answer in zip(asked, answers, strict=True):
        assert answer.user_id == id_of(number)
        assert said(answer) == wanted(number, kind)
        assert answer.allowed == (not answer.denials)
    alone = rounds(100, MANY)
    for one, answer in list(zip(questions, answers, strict=True))[:alone]:
        asked_for = "feature" if one.HasField("feature") else "metric"
        only = meter.check(one.user_id, **{asked_for: getattr(one, asked_for)})
        assert (only.allowed, only.denials) == (answer.allowed, answer.denials)
        assert (only.plan_id, only.usage) == (answer.plan_id, answer.usage)
        assert only.HasField("usage") == answer.HasField("usage")
    tell(f"a batch of {MANY:,}, {alone:,} of them asked alone: the same answers")


@pytest.mark.parametrize("size", [1, 100, MANY])
def test_a_batch_costs_few_statements_whatever_its_size(
    crowd: Service, meter: Meter, size: int
) -> None:
    questions = [question(number, number % 2) for number in range(1, size + 1)]
    with statements(crowd) as seen:
        assert len(meter.check_all(questions)) == size
    tell(f"{size:,} questions: {len(seen)} statements")
    assert len(seen) == MOST_STATEMENTS
    features = [question(number, 2) for number in range(1, size + 1)]
    with statements(crowd) as seen:
        meter.check_all(features)
    assert len(seen) == 1


def test_ids_are_answered_as_they_were_written(meter: Meter) -> None:
    known, unknown = id_of(0xABCDF), str(uuid4())
    asked = [known.upper(), unknown.upper(), known]
    answers = meter.check_all(
        [pb.EntitlementQuestion(user_id=each, metric=BACKTESTS) for each in asked]
    )
    assert [each.user_id for each in answers] == asked


def test_one_more_than_ten_thousand_is_refused(meter: Meter) -> None:
    for many in ([], [question(1, 0)] * (MANY + 1)):
        with refusal("INVALID_FIELD") as caught:
            meter.check_all(many)
        assert caught[0].violations == ["questions"]


def test_the_largest_answer_can_be_read(meter: Meter) -> None:
    # Suspended, and on free: with every denial that there is.
    answers = meter.check_all([question(15, 0)] * MANY)
    assert said(answers[0]) == ["USER_SUSPENDED", "TIER_INSUFFICIENT"]
    size = pb.BatchCheckEntitlementsResponse(results=answers).ByteSize()
    tell(f"10,000 answers with every denial: {size:,} bytes")
    # What a client of grpcio's reads unless it is told otherwise.
    assert size < 4 * 1024 * 1024


def test_what_a_batch_costs(meter: Meter, rounds: Callable[[int, int], int]) -> None:
    questions = [question(number, number % 2) for number in range(1, MANY + 1)]
    processor, clock = costs(meter, questions, rounds(3, 30))
    tell(
        f"a batch of {MANY:,}: {processor / MANY * 1e6:.1f} µs of this process's CPU a "
        f"question, {clock * 1000:.0f} ms in all (medians)"
    )


def costs(
    meter: Meter, questions: Sequence[pb.EntitlementQuestion], times: int
) -> tuple[float, float]:
    """Seconds of CPU and of the clock that a batch takes, as medians."""
    processors, clocks = [], []
    for _ in range(times):
        processor, clock = time.process_time(), time.perf_counter()
        meter.check_all(questions)
        processors.append(time.process_time() - processor)
        clocks.append(time.perf_counter() - clock)
    return sorted(processors)[times // 2], sorted(clocks)[times // 2]
