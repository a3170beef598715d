"""Legal texts, consent and receipts over JSON, with every error of every path."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from pourtier_grpc.devtools.wallet import DevWallet
from support import legal
from support.commands import quickly
from support.json_api import JsonApi, answered, refused
from support.legal import PRIVACY, RISK, TERMS, publish
from support.servers import Databases
from support.stack import Stack, stack

DOCUMENTS = "/api/legal/documents"
ACCEPT = "/api/legal/accept"
COMPLIANCE = "/api/legal/compliance"
ACCEPTANCES = "/api/legal/acceptances"
JWKS = "/.well-known/evidence-jwks.json"
REGISTER = "/api/auth/register"
CONTENT = '# Terms "of" service\r\n\nünïcödé 🦊 \\ </script>\n'
TEXT = {
    "type": "DOCUMENT_TYPE_TERMS_OF_SERVICE",
    "version": "1.0",
    "locale": "en",
    "title": "Terms",
    "content": CONTENT,
}


@pytest.fixture(scope="module")
def running(databases: Databases, redis_url: str) -> Iterator[Stack]:
    """For what needs no text in particular."""
    with stack(databases, redis_url) as made:
        legal.publish_all(made)
        yield made


@pytest.fixture
def web(running: Stack) -> JsonApi:
    return running.public


@pytest.fixture
def fresh(databases: Databases, redis_url: str) -> Iterator[Stack]:
    """Without any text."""
    with stack(databases, redis_url) as made:
        yield made


@dataclass(frozen=True)
class Ann:
    """Somebody with an account."""

    web: JsonApi
    bearer: str

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.web.call("GET", path, bearer=self.bearer, params=query)

    def post(self, path: str, body: Any) -> httpx.Response:
        return self.web.call("POST", path, body, bearer=self.bearer)

    def accept(self, *ids: str) -> httpx.Response:
        return self.post(ACCEPT, {"document_ids": ids})


@pytest.fixture
def ann(running: Stack) -> Ann:
    agreed = legal.in_force(running)
    made = running.public.register(DevWallet.generate(), accepted_document_ids=agreed)
    return Ann(running.public, made["tokens"]["access_token"])


@pytest.fixture
def admin(running: Stack) -> Ann:
    return officer(running)


def officer(running: Stack) -> Ann:
    return Ann(running.public, running.admin()[1])


def test_from_a_first_text_to_a_receipt_that_holds(
    fresh: Stack, wallet: DevWallet, tmp_path: Path
) -> None:
    web, boss = fresh.public, officer(fresh)
    text = answered(boss.post(DOCUMENTS, TEXT))
    digest = hashlib.sha256(CONTENT.encode()).hexdigest()
    assert text == {
        **TEXT,
        "document_id": text["document_id"],
        "content_sha256": digest,
        "effective_time": text["publish_time"],
        "publish_time": text["publish_time"],
        "status": "DOCUMENT_STATUS_IN_FORCE",
    }
    proof = {**web.proof(wallet), "wallet_type": "phantom"}
    said = refused(web.call("POST", REGISTER, proof), "CONSENT_REQUIRED", 400)
    assert said.metadata == {"missing": "TERMS_OF_SERVICE"}
    query = {"status": "DOCUMENT_STATUS_IN_FORCE"}
    (head,) = answered(web.call("GET", DOCUMENTS, params=query))["documents"]
    assert head == {**text, "content": ""}
    path = f"{DOCUMENTS}/{head['document_id']}"
    for each in (path, f"{path}/"):
        assert answered(web.call("GET", each)) == text
    agreed = {"accepted_document_ids": [head["document_id"]]}
    made = answered(web.call("POST", REGISTER, {**proof, **agreed}))
    ann = Ann(web, made["tokens"]["access_token"])
    standing = answered(ann.get(COMPLIANCE))
    assert standing == {
        "compliant": True,
        "missing": [],
        "announced": [],
        "kyc_level": "KYC_LEVEL_NONE",
        "required_kyc_level": "KYC_LEVEL_NONE",
    }

    soon = (fresh.clock.now() + timedelta(minutes=5)).isoformat()
    newer = {**TEXT, "version": "2.0", "effective_time": soon}
    newer = answered(boss.post(DOCUMENTS, newer))
    assert newer["status"] == "DOCUMENT_STATUS_ANNOUNCED"
    (ahead,) = answered(ann.get(COMPLIANCE))["announced"]
    assert ahead == {
        "type": TEXT["type"],
        "major_version": 2,
        "effective_time": newer["effective_time"],
        "documents": [{**newer, "content": ""}],
    }
    fresh.clock.move(minutes=5)
    standing = answered(ann.get(COMPLIANCE))
    assert not standing["compliant"]
    assert standing["missing"] == [
        {
            **ahead,
            "documents": [
                {**newer, "content": "", "status": "DOCUMENT_STATUS_IN_FORCE"}
            ],
        }
    ]
    (accepted,) = answered(ann.accept(newer["document_id"]))["acceptances"]
    assert answered(ann.get(COMPLIANCE))["compliant"]
    again = answered(ann.accept(newer["document_id"].upper()))["acceptances"]
    assert again == [accepted]
    page = answered(ann.get(ACCEPTANCES, page_size=1))
    assert page["acceptances"] == [accepted]
    page = answered(ann.get(ACCEPTANCES, page_token=page["next_page_token"]))
    assert [each["version"] for each in page["acceptances"]] == ["1.0"]
    assert page["next_page_token"] == ""

    # What a browser was given is checked by whoever has the keys.
    receipt, keys = tmp_path / "receipt.json", tmp_path / "jwks.json"
    receipt.write_text(accepted["receipt"])
    keys.write_text(web.call("GET", JWKS).text)
    done = quickly("legal", "verify-receipt", receipt, "--jwks", keys)
    assert (done.returncode, done.stderr) == (0, "")
    assert newer["content_sha256"] in done.stdout


class TestDocuments:
    def test_lists_are_filtered_and_paged(self, running: Stack, web: JsonApi) -> None:
        french = publish(running, PRIVACY, "1.0", "fr-CA")
        query = {"type": "DOCUMENT_TYPE_PRIVACY_POLICY", "locale": "FR-CA"}
        (found,) = answered(web.call("GET", DOCUMENTS, params=query))["documents"]
        assert found["document_id"] == french.document_id
        first = answered(web.call("GET", DOCUMENTS, params={"page_size": 2}))
        assert len(first["documents"]) == 2
        query = {"page_token": first["next_page_token"]}
        rest = answered(web.call("GET", DOCUMENTS, params=query))
        ids = [each["document_id"] for each in first["documents"] + rest["documents"]]
        assert len(set(ids)) == len(ids) >= 4
        query["locale"] = "en"
        refused(web.call("GET", DOCUMENTS, params=query), "INVALID_PAGE_TOKEN", 400)

    @pytest.mark.parametrize(
        "query",
        [{"page_size": -1}, {"locale": "en_GB"}, {"page_token": "a" * 513}],
        ids=str,
    )
    def test_a_bad_list_is_refused(self, web: JsonApi, query: dict[str, Any]) -> None:
        said = refused(web.call("GET", DOCUMENTS, params=query), "INVALID_FIELD", 400)
        assert said.violations == list(query)

    @pytest.mark.parametrize("query", [{"type": "TERMS"}, {"status": "x"}], ids=str)
    def test_a_kind_that_is_none_is_malformed(
        self, web: JsonApi, query: dict[str, Any]
    ) -> None:
        refused(web.call("GET", DOCUMENTS, params=query), "MALFORMED_REQUEST", 400)

    def test_there_is_no_other_document(self, web: JsonApi) -> None:
        unknown = str(uuid4())
        answer = web.call("GET", f"{DOCUMENTS}/{unknown}")
        said = refused(answer, "DOCUMENT_NOT_FOUND", 404)
        assert said.metadata == {"document_id": unknown}
        refused(web.call("GET", f"{DOCUMENTS}/nonsense"), "INVALID_FIELD", 400)

    def test_one_that_was_withdrawn_is_shown(
        self, running: Stack, web: JsonApi
    ) -> None:
        gone = publish(running, RISK, "1.7")
        legal.withdraw(running, gone)
        found = answered(web.call("GET", f"{DOCUMENTS}/{gone.document_id}"))
        assert found["status"] == "DOCUMENT_STATUS_WITHDRAWN"
        assert found["withdraw_time"]
        assert found["content"] == gone.content


class TestPublish:
    def test_the_largest_text_comes_from_inside_and_goes_to_everybody(
        self, running: Stack, admin: Ann, web: JsonApi
    ) -> None:
        content = ("a" * 99 + "\n") * (512 * 1024 // 100)
        body = {**TEXT, "version": "1.20", "content": content}
        # The public listener takes no more of anybody than sign-ins need.
        refused(admin.post(DOCUMENTS, body), "REQUEST_TOO_LARGE", 413)
        inside = Ann(running.internal, admin.bearer)
        text = answered(inside.post(DOCUMENTS, body))
        assert text["content"] == content
        found = answered(web.call("GET", f"{DOCUMENTS}/{text['document_id']}"))
        assert found["content"] == content

    def test_a_version_is_published_once(self, admin: Ann) -> None:
        text = {**TEXT, "version": "1.30"}
        first = answered(admin.post(DOCUMENTS, text))
        again = admin.post(DOCUMENTS, {**text, "locale": "EN", "content": "another"})
        said = refused(again, "DOCUMENT_ALREADY_PUBLISHED", 409)
        assert said.metadata == {"document_id": first["document_id"]}

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("version", "1"),
            ("locale", "english!"),
            ("title", ""),
            ("content", ""),
            ("content", "a\0b"),
            ("effective_time", "9999-12-31T23:59:59.9Z"),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_a_bad_text_is_refused(self, admin: Ann, field: str, value: str) -> None:
        answer = admin.post(DOCUMENTS, {**TEXT, "version": "1.40", field: value})
        if field == "effective_time":
            # As late as a time can be: it is announced.
            assert answered(answer)["status"] == "DOCUMENT_STATUS_ANNOUNCED"
            return
        said = refused(answer, "INVALID_FIELD", 400)
        assert set(said.violations) == {field}

    def test_a_text_that_is_too_large_is_refused(
        self, running: Stack, admin: Ann
    ) -> None:
        body = {**TEXT, "version": "1.50", "content": "a" * (512 * 1024 + 1)}
        answer = Ann(running.internal, admin.bearer).post(DOCUMENTS, body)
        said = refused(answer, "INVALID_FIELD", 400)
        assert said.violations == ["content"]

    def test_what_no_text_has_is_malformed_or_too_large(self, admin: Ann) -> None:
        answer = admin.post(DOCUMENTS, {**TEXT, "type": "nonsense"})
        refused(answer, "MALFORMED_REQUEST", 400)
        answer = admin.post(DOCUMENTS, {**TEXT, "effective_time": "tomorrow"})
        refused(answer, "MALFORMED_REQUEST", 400)
        answer = admin.post(DOCUMENTS, {**TEXT, "content": "a" * 2 * 1024 * 1024})
        refused(answer, "REQUEST_TOO_LARGE", 413)

    def test_only_administrators_do(
        self, running: Stack, web: JsonApi, ann: Ann
    ) -> None:
        refused(web.call("POST", DOCUMENTS, TEXT), "CREDENTIALS_MISSING", 401)
        refused(ann.post(DOCUMENTS, TEXT), "PERMISSION_DENIED", 403)
        key = running.api_key("users.read")
        answer = running.internal.call("POST", DOCUMENTS, TEXT, api_key=key)
        refused(answer, "PERMISSION_DENIED", 403)


class TestAccept:
    def test_errors(self, running: Stack, ann: Ann) -> None:
        body = {"document_ids": [str(uuid4())]}
        answer = running.public.call("POST", ACCEPT, body)
        refused(answer, "CREDENTIALS_MISSING", 401)
        said = refused(ann.accept(*body["document_ids"]), "DOCUMENT_NOT_FOUND", 404)
        assert said.metadata == {"document_id": body["document_ids"][0]}
        gone = publish(running, RISK, "1.8")
        legal.withdraw(running, gone)
        said = refused(ann.accept(gone.document_id), "DOCUMENT_WITHDRAWN", 400)
        assert said.metadata == {"document_id": gone.document_id}
        said = refused(ann.accept(), "INVALID_FIELD", 400)
        assert said.violations == ["document_ids"]
        said = refused(ann.accept("x"), "INVALID_FIELD", 400)
        assert said.violations == ["document_ids[0]"]
        said = refused(ann.accept(*[str(uuid4())] * 33), "INVALID_FIELD", 400)
        assert said.violations == ["document_ids"]
        answer = ann.post(ACCEPT, {"document_ids": [{"id": "x"}]})
        refused(answer, "MALFORMED_REQUEST", 400)

    def test_registration_errors(self, running: Stack, web: JsonApi) -> None:
        gone = publish(running, RISK, "1.9")
        legal.withdraw(running, gone)
        good = legal.in_force(running)
        proof = {**web.proof(DevWallet.generate()), "wallet_type": "phantom"}

        def register(*ids: str) -> httpx.Response:
            return web.call("POST", REGISTER, {**proof, "accepted_document_ids": ids})

        said = refused(register(), "CONSENT_REQUIRED", 400)
        assert said.metadata == {
            "missing": "TERMS_OF_SERVICE,PRIVACY_POLICY,RISK_DISCLOSURE"
        }
        refused(register(*good, str(uuid4())), "DOCUMENT_NOT_FOUND", 404)
        refused(register(*good, gone.document_id), "DOCUMENT_WITHDRAWN", 400)
        refused(register("x"), "INVALID_FIELD", 400)
        assert answered(register(*good))["tokens"]

    @pytest.mark.parametrize("path", [COMPLIANCE, ACCEPTANCES])
    def test_how_one_stands_is_one_s_own(
        self, running: Stack, ann: Ann, path: str
    ) -> None:
        refused(running.public.call("GET", path), "CREDENTIALS_MISSING", 401)
        key = running.api_key("users.read")
        answer = running.internal.call("GET", path, api_key=key)
        refused(answer, "PERMISSION_DENIED", 403)
        assert answered(ann.get(f"{path}/")) == answered(ann.get(path))

    def test_a_bad_page_is_refused(self, ann: Ann) -> None:
        answer = ann.get(ACCEPTANCES, page_token="nonsense")
        refused(answer, "INVALID_PAGE_TOKEN", 400)
        refused(ann.get(ACCEPTANCES, page_size=-1), "INVALID_FIELD", 400)

    def test_what_is_seen_by_a_page_of_another_origin_is_nothing(
        self, running: Stack, web: JsonApi
    ) -> None:
        origin = running.settings.origins[0]
        for path in (DOCUMENTS, JWKS):
            for asked, allowed in ((origin, origin), ("https://evil.example", None)):
                answer = web.call("GET", path, headers={"origin": asked})
                assert answer.headers.get("access-control-allow-origin") == allowed


def test_evidence_keys_are_a_key_set(web: JsonApi) -> None:
    for path in (JWKS, f"{JWKS}/"):
        keys = answered(web.call("GET", path))["keys"]
        assert [
            (each["kty"], each["crv"], each["alg"], each["use"]) for each in keys
        ] == [("OKP", "Ed25519", "EdDSA", "sig")] * 2
    tokens = answered(web.call("GET", "/.well-known/jwks.json"))["keys"]
    assert not {each["kid"] for each in tokens} & {each["kid"] for each in keys}


def test_of_a_screened_wallet_only_this_is_said(
    databases: Databases, redis_url: str, wallet: DevWallet
) -> None:
    with stack(databases, redis_url, screened_wallets=(wallet.address,)) as made:
        proof = {**made.public.proof(wallet), "wallet_type": "phantom"}
        answer = made.public.call("POST", REGISTER, proof)
        said = refused(answer, "WALLET_SCREENED", 403)
        assert said.metadata == {}
        assert wallet.address not in answer.text
        text = publish(made, TERMS)
        refused(made.public.call("POST", REGISTER, proof), "WALLET_SCREENED", 403)
        other = made.public.register(
            DevWallet.generate(), accepted_document_ids=legal.ids(text)
        )
        assert other["user"]["user_id"]
