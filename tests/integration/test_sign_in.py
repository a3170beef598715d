"""Signing in over native gRPC, on a real database."""

from __future__ import annotations

import base64
from collections.abc import Callable

import grpc
import pytest
from grpc import StatusCode
from sqlalchemy import text

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.auth_service_pb2 import SignatureEncoding
from pourtier.v1.user_pb2 import KycLevel, UserStatus
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.store.privileges import Duty
from support.api import Api, refusal
from support.proofs import PROOF_RPCS, challenge_of, send, signed
from support.roles import name_of
from support.service import Service
from support.sql import Sql

BASE58 = SignatureEncoding.SIGNATURE_ENCODING_BASE58
BASE64 = SignatureEncoding.SIGNATURE_ENCODING_BASE64
HEX = SignatureEncoding.SIGNATURE_ENCODING_HEX


def test_a_wallet_registers_signs_in_reads_refreshes_and_logs_out(
    api: Api, wallet: DevWallet
) -> None:
    with refusal("WALLET_NOT_REGISTERED", StatusCode.NOT_FOUND):
        api.login(wallet)
    registered = api.register(wallet, display_name="Ann", locale="en")
    assert registered.user.wallet_address == wallet.address
    assert registered.user.status == UserStatus.USER_STATUS_ACTIVE
    assert registered.user.kyc_level == KycLevel.KYC_LEVEL_NONE
    with refusal("WALLET_ALREADY_REGISTERED", StatusCode.ALREADY_EXISTS):
        api.register(wallet)
    tokens = api.login(wallet).tokens
    me = api.call(api.users.GetMe, user_pb.GetMeRequest(), bearer=tokens.access_token)
    assert me == registered.user
    refreshed = api.refresh(tokens.refresh_token)
    assert refreshed.session_id == tokens.session_id
    api.call(api.auth.Logout, pb.LogoutRequest(), bearer=refreshed.access_token)
    with refusal("SESSION_ENDED", StatusCode.UNAUTHENTICATED):
        api.call(api.users.GetMe, user_pb.GetMeRequest(), bearer=refreshed.access_token)


def test_registration_keeps_what_was_said_and_nothing_else(shared: Service) -> None:
    said = {"display_name": "Ann Ångström", "email": "ann@example.com", "locale": "sv"}
    wallet, response = shared.registered(wallet_type="phantom", **said)
    user = response.user
    assert {name: getattr(user, name) for name in said} == said
    assert (user.wallet_address, user.wallet_type) == (wallet.address, "phantom")
    assert list(user.roles) == []
    assert user.etag
    (linked,) = user.wallets
    assert (linked.chain, linked.address, linked.primary) == (
        "solana",
        wallet.address,
        True,
    )
    row = shared.sql.one("SELECT * FROM users WHERE user_id = %s", user.user_id)
    assert row["create_time"] == shared.clock.now()
    assert (row["version"], row["event_sequence"]) == (2, 1)


def test_a_sign_in_writes_one_session_and_one_consumed_nonce(shared: Service) -> None:
    wallet, _ = shared.registered()
    before = shared.sql.counts()
    shared.api.login(wallet)
    after = shared.sql.counts()
    grown = {table: after[table] - before[table] for table in after}
    assert {table: rows for table, rows in grown.items() if rows} == {
        "sessions": 1,
        "consumed_nonces": 1,
        "audit_events": 1,
        "audit_unsealed": 1,
        "audit_personal": 1,
    }


def test_a_login_without_an_account_consumes_nothing(
    shared: Service, wallet: DevWallet
) -> None:
    proof = shared.api.proof(wallet)
    before = shared.sql.counts()
    with refusal("WALLET_NOT_REGISTERED", StatusCode.NOT_FOUND) as caught:
        send(shared, "Login", proof)
    assert caught[0].metadata == {"wallet_address": wallet.address}
    assert shared.sql.counts() == before
    assert send(shared, "Register", proof).user.wallet_address == wallet.address


def test_a_registration_of_a_known_wallet_consumes_nothing(shared: Service) -> None:
    wallet, registered = shared.registered(display_name="First")
    proof = shared.api.proof(wallet)
    before = shared.sql.counts()
    with refusal("WALLET_ALREADY_REGISTERED", StatusCode.ALREADY_EXISTS) as caught:
        send(shared, "Register", proof, display_name="Second")
    assert caught[0].metadata == {"wallet_address": wallet.address}
    assert shared.sql.counts() == before
    assert send(shared, "Login", proof).user == registered.user


@pytest.mark.parametrize("again", PROOF_RPCS)
@pytest.mark.parametrize("first", ["Register", "Login"])
def test_a_proof_that_has_signed_in_is_good_for_nothing_more(
    shared: Service, wallet: DevWallet, first: str, again: str
) -> None:
    if first == "Login":
        shared.api.register(wallet)
    proof = shared.api.proof(wallet)
    send(shared, first, proof)
    before = shared.sql.counts()
    with refusal("NONCE_CONSUMED", StatusCode.UNAUTHENTICATED):
        send(shared, again, proof)
    before["refused_proofs"] += 1
    assert shared.sql.counts() == before


def test_verifying_a_proof_consumes_nothing(shared: Service, wallet: DevWallet) -> None:
    proof = shared.api.proof(wallet)
    before = shared.sql.counts()
    for _ in range(2):
        answer = send(shared, "VerifyWallet", proof)
        assert (answer.wallet_address, answer.registered) == (wallet.address, False)
    assert shared.sql.counts() == before
    send(shared, "Register", proof)
    assert send(shared, "VerifyWallet", shared.api.proof(wallet)).registered


@pytest.mark.parametrize("rpc", PROOF_RPCS)
@pytest.mark.parametrize(
    ("encoding", "write"),
    [
        (None, lambda signature: None),
        (BASE58, lambda signature: None),
        (BASE64, base64.b64encode),
        (BASE64, lambda signature: base64.b64encode(signature).rstrip(b"=")),
        (BASE64, base64.urlsafe_b64encode),
        (HEX, lambda signature: signature.hex()),
        (HEX, lambda signature: signature.hex().upper()),
        (HEX, lambda signature: "0x" + signature.hex()),
    ],
    ids=[
        "unspecified",
        "base58",
        "base64",
        "base64 unpadded",
        "base64url",
        "hex",
        "hex in capitals",
        "hex with 0x",
    ],
)
@pytest.mark.parametrize("form", ["text", "bytes"])
def test_signatures_are_read_in_every_encoding_over_text_and_bytes(
    shared: Service,
    wallet: DevWallet,
    form: str,
    encoding: int,
    write: Callable[[bytes], str | bytes | None],
    rpc: str,
) -> None:
    if rpc == "Login":
        shared.api.register(wallet)
    text = challenge_of(shared, wallet).message
    proof = signed(text, wallet, signature_encoding=encoding)
    written = write(wallet.sign(text.encode()))
    if written is not None:
        proof["signature"] = written
    if form == "bytes":
        proof["signed_message"] = proof.pop("message").encode()
    send(shared, rpc, proof)


def test_of_two_signed_texts_on_the_wire_the_last_one_counts(
    shared: Service, wallet: DevWallet
) -> None:
    # A oneof cannot hold both, but bytes on the wire can (protobuf, "Oneof").
    proof = pb.VerifyWalletRequest(**shared.api.proof(wallet)).SerializeToString()
    rest = pb.VerifyWalletRequest(signed_message=b"nonsense").SerializeToString()
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes]
    call = shared.api.channel.unary_unary("/pourtier.v1.AuthService/VerifyWallet")
    assert shared.api.call(call, rest + proof)
    with refusal("MALFORMED_MESSAGE", StatusCode.INVALID_ARGUMENT):
        shared.api.call(call, proof + rest)


def test_one_wallet_may_have_many_sessions(shared: Service) -> None:
    wallet, registered = shared.registered()
    tokens = [shared.api.login(wallet).tokens for _ in range(3)]
    sessions = {each.session_id for each in (registered.tokens, *tokens)}
    assert len(sessions) == 4
    for each in tokens:
        shared.api.call(
            shared.api.users.GetMe, user_pb.GetMeRequest(), bearer=each.access_token
        )


def test_a_suspended_user_cannot_sign_in_and_the_proof_survives(
    api: Api, sql: Sql, wallet: DevWallet
) -> None:
    user = api.register(wallet).user
    sql.run("UPDATE users SET status = 2 WHERE user_id = %s", user.user_id)
    proof = api.proof(wallet)
    before = sql.counts()
    with refusal("USER_SUSPENDED", StatusCode.PERMISSION_DENIED):
        api.call(api.auth.Login, pb.LoginRequest(**proof))
    assert sql.counts() == before
    sql.run("UPDATE users SET status = 1 WHERE user_id = %s", user.user_id)
    assert api.call(api.auth.Login, pb.LoginRequest(**proof)).user == user


def test_the_service_under_test_has_no_more_than_its_duty_needs(
    shared: Service,
) -> None:
    """So that whatever else these tests show, a narrower role is enough for it."""
    with shared.server._parts.database.read() as read:
        row = read.run(text("SELECT current_user")).one()
    assert row.current_user == name_of(Duty.SERVING)
