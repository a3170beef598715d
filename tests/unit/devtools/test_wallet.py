"""The wallet for the terminal and for tests."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import base58
import pytest
from nacl.signing import SigningKey, VerifyKey

from pourtier_grpc.devtools.wallet import DevWallet, DevWalletError


def test_a_wallet_signs_for_its_address() -> None:
    wallet = DevWallet.generate()
    key = VerifyKey(base58.b58decode(wallet.address))
    assert key.verify(b"text", wallet.sign(b"text")) == b"text"
    assert base58.b58decode(wallet.sign_text(b"text")) == wallet.sign(b"text")
    assert DevWallet.generate().address != wallet.address


def test_a_saved_wallet_is_the_same_one_and_its_owners_alone(tmp_path: Path) -> None:
    wallet = DevWallet.generate()
    path = tmp_path / "wallet.json"
    wallet.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert DevWallet.load(path).address == wallet.address
    assert DevWallet.load(path).sign(b"text") == wallet.sign(b"text")


def test_the_file_is_that_of_solana_keygen(tmp_path: Path) -> None:
    key = SigningKey(bytes(range(32)))
    path = tmp_path / "id.json"
    path.write_text(str(list(key.encode() + key.verify_key.encode())) + "\n")
    wallet = DevWallet.load(path)
    assert wallet.address == base58.b58encode(key.verify_key.encode()).decode()
    wallet.save(tmp_path / "copy.json")
    copy = json.loads((tmp_path / "copy.json").read_text())
    assert copy == json.loads(path.read_text())


def test_a_wallet_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "wallet.json"
    wallet = DevWallet.generate()
    wallet.save(path)
    with pytest.raises(DevWalletError, match="File exists"):
        DevWallet.generate().save(path)
    assert DevWallet.load(path).address == wallet.address


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", "[1, 2]", str([256] * 64), str(["1"] * 64), str([1] * 64), "\x00"],
)
def test_a_file_that_is_no_wallet(tmp_path: Path, content: str) -> None:
    path = tmp_path / "wallet.json"
    path.write_text(content)
    with pytest.raises(DevWalletError, match=r"wallet\.json"):
        DevWallet.load(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DevWalletError, match="No such file"):
        DevWallet.load(tmp_path / "missing.json")
    with pytest.raises(DevWalletError, match="No such file"):
        DevWallet.generate().save(tmp_path / "missing" / "wallet.json")
