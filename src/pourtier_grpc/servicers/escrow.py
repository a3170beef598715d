"""EscrowService."""

from __future__ import annotations

from uuid import UUID

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.call import Call
from pourtier_grpc.escrow.accounts import Accounts
from pourtier_grpc.escrow.transactions import Transactions
from pourtier_grpc.escrow.transfers import Transfers


class EscrowServicer:
    """A person's escrow."""

    def __init__(
        self, *, accounts: Accounts, transfers: Transfers, transactions: Transactions
    ) -> None:
        self._accounts = accounts
        self._transfers = transfers
        self._transactions = transactions

    def InitializeEscrow(
        self, request: pb.InitializeEscrowRequest, call: Call
    ) -> pb.InitializeEscrowResponse:
        return self._accounts.initialize(call.signed_in, call.client)

    def Deposit(self, request: pb.DepositRequest, call: Call) -> pb.Transaction:
        return self._transfers.deposit(call.signed_in, request.amount, call.client)

    def Withdraw(self, request: pb.WithdrawRequest, call: Call) -> pb.Transaction:
        return self._transfers.withdraw(call.signed_in, request.amount, call.client)

    def GetBalance(self, request: pb.GetBalanceRequest, call: Call) -> pb.Balance:
        return self._accounts.balance(call.signed_in)

    def ListTransactions(
        self, request: pb.ListTransactionsRequest, call: Call
    ) -> pb.ListTransactionsResponse:
        return self._transactions.page(
            call.signed_in, request.page_size, request.page_token
        )

    def GetTransaction(
        self, request: pb.GetTransactionRequest, call: Call
    ) -> pb.Transaction:
        return self._transactions.get(call.signed_in, UUID(request.transaction_id))
