"""A person's own sessions: listed, and ended from afar."""

from __future__ import annotations

from datetime import UTC, timedelta
from uuid import UUID, uuid4

import pytest
from grpc import StatusCode

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.auth_service_pb2 import Tokens
from pourtier_grpc.store import pages
from pourtier_grpc.store.pages import Place
from support.api import refusal
from support.callers import Person, api_key, audited, person, row_of
from support.service import Service
from support.threads import reasons, successes, together
from support.tokens import me


@pytest.fixture
def ann(shared: Service) -> Person:
    return person(shared)


def listed(
    service: Service, bearer: str, size: int = 0, token: str = ""
) -> pb.ListSessionsResponse:
    request = pb.ListSessionsRequest(page_size=size, page_token=token)
    return service.api.call(service.api.auth.ListSessions, request, bearer=bearer)


def ids(answer: pb.ListSessionsResponse) -> list[str]:
    return [session.session_id for session in answer.sessions]


def revoke(service: Service, bearer: str, session_id: str) -> None:
    request = pb.RevokeSessionRequest(session_id=session_id)
    service.api.call(service.api.auth.RevokeSession, request, bearer=bearer)


def revoke_all(service: Service, bearer: str, *, keep_current: bool = False) -> int:
    request = pb.RevokeAllSessionsRequest(keep_current=keep_current)
    call = service.api.auth.RevokeAllSessions
    return service.api.call(call, request, bearer=bearer).revoked_count


def logins(service: Service, ann: Person, count: int, **apart: float) -> list[Tokens]:
    """That many more sessions, so far apart."""
    made = []
    for _ in range(count):
        service.clock.move(**apart)
        made.append(service.api.login(ann.wallet).tokens)
    return made


def add_sessions(service: Service, ann: Person, count: int) -> None:
    """Copies of the account's session, all begun at the same moment."""
    columns = [
        row["column_name"]
        for row in service.sql.run(
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_name = 'sessions' AND column_name <> 'session_id'"
        )
    ]
    names = ", ".join(columns)
    service.sql.run(
        f"INSERT INTO sessions (session_id, {names}) "  # noqa: S608 - our own names
        f"SELECT gen_random_uuid(), {names} FROM sessions, generate_series(1, %s) "
        "WHERE session_id = %s",
        count,
        ann.tokens.session_id,
    )


def pages_of(service: Service, bearer: str, size: int) -> list[pb.ListSessionsResponse]:
    """Every page of the list, from the first on."""
    found: list[pb.ListSessionsResponse] = []
    token = ""
    while not found or token:
        found.append(listed(service, bearer, size, token))
        token = found[-1].next_page_token
    return found


class TestListing:
    def test_the_newest_comes_first_and_the_calling_one_is_marked(
        self, shared: Service, ann: Person
    ) -> None:
        more = logins(shared, ann, 2, seconds=1)
        answer = listed(shared, more[0].access_token)
        assert ids(answer) == [
            more[1].session_id,
            more[0].session_id,
            ann.tokens.session_id,
        ]
        assert [each.current for each in answer.sessions] == [False, True, False]
        assert not answer.next_page_token

    def test_a_session_is_told_by_where_it_began_and_how_long_it_lives(
        self, shared: Service, ann: Person
    ) -> None:
        began = shared.clock.now()
        shared.clock.move(minutes=5)
        refreshed = shared.clock.now()
        bearer = shared.api.refresh(ann.tokens.refresh_token).access_token
        (session,) = listed(shared, bearer).sessions
        assert session.wallet_address == ann.wallet.address
        assert session.ip_address == "127.0.0.1"
        assert "grpc-python" in session.user_agent
        assert session.create_time.ToDatetime(UTC) == began
        assert session.refresh_time.ToDatetime(UTC) == refreshed
        assert session.expire_time.ToDatetime(UTC) == refreshed + timedelta(days=30)

    def test_nobody_elses_is_among_them(self, shared: Service, ann: Person) -> None:
        other = person(shared)
        assert ids(listed(shared, ann.bearer)) == [ann.tokens.session_id]
        assert ids(listed(shared, other.bearer)) == [other.tokens.session_id]

    def test_what_has_ended_or_expired_is_not(
        self, shared: Service, ann: Person
    ) -> None:
        logins(shared, ann, 1)
        shared.clock.move(days=31)
        (ended, live) = logins(shared, ann, 2, seconds=1)
        revoke(shared, live.access_token, ended.session_id)
        assert ids(listed(shared, live.access_token)) == [live.session_id]

    def test_listing_writes_nothing(self, shared: Service, ann: Person) -> None:
        before = shared.sql.everything()
        listed(shared, ann.bearer)
        assert shared.sql.everything() == before

    def test_a_service_has_no_sessions(self, shared: Service) -> None:
        with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
            shared.api.call(
                shared.api.auth.ListSessions,
                pb.ListSessionsRequest(),
                api_key(shared, "users.read"),
            )


class TestPages:
    @pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 100])
    def test_they_hold_every_session_once_in_their_order(
        self, shared: Service, ann: Person, size: int
    ) -> None:
        """Ties in time among them, at the edges of pages too."""
        add_sessions(shared, ann, 4)
        logins(shared, ann, 2, seconds=1)
        whole = ids(listed(shared, ann.bearer))
        assert len(set(whole)) == 7
        found = pages_of(shared, ann.bearer, size)
        assert [each for page in found for each in ids(page)] == whole
        assert len(found) == -(-7 // size)

    @pytest.mark.parametrize(
        ("size", "shown"), [(0, 50), (50, 50), (100, 100), (101, 100), (2**31 - 1, 100)]
    )
    def test_a_size_is_coerced_down(
        self, shared: Service, ann: Person, size: int, shown: int
    ) -> None:
        add_sessions(shared, ann, 110)
        answer = listed(shared, ann.bearer, size)
        assert len(answer.sessions) == shown
        assert answer.next_page_token

    @pytest.mark.parametrize("size", [-1, -(2**31)])
    def test_a_negative_size_is_refused(
        self, shared: Service, ann: Person, size: int
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            listed(shared, ann.bearer, size)
        assert caught[0].violations == ["page_size"]

    def test_a_session_that_begins_meanwhile_moves_no_page(
        self, shared: Service, ann: Person
    ) -> None:
        logins(shared, ann, 3, seconds=1)
        whole = ids(listed(shared, ann.bearer))
        first = listed(shared, ann.bearer, 2)
        logins(shared, ann, 3, seconds=1)
        second = listed(shared, ann.bearer, 2, first.next_page_token)
        assert ids(first) + ids(second) == whole
        assert not second.next_page_token

    @pytest.mark.parametrize("token", ["x", "AAAA", "A" * 44, "é", "=", "-_-_" * 128])
    def test_a_made_up_token_is_refused(
        self, shared: Service, ann: Person, token: str
    ) -> None:
        with refusal("INVALID_PAGE_TOKEN", StatusCode.INVALID_ARGUMENT) as caught:
            listed(shared, ann.bearer, 1, token)
        assert caught[0].metadata == {}

    def test_anothers_token_is_refused(self, shared: Service, ann: Person) -> None:
        other = person(shared)
        add_sessions(shared, other, 1)
        token = listed(shared, other.bearer, 1).next_page_token
        assert token
        with refusal("INVALID_PAGE_TOKEN"):
            listed(shared, ann.bearer, 1, token)

    def test_a_token_at_the_edge_of_time_harms_nobody(
        self, shared: Service, ann: Person
    ) -> None:
        filters = ("sessions", UUID(ann.user_id))
        begin = shared.clock.now().replace(year=1)
        token = pages.write_token(Place(begin, UUID(int=0)), filters)
        assert ids(listed(shared, ann.bearer, 1, token)) == []
        end = shared.clock.now().replace(year=9999)
        token = pages.write_token(Place(end, UUID(int=0)), filters)
        assert ids(listed(shared, ann.bearer, 1, token)) == [ann.tokens.session_id]


class TestRevoking:
    def test_its_tokens_are_good_for_nothing_from_then_on(
        self, shared: Service, ann: Person
    ) -> None:
        (other,) = logins(shared, ann, 1)
        revoke(shared, ann.bearer, other.session_id)
        with refusal("SESSION_ENDED", StatusCode.UNAUTHENTICATED) as caught:
            me(shared.api, other.access_token)
        assert caught[0].metadata == {"cause": "REVOKED"}
        with refusal("SESSION_ENDED", StatusCode.UNAUTHENTICATED):
            shared.api.refresh(other.refresh_token)
        assert me(shared.api, ann.bearer).user_id == ann.user_id

    def test_the_calling_one_can_be_revoked_too(
        self, shared: Service, ann: Person
    ) -> None:
        revoke(shared, ann.bearer, ann.tokens.session_id.upper())
        with refusal("SESSION_ENDED"):
            me(shared.api, ann.bearer)

    def test_it_is_audited_and_told_once_however_often_it_is_asked_for(
        self, shared: Service, ann: Person
    ) -> None:
        (other,) = logins(shared, ann, 1)
        before = row_of(shared, ann.user_id)
        for _ in range(2):
            revoke(shared, ann.bearer, other.session_id)
        (event,) = audited(shared, ann.user_id, "session.ended")
        assert event["actor"] == f"user:{ann.user_id}"
        assert event["session_id"] == other.session_id
        assert event["details"] == {"cause": "REVOKED"}
        *_, told = shared.sql.events(ann.user_id)
        assert told["session_id"] == other.session_id
        assert told["cause"] == "REVOKED"
        assert shared.sql.event_types(ann.user_id).count("session.ended") == 1
        after = row_of(shared, ann.user_id)
        assert after["version"] == before["version"] + 1
        # The resource `User` is the same, and so is its etag.
        assert after["revision"] == before["revision"]

    def test_anothers_and_one_that_never_was_are_the_same(
        self, shared: Service, ann: Person
    ) -> None:
        other = person(shared)
        before = shared.sql.everything()
        said = []
        for session_id in (other.tokens.session_id, str(uuid4())):
            with refusal("SESSION_NOT_FOUND", StatusCode.NOT_FOUND) as caught:
                revoke(shared, ann.bearer, session_id)
            assert caught[0].metadata == {"session_id": session_id}
            said.append(str(caught[0]).replace(session_id, ""))
        assert said[0] == said[1]
        assert shared.sql.everything() == before

    @pytest.mark.parametrize("session_id", ["", "x", "0" * 32, "{}"])
    def test_what_is_no_id_is_refused_as_such(
        self, shared: Service, ann: Person, session_id: str
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            revoke(shared, ann.bearer, session_id)
        assert set(caught[0].violations) == {"session_id"}


class TestRevokingAll:
    @pytest.mark.parametrize("keep_current", [False, True])
    def test_it_ends_them_all_or_all_but_the_calling_one(
        self, shared: Service, ann: Person, keep_current: bool
    ) -> None:
        bystander = person(shared)
        others = logins(shared, ann, 3)
        ended = [each.session_id for each in others]
        if not keep_current:
            ended.append(ann.tokens.session_id)
        before = row_of(shared, ann.user_id)
        done = revoke_all(shared, ann.bearer, keep_current=keep_current)
        assert done == len(ended)
        for each in others:
            with refusal("SESSION_ENDED"):
                me(shared.api, each.access_token)
        if keep_current:
            assert ids(listed(shared, ann.bearer)) == [ann.tokens.session_id]
            assert revoke_all(shared, ann.bearer, keep_current=True) == 0
        else:
            with refusal("SESSION_ENDED"):
                me(shared.api, ann.bearer)
        told = [e for e in shared.sql.events(ann.user_id) if "cause" in e]
        assert {each["session_id"] for each in told} == set(ended)
        events = audited(shared, ann.user_id, "session.ended")
        assert {event["session_id"] for event in events} == set(ended)
        assert {event["actor"] for event in events} == {f"user:{ann.user_id}"}
        after = row_of(shared, ann.user_id)
        assert after["version"] == before["version"] + 1
        assert after["event_sequence"] == before["event_sequence"] + len(ended)
        assert me(shared.api, bystander.bearer).user_id == bystander.user_id

    def test_what_is_over_by_time_is_neither_ended_nor_counted(
        self, shared: Service, ann: Person
    ) -> None:
        shared.clock.move(days=31)
        live = logins(shared, ann, 2)
        bearer = live[0].access_token
        # Nobody has swept yet; asked for by its id it is over all the same.
        revoke(shared, bearer, ann.tokens.session_id)
        assert revoke_all(shared, bearer, keep_current=True) == 1
        assert revoke_all(shared, bearer) == 1
        ended = {e["session_id"] for e in audited(shared, ann.user_id, "session.ended")}
        assert ended == {each.session_id for each in live}
        with refusal("SESSION_ENDED") as caught:
            shared.api.refresh(ann.tokens.refresh_token)
        assert caught[0].metadata == {"cause": "EXPIRED"}

    def test_two_at_once_end_each_session_once(
        self, shared: Service, ann: Person
    ) -> None:
        tokens = [ann.tokens, *logins(shared, ann, 7)]

        def end(number: int) -> int:
            bearer = tokens[number].access_token
            return revoke_all(shared, bearer, keep_current=number % 2 == 0)

        outcomes = together(8, end)
        assert set(reasons(outcomes)) <= {"SESSION_ENDED"}
        types = shared.sql.event_types(ann.user_id)
        assert types.count("session.ended") == sum(successes(outcomes))
        sequences = [each["sequence"] for each in shared.sql.events(ann.user_id)]
        assert sequences == list(range(1, len(types) + 1))
