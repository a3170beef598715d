"""Sessions, the generations of their tokens, and used nonces."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import exc, update

from integration.store.rows import LATER, NOW, make_session, make_user
from pourtier.v1.user_pb2 import UserStatus
from pourtier_grpc.store import nonces, sessions
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.sessions import (
    Cutoffs,
    EndCause,
    Session,
    SessionFilter,
    SessionStore,
)
from pourtier_grpc.store.tables import users

NOBODY = UUID(int=0)


@pytest.fixture
def session(database: Database) -> Session:
    """A session that was committed."""
    with database.transaction() as tx:
        made = make_session(tx, make_user(tx))
        tx.commit()
    return made


class TestSessions:
    @pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::1", None])
    def test_a_session_is_found_as_it_was_kept(
        self, tx: Transaction, address: str | None
    ) -> None:
        user = make_user(tx)
        session = make_session(
            tx, user, client_address=address, user_agent="ägent", parent_generation=4
        )
        assert sessions.find(tx, session.session_id) == session

    def test_its_state_tells_what_a_call_needs(
        self, database: Database, session: Session
    ) -> None:
        with database.transaction() as tx:
            suspended = UserStatus.USER_STATUS_SUSPENDED
            tx.run(
                update(users)
                .where(users.c.user_id == session.user_id)
                .values(roles=["admin"], status=suspended)
            )
            tx.commit()
        state = SessionStore(database).state(session.session_id)
        assert state is not None
        assert state.user_id == session.user_id
        assert state.end_cause is None
        assert (state.rotate_time, state.expire_time) == (NOW, LATER)
        assert state.user_status == suspended
        assert state.roles == ("admin",)

    def test_what_is_not_there_is_none(self, database: Database) -> None:
        store = SessionStore(database)
        assert store.find(NOBODY) is None
        assert store.state(NOBODY) is None
        assert store.owner(NOBODY) is None

    def test_its_owner_is_known(self, database: Database, session: Session) -> None:
        store = SessionStore(database)
        assert store.owner(session.session_id) == session.user_id
        assert store.find(session.session_id) == session

    def test_a_session_without_a_user_cannot_be(self, tx: Transaction) -> None:
        user = make_user(tx)
        with pytest.raises(exc.IntegrityError, match="sessions_user_id_fkey"):
            make_session(tx, user, user_id=NOBODY)

    @pytest.mark.parametrize(
        "changes", [{"end_time": NOW}, {"end_cause": EndCause.LOGOUT}]
    )
    def test_an_end_has_a_time_and_a_cause(
        self, tx: Transaction, changes: dict[str, object]
    ) -> None:
        user = make_user(tx)
        with pytest.raises(exc.IntegrityError, match="check constraint"):
            make_session(tx, user, **changes)


class TestRotation:
    def test_it_moves_on_by_one_generation(self, tx: Transaction) -> None:
        session = make_session(tx, make_user(tx), presented=True)
        rotated = sessions.rotate(tx, session, presented=1, key_id="new", now=LATER)
        assert rotated == replace(
            session,
            generation=2,
            parent_generation=1,
            presented=False,
            key_id="new",
            rotate_time=LATER,
        )
        assert sessions.find(tx, session.session_id) == rotated

    def test_a_generation_that_has_passed_moves_nothing(self, tx: Transaction) -> None:
        session = make_session(tx, make_user(tx))
        rotated = sessions.rotate(tx, session, presented=1, key_id="k", now=LATER)
        again = sessions.rotate(tx, session, presented=1, key_id="k", now=LATER)
        assert again is None
        assert sessions.find(tx, session.session_id) == rotated

    def test_an_ended_session_moves_nothing(self, tx: Transaction) -> None:
        session = make_session(tx, make_user(tx))
        wanted = SessionFilter(ids=[session.session_id])
        sessions.end(tx, session.user_id, wanted, EndCause.LOGOUT, NOW)
        assert sessions.rotate(tx, session, presented=1, key_id="k", now=NOW) is None

    def test_of_many_that_rotate_one_generation_exactly_one_does(
        self, database: Database, session: Session
    ) -> None:
        together = threading.Barrier(8)

        def rotate(_: int) -> bool:
            together.wait()
            with database.transaction() as tx:
                moved = sessions.rotate(tx, session, presented=1, key_id="k", now=NOW)
                tx.commit()
            return moved is not None

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(rotate, range(8))) == 1
        found = SessionStore(database).find(session.session_id)
        assert found is not None
        assert found.generation == 2

    def test_a_generation_that_came_back_is_noted(self, tx: Transaction) -> None:
        user = make_user(tx)
        session, other = make_session(tx, user), make_session(tx, user)
        sessions.mark_presented(tx, session.session_id)
        found = sessions.find(tx, session.session_id)
        assert found == replace(session, presented=True)
        assert sessions.find(tx, other.session_id) == other


class TestEnd:
    @pytest.mark.parametrize("cause", EndCause)
    def test_it_is_kept_with_its_cause_and_happens_once(
        self, tx: Transaction, cause: EndCause
    ) -> None:
        user = make_user(tx)
        session, other = make_session(tx, user), make_session(tx, user)
        spared = make_session(tx, user)
        owner = session.user_id
        mine = SessionFilter(ids=[session.session_id])
        both = sorted([session.session_id, other.session_id])
        assert sessions.end(tx, owner, SessionFilter(ids=both), cause, LATER) == both
        ended = replace(session, end_time=LATER, end_cause=cause)
        assert sessions.find(tx, session.session_id) == ended
        later = LATER + timedelta(1)
        assert sessions.end(tx, owner, mine, EndCause.LOGOUT, later) == []
        assert sessions.find(tx, session.session_id) == ended
        assert sessions.find(tx, spared.session_id) == spared

    @pytest.mark.parametrize("ids", [[], [NOBODY]])
    def test_ending_what_is_not_there_ends_nothing(
        self, tx: Transaction, ids: list[UUID]
    ) -> None:
        session = make_session(tx, make_user(tx))
        wanted = SessionFilter(ids=ids)
        assert sessions.end(tx, session.user_id, wanted, EndCause.LOGOUT, NOW) == []
        assert sessions.find(tx, session.session_id) == session

    def test_anothers_is_neither_found_nor_ended(self, tx: Transaction) -> None:
        mine, others = (make_session(tx, make_user(tx)) for _ in range(2))
        both = SessionFilter(ids=[mine.session_id, others.session_id])
        assert sessions.find_own(tx, mine.user_id, mine.session_id) == mine
        assert sessions.find_own(tx, mine.user_id, others.session_id) is None
        ended = sessions.end(tx, mine.user_id, both, EndCause.REVOKED, LATER)
        assert ended == [mine.session_id]
        assert sessions.find(tx, others.session_id) == others

    def test_all_are_ended_or_all_but_one_or_those_that_time_has_spared_or_not(
        self, tx: Transaction
    ) -> None:
        user = make_user(tx)
        owner = UUID(user.user_id)
        cutoffs = Cutoffs(now=NOW, idle_since=NOW, admin_since=NOW)
        fresh, calling = (
            make_session(tx, user, rotate_time=NOW + timedelta(1)) for _ in range(2)
        )
        idle = make_session(tx, user)
        others = SessionFilter(other_than=calling.session_id, alive_at=cutoffs)
        ended = sessions.end(tx, owner, others, EndCause.REVOKED, NOW)
        assert ended == [fresh.session_id]
        over = SessionFilter(over_at=cutoffs)
        ended = sessions.end(tx, owner, over, EndCause.EXPIRED, NOW)
        assert ended == [idle.session_id]
        ended = sessions.end(tx, owner, SessionFilter(), EndCause.SUSPENDED, NOW)
        assert ended == [calling.session_id]

    def test_those_beyond_the_newest_are_the_oldest_that_live(
        self, tx: Transaction
    ) -> None:
        user = make_user(tx)
        owner = UUID(user.user_id)
        cutoffs = Cutoffs(
            now=NOW, idle_since=NOW - timedelta(1), admin_since=NOW - timedelta(1)
        )
        made = [
            make_session(tx, user, create_time=NOW + timedelta(seconds=each))
            for each in (3, 1, 2)
        ]
        make_session(tx, user, create_time=NOW, expire_time=NOW)
        make_session(tx, make_user(tx))
        third, first, second = (each.session_id for each in made)
        assert sessions.beyond(tx, owner, cutoffs, keep=3) == []
        assert sessions.beyond(tx, owner, cutoffs, keep=1) == [second, first]
        assert third in sessions.beyond(tx, owner, cutoffs, keep=0)


class TestNonces:
    def test_a_nonce_is_used_once(self, tx: Transaction) -> None:
        assert nonces.consume(tx, b"nonce", LATER)
        assert not nonces.consume(tx, b"nonce", LATER)
        assert nonces.consume(tx, b"nonce\0", LATER)
        assert make_user(tx)

    def test_a_rolled_back_use_is_none(self, database: Database) -> None:
        with database.transaction() as tx:
            assert nonces.consume(tx, b"rolled back", LATER)
        with database.transaction() as tx:
            assert not nonces.is_consumed(tx, b"rolled back")
            assert nonces.consume(tx, b"rolled back", LATER)
            tx.commit()
        with database.read() as read:
            assert nonces.is_consumed(read, b"rolled back")

    def test_of_many_that_use_one_at_once_exactly_one_does(
        self, database: Database
    ) -> None:
        nonce = new_id(NOW).bytes
        together = threading.Barrier(16)

        def consume(_: int) -> bool:
            together.wait()
            with database.transaction() as tx:
                won = nonces.consume(tx, nonce, LATER)
                tx.commit()
            return won

        with ThreadPoolExecutor(16) as pool:
            assert sum(pool.map(consume, range(16))) == 1

    def test_who_waits_for_a_use_that_is_rolled_back_gets_the_nonce(
        self, database: Database
    ) -> None:
        nonce = new_id(NOW).bytes
        with ThreadPoolExecutor(1) as pool, database.transaction() as first:
            assert nonces.consume(first, nonce, LATER)

            def consume() -> bool:
                with database.transaction() as tx:
                    return nonces.consume(tx, nonce, LATER)

            waiting = pool.submit(consume)
            assert not waiting.done()
            first.connection.rollback()
            assert waiting.result(5)
