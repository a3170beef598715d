"""A rig of deposits and withdrawals, and of what was promised to whom."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import grpc

from e2e.house import KEY, TIMEOUT, House, at_last, opened
from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.failpoints import Failpoint
from support.api import Api, refused
from support.servers import Databases
from support.waiting import wait_until

MOVES = ("deposit", "withdrawal")
LEASES_END = """
    UPDATE escrow_transactions SET next_attempt_time = now() - interval '1s'
    WHERE status = 1
"""


@dataclass(frozen=True, kw_only=True)
class TransferHouse(House):
    """A house whose people move money."""

    promised: dict[str, pb.Transaction] = field(default_factory=dict)

    def killed(self, kind: str, key: str, bearer: str, point: Failpoint) -> None:
        """Asks for a move of a process that is killed at a point of it.

        The lease of that call is over then.
        """
        self.killed_at(point, lambda api: self.move(kind, key, bearer, api))
        its = "(SELECT resource_id FROM idempotency_keys WHERE key = %s)"
        query = f"{LEASES_END} AND transaction_id = {its}"
        self.sql.run(query, key)

    def settled(self) -> None:
        """Returns when a worker has settled all."""
        with self.worker():
            self.wait_for_settlement()

    def wait_for_settlement(self) -> None:
        wait_until(lambda: self.pending() == 0, within=90)

    def move(self, kind: str, key: str, bearer: str, api: Api) -> pb.Transaction:
        """A deposit or a withdrawal of 1."""
        metadata = ((KEY, key), ("authorization", f"Bearer {bearer}"))
        deposit, withdraw = (
            pb.DepositRequest(amount="1"),
            pb.WithdrawRequest(amount="1"),
        )
        try:
            if kind == "deposit":
                return api.escrow.Deposit(deposit, timeout=TIMEOUT, metadata=metadata)
            return api.escrow.Withdraw(withdraw, timeout=TIMEOUT, metadata=metadata)
        except grpc.RpcError as error:
            raise refused(error) from None

    def repeated(
        self, kind: str, key: str, bearer: str, number: int = 0
    ) -> pb.Transaction:
        """The answer at last, which is promised from then on."""
        client = self.client(number)
        answer = at_last(lambda: self.move(kind, key, bearer, client))
        self.promised[key] = answer
        return answer

    def pending(self) -> int:
        query = "SELECT count(*) FROM escrow_transactions WHERE status = 1"
        return int(self.sql.one(query)["count"])

    def leases_end(self) -> None:
        """Time passes for the transfers that the dead hold."""
        self.sql.run(LEASES_END)

    def agree(self) -> int:
        """Whether Passeur's list, our transactions and the answers tell the same."""
        rows = self.sql.run("SELECT * FROM escrow_transactions")
        ours = {(str(row["transaction_id"]), row["amount"]) for row in rows}
        theirs = [
            (each["key"], each["amount"])
            for kind in MOVES
            for each in self.sim.effects(kind=kind)
        ]
        assert sorted(theirs) == sorted(ours)
        assert {row["status"] for row in rows} == {2}
        told = {each.transaction_id for each in self.promised.values()}
        assert len(told) == len(self.promised)
        assert told <= {each for each, _ in ours}
        return len(ours)


def house(
    databases: Databases, count: int = 1, **settings: Any
) -> AbstractContextManager[TransferHouse]:
    return opened(TransferHouse, databases, count, **settings)
