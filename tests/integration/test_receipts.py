"""Receipts: they hold for ever, for whoever has them, and are good for nothing else."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from grpc import StatusCode

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier_grpc.auth.key_rotation import KeyRotation
from pourtier_grpc.auth.keyring import EvidenceKey
from pourtier_grpc.compliance import evidence
from pourtier_grpc.compliance.evidence import EvidenceError, Kind
from pourtier_grpc.store.audit import AuditLog, personal_hash
from pourtier_grpc.store.keys import KeyUse
from support import legal
from support.api import refusal
from support.callers import Person, person
from support.legal import accept, public_keys, publish, verified
from support.service import Service
from support.tokens import me, parts, with_ed25519
from support.waiting import eventually

AGENT = "recognisable-agent/7"


@pytest.fixture
def ann(own: Service) -> Person:
    return person(own)


def receipt(service: Service, who: Person, **fields: Any) -> pb.Acceptance:
    """Somebody agrees to a new text."""
    (made,) = accept(service, who.bearer, publish(service, **fields))
    return made


def rotate(service: Service) -> str:
    """The next evidence key signs, once the service has followed."""
    rotation = service.server._parts.key_rotation
    active = rotation.rotate(KeyUse.EVIDENCE, at_once=True)
    assert active is not None
    assert eventually(lambda: service.keyring.evidence.key_id == active)
    return active


class TestContent:
    def test_it_says_who_agreed_to_what_when_and_by_which_call(
        self, own: Service, ann: Person
    ) -> None:
        document = publish(own)
        metadata = ("x-request-id", "5f1c8e3c-3a56-4d56-9d0e-5d1f54a7b001")
        asked = pb.AcceptDocumentsRequest(document_ids=[document.document_id])
        (made,) = own.api.call(
            own.api.compliance.AcceptDocuments, asked, metadata, bearer=ann.bearer
        ).acceptances
        body = verified(own, made)
        row = own.sql.one("SELECT * FROM document_acceptances")
        assert body["request_id"] == row["request_id"] != ""
        assert body["accept_time"] == own.clock.now().isoformat()
        assert body["acceptance_id"] == made.acceptance_id
        assert body["user_id"] == ann.user_id
        assert body["session_id"] == ann.tokens.session_id
        assert body["wallet"] == own.keyring.pseudonym(ann.wallet.address)
        assert body["document"] == {
            "content_sha256": document.content_sha256,
            "document_id": document.document_id,
            "locale": "en",
            "type": "TERMS_OF_SERVICE",
            "version": "1.0",
        }
        assert set(body) == {
            "accept_time",
            "acceptance_id",
            "document",
            "personal",
            "request_id",
            "session_id",
            "user_id",
            "wallet",
        }
        assert row["receipt"] == made.receipt.encode()
        assert len(made.receipt) <= 2048

    def test_nothing_personal_stands_in_it_and_all_can_be_shown(
        self, own: Service, ann: Person
    ) -> None:
        document = publish(own)
        asked = pb.AcceptDocumentsRequest(document_ids=[document.document_id])
        own.api.call(
            own.api.compliance.AcceptDocuments,
            asked,
            ("x-user-agent", AGENT),
            bearer=ann.bearer,
        )
        row = own.sql.one("SELECT * FROM document_acceptances")
        beside = own.sql.one("SELECT * FROM acceptance_personal")
        personal = json.loads(beside["body"])
        assert set(personal) == {"ip", "user_agent", "wallet_address"}
        assert personal["ip"] == "127.0.0.1"
        assert personal["wallet_address"] == ann.wallet.address
        assert personal["user_agent"]
        everything = b" ".join(
            value if isinstance(value, bytes) else str(value).encode()
            for value in row.values()
        )
        for value in personal.values():
            assert value.encode() not in everything
        hashes = json.loads(row["receipt"])["body"]["personal"]
        assert hashes == {
            name: personal_hash(beside["salt"], name, value)
            for name, value in personal.items()
        }

    def test_with_what_is_personal_erased_it_holds(
        self, own: Service, ann: Person
    ) -> None:
        made = receipt(own, ann)
        query = "DELETE FROM acceptance_personal WHERE user_id = %s"
        own.sql.run(query, ann.user_id)
        request = pb.ListAcceptancesRequest()
        call = own.api.compliance.ListAcceptances
        (listed,) = own.api.call(call, request, bearer=ann.bearer).acceptances
        assert listed == made
        assert verified(own, listed)["user_id"] == ann.user_id

    def test_two_of_one_person_have_different_hashes(
        self, own: Service, ann: Person
    ) -> None:
        first = verified(own, receipt(own, ann))["personal"]
        second = verified(own, receipt(own, ann, version="1.1"))["personal"]
        assert not set(first.values()) & set(second.values())


class TestRotation:
    def test_old_receipts_hold_after_rotations_with_no_file_left(
        self, own: Service, ann: Person
    ) -> None:
        before = own.keyring.evidence.key_id
        old = receipt(own, ann)
        active = rotate(own)
        new = receipt(own, ann, version="1.1")
        rotate(own)
        rotate(own)
        (own.settings.keys / f"evidence-{before}.jwk").unlink()
        own.clock.move(minutes=20)
        own.keyring.refresh()
        kids = [json.loads(each.receipt)["kid"] for each in (old, new)]
        assert kids == [before, active]
        jwks = legal.jwks(own)["keys"]
        assert len(jwks) == 5
        assert {each["kid"] for each in jwks} >= {before, active}
        assert verified(own, old)["user_id"] == ann.user_id
        assert verified(own, new)["user_id"] == ann.user_id
        # And the set says no more than it must.
        assert all(each["use"] == "sig" for each in jwks)
        assert set(jwks[0]) == {"kty", "crv", "x", "kid", "alg", "use"}

    def test_no_evidence_key_is_revoked(self, own: Service, ann: Person) -> None:
        made = receipt(own, ann)
        key_id = own.keyring.evidence.key_id
        assert not own.server._parts.key_rotation.revoke(key_id, "by mistake")
        own.keyring.refresh()
        assert own.keyring.evidence.key_id == key_id
        assert verified(own, made)

    def test_where_the_key_is_not_at_hand_nothing_is_accepted(
        self, own: Service, ann: Person, folder: Path
    ) -> None:
        document = publish(own)
        elsewhere = folder / "elsewhere"
        shutil.copytree(own.settings.keys, elsewhere)
        made = own.server._parts
        rotation = KeyRotation(
            database=made.database,
            folder=elsewhere,
            audit_log=AuditLog(own.keyring.pseudonym),
            clock=own.clock,
        )
        # The key that was next here is gone with the second.
        rotation.rotate(KeyUse.EVIDENCE, at_once=True)
        active = rotation.rotate(KeyUse.EVIDENCE, at_once=True)
        own.keyring.refresh()
        code = StatusCode.UNAVAILABLE
        with refusal("SERVICE_UNAVAILABLE", code) as caught:
            accept(own, ann.bearer, document)
        assert caught[0].retry is not None
        assert own.sql.counts()["document_acceptances"] == 0
        assert own.api.login(ann.wallet)
        shutil.copytree(elsewhere, own.settings.keys, dirs_exist_ok=True)
        own.keyring.refresh()
        (made_now,) = accept(own, ann.bearer, document)
        assert json.loads(made_now.receipt)["kid"] == active


class TestNeverAToken:
    def test_no_token_under_an_evidence_key_is_accepted(
        self, own: Service, ann: Person
    ) -> None:
        header, claims = parts(ann.bearer)
        key = own.keyring.evidence
        forged = with_ed25519({**header, "kid": key.key_id}, claims, key.signing)
        with refusal("TOKEN_INVALID", StatusCode.UNAUTHENTICATED):
            me(own.api, forged)
        # Nor under the access key's name.
        with refusal("TOKEN_INVALID"):
            me(own.api, with_ed25519(header, claims, key.signing))

    def test_a_receipt_is_no_token(self, own: Service, ann: Person) -> None:
        made = receipt(own, ann).receipt
        for text in (made, parts_of(made)):
            with refusal("TOKEN_INVALID"):
                me(own.api, text)

    def test_a_statement_under_the_access_key_is_no_receipt(
        self, own: Service, ann: Person
    ) -> None:
        body = verified(own, receipt(own, ann))
        access = own.keyring.access
        assert isinstance(access.signing, Ed25519PrivateKey)
        forger = EvidenceKey(access.key_id, access.signing)
        forged = evidence.sign(forger, Kind.RECEIPT, body)
        with pytest.raises(EvidenceError, match="is not among those given"):
            evidence.verify(forged, Kind.RECEIPT, public_keys(own))
        named = replace(forger, key_id=own.keyring.evidence.key_id)
        forged = evidence.sign(named, Kind.RECEIPT, body)
        with pytest.raises(EvidenceError, match="its signature does not hold"):
            evidence.verify(forged, Kind.RECEIPT, public_keys(own))

    def test_a_token_is_no_receipt(self, own: Service, ann: Person) -> None:
        with pytest.raises(EvidenceError):
            evidence.verify(ann.bearer.encode(), Kind.RECEIPT, public_keys(own))

    def test_the_two_key_sets_have_nothing_in_common(self, own: Service) -> None:
        published = {key.key_id for key in own.keyring.published}
        assert not published & set(public_keys(own))
        assert len(public_keys(own)) == 2


def parts_of(made: str) -> str:
    """A receipt's pieces in the form of a token."""
    statement = json.loads(made)
    header = {"alg": "EdDSA", "typ": "at+jwt", "kid": statement["kid"]}
    unsigned = with_ed25519(header, statement["body"], Ed25519PrivateKey.generate())
    return f"{unsigned.rpartition('.')[0]}.{statement['signature']}"
