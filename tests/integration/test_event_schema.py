"""Every type of event happens for real, and arrives as it is defined and documented."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.config import Settings
from pourtier_grpc.devtools.contract import ROOT
from pourtier_grpc.store.event_types import DEFINITIONS, ENVELOPE, EventType
from pourtier_grpc.store.outbox import OutboxEvent
from support import escrow, legal, subscriptions
from support.api import refusal
from support.callers import Person, admin, person, suspend
from support.events import Outbox, outbox_on
from support.passeur import PasseurSim
from support.servers import redis as redis_server
from support.service import Service

DOCUMENT = (ROOT / "docs" / "events.md").read_text()


@pytest.fixture
def settings(make_settings: Callable[..., Settings], sim: PasseurSim) -> Settings:
    return make_settings(passeur_url=sim.url)


def publish(service: Service, _: Person) -> None:
    legal.publish(service, version="1.1", locale="de")


def accept(service: Service, ann: Person) -> None:
    legal.accept(service, ann.bearer, legal.publish(service, version="1.2"))


def register(service: Service, _: Person) -> None:
    agreed = legal.in_force(service)
    person(service, email="ben@example.com", accepted_document_ids=agreed)


def update(service: Service, ann: Person) -> None:
    request = user_pb.UpdateMeRequest(
        user=User(display_name="Ann", email="ann@example.com", locale="sv")
    )
    service.api.call(service.api.users.UpdateMe, request, bearer=ann.bearer)


def log_out(service: Service, ann: Person) -> None:
    tokens = service.api.login(ann.wallet).tokens
    request = pb.LogoutRequest(refresh_token=tokens.refresh_token)
    service.api.call(service.api.auth.Logout, request)


def be_robbed(service: Service, ann: Person) -> None:
    stolen = service.api.login(ann.wallet).tokens.refresh_token
    service.api.refresh(service.api.refresh(stolen).refresh_token)
    service.clock.move(seconds=11)
    with refusal("REFRESH_TOKEN_REUSED"):
        service.api.refresh(stolen)


def be_suspended(service: Service, ann: Person) -> None:
    agreed = legal.in_force(service)
    ben = person(service, accepted_document_ids=agreed)
    suspend(service, admin(service).bearer, ben.user_id)


def signed_in_again(service: Service, ann: Person) -> Person:
    """Her, after her session has ended in months that have passed."""
    return replace(ann, tokens=service.api.login(ann.wallet).tokens)


def buy(service: Service, ann: Person) -> None:
    subscriptions.subscribe(service, ann)


def change_mind(service: Service, ann: Person) -> None:
    (live,) = subscriptions.listed(service, ann)
    subscriptions.update(service, ann, live.subscription_id, auto_renew=False)
    subscriptions.update(service, ann, live.subscription_id, auto_renew=True)


def let_it_renew(service: Service, _: Person) -> None:
    service.clock.move(days=31)
    subscriptions.work(service)


def cancel(service: Service, ann: Person) -> None:
    ann = signed_in_again(service, ann)
    (live,) = subscriptions.listed(service, ann)
    subscriptions.cancel(service, ann, live.subscription_id)
    let_it_renew(service, ann)


def let_it_expire(service: Service, ann: Person) -> None:
    ann = signed_in_again(service, ann)
    subscriptions.subscribe(service, ann, auto_renew=False)
    let_it_renew(service, ann)


STORIES: dict[EventType, Callable[[Service, Person], None]] = {
    EventType.USER_CREATED: register,
    EventType.USER_UPDATED: update,
    EventType.USER_SUSPENDED: be_suspended,
    EventType.SESSION_ENDED: log_out,
    EventType.SESSION_REUSE_DETECTED: be_robbed,
    EventType.LEGAL_DOCUMENT_PUBLISHED: publish,
    EventType.LEGAL_DOCUMENT_ACCEPTED: accept,
    # These take months: they come last.
    EventType.SUBSCRIPTION_ACTIVATED: buy,
    EventType.SUBSCRIPTION_CHANGED: change_mind,
    EventType.SUBSCRIPTION_RENEWED: let_it_renew,
    EventType.SUBSCRIPTION_CANCELLED: cancel,
    EventType.SUBSCRIPTION_EXPIRED: let_it_expire,
}


def documented(event_type: str) -> set[str]:
    """The fields that the document gives to every event and to that type."""
    sections = re.split(r"^##+ (.*)$", DOCUMENT, flags=re.MULTILINE)
    by_title = dict(zip(sections[1::2], sections[2::2], strict=True))
    tables = by_title["What every event has"] + by_title[event_type]
    shared = re.search(r"\]\(#([\w-]+)\)", by_title[event_type])
    if shared is not None:
        slugs = {title.lower().replace(" ", "-"): title for title in by_title}
        tables += by_title[slugs[shared[1]]]
    return set(re.findall(r"^\| `(\w+)` \|", tables, re.MULTILINE))


def heard(box: Outbox) -> dict[str, str]:
    """Relays what waits; answers on which channel each event's text was heard."""
    with redis.Redis.from_url(box.server.url) as client:
        listening: Any = client.pubsub(ignore_subscribe_messages=True)
        listening.psubscribe("*")
        listening.get_message(timeout=1)
        box.drain()
        found = {}
        while message := listening.get_message(timeout=0.5):
            found[message["data"].decode()] = message["channel"].decode()
        listening.close()
    return found


def test_every_type_happens_and_arrives_as_it_is_defined_and_documented(
    own: Service, database_url: str, sim: PasseurSim
) -> None:
    legal.publish_all(own)
    ann = person(own, accepted_document_ids=legal.in_force(own))
    escrow.funded(own, sim, ann, "100")
    assert set(STORIES) == set(EventType)
    for story in STORIES.values():
        story(own, ann)
    with redis_server() as server, outbox_on(database_url, server) as box:
        channels = heard(box)
        events = box.arrived()
        rows = {str(row["event_id"]): row for row in box.rows()}
        assert len(events) == len(rows) == len(channels)
        consumer = box.read()
    assert (consumer.duplicates, consumer.early) == (0, 0)
    assert {event["event_type"] for event in events} == set(EventType)
    for event in events:
        definition = DEFINITIONS[EventType(event["event_type"])]
        forms = {**ENVELOPE, **definition.fields}
        assert set(event) == set(forms) == documented(event["event_type"])
        assert [
            name for name, form in forms.items() if not form.fits(event[name])
        ] == []
        assert event == rows[event["event_id"]]["payload"]
    for text, channel in channels.items():
        event_type = EventType(json.loads(text)["event_type"])
        assert channel == DEFINITIONS[event_type].channel


def test_an_event_that_breaks_its_definition_is_not_even_written() -> None:
    with pytest.raises(ValueError, match=r"user\.updated: email is not defined"):
        OutboxEvent(
            event_type=EventType.USER_UPDATED,
            fields={"changed_fields": ["email"], "email": "ann@example.com"},
        )
