"""ListAuditEvents: what happened, the newest first, as an administrator reads it."""

from __future__ import annotations

from datetime import UTC
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import compliance_service_pb2 as compliance_pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.store.keys import KeyUse
from support.api import Api, refusal
from support.callers import WHY, Person, admin, api_key, person, suspend
from support.proofs import send
from support.service import Service

Credential = tuple[str, str]
Events = list[compliance_pb.AuditEvent]


@pytest.fixture
def chief(shared: Service) -> Person:
    return admin(shared)


@pytest.fixture
def boss(chief: Person) -> Credential:
    return "authorization", f"Bearer {chief.bearer}"


@pytest.fixture
def ann(shared: Service) -> Person:
    return person(shared, display_name="Ann", email="ann@example.com")


def page(
    service: Service, credential: Credential, **fields: Any
) -> compliance_pb.ListAuditEventsResponse:
    request = compliance_pb.ListAuditEventsRequest(**fields)
    call = service.api.compliance.ListAuditEvents
    return service.api.call(call, request, credential)


def every(service: Service, credential: Credential, **fields: Any) -> Events:
    """A whole list, a page after the other."""
    found: Events = []
    token, more = "", True
    while more:
        answer = page(service, credential, page_token=token, **fields)
        found += answer.events
        token = answer.next_page_token
        more = bool(token)
    return found


def ids(events: Events) -> list[str]:
    return [each.event_id for each in events]


def now_of(service: Service) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(service.clock.now())
    return timestamp


def refuse(service: Service, of: Person) -> None:
    """A proof that was used, once more."""
    proof = service.api.proof(of.wallet)
    send(service, "Login", proof)
    with refusal("NONCE_CONSUMED"):
        send(service, "Login", proof)


class TestEvents:
    def test_an_event_tells_who_did_what_to_whom_from_where(
        self, shared: Service, chief: Person, boss: Credential, ann: Person
    ) -> None:
        shared.clock.move(seconds=1)
        request_id = ("x-request-id", "the-suspension")
        request = user_pb.SuspendUserRequest(user_id=ann.user_id, reason=WHY)
        shared.api.call(shared.api.users.SuspendUser, request, boss, request_id)
        (event,) = every(shared, boss, user_id=ann.user_id, action="user.suspended")
        assert UUID(event.event_id).version == 7
        assert event.event_time.ToDatetime(UTC) == shared.clock.now()
        assert event.actor == f"admin:{chief.user_id}"
        assert (event.user_id, event.session_id) == (ann.user_id, "")
        assert event.request_id == "the-suspension"
        assert MessageToDict(event.details) == {
            "reason": WHY,
            "changes": {"status": 2},
        }
        assert event.ip_address == "127.0.0.1"
        assert "grpc-python" in event.user_agent
        assert event.wallet_address == ann.wallet.address
        assert event.count == 1
        (ended,) = every(shared, boss, user_id=ann.user_id, action="session.ended")
        assert ended.session_id == ann.tokens.session_id
        assert ended.details["cause"] == "SUSPENDED"

    def test_every_act_is_there_by_who_did_it(self, own: Service) -> None:
        chief = admin(own)
        boss = ("authorization", f"Bearer {chief.bearer}")
        ann = person(own)
        kyc = api_key(own, "users.kyc", name="checker")
        prefix = kyc[1].split("_")[1]
        users = own.api.users
        own.api.call(
            users.SetKycLevel,
            user_pb.SetKycLevelRequest(user_id=ann.user_id, reason=WHY, kyc_level=2),  # type: ignore[arg-type] # BASIC
            kyc,
        )
        own.api.call(
            users.UpdateMe,
            user_pb.UpdateMeRequest(user=User(locale="de")),
            bearer=ann.bearer,
        )
        suspend(own, chief.bearer, ann.user_id)
        own.server._parts.key_rotation.rotate(KeyUse.HMAC, at_once=True)
        own.clock.move(days=31)
        own.server._parts.expiry.sweep()
        boss = (
            "authorization",
            f"Bearer {own.api.login(chief.wallet).tokens.access_token}",
        )
        admins, users_actor = f"admin:{chief.user_id}", f"user:{ann.user_id}"
        actors = {(e.action, e.actor) for e in every(own, boss)}
        assert actors >= {
            ("user.role_granted", "operator"),
            ("user.registered", users_actor),
            ("session.started", users_actor),
            ("user.updated", users_actor),
            ("user.kyc_level_set", f"service:checker/{prefix}"),
            ("user.suspended", admins),
            ("session.ended", admins),
            ("session.ended", "system"),
            ("api_key.created", "operator"),
            ("key.rotated", "operator"),
            ("key.generated", "operator"),
            ("key.generated", "system"),
        }

    def test_what_was_erased_is_empty_and_the_event_stays(
        self, shared: Service, boss: Credential, ann: Person
    ) -> None:
        before = every(shared, boss, user_id=ann.user_id)
        shared.sql.run("DELETE FROM audit_personal WHERE user_id = %s", ann.user_id)
        after = every(shared, boss, user_id=ann.user_id)
        assert {each.wallet_address for each in before} == {ann.wallet.address}
        for event in after:
            personal = (event.ip_address, event.user_agent, event.wallet_address)
            assert personal == ("", "", "")
        for event in before:
            event.ip_address = event.user_agent = event.wallet_address = ""
        assert after == before

    def test_a_forged_address_on_the_native_port_is_not_believed(
        self, shared: Service, boss: Credential
    ) -> None:
        forged = [
            (name, "203.0.113.9")
            for name in (
                "x-forwarded-for",
                "x-envoy-external-address",
                "x-real-ip",
                "x-pourtier-client-address",
            )
        ]
        forged.append(("forwarded", "for=203.0.113.9"))
        ann = person(shared)
        proof = shared.api.proof(ann.wallet)
        login = pb.LoginRequest(**proof)
        tokens = shared.api.call(shared.api.auth.Login, login, *forged).tokens
        with refusal("NONCE_CONSUMED"):
            shared.api.call(shared.api.auth.Login, login, *forged)
        events = every(shared, boss, user_id=ann.user_id)
        assert {event.ip_address for event in events} == {"127.0.0.1"}
        refused = every(shared, boss, action="proof.refused")
        mine = [e for e in refused if e.wallet_address == ann.wallet.address]
        assert [event.ip_address for event in mine] == ["127.0.0.1"]
        request = pb.ListSessionsRequest()
        call = shared.api.auth.ListSessions
        for session in shared.api.call(
            call, request, *forged, bearer=tokens.access_token
        ).sessions:
            assert session.ip_address == "127.0.0.1"

    def test_the_edges_own_word_is_believed_on_the_edges_socket(
        self, shared: Service, boss: Credential, ann: Person
    ) -> None:
        edge = Api(f"unix:{shared.settings.grpc_unix_socket}")
        try:
            login = pb.LoginRequest(**shared.api.proof(ann.wallet))
            edge.call(
                edge.auth.Login,
                login,
                ("x-pourtier-client-address", "203.0.113.9"),
                ("x-forwarded-for", "198.51.100.1"),
            )
        finally:
            edge.close()
        events = every(shared, boss, user_id=ann.user_id, action="session.started")
        assert {e.ip_address for e in events} == {"127.0.0.1", "203.0.113.9"}


class TestPages:
    @pytest.fixture
    def since(self, shared: Service) -> Timestamp:
        """Some events at one moment, and refused proofs among them."""
        shared.clock.move(minutes=2)
        start = now_of(shared)
        ann = person(shared)
        refuse(shared, ann)
        shared.clock.move(minutes=1)
        refuse(shared, ann)
        person(shared)
        # Counted at the beginning of their minute, which is before `start`.
        start.FromSeconds(start.seconds // 60 * 60)
        return start

    @pytest.mark.parametrize("size", [1, 2, 3, 5, 200])
    def test_they_hold_every_event_once_the_newest_first(
        self, shared: Service, boss: Credential, since: Timestamp, size: int
    ) -> None:
        whole = every(shared, boss, event_from=since, page_size=200)
        assert len(whole) >= 8
        assert [e.action for e in whole].count("proof.refused") >= 2
        order = [(e.event_time.ToNanoseconds(), e.event_id) for e in whole]
        assert order == sorted(order, reverse=True)
        assert every(shared, boss, event_from=since, page_size=size) == whole

    def test_what_happens_meanwhile_neither_hides_nor_repeats_anything(
        self, shared: Service, boss: Credential, since: Timestamp
    ) -> None:
        whole = ids(every(shared, boss, event_from=since))
        first = page(shared, boss, event_from=since, page_size=3)
        shared.clock.move(seconds=1)
        refuse(shared, person(shared))
        rest = page(shared, boss, event_from=since, page_token=first.next_page_token)
        shown = ids([*first.events, *rest.events])
        assert len(set(shown)) == len(shown)
        # Refused proofs stand at the beginning of their minute: one may have come in.
        assert [each for each in shown if each in whole] == whole

    @pytest.mark.parametrize(("size", "shown"), [(0, 50), (200, 200), (2**31 - 1, 200)])
    def test_a_size_is_coerced_down(
        self, shared: Service, boss: Credential, size: int, shown: int
    ) -> None:
        shared.sql.run(
            "INSERT INTO audit_events SELECT gen_random_uuid(), now(), action, user_id,"
            " body FROM (SELECT * FROM audit_events LIMIT 1) AS one,"
            " generate_series(1, 210)"
        )
        assert len(page(shared, boss, page_size=size).events) == shown

    def test_a_negative_size_is_refused(
        self, shared: Service, boss: Credential
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            page(shared, boss, page_size=-1)
        assert caught[0].violations == ["page_size"]

    @pytest.mark.parametrize(
        "other",
        [
            {"action": "session.ended"},
            {"user_id": str(UUID(int=1))},
            {"event_before": Timestamp(seconds=1)},
            {"event_from": Timestamp(seconds=1)},
        ],
        ids=lambda each: next(iter(each)),
    )
    def test_a_token_of_another_list_or_of_other_filters_is_refused(
        self,
        shared: Service,
        boss: Credential,
        since: Timestamp,
        other: dict[str, Any],
    ) -> None:
        token = page(shared, boss, event_from=since, page_size=1).next_page_token
        assert token
        fields = {"event_from": since, **other}
        with refusal("INVALID_PAGE_TOKEN", StatusCode.INVALID_ARGUMENT):
            page(shared, boss, page_token=token, **fields)
        users = user_pb.ListUsersRequest(created_from=since, page_token=token)
        with refusal("INVALID_PAGE_TOKEN"):
            shared.api.call(shared.api.users.ListUsers, users, boss)


class TestFilters:
    def test_a_user_and_an_action_must_both_hold(
        self, shared: Service, boss: Credential, ann: Person
    ) -> None:
        other = person(shared)
        refuse(shared, ann)
        mine = every(shared, boss, user_id=ann.user_id.upper())
        first = page(shared, boss, user_id=ann.user_id, page_size=1)
        rest = page(
            shared,
            boss,
            user_id=ann.user_id.upper(),
            page_token=first.next_page_token,
        )
        assert ids([*first.events, *rest.events]) == ids(mine)
        assert {e.user_id for e in mine} == {ann.user_id}
        # Of a refused proof nobody is proven, so it is nobody's.
        assert "proof.refused" not in {e.action for e in mine}
        assert every(shared, boss, user_id=ann.user_id, action="proof.refused") == []
        (started,) = every(
            shared, boss, user_id=other.user_id, action="session.started"
        )
        assert started.session_id == other.tokens.session_id
        assert every(shared, boss, user_id=str(uuid4())) == []
        assert every(shared, boss, action="no.such_action") == []

    def test_a_time_is_from_that_moment_and_before_that_moment(
        self, shared: Service, boss: Credential
    ) -> None:
        shared.clock.move(minutes=5)
        first = person(shared)
        start = now_of(shared)
        shared.clock.move(seconds=1)
        end = now_of(shared)
        second = person(shared)
        between = every(shared, boss, event_from=start, event_before=end)
        assert {e.user_id for e in between} == {first.user_id}
        after = every(shared, boss, event_from=end)
        assert {e.user_id for e in after} == {second.user_id}
        assert every(shared, boss, event_from=end, event_before=start) == []

    @pytest.mark.parametrize("field", ["event_from", "event_before"])
    @pytest.mark.parametrize("seconds", [-62_135_596_801, 253_402_300_800, 2**63 - 1])
    def test_a_time_outside_the_years_is_refused(
        self, shared: Service, boss: Credential, field: str, seconds: int
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            page(shared, boss, **{field: Timestamp(seconds=seconds)})
        assert caught[0].violations == [field]

    @pytest.mark.parametrize(
        ("field", "value"),
        [("user_id", "x"), ("action", "x" * 65), ("action", "A"), ("action", "a\n")],
    )
    def test_a_filter_that_breaks_its_rule_is_refused(
        self, shared: Service, boss: Credential, field: str, value: str
    ) -> None:
        with refusal("INVALID_FIELD", StatusCode.INVALID_ARGUMENT) as caught:
            page(shared, boss, **{field: value})
        assert set(caught[0].violations) == {field}


def test_nobody_else_may_read_it(shared: Service, ann: Person) -> None:
    with pytest.raises(grpc.RpcError):
        shared.api.compliance.ListAuditEvents(
            compliance_pb.ListAuditEventsRequest(), timeout=5
        )
    for credential in (
        ("authorization", f"Bearer {ann.bearer}"),
        api_key(shared, "users.read", "users.kyc", "auth.introspect"),
    ):
        with refusal("PERMISSION_DENIED", StatusCode.PERMISSION_DENIED):
            page(shared, credential, user_id=ann.user_id)


def test_reading_writes_nothing(shared: Service, boss: Credential) -> None:
    before = shared.sql.everything()
    page(shared, boss)
    assert shared.sql.everything() == before
