"""`pourtier legal`: texts and receipts from the command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier.v1.document_pb2 import Document
from pourtier_grpc.devtools import terminal
from pourtier_grpc.devtools.wallet import DevWallet
from support import legal
from support.api import refusal
from support.callers import admin, person
from support.commands import pourtier, quickly
from support.servers import Databases
from support.service import Service, service

TERMS = ("--type", "terms-of-service")
FIRST = (*TERMS, "--version", "1.0")
CONTENT = "\ufeff# The ünïcödé terms 🦊 ##\r\n\r\n## Second\nText.\n".encode()
Pourtier = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def served(databases: Databases) -> Iterator[Service]:
    with service(databases) as made:
        yield made


@pytest.fixture
def own(databases: Databases) -> Iterator[Service]:
    with service(databases) as made:
        yield made


def at(made: Service) -> dict[str, Any]:
    """The settings of commands beside a service."""
    assert made.settings.database_url is not None
    return {
        "database_url": made.settings.database_url.get_secret_value(),
        "pourtier_data_dir": made.settings.pourtier_data_dir,
    }


@pytest.fixture
def on_own(own: Service) -> Pourtier:
    return lambda *words, **more: quickly("legal", *words, **at(own), **more)


@pytest.fixture
def on_served(served: Service) -> Pourtier:
    return lambda *words, **more: quickly("legal", *words, **at(served), **more)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "terms.md"
    path.write_bytes(CONTENT)
    return path


def shown(made: Service, document_id: str) -> Document:
    request = pb.GetDocumentRequest(document_id=document_id)
    return made.api.call(made.api.compliance.GetDocument, request)


class TestPublish:
    def test_it_prints_the_id_alone_and_keeps_every_byte(
        self, own: Service, file: Path
    ) -> None:
        done = pourtier("legal", "publish", file, *FIRST, **at(own))
        assert done.returncode == 0, done.stderr
        document = shown(own, str(UUID(done.stdout.strip())))
        assert done.stdout == f"{document.document_id}\n"
        assert document.content.encode() == CONTENT
        assert document.content_sha256 in done.stderr
        assert document.title == "The ünïcödé terms 🦊"
        assert (document.version, document.locale) == ("1.0", "en")

    def test_options_say_all_else(self, own: Service, on_own: Pourtier) -> None:
        done = on_own(
            "publish",
            Path(__file__),
            "--type=risk-disclosure",
            "--version=2.7",
            "--locale=pt-BR",
            "--title=Riscos",
            "--effective=2126-01-01T00:00:00+02:00",
        )
        document = shown(own, done.stdout.strip())
        assert (document.type, document.version) == (legal.RISK, "2.7")
        assert (document.locale, document.title) == ("pt-BR", "Riscos")
        time = document.effective_time.ToJsonString()
        assert time == "2125-12-31T22:00:00Z"
        assert time in done.stderr
        assert document.status == legal.ANNOUNCED
        query = "SELECT body FROM audit_events WHERE action = 'document.published'"
        (row,) = own.sql.run(query)
        body = json.loads(row["body"])
        assert body["actor"] == "operator"

    @pytest.mark.parametrize("typed", ["2126-01-01", "2126-01-01T00:00:00"])
    def test_a_time_without_an_offset_is_of_utc(
        self, own: Service, on_own: Pourtier, file: Path, typed: str
    ) -> None:
        done = on_own("publish", file, *FIRST, "--effective", typed)
        document = shown(own, done.stdout.strip())
        assert document.effective_time.ToJsonString() == "2126-01-01T00:00:00Z"

    def test_without_a_heading_the_kind_is_the_title(
        self, own: Service, on_own: Pourtier, file: Path
    ) -> None:
        file.write_text("#no heading\n    # code\nplain\n")
        done = on_own("publish", file, *FIRST)
        assert shown(own, done.stdout.strip()).title == "Terms of service"

    def test_a_version_is_published_once(self, on_own: Pourtier, file: Path) -> None:
        first = on_own("publish", file, *FIRST).stdout.strip()
        again = on_own("publish", file, *FIRST, "--locale", "EN")
        assert (again.returncode, again.stdout) == (1, "")
        assert again.stderr == f"pourtier: that version was published as {first}\n"

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--version", "1"), "--version is major.minor"),
            (("--version", "0.1"), "--version is major.minor"),
            (("--version", "1.0", "--locale", "en_GB"), "--locale is a language tag"),
            (("--version", "1.0", "--title", ""), "--title is one line"),
            (("--version", "1.0", "--title", "a\nb"), "--title is one line"),
            (("--version", "1.0", "--effective", "tomorrow"), "is no time such as"),
            (
                ("--version", "1.0", "--effective", "0001-01-01T00:00:00+14:00"),
                "is no time such as",
            ),
            (("--version", "1.0", "--title", "\udcff"), "not text"),
            (("--version", "1.0", "--type", "nonsense"), "is not one of"),
        ],
    )
    def test_bad_usage_is_told(
        self,
        served: Service,
        on_served: Pourtier,
        file: Path,
        words: tuple[str, ...],
        said: str,
    ) -> None:
        done = on_served("publish", file, *TERMS, *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert served.sql.counts()["legal_documents"] == 0

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "FILE holds 1 byte to 512 KiB"),
            (b"a\0b", "without NUL"),
            (b"a" * (512 * 1024 + 1), "FILE holds 1 byte to 512 KiB"),
            ("ü".encode() * (256 * 1024 + 1), "FILE holds 1 byte to 512 KiB"),
            (b"a\xffb", "is not UTF-8: byte 1 "),
            ("a".encode("utf-16"), "is not UTF-8: byte 0 "),
        ],
        ids=lambda value: repr(value)[:16],
    )
    def test_a_file_that_is_no_text_is_told(
        self,
        served: Service,
        on_served: Pourtier,
        file: Path,
        content: bytes,
        said: str,
    ) -> None:
        file.write_bytes(content)
        done = on_served("publish", file, *FIRST)
        assert (done.returncode, done.stdout) == (1, "")
        (sentence,) = done.stderr.splitlines()
        assert said in sentence
        assert served.sql.counts()["legal_documents"] == 0

    def test_a_file_that_is_none_is_bad_usage(
        self, on_served: Pourtier, tmp_path: Path
    ) -> None:
        for path in (tmp_path / "missing", tmp_path):
            done = on_served("publish", path, *FIRST)
            assert (done.returncode, done.stdout) == (2, "")
            assert str(path) in done.stderr


def test_the_list_has_every_text_newest_first(
    own: Service, on_own: Pourtier, file: Path
) -> None:
    assert on_own("list").stdout == ""
    documents = [legal.publish(own, version=f"1.{minor}") for minor in range(103)]
    rows = json.loads(on_own("list", "--json").stdout)
    assert [row["document_id"] for row in rows] == legal.ids(*documents[::-1])
    assert rows[0] == {
        "document_id": documents[-1].document_id,
        "type": "terms-of-service",
        "version": "1.102",
        "locale": "en",
        "status": "in-force",
        "effective_time": documents[-1].effective_time.ToJsonString(),
        "title": documents[-1].title,
    }
    assert {row["status"] for row in rows[1:]} == {"superseded"}
    lines = on_own("list").stdout.splitlines()
    assert lines[0] == "  ".join(rows[0].values())
    assert len(lines) == 103


class TestWithdraw:
    def test_it_is_done_once(self, own: Service, on_own: Pourtier) -> None:
        document_id = legal.publish(own).document_id
        done = on_own("withdraw", document_id, "--reason", "wrong file")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert shown(own, document_id).status == legal.WITHDRAWN
        again = on_own("withdraw", document_id)
        assert (again.returncode, again.stdout) == (1, "")
        assert "was withdrawn already" in again.stderr
        rows = own.sql.run(
            "SELECT body FROM audit_events WHERE action = 'document.withdrawn'"
        )
        (body,) = (json.loads(row["body"]) for row in rows)
        assert body["details"]["reason"] == "wrong file"

    def test_a_reason_need_not_be_but_must_be_one(
        self, own: Service, on_own: Pourtier
    ) -> None:
        document_id = legal.publish(own).document_id
        for reason in ("", "a\nb", "a" * 501):
            done = on_own("withdraw", document_id, "--reason", reason)
            assert done.returncode == 2, reason
        assert shown(own, document_id).status == legal.IN_FORCE
        assert on_own("withdraw", document_id).returncode == 0

    def test_there_is_no_other(self, on_served: Pourtier) -> None:
        unknown = uuid4()
        done = on_served("withdraw", unknown)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"pourtier: there is no document {unknown}\n"


class TestSeed:
    def test_it_publishes_a_sample_of_each_kind_once(
        self, own: Service, on_own: Pourtier
    ) -> None:
        done = on_own("seed")
        assert (done.returncode, done.stderr) == (0, "")
        # The service's clock stands; the command has the time of day.
        own.clock.move(hours=1)
        assert sorted(done.stdout.split()) == sorted(legal.in_force(own))
        assert len(done.stdout.split()) == 3
        again = on_own("seed")
        assert (again.returncode, again.stdout) == (0, "")
        assert "every kind has a text already" in again.stderr

    def test_production_has_texts_of_its_own(
        self, served: Service, on_served: Pourtier
    ) -> None:
        done = on_served("seed", env="production")
        assert (done.returncode, done.stdout) == (1, "")
        assert "samples are no legal texts" in done.stderr
        assert served.sql.counts()["legal_documents"] == 0


class TestVerifyReceipt:
    @pytest.fixture
    def accepted(self, own: Service) -> pb.Acceptance:
        (made,) = legal.accept(own, person(own).bearer, legal.publish(own))
        return made

    @pytest.fixture
    def receipt(self, accepted: pb.Acceptance, tmp_path: Path) -> Path:
        path = tmp_path / "receipt.json"
        path.write_text(accepted.receipt)
        return path

    @pytest.fixture
    def jwks(self, own: Service, tmp_path: Path) -> Path:
        path = tmp_path / "jwks.json"
        path.write_text(json.dumps(legal.jwks(own)))
        return path

    def test_one_that_holds_is_summed_up_without_database_or_settings(
        self, accepted: pb.Acceptance, receipt: Path, jwks: Path
    ) -> None:
        # Settings that no other command could start with.
        done = pourtier(
            *("legal", "verify-receipt", receipt, "--jwks", jwks),
            env="nonsense",
            database_url="postgresql://nobody@127.0.0.1:1/none",
        )
        assert (done.returncode, done.stderr) == (0, "")
        first, *rows = done.stdout.splitlines()
        assert first == "holds"
        told = dict(row.split("  ", 1) for row in rows)
        told = {name: value.strip() for name, value in told.items()}
        assert told["document"] == accepted.document_id
        assert told["SHA-256"] == accepted.content_sha256
        assert told["acceptance"] == accepted.acceptance_id
        assert told["which is"] == "TERMS_OF_SERVICE 1.0 (en)"

    def test_a_line_end_after_it_does_no_harm_and_all_else_does(
        self, accepted: pb.Acceptance, receipt: Path, jwks: Path
    ) -> None:
        words = ("legal", "verify-receipt", receipt, "--jwks", jwks)
        text = accepted.receipt.encode()
        receipt.write_bytes(text + b"\n")
        assert quickly(*words).returncode == 0
        for more in (b"\n\n", b"\r\n", b" "):
            receipt.write_bytes(text + more)
            assert quickly(*words).returncode == 1

    def test_with_any_byte_changed_it_does_not_hold(
        self, accepted: pb.Acceptance, receipt: Path, jwks: Path
    ) -> None:
        words = ("legal", "verify-receipt", receipt, "--jwks", jwks)
        text = accepted.receipt.encode()
        for index in range(len(text)):
            changed = bytearray(text)
            changed[index] ^= 1 + index % 255
            receipt.write_bytes(changed)
            done = quickly(*words)
            assert (done.returncode, done.stdout) == (1, ""), index
            assert done.stderr.startswith("pourtier: the receipt does not hold: ")

    def test_other_keys_and_other_files_are_told(
        self, own: Service, receipt: Path, jwks: Path, tmp_path: Path
    ) -> None:
        words = ("legal", "verify-receipt", receipt, "--jwks", jwks)
        keys = legal.jwks(own)["keys"]
        kid = json.loads(receipt.read_text())["kid"]
        jwks.write_text(json.dumps({"keys": [k for k in keys if k["kid"] != kid]}))
        done = quickly(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"its key {kid} is not among those given" in done.stderr
        jwks.write_text("nonsense")
        done = quickly(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert "it is no JSON Web Key Set" in done.stderr
        done = quickly(*words[:2], receipt, "--jwks", tmp_path / "missing")
        assert (done.returncode, done.stdout) == (2, "")


class TestTerminal:
    """`pourtier wallet sign-in`, where there are texts."""

    def target(self, own: Service) -> str:
        return f"127.0.0.1:{own.server.ports[0]}"

    def test_it_accepts_one_text_of_each_kind_the_english_one(
        self, own: Service, wallet: DevWallet
    ) -> None:
        english = [legal.publish(own, kind) for kind in legal.TYPES[:2]]
        legal.publish(own, legal.TERMS, locale="fr")
        french = legal.publish(own, legal.RISK, locale="fr")
        tokens = terminal.sign_in(self.target(own), wallet)
        assert legal.standing(own, tokens.access_token).compliant
        rows = own.sql.run("SELECT document_id FROM document_acceptances")
        assert {str(row["document_id"]) for row in rows} == {
            *legal.ids(*english, french)
        }
        # Whoever has an account is asked for nothing.
        legal.publish(own, legal.TERMS, "2.0")
        again = terminal.sign_in(self.target(own), wallet)
        assert not legal.standing(own, again.access_token).compliant

    def test_the_first_admin_can_publish(self, own: Service) -> None:
        ann = admin(own)
        request = pb.PublishDocumentRequest(
            type=legal.TERMS, version="1.0", locale="en", title="T", content="c"
        )
        call = own.api.compliance.PublishDocument
        assert own.api.call(call, request, bearer=ann.bearer)
        with refusal("CONSENT_REQUIRED"):
            own.api.register(DevWallet.generate())
