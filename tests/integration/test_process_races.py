"""Races across two real processes that share a database and a folder of keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.auth_service_pb2 import Tokens
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.store.keys import KeyUse
from support.api import Api, Proof, refusal
from support.processes import serving
from support.servers import Databases, state_folder
from support.sql import Sql
from support.threads import reasons, successes, tell, together
from support.tokens import me

pytestmark = pytest.mark.no_cover  # others run the same code

REPLAYS = 100
TABS = 50
CHANNELS = 4


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two processes: clients of both, in turn, and what lies behind them."""

    clients: list[Api]
    sql: Sql
    keys: Path

    @property
    def one(self) -> Api:
        return self.clients[0]

    @property
    def other(self) -> Api:
        return self.clients[1]

    def client(self, number: int) -> Api:
        return self.clients[number % len(self.clients)]

    def later(self, tokens: Tokens, seconds: int = 11) -> None:
        """Lets time pass for a session: the processes go by the database's clock."""
        self.sql.run(
            "UPDATE sessions SET rotate_time = rotate_time - make_interval(secs => %s) "
            "WHERE session_id = %s",
            seconds,
            tokens.session_id,
        )


@pytest.fixture(scope="module")
def pair(databases: Databases) -> Iterator[Pair]:
    """Two processes, started at once on an empty database and an empty folder."""
    with (
        databases.fresh() as url,
        state_folder() as folder,
        # The replays sign in to one account a thousand times.
        serving(folder, url, count=2, max_sessions_per_user=1000) as processes,
        Sql(url) as sql,
    ):
        clients = [Api(each.target) for _ in range(CHANNELS) for each in processes]
        yield Pair(clients=clients, sql=sql, keys=folder / "keys")
        for client in clients:
            client.close()


def test_two_processes_that_start_at_once_make_one_set_of_keys(pair: Pair) -> None:
    jwks = [
        api.call(api.auth.GetJwks, pb.GetJwksRequest())
        for api in (pair.one, pair.other)
    ]
    assert jwks[0] == jwks[1]
    # The one that signs and the next one; the pseudonym key has none.
    assert len(jwks[0].keys) == 2
    assert len(list(pair.keys.iterdir())) == 2 * len(KeyUse) - 1
    uses = pair.sql.run("SELECT use FROM signing_keys WHERE state = 'active'")
    assert {row["use"] for row in uses} == {use.value for use in KeyUse}
    assert len(uses) == len(KeyUse)


def test_what_one_process_issues_is_good_at_the_other(
    pair: Pair, wallet: DevWallet
) -> None:
    proof = pair.one.proof(wallet)
    request = pb.RegisterRequest(**proof, wallet_type="test")
    tokens = pair.other.call(pair.other.auth.Register, request).tokens
    assert me(pair.one, tokens.access_token).wallet_address == wallet.address
    second = pair.one.refresh(tokens.refresh_token)
    assert pair.other.refresh(tokens.refresh_token).access_token == second.access_token
    # A session's end is known everywhere from the next call on.
    pair.one.call(pair.one.auth.Logout, pb.LogoutRequest(), bearer=second.access_token)
    with refusal("SESSION_ENDED"):
        me(pair.other, second.access_token)


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_of_a_hundred_replays_at_two_processes_exactly_one_signs_in(
    pair: Pair, rounds: Callable[[int, int], int]
) -> None:
    wallet = DevWallet.generate()
    pair.one.register(wallet)
    total, start = rounds(20, 300), time.monotonic()
    for _ in range(total):
        request = pb.LoginRequest(**pair.one.proof(wallet))
        before = pair.sql.counts()

        def replay(number: int, proof: pb.LoginRequest = request) -> pb.LoginResponse:
            client = pair.client(number)
            return client.call(client.auth.Login, proof)

        outcomes = together(REPLAYS, replay)
        assert len(successes(outcomes)) == 1
        assert reasons(outcomes) == ["NONCE_CONSUMED"] * (REPLAYS - 1)
        after = pair.sql.counts()
        grown = {table: after[table] - before[table] for table in after}
        # They are counted, in a row a minute.
        assert grown.pop("refused_proofs") in {0, 1}
        assert {table: rows for table, rows in grown.items() if rows} == {
            "sessions": 1,
            "consumed_nonces": 1,
            "audit_events": 1,
            "audit_unsealed": 1,
            "audit_personal": 1,
        }
    refused = "SELECT sum(count) AS times FROM refused_proofs WHERE wallet_address = %s"
    assert pair.sql.one(refused, wallet.address)["times"] == total * (REPLAYS - 1)
    tell(
        f"{total} rounds of {REPLAYS} replays at two processes in "
        f"{time.monotonic() - start:.1f} s: 1 session and {REPLAYS - 1} refusals each"
    )


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_fifty_tabs_at_two_processes_get_the_same_successor(
    pair: Pair, rounds: Callable[[int, int], int]
) -> None:
    tokens = pair.one.register(DevWallet.generate()).tokens
    total = rounds(3, 300)
    for number in range(1, total + 1):
        old = tokens.refresh_token

        def refresh(number: int, token: str = old) -> Tokens:
            return pair.client(number).refresh(token)

        outcomes = successes(together(TABS, refresh))
        assert len(outcomes) == TABS
        assert len({each.refresh_token for each in outcomes}) == 1
        assert len({each.access_token for each in outcomes}) == 1
        row = pair.sql.one(
            "SELECT * FROM sessions WHERE session_id = %s", tokens.session_id
        )
        assert (row["generation"], row["end_time"]) == (number + 1, None)
        tokens = outcomes[0]
        assert me(pair.client(number), tokens.access_token)
        pair.later(tokens)
    tell(f"{total} rounds of {TABS} refreshes at two processes: one successor each")


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_twenty_registrations_at_two_processes_make_one_account(
    pair: Pair, rounds: Callable[[int, int], int]
) -> None:
    total = rounds(3, 200)
    for _ in range(total):
        wallet = DevWallet.generate()
        proofs = [pair.one.proof(wallet) for _ in range(20)]

        def register(number: int, given: list[Proof] = proofs) -> pb.RegisterResponse:
            request = pb.RegisterRequest(**given[number], wallet_type="test")
            client = pair.client(number)
            return client.call(client.auth.Register, request)

        outcomes = together(20, register)
        (account,) = successes(outcomes)
        assert reasons(outcomes) == ["WALLET_ALREADY_REGISTERED"] * 19
        found = pair.sql.run(
            "SELECT user_id FROM wallets WHERE address = %s", wallet.address
        )
        assert [str(row["user_id"]) for row in found] == [account.user.user_id]
    # No account without a wallet is left of those who lost.
    counts = pair.sql.counts()
    assert counts["users"] == counts["wallets"]
    tell(f"{total} rounds of 20 registrations at two processes: one account each")
