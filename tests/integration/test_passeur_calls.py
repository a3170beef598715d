"""Every call of Passeur's contract: what it answers, and every way it is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pourtier_grpc import logs
from pourtier_grpc.config import load
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.passeur.client import OPERATIONS, Passeur, open_passeur
from pourtier_grpc.passeur.errors import MalformedAnswerError, RefusedError
from pourtier_grpc.passeur.models import Charge, Transaction, TransactionStatus
from pourtier_grpc.telemetry.metrics import Metrics
from support.clock import ManualClock
from support.passeur import PasseurSim, passeur_client
from support.waiting import eventually

PENDING, CONFIRMED, FAILED = TransactionStatus


@pytest.fixture(scope="module")
def passeur(sim: PasseurSim) -> Iterator[Passeur]:
    with passeur_client(sim.url) as client:
        yield client.passeur


@pytest.fixture
def key() -> str:
    return str(uuid4())


def refused(code: str) -> pytest.RaisesExc[RefusedError]:
    return pytest.RaisesExc(RefusedError, check=lambda error: error.code == code)


def charged(passeur: Passeur, wallet: str, amount: str, key: str) -> Charge:
    return passeur.charge(wallet, Decimal(amount), reference="basic", key=key)


def settled(passeur: Passeur, transaction_id: str) -> Transaction:
    """A transaction, once it is pending no more."""
    found: list[Transaction | None] = []

    def done() -> bool:
        found.append(passeur.transaction(transaction_id))
        return found[-1] is not None and found[-1].status is not PENDING

    assert eventually(done)
    assert found[-1] is not None
    return found[-1]


class TestEscrows:
    def test_one_is_made_and_then_found(
        self, passeur: Passeur, sim: PasseurSim
    ) -> None:
        wallet = DevWallet.generate().address
        made, found = passeur.initialize(wallet), passeur.initialize(wallet)
        assert (made.wallet, made.status, made.created) == (wallet, "active", True)
        assert not found.created
        assert found.escrow_account == made.escrow_account
        assert [each["kind"] for each in sim.effects(wallet=wallet)] == ["initialize"]

    @pytest.mark.parametrize("wallet", ["0xnone", "a", "x/../y", "11", "é?#%2F"])
    def test_what_is_no_wallet_is_refused(self, passeur: Passeur, wallet: str) -> None:
        with refused("invalid_wallet"):
            passeur.initialize(wallet)

    @pytest.mark.parametrize("wallet", ["", ".", ".."])
    def test_what_is_no_segment_of_a_path_is_not_sent(
        self, passeur: Passeur, wallet: str
    ) -> None:
        with pytest.raises(ValueError, match="segment"):
            passeur.balance(wallet)

    def test_its_balance(self, passeur: Passeur, sim: PasseurSim) -> None:
        balance = passeur.balance(sim.escrow("12.345678"))
        assert (balance.balance, balance.currency) == (Decimal("12.345678"), "USDC")
        assert abs(balance.as_of - datetime.now(UTC)) < timedelta(minutes=1)

    def test_without_one_there_is_nothing_to_ask(
        self, passeur: Passeur, key: str
    ) -> None:
        wallet, one = DevWallet.generate().address, Decimal(1)
        for call in (
            lambda: passeur.balance(wallet),
            lambda: passeur.deposit(wallet, one, key=key),
            lambda: passeur.withdraw(wallet, one, key=f"{key}-w"),
            lambda: passeur.charge(wallet, one, reference="r", key=f"{key}-c"),
            lambda: passeur.transactions(wallet),
        ):
            with refused("escrow_not_initialized"):
                call()


class TestTransfers:
    def test_a_deposit_counts_when_it_has_settled(
        self, passeur: Passeur, sim: PasseurSim, key: str
    ) -> None:
        wallet = sim.escrow("1")
        begun = passeur.deposit(wallet, Decimal("5.5"), key=key)
        assert begun.status is PENDING
        done = settled(passeur, begun.transaction_id)
        assert (done.type, done.amount, done.status, done.failure) == (
            "deposit",
            Decimal("5.5"),
            CONFIRMED,
            None,
        )
        assert done.signature is not None
        assert done.settled_at is not None
        assert done.created_at <= done.settled_at
        assert passeur.balance(wallet).balance == Decimal("6.5")

    def test_a_withdrawal_is_held_at_once(
        self, passeur: Passeur, sim: PasseurSim, key: str
    ) -> None:
        wallet = sim.escrow("5")
        begun = passeur.withdraw(wallet, Decimal(4), key=key)
        assert passeur.balance(wallet).balance == 1
        with refused("insufficient_balance") as info:
            charged(passeur, wallet, "1.000001", f"{key}-c")
        assert info.value.balance == 1
        assert settled(passeur, begun.transaction_id).status is CONFIRMED
        assert passeur.balance(wallet).balance == 1

    def test_what_fails_says_why_and_moves_nothing(
        self, passeur: Passeur, sim: PasseurSim, key: str
    ) -> None:
        wallet = sim.escrow("5")
        for number, operation in enumerate(("deposit", "withdraw")):
            own = f"{key}-{number}"
            sim.fault(operation=operation, key=own, settle_failed="no lamports")
            begun = getattr(passeur, operation)(wallet, Decimal(2), key=own)
            done = settled(passeur, begun.transaction_id)
            assert (done.status, done.failure) == (FAILED, "no lamports")
            assert done.signature is None
        assert passeur.balance(wallet).balance == 5

    def test_more_than_there_is_cannot_be_withdrawn(
        self, passeur: Passeur, sim: PasseurSim, key: str
    ) -> None:
        with refused("insufficient_balance") as info:
            passeur.withdraw(sim.escrow("5"), Decimal(6), key=key)
        assert info.value.balance == 5

    @pytest.mark.parametrize("amount", ["0", "18446744073709.551615"])
    def test_an_amount_that_cannot_be_moved_is_refused(
        self, passeur: Passeur, sim: PasseurSim, key: str, amount: str
    ) -> None:
        wallet, much = sim.escrow(), Decimal(amount)
        charged(passeur, wallet, "1", f"{key}-c")
        calls: list[Callable[[str], object]] = [
            lambda own: passeur.deposit(wallet, much, key=own),
            lambda own: passeur.withdraw(wallet, much, key=own),
            lambda own: charged(passeur, wallet, amount, own),
            lambda own: passeur.refund(f"{key}-c", much, key=own),
        ]
        for number, call in enumerate(calls):
            with refused("invalid_amount"):
                call(f"{key}-{number}")


class TestCharges:
    def test_one_is_made_once_under_its_key(
        self, passeur: Passeur, sim: PasseurSim, key: str
    ) -> None:
        wallet = sim.escrow("30")
        assert passeur.charge_of(key) is None
        first = charged(passeur, wallet, "29.00", key)
        assert first.status is CONFIRMED
        assert first.amount == 29
        assert charged(passeur, wallet, "29", key) == first
        assert passeur.charge_of(key) == first
        assert passeur.balance(wallet).balance == 1
        (effect,) = sim.effects(key=key)
        assert (effect["kind"], effect["amount"]) == ("charge", "29")
        assert effect["transaction_id"] == first.transaction_id

    def test_a_refusal_is_remembered_too(
        self, passeur: Passeur, sim: PasseurSim, key: str
    ) -> None:
        wallet = sim.escrow("28.999999")
        for _ in range(2):
            with refused("insufficient_balance") as info:
                charged(passeur, wallet, "29", key)
            assert info.value.balance == Decimal("28.999999")
            sim.top_up(wallet, "100")
        assert passeur.charge_of(key) is None
        assert sim.effects(key=key) == []

    def test_a_key_is_for_one_request_for_ever(
        self, passeur: Passeur, sim: PasseurSim, key: str
    ) -> None:
        wallet = sim.escrow()
        charged(passeur, wallet, "1", key)
        for call in (
            lambda: charged(passeur, wallet, "2", key),
            lambda: charged(passeur, sim.escrow(), "1", key),
            lambda: passeur.deposit(wallet, Decimal(1), key=key),
            lambda: passeur.refund(key, Decimal(1), key=key),
        ):
            with refused("idempotency_key_reused"):
                call()
        assert len(sim.effects(key=key)) == 1

    @pytest.mark.parametrize("key", ["", "a b", "é", "a\n"])
    def test_a_key_that_cannot_be_a_header_is_not_sent(
        self, passeur: Passeur, key: str
    ) -> None:
        with pytest.raises(ValueError, match="key"):
            charged(passeur, DevWallet.generate().address, "1", key)

    def test_a_key_may_be_any_visible_text(
        self, passeur: Passeur, sim: PasseurSim
    ) -> None:
        for name in ("a/../b?c#d%2F", "..%2f", "~!@$&'()*+,;=:"):
            own = f"{uuid4()}{name}"
            assert charged(passeur, sim.escrow(), "1", own) == passeur.charge_of(own)
            with refused("already_executed"):
                passeur.void(own)


class TestRefunds:
    def test_parts_of_a_charge_and_never_more(
        self, passeur: Passeur, sim: PasseurSim, key: str
    ) -> None:
        wallet = sim.escrow("10")
        charged(passeur, wallet, "10", key)
        first = passeur.refund(key, Decimal("3.5"), key=f"{key}-1")
        assert first == passeur.refund(key, Decimal("3.50"), key=f"{key}-1")
        assert first.status is CONFIRMED
        with refused("exceeds_charge"):
            passeur.refund(key, Decimal("6.500001"), key=f"{key}-2")
        passeur.refund(key, Decimal("6.5"), key=f"{key}-3")
        assert passeur.balance(wallet).balance == 10
        kinds = [each["kind"] for each in sim.effects(wallet=wallet)]
        assert kinds == ["initialize", "charge", "refund", "refund"]

    def test_of_nothing_there_is_none(self, passeur: Passeur, key: str) -> None:
        with refused("unknown_key"):
            passeur.refund(key, Decimal(1), key=f"{key}-r")


class TestVoiding:
    def test_a_key_never_seen_is_closed_for_ever(
        self, passeur: Passeur, sim: PasseurSim, key: str
    ) -> None:
        wallet = sim.escrow()
        passeur.void(key)
        passeur.void(key)
        with refused("voided"):
            charged(passeur, wallet, "1", key)
        with refused("voided"):
            passeur.deposit(wallet, Decimal(1), key=key)
        assert passeur.charge_of(key) is None
        assert sim.effects(key=key) == []

    def test_a_key_that_was_refused_can_be_voided(
        self, passeur: Passeur, sim: PasseurSim, key: str
    ) -> None:
        wallet = sim.escrow("1")
        with refused("insufficient_balance"):
            charged(passeur, wallet, "2", key)
        passeur.void(key)
        with refused("voided"):
            charged(passeur, wallet, "2", key)

    def test_what_was_executed_comes_with_the_refusal(
        self, passeur: Passeur, sim: PasseurSim, key: str
    ) -> None:
        made = charged(passeur, sim.escrow(), "7", key)
        with refused("already_executed") as info:
            passeur.void(key)
        assert info.value.charge == made
        assert not info.value.may_have_taken_effect

    def test_a_key_of_something_else_is_no_charges(
        self, passeur: Passeur, sim: PasseurSim, key: str
    ) -> None:
        passeur.deposit(sim.escrow(), Decimal(1), key=key)
        with refused("idempotency_key_reused"):
            passeur.void(key)


class TestTransactions:
    def test_pages_newest_first(self, passeur: Passeur, sim: PasseurSim) -> None:
        wallet, other = sim.escrow(), sim.escrow()
        made = []
        for number in range(7):
            made.append(charged(passeur, wallet, f"{number + 1}", str(uuid4())))
            charged(passeur, other, "1", str(uuid4()))
        pages: list[tuple[Transaction, ...]] = []
        token = None
        while not pages or token:
            page = passeur.transactions(wallet, page_token=token, limit=3)
            token = page.next_page_token
            pages.append(page.transactions)
        assert list(map(len, pages)) == [3, 3, 1]
        listed = list(itertools.chain(*pages))
        expected = [charge.transaction_id for charge in reversed(made)]
        assert [each.transaction_id for each in listed] == expected
        assert {each.type for each in listed} == {"charge"}
        assert listed[0] == passeur.transaction(made[-1].transaction_id)
        assert passeur.transactions(wallet).transactions == tuple(listed)

    def test_there_may_be_none(self, passeur: Passeur, sim: PasseurSim) -> None:
        page = passeur.transactions(sim.escrow())
        assert (page.transactions, page.next_page_token) == ((), None)
        assert passeur.transaction("tx_none") is None

    def test_a_token_that_is_none_breaks_the_contract(
        self, passeur: Passeur, sim: PasseurSim
    ) -> None:
        with pytest.raises(MalformedAnswerError):
            passeur.transactions(sim.escrow(), page_token="p1' OR 1=1&limit=2")


@settings(max_examples=25, deadline=None)
@given(micros=st.integers(1, 10**18))
def test_amounts_survive_unchanged(
    passeur: Passeur, sim: PasseurSim, micros: int
) -> None:
    amount = Decimal(f"{micros // 10**6}.{micros % 10**6:06}")
    wallet, key = sim.escrow(str(amount)), str(uuid4())
    assert passeur.balance(wallet).balance == amount
    made = passeur.charge(wallet, amount, reference="r", key=key)
    assert made.amount == amount
    assert passeur.transactions(wallet).transactions[0].amount == amount
    assert passeur.balance(wallet).balance == 0
    passeur.refund(key, amount, key=f"{key}-r")
    assert passeur.balance(wallet).balance == amount


def test_each_request_has_the_id_of_the_call_being_served(
    passeur: Passeur, sim: PasseurSim, key: str
) -> None:
    class Told:
        def log_fields(self) -> dict[str, str]:
            return {"request_id": "request-of-a-caller"}

    wallet = sim.escrow()
    token = logs.telling(Told())
    try:
        charged(passeur, wallet, "1", key)
    finally:
        logs.told(token)
    charged(passeur, wallet, "1", key)
    charged(passeur, wallet, "1", key)
    first, second, third = (each["request_id"] for each in sim.requests(key=key))
    assert first == "request-of-a-caller"
    assert len({first, second, third}) == 3


def test_health(passeur: Passeur, sim: PasseurSim) -> None:
    assert passeur.healthy()
    sim.fault(operation="health", status=503)
    assert not passeur.healthy()
    assert passeur.healthy()


def test_the_simulator_has_every_call(sim: PasseurSim) -> None:
    for operation in OPERATIONS:
        sim.fault(operation=operation.name)
    sim.reset()


def test_without_a_url_there_is_no_client() -> None:
    clock, metrics = ManualClock(), Metrics().passeur
    assert open_passeur(load(), clock=clock, metrics=metrics) is None
