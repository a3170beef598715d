"""The Solana vectors end as their labels, and the checker can say no."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pourtier_grpc.devtools.vectors import VectorFileError, check_file

WALLETS = Path(__file__).parents[2] / "data" / "wallets"
SIWS = WALLETS / "siws.json"


def entries() -> dict[str, Any]:
    return {entry["name"]: entry for entry in json.loads(SIWS.read_bytes())}


def written(path: Path, *vectors: Any) -> Path:
    path.write_text(json.dumps(vectors))
    return path


def test_every_raw_solana_vector_ends_as_its_label() -> None:
    report = check_file(SIWS, "raw")
    assert report.failures == ()
    assert report.run == 60


def test_what_is_not_supported_has_not_passed() -> None:
    report = check_file(SIWS, None)
    others = [entry["name"] for entry in entries().values() if entry["form"] != "raw"]
    assert report.run == 74
    assert [failure.name for failure in report.failures] == others
    assert report.failures[0].got == "not supported: solana offchain_v1 sign_in"


@pytest.mark.parametrize(("name", "count"), [("siwe", 45), ("stellar", 53)])
def test_files_of_other_chains_are_read_and_reported(name: str, count: int) -> None:
    report = check_file(WALLETS / f"{name}.json", None)
    assert report.run == len(report.failures) == count


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"expect": "bad_signature"}, "valid"),
        ({"message": "hello"}, "malformed_message"),
        ({"signature": {}}, "no signature"),
        ({"signature": {"runes": "ᚠ"}}, "unknown encoding runes"),
        ({"chain": "ethereum"}, "not supported: ethereum raw sign_in"),
        ({"layer": "signature"}, "not supported: solana raw signature"),
    ],
)
def test_a_changed_entry_is_reported(
    tmp_path: Path, change: dict[str, Any], got: str
) -> None:
    entry = entries()["valid_all_fields"] | change
    report = check_file(written(tmp_path / "changed.json", entry), "raw")
    (failure,) = report.failures
    assert (failure.name, failure.got) == ("valid_all_fields", got)
    assert failure.expected == (entry["expect"],)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"nonce": "another0nonce"}, "nonce_mismatch"),
        ({"domain": "other.example"}, "domain_mismatch"),
        ({"chain_id": "devnet"}, "chain_id_mismatch"),
        ({"verify_at": "2026-11-20T12:10:00Z"}, "expired"),
        (
            {"address": "tWG2CkEtvuGWCngMJhS6wrFDYeEXnjFqWGmTfynQ9LU"},
            "address_mismatch",
        ),
    ],
)
def test_the_policy_of_an_entry_counts(
    tmp_path: Path, change: dict[str, str], got: str
) -> None:
    entry = entries()["valid_all_fields"]
    entry["policy"] |= change
    (failure,) = check_file(written(tmp_path / "p.json", entry), None).failures
    assert failure.got == got


def test_encodings_that_disagree_are_reported(tmp_path: Path) -> None:
    entry = entries()["valid_all_fields"]
    entry["signature"]["base64"] = entry["signature"]["base64"][:-4]
    (failure,) = check_file(written(tmp_path / "d.json", entry), "raw").failures
    assert failure.got == "hex: valid; base58: valid; base64: malformed_signature"


def test_other_right_labels_pass(tmp_path: Path) -> None:
    valid = entries()["valid_all_fields"]
    also = valid | {"expect": "expired", "also_acceptable": ["valid"]}
    strict = valid | {"expect": "valid_if_lenient", "strict_expect": "expired"}
    stricter = valid | {"expect": "expired", "strict_expect": "valid"}
    path = written(tmp_path / "also.json", also, strict, stricter)
    assert check_file(path, "raw").failures == ()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "the file: Invalid JSON"),
        (b"{}", "the file: Input should be a valid"),
        (b"\xff\xfe", "the file: Invalid JSON"),
        (b'[{"name": "x"}]', "0.chain: Field required"),
        (b"[]", "no entry of form 'raw'"),
    ],
)
def test_a_file_that_is_none_is_named(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(VectorFileError, match=r"broken\.json") as refused:
        check_file(path, "raw")
    assert complaint in str(refused.value)


def test_an_unreadable_file_and_an_unknown_form_are_errors(tmp_path: Path) -> None:
    with pytest.raises(VectorFileError, match="No such file"):
        check_file(tmp_path / "missing.json", None)
    with pytest.raises(VectorFileError, match="no entry of form 'rwa'"):
        check_file(SIWS, "rwa")
