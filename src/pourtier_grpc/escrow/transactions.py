"""What was moved in and out of an escrow, as its owner sees it."""

from __future__ import annotations

from uuid import UUID

from pourtier.v1 import escrow_service_pb2 as pb
from pourtier_grpc.caller import SignedInUser
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import pages
from pourtier_grpc.store.escrow import EscrowStore
from pourtier_grpc.store.pages import Place
from pourtier_grpc.times import moment

MAX_PAGE = 100


class Transactions:
    """Finds and lists deposits and withdrawals."""

    def __init__(self, *, store: EscrowStore) -> None:
        self._store = store

    def page(
        self, caller: SignedInUser, size: int, token: str
    ) -> pb.ListTransactionsResponse:
        """A page of the caller's, the newest first. Raises INVALID_PAGE_TOKEN."""
        filters = ("transactions", caller.user_id)
        page = pages.read_page(size, token, filters, most=MAX_PAGE)
        transactions = self._store.page(caller.user_id, page)
        shown, next_token = pages.end_page(page, transactions, _place_of, filters)
        return pb.ListTransactionsResponse(
            transactions=shown, next_page_token=next_token
        )

    def get(self, caller: SignedInUser, transaction_id: UUID) -> pb.Transaction:
        """One of the caller's. Raises TRANSACTION_NOT_FOUND."""
        transaction = self._store.transaction(caller.user_id, transaction_id)
        if transaction is None:
            raise PourtierError(
                ErrorReason.ERROR_REASON_TRANSACTION_NOT_FOUND,
                "there is no transaction {transaction_id}",
                transaction_id=str(transaction_id),
            )
        return transaction


def _place_of(transaction: pb.Transaction) -> Place:
    return Place(moment(transaction.create_time), UUID(transaction.transaction_id))
