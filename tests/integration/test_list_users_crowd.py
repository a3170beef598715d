"""ListUsers of a hundred thousand accounts: no page and no filter reads them all."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from pourtier.v1.user_pb2 import UserStatus
from pourtier_grpc.store import pages
from pourtier_grpc.store.pages import Place
from pourtier_grpc.store.users import UserFilter
from support.callers import admin, person
from support.lists import at, every, page
from support.servers import Databases
from support.service import Service, service
from support.threads import tell

pytestmark = pytest.mark.no_cover  # others run the same code

ACTIVE, SUSPENDED = UserStatus.USER_STATUS_ACTIVE, UserStatus.USER_STATUS_SUSPENDED
MANY = 100_000
PAGE = 100
# How far apart two pages may be.
NEARLY = 0.2
FIRST = datetime(2025, 1, 1, tzinfo=UTC)

# Accounts as registration makes them: a hundred at each moment, every thousandth one
# suspended.
FILL = """
    WITH made AS (
        INSERT INTO users SELECT gen_random_uuid(), 1, 1, 0, 'Person ' || n,
            'Person' || n || '@example.com', 'en', CASE WHEN n %% 1000 = 0 THEN 2 ELSE 1
            END, '{}', 1, %s + (n / 100) * interval '1 second', now()
        FROM generate_series(0, %s) AS n RETURNING user_id, display_name, create_time
    )
    INSERT INTO wallets SELECT 'solana', 'wallet-' || substr(display_name, 8), user_id,
        'phantom', true, create_time FROM made
"""


@pytest.fixture(scope="module")
def crowd(databases: Databases) -> Iterator[Service]:
    """A service with a hundred thousand accounts."""
    with service(databases) as running:
        running.sql.run(FILL, FIRST, MANY - 1)
        running.sql.run("ANALYZE")
        yield running


@pytest.fixture(scope="module")
def boss(crowd: Service) -> tuple[str, str]:
    return "authorization", f"Bearer {admin(crowd).bearer}"


def plan_of(crowd: Service, boss: tuple[str, str], **fields: Any) -> dict[str, Any]:
    """How PostgreSQL answers a call: the plan of its query, with what it touched."""
    seen: list[tuple[str, Any]] = []
    engine = crowd.server._parts.database.engine

    def note(_: Any, __: Any, statement: str, values: Any, *___: Any) -> None:
        if "ORDER BY users.create_time" in statement:
            seen.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    try:
        page(crowd, boss, **fields)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    ((statement, values),) = seen
    explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
    cursor = crowd.sql._connection.execute(explain, values)
    (answer,) = cursor.fetchone().values()  # type: ignore[union-attr] # there is a row
    plan: dict[str, Any] = answer[0]["Plan"]
    return plan


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(n for each in plan.get("Plans", ()) for n in nodes(each))]


def buffers(plan: dict[str, Any]) -> int:
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def medians(
    crowd: Service, boss: tuple[str, str], tokens: dict[int, str]
) -> tuple[float, float]:
    """How long two pages take, in ms; measured anew where other work has disturbed."""
    for _ in range(3):
        times: list[list[float]] = [[], []]
        for _ in range(50):
            for place, token in enumerate(tokens.values()):
                start = time.perf_counter()
                page(crowd, boss, page_size=PAGE, page_token=token)
                times[place].append((time.perf_counter() - start) * 1000)
        first, late = map(statistics.median, times)
        if abs(late / first - 1) < NEARLY:
            break
    return first, late


class TestACrowd:
    def test_the_nine_hundredth_page_takes_as_long_as_the_first(
        self, crowd: Service, boss: tuple[str, str]
    ) -> None:
        """What is read is compared beside the time, which other work disturbs."""
        place = crowd.sql.one(
            "SELECT create_time, user_id FROM users ORDER BY 1, 2 OFFSET %s LIMIT 1",
            899 * PAGE - 1,
        )
        after = Place(place["create_time"], place["user_id"])
        token = pages.write_token(after, ("users", UserFilter()))
        tokens = {1: "", 900: token}
        last = page(crowd, boss, page_size=PAGE, page_token=token)
        assert last.users[0].create_time == at(FIRST + timedelta(seconds=899))
        first, late = medians(crowd, boss, tokens)
        read = {
            number: buffers(plan_of(crowd, boss, page_size=PAGE, page_token=each))
            for number, each in tokens.items()
        }
        tell(
            f"ListUsers of {MANY} accounts, pages of {PAGE}: page 1 {first:.2f} ms, "
            f"page 900 {late:.2f} ms ({(late / first - 1) * 100:+.0f} %); "
            f"{read[1]} and {read[900]} buffers"
        )
        assert abs(read[900] / read[1] - 1) < NEARLY
        assert abs(late / first - 1) < NEARLY

    @pytest.mark.parametrize(
        "fields",
        [
            pytest.param({}, id="none"),
            pytest.param({"status": ACTIVE}, id="status active"),
            pytest.param({"status": SUSPENDED}, id="status suspended"),
            pytest.param({"email": "PERSON77777@example.com"}, id="email"),
            pytest.param({"wallet_address": "wallet-77777"}, id="wallet"),
            pytest.param(
                {"created_from": at(FIRST + timedelta(seconds=700))}, id="from"
            ),
            pytest.param(
                {"created_before": at(FIRST + timedelta(seconds=700))}, id="before"
            ),
            pytest.param(
                {
                    "status": SUSPENDED,
                    "created_from": at(FIRST + timedelta(seconds=900)),
                },
                id="suspended lately",
            ),
        ],
    )
    def test_a_filter_finds_its_page_by_an_index(
        self, crowd: Service, boss: tuple[str, str], fields: dict[str, Any]
    ) -> None:
        plan = plan_of(crowd, boss, page_size=PAGE, **fields)
        assert "Seq Scan" not in {node["Node Type"] for node in nodes(plan)}
        thrown_away = sum(
            node.get("Rows Removed by Filter", 0) for node in nodes(plan)
        )  # fmt: skip
        assert thrown_away <= PAGE
        # Each account of the page costs a look at its wallets.
        assert buffers(plan) < 8 * PAGE
        tell(
            f"{sorted(fields)}: {buffers(plan)} buffers, {thrown_away} rows for nothing"
        )

    @pytest.mark.parametrize(("size", "shown"), [(0, 50), (200, 200), (201, 200)])
    def test_a_size_is_coerced_down(
        self, crowd: Service, boss: tuple[str, str], size: int, shown: int
    ) -> None:
        assert len(page(crowd, boss, page_size=size).users) == shown

    def test_suspended_accounts_are_found_among_all(
        self, crowd: Service, boss: tuple[str, str]
    ) -> None:
        found = every(crowd, boss, status=SUSPENDED, page_size=30)
        assert len(set(found)) == len(found) == MANY // 1000

    def test_administrators_are_found_by_an_index(self, crowd: Service) -> None:
        admin(crowd)
        person(crowd)
        plan = json.dumps(
            crowd.sql.one(
                "EXPLAIN (FORMAT JSON) SELECT user_id FROM users "
                "WHERE 'admin' = ANY (roles) AND status = 1"
            )["QUERY PLAN"]
        )
        assert "users_admins_idx" in plan
