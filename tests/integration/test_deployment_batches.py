"""BatchValidateDeployments: ten thousand users at once, as cheaply as a few."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from grpc import StatusCode
from psycopg.types.json import Jsonb
from sqlalchemy import event

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier.v1.user_pb2 import KycLevel
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.store.subscriptions import plan_column
from support.api import TIMEOUT, refusal
from support.billing import PLANS
from support.callers import api_key
from support.deployments import Asker
from support.legal import RISK, TERMS, publish
from support.servers import Databases
from support.service import Service, service
from support.threads import tell

pytestmark = pytest.mark.no_cover  # others run the same code

MANY = 10_000
MOST_STATEMENTS = 3
SCREENED = DevWallet.generate().address
SCREENED_EVERY = 7
SUSPENDED_EVERY = 5
KYC_LEVELS = 3

# Users of every kind, by number; `user_id` is made of it too.
USERS = """
    INSERT INTO users SELECT lpad(to_hex(n), 32, '0')::uuid, 1, 1, 0, '', '', 'en',
        CASE WHEN n %% 5 = 0 THEN 2 ELSE 1 END, '{}', 1 + n %% 3, now(), now()
    FROM generate_series(1, %s) AS n
"""
WALLETS = """
    INSERT INTO wallets SELECT 'solana', 'wallet-' || n || '-' || m,
        lpad(to_hex(n), 32, '0')::uuid, 'phantom', m = 0, now()
    FROM generate_series(1, %s) AS n, generate_series(0, 1) AS m
"""
SCREENED_WALLETS = """
    INSERT INTO wallets SELECT 'chain-' || n, %s, lpad(to_hex(n), 32, '0')::uuid,
        'phantom', false, now()
    FROM generate_series(7, %s, 7) AS n
"""
ACCEPTANCES = """
    INSERT INTO document_acceptances SELECT gen_random_uuid(),
        lpad(to_hex(n), 32, '0')::uuid, %s::uuid, %s, %s, now(), gen_random_uuid(), '',
        ''
    FROM generate_series(1, %s) AS n WHERE n %% %s = ANY (%s)
"""
SUBSCRIPTIONS = """
    INSERT INTO subscriptions (subscription_id, user_id, status, plan_id, plan,
        auto_renew, cancel_at_period_end, ordinal, value, period_start, period_end,
        anchor_months, looks, revision, create_time, update_time)
    SELECT gen_random_uuid(), lpad(to_hex(n), 32, '0')::uuid, 2, 'basic', %s, true,
        false, 1, '29', now(), now() + interval '28 days', 1, 0, 1, now(), now()
    FROM generate_series(1, %s) AS n WHERE n %% 13 <> 0
"""
RUNNING = """
    INSERT INTO usage_reservations
    SELECT gen_random_uuid(), lpad(to_hex(n), 32, '0')::uuid, 'architect',
        'running_strategies', '', NULL, 2, now(), now(), now(), NULL
    FROM generate_series(17, %s, 17) AS n
"""
UNSUBSCRIBED_EVERY, RUNNING_EVERY = 13, 17
ACCEPTED = (
    # Type, major version; numbers, divided by this, that leave one of these.
    (TERMS, 1, 4, [1, 3]),
    (TERMS, 2, 4, [2, 3]),
    (RISK, 1, 11, list(range(1, 11))),
)
REQUIRED = ((TERMS, 2, "TERMS_OF_SERVICE"), (RISK, 1, "RISK_DISCLOSURE"))


@pytest.fixture(scope="module")
def crowd(databases: Databases) -> Iterator[Service]:
    """A service with ten thousand users of every kind."""
    rules = {
        "required_kyc_level": "full",
        "screened_wallets": (SCREENED,),
    }
    with service(databases, **rules) as running:
        fill(running)
        yield running


def fill(running: Service) -> None:
    sql = running.sql
    texts = {
        (kind, major): publish(running, kind, f"{major}.0").document_id
        for kind, major, *_ in ACCEPTED
    }
    sql.run(USERS, MANY)
    sql.run(WALLETS, MANY)
    sql.run(SCREENED_WALLETS, SCREENED, MANY)
    for kind, major, divisor, rest in ACCEPTED:
        text = texts[kind, major]
        sql.run(ACCEPTANCES, text, kind, major, MANY, divisor, rest)
    sql.run(SUBSCRIPTIONS, Jsonb(plan_column(PLANS["basic"])), MANY)
    sql.run(RUNNING, MANY)
    sql.run("ANALYZE")


@pytest.fixture(scope="module")
def ask(crowd: Service) -> Asker:
    made = Asker(service=crowd, api_key=api_key(crowd, "deployments.validate"))
    # Its first use is noted, once.
    made.one(id_of(1))
    return made


def id_of(number: int) -> str:
    return str(UUID(int=number))


def wanted(number: int) -> list[tuple[str, dict[str, str]]]:
    """What must be said of the user of that number: reasons, and what is beside."""
    if number > MANY:
        return [("USER_NOT_FOUND", {"user_id": id_of(number)})]
    found: list[tuple[str, dict[str, str]]] = []
    if number % SUSPENDED_EVERY == 0:
        found.append(("USER_SUSPENDED", {}))
    accepted = {
        (kind, major)
        for kind, major, divisor, rest in ACCEPTED
        if number % divisor in rest
    }
    missing = [name for kind, major, name in REQUIRED if (kind, major) not in accepted]
    if missing:
        found.append(("CONSENT_REQUIRED", {"missing": ",".join(missing)}))
    level = KycLevel.ValueType(1 + number % KYC_LEVELS)
    if level < KycLevel.KYC_LEVEL_FULL:
        name = KycLevel.Name(level).removeprefix("KYC_LEVEL_")
        told = {"kyc_level": name, "required_kyc_level": "FULL"}
        found.append(("KYC_REQUIRED", told))
    if number % SCREENED_EVERY == 0:
        found.append(("WALLET_SCREENED", {}))
    metric = {"metric": "running_strategies"}
    if number % UNSUBSCRIBED_EVERY == 0:
        plans = {"required_plan": "basic", "current_plan": "free"}
        found.append(("TIER_INSUFFICIENT", {**plans, **metric}))
    elif number % RUNNING_EVERY == 0:
        found.append(("QUOTA_EXCEEDED", {**metric, "used": "1", "limit": "1"}))
    return found


def said(denials: Sequence[Any]) -> list[tuple[str, dict[str, str]]]:
    return [(each.reason, dict(each.metadata)) for each in denials]


@contextmanager
def statements(running: Service) -> Iterator[list[str]]:
    """The statements of calls; those of other threads of the server are left out."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.current_thread().name.startswith("calls"):
            seen.append(statement)

    engine = running.server._parts.database.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_answers_come_in_the_order_asked_for_each_as_it_was_asked(ask: Asker) -> None:
    known, unknown = id_of(0xABCDE), str(uuid4())
    assert known != known.upper()
    first, second = id_of(0x2A), id_of(0x1B)
    asked = [second, first.upper(), unknown, first, second, unknown.upper(), first]
    answers = ask.many(asked)
    assert [each.user_id for each in answers] == asked
    assert answers[1].denials == answers[3].denials == answers[6].denials
    assert answers[0].denials == answers[4].denials != answers[1].denials
    assert answers[2].denials == answers[5].denials
    assert said(answers[2].denials) == [("USER_NOT_FOUND", {"user_id": unknown})]


# `make proof` asks ten thousand times, on a machine that may be busy.
@pytest.mark.timeout(600)
def test_a_batch_answers_each_as_when_asked_alone(
    ask: Asker, rounds: Callable[[int, int], int]
) -> None:
    # Fifty numbers have no user; some are named twice, so that there are 10,000.
    numbers = [*range(1, MANY - 50), *range(MANY + 1, MANY + 51), 5]
    random.Random(7).shuffle(numbers)  # noqa: S311 - an order, and no secret
    assert len(numbers) == MANY
    answers = ask.many(map(id_of, numbers))
    kinds = set()
    for number, answer in zip(numbers, answers, strict=True):
        assert answer.user_id == id_of(number)
        assert said(answer.denials) == wanted(number)
        assert answer.allowed == (not answer.denials)
        kinds.add(tuple(reason for reason, _ in said(answer.denials)))
    # Every set of four reasons, none of them too, with either of two more or neither;
    # and the unknown.
    assert len(kinds) == 2**4 * 3 + 1
    alone = rounds(100, MANY)
    for answer in answers[:alone]:
        only = ask.one(answer.user_id)
        assert (only.allowed, only.denials) == (answer.allowed, answer.denials)
    tell(f"a batch of {MANY:,}, {alone:,} of them asked alone: the same answers")


@pytest.mark.parametrize("size", [1, 100, MANY])
def test_a_batch_costs_few_statements_whatever_its_size(
    crowd: Service, ask: Asker, size: int
) -> None:
    with statements(crowd) as seen:
        assert len(ask.many(map(id_of, range(1, size + 1)))) == size
    tell(f"{size:,} users: {len(seen)} statements, the one for the API key included")
    assert 1 <= len(seen) <= MOST_STATEMENTS
    with statements(crowd) as alone:
        ask.one(id_of(1))
    assert alone == seen


def test_ten_thousand_are_answered_and_one_more_is_refused(ask: Asker) -> None:
    with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
        ask.many(map(id_of, range(MANY + 1)))
    assert caught[0].violations == ["user_ids"]
    with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT):
        ask.many([])


def test_what_a_batch_costs(
    crowd: Service, ask: Asker, rounds: Callable[[int, int], int]
) -> None:
    ids = [id_of(number) for number in range(1, MANY + 1)]
    request = pb.BatchValidateDeploymentsRequest(user_ids=ids).SerializeToString()
    # Bytes in, bytes out: what a client makes of messages is not counted.
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = crowd.api.channel.unary_unary(
        "/pourtier.v1.ComplianceService/BatchValidateDeployments"
    )
    processor, clock = [], []
    for _ in range(rounds(5, 30)):
        spent, begun = time.process_time(), time.perf_counter()
        answer = call(request, timeout=TIMEOUT, metadata=(ask.api_key,))
        processor.append(time.process_time() - spent)
        clock.append(time.perf_counter() - begun)
    assert len(pb.BatchValidateDeploymentsResponse.FromString(answer).results) == MANY
    each = sorted(processor)[len(processor) // 2] / MANY * 1e6
    tell(
        f"a batch of {MANY:,}: {each:.1f} µs of this process's CPU a user, "
        f"{sorted(clock)[len(clock) // 2] * 1000:.0f} ms in all (medians)"
    )
