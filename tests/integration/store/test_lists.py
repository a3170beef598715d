"""Lists, keys and counts: what the store's newer functions answer on every version."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import ClauseElement, Select, exc, select, text, update

from integration.store.rows import LATER, NOW, make_session, make_user
from pourtier.v1 import compliance_service_pb2 as pb
from pourtier.v1.user_pb2 import User, UserStatus
from pourtier_grpc.store import api_keys, pages, refused_proofs, sessions, users
from pourtier_grpc.store.api_keys import ApiKeyRecord, ApiKeyStore
from pourtier_grpc.store.audit import AuditAction, AuditEvent, AuditLog
from pourtier_grpc.store.audit_reader import AuditFilter, AuditReader
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.pages import Page, Place
from pourtier_grpc.store.sessions import Cutoffs, EndCause, SessionFilter
from pourtier_grpc.store.tables import refused_proofs as refused_table
from pourtier_grpc.store.tables import sessions as sessions_table
from pourtier_grpc.store.tables import users as users_table
from pourtier_grpc.store.users import UserFilter, UserStore
from pourtier_grpc.times import moment

SUSPENDED = UserStatus.USER_STATUS_SUSPENDED
STARTED = AuditAction.SESSION_STARTED
ALL = Page(size=1000, after=None)
MANY = 20_000


def record(name: str = "chevalier", **changes: Any) -> ApiKeyRecord:
    values = {
        "key_id": new_id(NOW),
        "prefix": new_id(NOW).hex[-12:],
        "secret_hash": b"hash",
        "name": name,
        "scopes": ("users.kyc", "users.read"),
        "create_time": NOW,
    }
    return ApiKeyRecord(**{**values, **changes})


def set_columns(tx: Transaction, user: User, **columns: object) -> None:
    mine = users_table.c.user_id == UUID(user.user_id)
    tx.run(update(users_table).where(mine).values(**columns))


class TestUsers:
    @pytest.fixture
    def crowd(self, database: Database) -> list[User]:
        """Five committed accounts, of which three began at one moment."""
        with database.transaction() as tx:
            made = [make_user(tx) for _ in range(5)]
            late = LATER + timedelta(days=len(made))
            for user, time in zip(made, (0, 1, 1, 1, 2), strict=True):
                set_columns(tx, user, create_time=late + timedelta(seconds=time))
            set_columns(tx, made[4], status=SUSPENDED)
            tx.commit()
        found = [UserStore(database).find(UUID(user.user_id)) for user in made]
        kept = [user for user in found if user is not None]
        return sorted(kept, key=lambda u: (u.create_time.ToNanoseconds(), u.user_id))

    def test_a_page_goes_on_after_its_place_through_ties(
        self, database: Database, crowd: list[User]
    ) -> None:
        store = UserStore(database)
        here = UserFilter(created_from=moment(crowd[0].create_time))
        found: list[User] = []
        after = None
        for _ in range(len(crowd)):
            (first, *_) = store.page(here, Page(size=1, after=after))
            found.append(first)
            after = Place(moment(first.create_time), UUID(first.user_id))
        assert found[: len(crowd)] == crowd

    def test_a_page_has_one_more_where_the_list_goes_on(
        self, database: Database, crowd: list[User]
    ) -> None:
        here = UserFilter(created_from=moment(crowd[0].create_time))
        assert len(UserStore(database).page(here, Page(size=2, after=None))) == 3

    def test_a_filter_is_all_of_its_conditions(
        self, database: Database, crowd: list[User]
    ) -> None:
        wallet = crowd[4].wallet_address
        store = UserStore(database)
        for email in ("ann@example.com", "ANN@example.com"):
            wanted = UserFilter(email=email, wallet_address=wallet, status=SUSPENDED)
            assert store.page(wanted, ALL) == [crowd[4]]
        active = UserStatus.USER_STATUS_ACTIVE
        for other in (
            UserFilter(wallet_address=wallet, status=active),
            UserFilter(wallet_address=wallet, email="bob@example.com"),
            UserFilter(wallet_address=wallet, email="nul\0"),
            UserFilter(wallet_address="nul\0"),
        ):
            assert store.page(other, ALL) == []

    def test_many_are_found_by_their_ids_and_wallets(
        self, database: Database, crowd: list[User]
    ) -> None:
        store = UserStore(database)
        ids = [UUID(user.user_id) for user in crowd]
        found = store.find_many([*ids, UUID(int=0), ids[0]])
        assert found == {user.user_id: user for user in crowd}
        assert store.find_many([]) == {}
        assert store.find_by_wallet("solana", crowd[2].wallet_address) == crowd[2]
        assert store.find_by_wallet("stellar", crowd[2].wallet_address) is None

    def test_active_admins_are_locked_and_nobody_else(
        self, database: Database, tx: Transaction
    ) -> None:
        with database.transaction() as before:
            made = [make_user(before) for _ in range(4)]
            for user, roles in zip(
                made, (["admin"], ["helper", "admin"], ["admin"], []), strict=True
            ):
                set_columns(before, user, roles=roles)
            set_columns(before, made[2], status=SUSPENDED)
            before.commit()
        locked = [user.user_id for user in users.lock_admins(tx)]
        assert locked == sorted(locked)
        ids = [user.user_id for user in made]
        assert [each in locked for each in ids] == [True, True, False, False]
        with database.transaction() as other:
            other.run(text("SET LOCAL lock_timeout = '20ms'"))
            for user in made[2:]:
                assert users.lock(other, UUID(user.user_id)) is not None
            with pytest.raises(exc.OperationalError, match="lock timeout"):
                users.lock(other, UUID(ids[0]))
        set_columns(tx, made[0], roles=[])
        set_columns(tx, made[1], roles=[])
        tx.commit()

    def test_each_filter_is_answered_by_an_index(self, database: Database) -> None:
        with database.transaction() as tx:
            fill(tx, FILL)
            tx.run(text("ANALYZE users, wallets"))
            seen = list(plans(tx))
        assert len(seen) == len(FILTERS)
        for wanted, plan in zip(FILTERS, seen, strict=True):
            assert "Seq Scan" not in plan, f"{wanted}: {plan}"

    @pytest.mark.parametrize(
        "without", ["false", "email LIKE '%2_@x.com'", "email <> 'p1000@x.com'"]
    )
    @pytest.mark.parametrize("size", [1, 50, 200])
    def test_an_email_is_found_among_all_whatever_the_page(
        self, tx: Transaction, size: int, without: str
    ) -> None:
        """As a plan for any address as well, such as a driver keeps."""
        fill(tx, FILL)
        tx.run(update(users_table).where(text(without)).values(email=""))
        tx.run(text("ANALYZE users, wallets"))
        for email in ("P1000@x.com", "nobody@x.com"):
            plan = next(plans(tx, [UserFilter(email=email)], size))
            assert "users_email_idx" in plan, plan
            assert "Filter" not in plan.partition("SubPlan")[0], plan
        tx.run(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        query = page_of(UserFilter(email="P1000@x.com"), size)
        written = query.compile(tx.connection, compile_kwargs={"literal_binds": True})
        generic = str(written).replace("'P1000@x.com'", "$1")
        tx.connection.exec_driver_sql(f"PREPARE by_email (text) AS {generic}")
        explain = "EXPLAIN EXECUTE by_email ('P1000@x.com')"
        lines = tx.connection.exec_driver_sql(explain).scalars()
        assert "users_email_idx" in "\n".join(lines)


FILL = f"""
    WITH made AS (
        INSERT INTO users SELECT gen_random_uuid(), 1, 1, 0, '', 'p' || n || '@x.com',
            'en', CASE WHEN n % 1000 = 0 THEN 2 ELSE 1 END, '{{}}', 1,
            timestamptz '2026-01-01' + n * interval '1 second', now()
        FROM generate_series(1, {MANY}) AS n RETURNING user_id, email, create_time
    )
    INSERT INTO wallets
    SELECT 'solana', email, user_id, 'phantom', true, create_time FROM made
"""  # noqa: S608 - a number of ours
# Of each account one that lives and one that has ended long since.
FILL_SESSIONS = """
    WITH made AS (
        INSERT INTO users SELECT gen_random_uuid(), 1, 1, 0, '', '', '', 1, '{}', 1,
            timestamptz '2026-01-01', now()
        FROM generate_series(1, 4000) RETURNING user_id
    )
    INSERT INTO sessions SELECT gen_random_uuid(), user_id, 'solana', '', '', '', 1,
        NULL, false, begin, begin, begin + interval '90 days', ended,
        CASE WHEN ended IS NOT NULL THEN 'LOGOUT' END, NULL, ''
    FROM made, LATERAL (VALUES
        (timestamptz '2026-11-20 11:00', CAST(NULL AS timestamptz)),
        (timestamptz '2026-01-20 11:00', timestamptz '2026-01-20 12:00')
    ) AS lives (begin, ended)
"""
FILTERS = (
    UserFilter(),
    UserFilter(status=SUSPENDED),
    UserFilter(email="P77@x.com"),
    UserFilter(wallet_address="p77@x.com"),
    UserFilter(created_from=NOW),
)


def fill(tx: Transaction, statement: str) -> None:
    """Makes many rows, which may take longer than a statement of the service may."""
    tx.run(text("SET LOCAL statement_timeout = 0"))
    tx.run(text(statement))


def plans(
    tx: Transaction, filters: Iterable[UserFilter] = FILTERS, size: int = 50
) -> Iterator[str]:
    """How each filter's page is found, in the transaction that has the rows."""
    for wanted in filters:
        yield plan_of(tx, page_of(wanted, size))


def page_of(wanted: UserFilter, size: int) -> Select[Any]:
    """The query of a filter's first page."""
    query = users._SELECT.where(*wanted.conditions())
    order = (users_table.c.create_time, users_table.c.user_id)
    return query.order_by(*order).limit(size + 1)


def plan_of(tx: Transaction, query: ClauseElement) -> str:
    """How a query would be answered."""
    written = query.compile(tx.connection, compile_kwargs={"literal_binds": True})
    lines = tx.connection.exec_driver_sql(f"EXPLAIN {written}").scalars()
    return "\n".join(lines)


class TestSessions:
    def test_live_ones_come_newest_first_and_a_page_after_its_place(
        self, tx: Transaction
    ) -> None:
        user = make_user(tx)
        made = [
            make_session(tx, user, create_time=NOW + timedelta(seconds=each))
            for each in (0, 1, 1, 2)
        ]
        make_session(tx, make_user(tx))
        order = sorted(
            made, key=lambda each: (each.create_time, each.session_id), reverse=True
        )
        user_id = UUID(user.user_id)
        # Those of one moment too, in the order in which they began.
        assert order == made[::-1]
        assert sessions.live_of(tx, user_id, ALL) == order
        place = Place(order[1].create_time, order[1].session_id)
        page = sessions.live_of(tx, user_id, Page(size=1, after=place))
        assert page == order[2:]
        sessions.end(
            tx, user_id, SessionFilter(ids=[order[0].session_id]), EndCause.REVOKED, NOW
        )
        assert sessions.live_of(tx, user_id, ALL) == order[1:]

    def test_what_is_over_by_any_rule_is_found_to_the_moment(
        self, tx: Transaction
    ) -> None:
        idle, since = NOW - timedelta(days=30), NOW - timedelta(hours=1)
        moment = timedelta(microseconds=1)
        plain, chief = make_user(tx), make_user(tx)
        set_columns(tx, chief, roles=["helper", "admin"])
        fresh = {"create_time": NOW, "rotate_time": NOW, "expire_time": LATER}
        over = [
            make_session(tx, plain, **{**fresh, "expire_time": NOW}),
            make_session(tx, plain, **{**fresh, "rotate_time": idle}),
            make_session(tx, chief, **{**fresh, "create_time": since}),
        ]
        spared = [
            make_session(tx, plain, **{**fresh, "expire_time": NOW + moment}),
            make_session(tx, plain, **{**fresh, "rotate_time": idle + moment}),
            make_session(tx, plain, **{**fresh, "create_time": since}),
            make_session(tx, chief, **{**fresh, "create_time": since + moment}),
        ]
        ended = make_session(tx, plain, **{**fresh, "expire_time": NOW})
        sessions.end(
            tx,
            ended.user_id,
            SessionFilter(ids=[ended.session_id]),
            EndCause.LOGOUT,
            NOW,
        )
        cutoffs = Cutoffs(now=NOW, idle_since=idle, admin_since=since)
        found = sessions.expired(tx, cutoffs, 100)
        mine = {UUID(plain.user_id), UUID(chief.user_id)}
        assert sorted(each for each in found if each[0] in mine) == sorted(
            (each.user_id, each.session_id) for each in over
        )
        assert found == sorted(found)
        first = sessions.expired(tx, cutoffs, 2)
        assert first == found[:2]
        assert sessions.expired(tx, cutoffs, 100, first[-1]) == found[2:]
        conditions = sessions.live_conditions(cutoffs)
        alive = select(sessions_table.c.session_id).where(*conditions)
        owned = sessions_table.c.user_id.in_(mine)
        assert set(tx.run(alive.where(owned)).scalars()) == {
            each.session_id for each in spared
        }

    def test_what_is_over_is_found_by_indexes(self, database: Database) -> None:
        """Among many that have ended or are alive, which no sweep has to look at."""
        cutoffs = Cutoffs(
            now=NOW,
            idle_since=NOW - timedelta(days=30),
            admin_since=NOW - timedelta(hours=1),
        )
        with database.transaction() as tx:
            fill(tx, FILL_SESSIONS)
            tx.run(text("ANALYZE users, sessions"))
            plan = plan_of(tx, sessions._expired(cutoffs, 200))
        assert "Seq Scan" not in plan, plan
        for index in ("expire_time", "rotate_time"):
            assert f"sessions_live_{index}_idx" in plan, plan


class TestApiKeys:
    @pytest.fixture
    def kept(self, database: Database) -> ApiKeyRecord:
        """A key that was committed."""
        made = record()
        with database.transaction() as tx:
            api_keys.insert(tx, made)
            tx.commit()
        return made

    def test_a_key_is_found_as_it_was_kept(
        self, database: Database, kept: ApiKeyRecord
    ) -> None:
        store = ApiKeyStore(database)
        assert store.find(kept.prefix) == kept
        assert store.find("nobody") is None
        assert "hash" not in repr(kept)

    def test_a_prefix_is_one_keys_alone(
        self, tx: Transaction, kept: ApiKeyRecord
    ) -> None:
        with pytest.raises(exc.IntegrityError, match="api_keys_prefix_key"):
            api_keys.insert(tx, record(prefix=kept.prefix))

    def test_a_use_is_noted_once_a_minute(
        self, database: Database, kept: ApiKeyRecord
    ) -> None:
        store = ApiKeyStore(database)
        store.note_use(kept, NOW)
        # As they stood before is what others still know.
        store.note_use(kept, NOW + timedelta(seconds=59))
        assert store.find(kept.prefix) == replace(kept, last_used_time=NOW)
        store.note_use(kept, NOW + timedelta(minutes=1))
        found = store.find(kept.prefix)
        assert found == replace(kept, last_used_time=NOW + timedelta(minutes=1))

    def test_an_expiry_comes_earlier_and_never_later(self, tx: Transaction) -> None:
        keys = [
            record("dealer"),
            record("dealer", expire_time=NOW),
            record("dealer", expire_time=LATER + timedelta(1)),
            record("other"),
        ]
        for each in keys:
            api_keys.insert(tx, each)
        moved = api_keys.expire(tx, "dealer", LATER)
        assert {each.prefix for each in moved} == {keys[0].prefix, keys[2].prefix}
        assert {each.expire_time for each in moved} == {LATER}
        found = {each.prefix: each.expire_time for each in api_keys.all_api_keys(tx)}
        assert [found[each.prefix] for each in keys] == [LATER, NOW, LATER, None]

    def test_a_revocation_happens_once(self, tx: Transaction) -> None:
        key = record()
        api_keys.insert(tx, key)
        assert api_keys.revoke(tx, key.prefix, NOW) == key
        assert api_keys.revoke(tx, key.prefix, LATER) is None
        assert api_keys.revoke(tx, "nobody", NOW) is None
        (found,) = [r for r in api_keys.all_api_keys(tx) if r.prefix == key.prefix]
        assert found == replace(key, revoke_time=NOW)


class TestRefusedProofs:
    def test_they_are_counted_by_wallet_address_and_minute(
        self, database: Database
    ) -> None:
        wallet = f"wallet {new_id(NOW)}"
        barrier = threading.Barrier(8)

        def refuse(_: int) -> None:
            barrier.wait()
            refused_proofs.count(database, wallet, "192.0.2.1", "NONCE_INVALID", NOW)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(refuse, range(8)))
        refused_proofs.count(database, wallet, None, "NONCE_INVALID", NOW)
        refused_proofs.count(database, wallet, None, "NONCE_CONSUMED", NOW)
        later = NOW + timedelta(minutes=1)
        refused_proofs.count(database, wallet, "192.0.2.1", "NONCE_INVALID", later)
        columns = refused_table.c
        query = (
            select(
                columns.client_address, columns.minute, columns["count"], columns.reason
            )
            .where(columns.wallet_address == wallet)
            .order_by(columns["count"].desc())
        )
        with database.read() as read:
            rows = [tuple(row) for row in read.run(query)]
        minute = NOW.replace(second=0, microsecond=0)
        assert rows == [
            ("192.0.2.1", minute, 8, "NONCE_INVALID"),
            ("", minute, 2, "NONCE_CONSUMED"),
            ("192.0.2.1", minute + timedelta(minutes=1), 1, "NONCE_INVALID"),
        ]

    def test_of_an_address_and_a_minute_few_claimed_wallets_are_told_apart(
        self, database: Database
    ) -> None:
        start = LATER + timedelta(days=7)
        wallets = [f"wallet {new_id(NOW)}" for _ in range(30)]
        barrier = threading.Barrier(len(wallets))

        def refuse(number: int) -> None:
            barrier.wait()
            # One subscriber's, who has so many addresses.
            address = f"2001:db8:1:2::{number:x}"
            reason = "SIGNATURE_INVALID"
            refused_proofs.count(database, wallets[number], address, reason, start)

        with ThreadPoolExecutor(len(wallets)) as pool:
            list(pool.map(refuse, range(len(wallets))))
        network = "2001:db8:1:2::/64"
        first = counted(database, start)
        assert {address for address, _ in first} == {network}
        assert first.pop((network, "")) == 20
        assert list(first.values()) == [1] * 10
        # Whoever has a row goes on with it, and so does who has proven their wallet.
        known = next(iter(first))[1]
        mine = f"wallet {new_id(NOW)}"
        for wallet, proven in ((known, False), (mine, True), (mine, False)):
            address, reason = "2001:db8:1:2::9", "NONCE_CONSUMED"
            refused_proofs.count(
                database, wallet, address, reason, start, proven=proven
            )
        # Elsewhere, and a minute later, there is room.
        refused_proofs.count(database, mine, "2001:db8:1:3::9", "NONCE_INVALID", start)
        refused_proofs.count(database, mine, "192.0.2.1", "NONCE_INVALID", start)
        later = start + timedelta(minutes=1)
        refused_proofs.count(database, mine, "2001:db8:1:2::9", "NONCE_INVALID", later)
        found = counted(database, start)
        assert found[network, known] == 2
        assert found[network, mine] == 2
        assert found[network, ""] == 20
        assert found["2001:db8:1:3::/64", mine] == found["192.0.2.1", mine] == 1
        assert counted(database, later) == {(network, mine): 1}


def counted(database: Database, time: datetime) -> dict[tuple[str, str], int]:
    """What was counted in a minute, by address and wallet."""
    columns = refused_table.c
    query = select(
        columns.client_address, columns.wallet_address, columns["count"].label("times")
    )
    minute = time.replace(second=0, microsecond=0)
    with database.read() as read:
        rows = read.run(query.where(columns.minute == minute)).all()
    return {(row.client_address, row.wallet_address): row.times for row in rows}


class TestAuditReader:
    def test_events_and_counts_are_one_list_the_newest_first(
        self, database: Database
    ) -> None:
        start = LATER + timedelta(days=100)
        log = AuditLog(lambda address: "pseudonym")
        with database.transaction() as tx:
            user = make_user(tx)
            times = [start + timedelta(seconds=each) for each in (0, 30, 30, 90)]
            ids = [
                log.append(
                    tx, AuditEvent(action=STARTED, actor="system", time=time, user=user)
                )
                for time in times
            ]
            tx.commit()
        refused_proofs.count(database, "wallet", None, "NONCE_INVALID", start)
        reader = AuditReader(database)
        here = AuditFilter(event_from=start.replace(second=0, microsecond=0))
        whole = reader.page(here, ALL)
        order = [(each.event_time.ToNanoseconds(), each.event_id) for each in whole]
        assert order == sorted(order, reverse=True)
        assert {each.event_id for each in whole if each.action == STARTED} == {
            str(each) for each in ids
        }
        assert whole[-1].action == "proof.refused"
        paged: list[pb.AuditEvent] = []
        after = None
        while len(paged) < len(whole):
            (first, *_) = reader.page(here, Page(size=1, after=after))
            paged.append(first)
            after = Place(moment(first.event_time), UUID(first.event_id))
        assert paged == whole
        # Those of one moment too, in the order in which they were added.
        assert [UUID(each.event_id) for each in whole[:4]] == ids[::-1]
        mine = replace(here, user_id=UUID(user.user_id))
        assert len(reader.page(mine, ALL)) == 4
        assert reader.page(replace(here, action="nothing"), ALL) == []


def test_a_token_says_where_to_go_on_for_these_filters_alone() -> None:
    place = Place(NOW, new_id(NOW))
    token = pages.write_token(place, ("users", UserFilter()))
    page = pages.read_page(7, token, ("users", UserFilter()), most=10)
    assert page == Page(size=7, after=place)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_page_that_is_the_last_has_no_token(count: int) -> None:
    rows = [Place(NOW + timedelta(seconds=each), new_id(NOW)) for each in range(count)]
    page = Page(size=2, after=None)
    assert pages.end_page(page, rows, lambda row: row, ()) == (rows, "")
    longer = [*rows, *(Place(LATER, new_id(NOW)) for _ in range(3 - count))]
    shown, token = pages.end_page(page, longer, lambda row: row, ())
    assert shown == longer[:2]
    assert pages.read_page(2, token, (), most=2).after == longer[1]
