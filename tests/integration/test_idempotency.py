"""Idempotency keys: one effect of all calls under a key, and one answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from pourtier.v1 import auth_service_pb2 as auth_pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import KycLevel, User
from pourtier_grpc.config import Settings
from pourtier_grpc.store import idempotency
from support import rpcs
from support.api import refusal
from support.callers import api_key, person
from support.keyed import Keyed, audit_count, calls, metering, paying, publishing
from support.passeur import PasseurSim
from support.service import Service
from support.threads import reasons, successes, together
from support.waiting import wait_until

KEY = "idempotency-key"


@pytest.fixture
def settings(make_settings: Callable[..., Settings], sim: PasseurSim) -> Settings:
    return make_settings(passeur_url=sim.url)


def rpc(service: Service, name: str) -> Any:
    """The stub of a method of whichever service has it."""
    api = service.api
    stubs = (api.auth, api.users, api.compliance, api.escrow, api.subscriptions)
    return next(getattr(stub, name) for stub in stubs if hasattr(stub, name))


def send(service: Service, keyed: Keyed, *keys: str) -> Message:
    metadata = [(KEY, key) for key in keys]
    method = rpc(service, keyed.name)
    answer: Message = service.api.call(
        method, keyed.request, *metadata, *keyed.credential, bearer=keyed.bearer
    )
    return answer


def rows(service: Service) -> list[dict[str, Any]]:
    return service.sql.run("SELECT * FROM idempotency_keys ORDER BY create_time")


def renaming(service: Service, name: str = "Ann") -> Keyed:
    ann = person(service)
    return Keyed(
        name="UpdateMe",
        request=user_pb.UpdateMeRequest(user=User(display_name=name)),
        bearer=ann.bearer,
        effects=audit_count(service),
    )


def test_a_repeat_gets_the_first_answer_and_has_no_effect(
    own: Service, sim: PasseurSim
) -> None:
    # Before the texts are published, without which nobody registers any more.
    made = [*paying(own, sim), *metering(own), *calls(own)]
    for number, keyed in enumerate(made):
        first = send(own, keyed, f"key-{number}")
        before = keyed.effects()
        assert send(own, keyed, f"key-{number}") == first
        assert keyed.effects() == before
    assert len(rows(own)) == len(made)
    assert all(row["complete_time"] is not None for row in rows(own))
    # Of no method that takes a key is it unknown whether it keeps its answer.
    taking = {each.name for each in rpcs.contract_rpcs() if each.policy.idempotency_key}
    assert {keyed.name for keyed in made} == taking


def test_every_method_that_changes_something_for_a_known_caller_takes_one() -> None:
    for each in rpcs.contract_rpcs():
        public = any(access.HasField("public") for access in each.policy.allow)
        takes = each.mutates and not public
        assert each.policy.idempotency_key == takes, each.name


def test_a_repeat_does_not_undo_what_came_since(own: Service) -> None:
    keyed = renaming(own)
    first = send(own, keyed, "k")
    newer = user_pb.UpdateMeRequest(user=User(display_name="Beth"))
    own.api.call(own.api.users.UpdateMe, newer, bearer=keyed.bearer)
    assert send(own, keyed, "k") == first
    me = own.api.call(own.api.users.GetMe, user_pb.GetMeRequest(), bearer=keyed.bearer)
    assert me.display_name == "Beth"


def test_that_an_answer_is_the_first_ones_is_told(own: Service) -> None:
    keyed = renaming(own)

    def headers() -> dict[str, str | bytes]:
        _, call = rpc(own, "UpdateMe").with_call(
            keyed.request,
            metadata=((KEY, "k"), ("authorization", f"Bearer {keyed.bearer}")),
        )
        return dict(call.initial_metadata())

    assert "idempotency-replayed" not in headers()
    assert headers()["idempotency-replayed"] == "true"


def test_another_request_or_method_under_a_key_is_refused(own: Service) -> None:
    keyed = renaming(own)
    send(own, keyed, "k")
    other = user_pb.UpdateMeRequest(user=User(display_name="Other"))
    with refusal("IDEMPOTENCY_KEY_REUSED", StatusCode.FAILED_PRECONDITION):
        own.api.call(own.api.users.UpdateMe, other, (KEY, "k"), bearer=keyed.bearer)
    with refusal("IDEMPOTENCY_KEY_REUSED", StatusCode.FAILED_PRECONDITION):
        own.api.call(
            own.api.auth.RevokeAllSessions,
            auth_pb.RevokeAllSessionsRequest(keep_current=True),
            (KEY, "k"),
            bearer=keyed.bearer,
        )


def test_keys_are_each_callers_own(own: Service) -> None:
    for name in ("Ann", "Beth"):
        answer = send(own, renaming(own, name), "k")
        assert isinstance(answer, User)
        assert answer.display_name == name


def test_a_services_keys_are_its_own_whichever_api_key_it_uses(own: Service) -> None:
    """So that a call can be repeated while its API key is being replaced."""
    ann = person(own)
    first, second, other = (
        api_key(own, "users.kyc", name=name) for name in ("kyc", "kyc", "another")
    )
    request = user_pb.SetKycLevelRequest(
        user_id=ann.user_id, kyc_level=KycLevel.KYC_LEVEL_BASIC, reason="seen"
    )

    def set_level(credential: tuple[str, str]) -> User:
        method = own.api.users.SetKycLevel
        return own.api.call(method, request, (KEY, "k"), credential)

    answer = set_level(first)
    before = own.sql.counts()
    assert set_level(second) == answer
    assert own.sql.counts() == before
    # Another service's key of that name is another key.
    set_level(other)
    assert [row["caller"] for row in rows(own)] == ["service:kyc", "service:another"]


def test_a_refusal_leaves_the_key_free(own: Service) -> None:
    ann = person(own)
    stale = user_pb.UpdateMeRequest(user=User(display_name="Ann", etag='"0"'))
    for _ in range(2):
        with refusal("ETAG_MISMATCH"):
            own.api.call(own.api.users.UpdateMe, stale, (KEY, "k"), bearer=ann.bearer)
    assert rows(own) == []
    good = user_pb.UpdateMeRequest(user=User(display_name="Ann"))
    own.api.call(own.api.users.UpdateMe, good, (KEY, "k"), bearer=ann.bearer)
    assert len(rows(own)) == 1


def test_who_may_no_longer_call_gets_no_answer_from_memory(own: Service) -> None:
    keyed = renaming(own)
    send(own, keyed, "k")
    own.api.call(own.api.auth.Logout, auth_pb.LogoutRequest(), bearer=keyed.bearer)
    with refusal("SESSION_ENDED"):
        send(own, keyed, "k")


def test_after_a_day_a_key_is_new(own: Service) -> None:
    keyed = publishing(own)
    first = send(own, keyed, "k")
    own.clock.move(minutes=29)
    assert send(own, keyed, "k") == first
    own.sql.run("UPDATE idempotency_keys SET create_time = %s", _a_day_ago(own))
    with refusal("DOCUMENT_ALREADY_PUBLISHED"):
        send(own, keyed, "k")


def test_old_keys_are_swept_and_young_ones_stay(own: Service) -> None:
    send(own, renaming(own), "old")
    own.sql.run("UPDATE idempotency_keys SET create_time = %s", _a_day_ago(own))
    send(own, renaming(own), "young")
    database = own.server._parts.database
    assert not idempotency.sweep(database, own.clock.now())
    assert [row["key"] for row in rows(own)] == ["young"]


def _a_day_ago(service: Service) -> object:
    return service.clock.now() - idempotency.LIFETIME


@pytest.mark.parametrize("keys", [("",), ("a b",), ("k" * 256,), ("k", "k")])
def test_a_key_that_is_none_is_refused(own: Service, keys: tuple[str, ...]) -> None:
    keyed = renaming(own)
    with refusal("INVALID_IDEMPOTENCY_KEY", StatusCode.INVALID_ARGUMENT):
        send(own, keyed, *keys)
    assert rows(own) == []


@pytest.mark.parametrize("key", ["k", "k" * 255, '!"#~', "019a-b"])
def test_any_visible_ascii_is_a_key(own: Service, key: str) -> None:
    send(own, renaming(own), key)
    assert [row["key"] for row in rows(own)] == [key]


def test_methods_without_keys_ignore_the_header(own: Service) -> None:
    keyed = renaming(own)
    request = user_pb.GetMeRequest()
    own.api.call(own.api.users.GetMe, request, (KEY, " "), bearer=keyed.bearer)
    assert rows(own) == []


def test_fifty_at_once_have_one_effect_and_one_answer(own: Service) -> None:
    keyed = publishing(own)
    before = keyed.effects()
    outcomes = together(50, lambda _: send(own, keyed, "k"))
    assert reasons(outcomes) == []
    assert len({each.SerializeToString() for each in successes(outcomes)}) == 1
    assert keyed.effects() == before + 1  # type: ignore[operator] # a count
    assert len(rows(own)) == 1


def test_who_waits_too_long_for_a_twin_is_told_when_to_come_again(
    own: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "PATIENCE", "50ms")
    keyed = renaming(own)
    assert own.settings.database_url is not None
    with psycopg.connect(own.settings.database_url.get_secret_value()) as other:
        other.execute("SELECT FROM users FOR UPDATE")
        # The first waits for the account, and the second for the first.
        first = rpc(own, "UpdateMe").future(
            keyed.request,
            metadata=((KEY, "k"), ("authorization", f"Bearer {keyed.bearer}")),
        )
        wait_until(lambda: own.sql.waiting_for_locks() == 1)
        with refusal("IDEMPOTENCY_IN_PROGRESS", StatusCode.ABORTED) as caught:
            send(own, keyed, "k")
        assert caught[0].retry is not None
    assert first.result() == send(own, keyed, "k")


def test_a_refused_twin_leaves_the_key_to_who_waits(own: Service) -> None:
    """Of calls that race, those that are refused stand in nobody's way."""
    ann = person(own)
    etag = ann.user.etag
    request = user_pb.UpdateMeRequest(user=User(display_name="Ann", etag=etag))

    def update(number: int) -> Message:
        answer: Message = own.api.call(
            own.api.users.UpdateMe, request, (KEY, f"k{number % 5}"), bearer=ann.bearer
        )
        return answer

    outcomes = together(25, update)
    assert set(reasons(outcomes)) <= {"ETAG_MISMATCH"}
    (key,) = rows(own)
    assert len(successes(outcomes[int(key["key"][1]) :: 5])) == 5
    assert len(successes(outcomes)) == 5
