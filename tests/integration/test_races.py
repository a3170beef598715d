"""Races of many threads against one process; the outcome is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1 import user_service_pb2 as user_pb
from pourtier.v1.auth_service_pb2 import Tokens
from pourtier.v1.user_pb2 import User
from pourtier_grpc.devtools.wallet import DevWallet
from support.api import Api, Proof
from support.proofs import send, signed, text_of
from support.service import Service
from support.threads import reasons, successes, tell, together
from support.tokens import me

pytestmark = pytest.mark.no_cover  # others run the same code

THREADS = 50
CHANNELS = 5


@pytest.fixture
def channels(shared: Service) -> Iterator[list[Api]]:
    """Several clients, so that calls arrive on several connections."""
    target = f"127.0.0.1:{shared.server.ports[0]}"
    made = [Api(target) for _ in range(CHANNELS)]
    yield made
    for each in made:
        each.close()


def generation(service: Service, session_id: str) -> int:
    row = service.sql.one("SELECT * FROM sessions WHERE session_id = %s", session_id)
    return int(row["generation"])


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_fifty_tabs_refresh_at_once_and_get_the_same_tokens(
    shared: Service, channels: list[Api], rounds: Callable[[int, int], int]
) -> None:
    tokens = shared.registered()[1].tokens
    total = rounds(8, 300)
    for number in range(1, total + 1):
        presented = tokens.refresh_token

        def refresh(number: int, token: str = presented) -> Tokens:
            return channels[number % CHANNELS].refresh(token)

        outcomes = successes(together(THREADS, refresh))
        assert len(outcomes) == THREADS
        assert len({each.refresh_token for each in outcomes}) == 1
        assert len({each.access_token for each in outcomes}) == 1
        assert generation(shared, tokens.session_id) == number + 1
        tokens = outcomes[0]
        assert tokens.refresh_token != presented
        assert me(shared.api, tokens.access_token)
        shared.clock.move(seconds=11)
    tell(f"{total} rounds of {THREADS} refreshes: one successor each, none logged out")


def test_parent_and_successor_at_once_within_the_window_agree(
    shared: Service, channels: list[Api]
) -> None:
    first = shared.registered()[1].tokens
    second = shared.api.refresh(first.refresh_token)
    both = [first.refresh_token, second.refresh_token]
    outcomes = together(
        THREADS, lambda n: channels[n % CHANNELS].refresh(both[n // 5 % 2])
    )
    assert {each.refresh_token for each in successes(outcomes)} == {
        second.refresh_token
    }
    assert len(successes(outcomes)) == THREADS


def test_of_a_theft_noticed_by_many_at_once_one_is_told(
    shared: Service, channels: list[Api]
) -> None:
    registered = shared.registered()[1]
    first = registered.tokens
    second = shared.api.refresh(first.refresh_token)
    shared.clock.move(seconds=11)
    shared.api.refresh(second.refresh_token)
    outcomes = together(
        THREADS, lambda n: channels[n % CHANNELS].refresh(first.refresh_token)
    )
    assert sorted(reasons(outcomes)) == [
        "REFRESH_TOKEN_REUSED",
        *["SESSION_ENDED"] * (THREADS - 1),
    ]
    types = shared.sql.event_types(registered.user.user_id)
    assert types == ["user.created", "session.reuse_detected", "session.ended"]


def test_one_proof_by_fifty_threads_signs_in_once(
    shared: Service, channels: list[Api]
) -> None:
    wallet = DevWallet.generate()
    proof = shared.api.proof(wallet)

    def register(number: int) -> pb.RegisterResponse:
        api = channels[number % CHANNELS]
        request = pb.RegisterRequest(**proof, wallet_type="test")
        return api.call(api.auth.Register, request)

    outcomes = together(THREADS, register)
    assert len(successes(outcomes)) == 1
    assert reasons(outcomes) == ["NONCE_CONSUMED"] * (THREADS - 1)


def test_one_challenge_answered_by_many_wallets_lets_one_in(shared: Service) -> None:
    request = pb.CreateChallengeRequest()
    source = shared.api.call(shared.api.auth.CreateChallenge, request).sign_in_input
    wallets = [DevWallet.generate() for _ in range(20)]
    proofs = [signed(text_of(source, address=w.address), w) for w in wallets]
    before = shared.sql.counts()
    outcomes = together(20, lambda n: send(shared, "Register", proofs[n]))
    assert len(successes(outcomes)) == 1
    assert reasons(outcomes) == ["NONCE_CONSUMED"] * 19
    assert shared.sql.counts()["users"] == before["users"] + 1


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_twenty_registrations_of_one_wallet_make_one_account(
    shared: Service, rounds: Callable[[int, int], int]
) -> None:
    total = rounds(3, 200)
    for _ in range(total):
        wallet = DevWallet.generate()
        proofs = [shared.api.proof(wallet) for _ in range(20)]
        before = shared.sql.counts()

        def register(number: int, given: list[Proof] = proofs) -> pb.RegisterResponse:
            response: pb.RegisterResponse = send(shared, "Register", given[number])
            return response

        outcomes = together(20, register)
        (account,) = successes(outcomes)
        assert reasons(outcomes) == ["WALLET_ALREADY_REGISTERED"] * 19
        after = shared.sql.counts()
        for table in ("users", "wallets", "sessions", "consumed_nonces", "outbox"):
            assert after[table] == before[table] + 1, table
        # Nineteen proofs were not consumed: they log in.
        losers = [proofs[n] for n in range(20) if outcomes[n] is not account]
        users = {send(shared, "Login", proof).user.user_id for proof in losers}
        assert users == {account.user.user_id}
    tell(f"{total} rounds of 20 registrations: one account each")


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_of_two_updates_with_one_etag_exactly_one_wins(
    shared: Service, rounds: Callable[[int, int], int]
) -> None:
    registered = shared.registered()[1]
    token, etag = registered.tokens.access_token, registered.user.etag
    total = rounds(10, 500)

    def update(number: int) -> User:
        request = user_pb.UpdateMeRequest(
            user=User(display_name=f"{etag.strip(chr(34))} {number}", etag=etag)
        )
        return shared.api.call(shared.api.users.UpdateMe, request, bearer=token)

    for _ in range(total):
        outcomes = together(2, update)
        (winner,) = successes(outcomes)
        assert reasons(outcomes) == ["ETAG_MISMATCH"]
        assert me(shared.api, token) == winner
        etag = winner.etag
    tell(f"{total} rounds of two updates with one etag: one winner each")


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_logouts_and_refreshes_at_once_leave_no_session_alive(
    shared: Service, rounds: Callable[[int, int], int]
) -> None:
    total = rounds(5, 200)
    for _ in range(total):
        registered = shared.registered()[1]
        old = registered.tokens.refresh_token

        def work(number: int, token: str = old) -> Tokens | None:
            if number == 0:
                request = pb.LogoutRequest(refresh_token=token)
                shared.api.call(shared.api.auth.Logout, request)
                return None
            return shared.api.refresh(token)

        outcomes = together(8, work)
        assert set(reasons(outcomes)) <= {"SESSION_ENDED"}
        for tokens in filter(None, successes(outcomes)):

            def read(_: int, token: str = tokens.access_token) -> User:
                return me(shared.api, token)

            ended = together(1, read)
            assert reasons(ended) == ["SESSION_ENDED"]
        types = shared.sql.event_types(registered.user.user_id)
        assert types.count("session.ended") == 1
    tell(f"{total} rounds of a logout among refreshes: always ended")
