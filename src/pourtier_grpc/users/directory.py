"""Accounts, as services and administrators see them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from pourtier.v1 import user_service_pb2 as pb
from pourtier.v1.user_pb2 import User
from pourtier_grpc.auth.wallets import DEFAULT_CHAIN, chain_named
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import pages
from pourtier_grpc.store.pages import Place
from pourtier_grpc.store.users import UserFilter, UserStore
from pourtier_grpc.times import moment, optional_moment

MAX_PAGE = 200


class Directory:
    """Finds accounts."""

    def __init__(self, *, users: UserStore) -> None:
        self._users = users

    def get(self, user_id: UUID) -> User:
        """The account of that id. Raises USER_NOT_FOUND."""
        return found(self._users.find(user_id), user_id)

    def get_by_wallet(self, chain: str, address: str) -> User:
        """The account that a wallet signs in to; an empty chain is the default one.

        Raises UNSUPPORTED_CHAIN, MALFORMED_ADDRESS or USER_NOT_FOUND.
        """
        wallet_chain = chain_named(chain or DEFAULT_CHAIN)
        wallet_chain.public_key(address)
        user = self._users.find_by_wallet(wallet_chain.name, address)
        if user is None:
            raise PourtierError(
                ErrorReason.ERROR_REASON_USER_NOT_FOUND, "the wallet has no account"
            )
        return user

    def get_many(self, user_ids: Sequence[str]) -> pb.BatchGetUsersResponse:
        """The accounts of those ids, in their order, and the ids that none has.

        Each is answered once: an id in capitals is the same id (RFC 9562 section 4).
        """
        wanted = list(dict.fromkeys(UUID(each) for each in user_ids))
        users = self._users.find_many(wanted)
        ids = [str(each) for each in wanted]
        return pb.BatchGetUsersResponse(
            users=[users[each] for each in ids if each in users],
            missing_user_ids=[each for each in ids if each not in users],
        )

    def page(self, request: pb.ListUsersRequest) -> pb.ListUsersResponse:
        """A page of accounts. Raises INVALID_PAGE_TOKEN."""
        wanted = UserFilter(
            status=request.status or None,
            wallet_address=request.wallet_address or None,
            email=request.email or None,
            created_from=optional_moment(request, "created_from"),
            created_before=optional_moment(request, "created_before"),
        )
        filters = ("users", wanted)
        page = pages.read_page(
            request.page_size, request.page_token, filters, most=MAX_PAGE
        )
        users = self._users.page(wanted, page)
        shown, token = pages.end_page(page, users, _place_of, filters)
        return pb.ListUsersResponse(users=shown, next_page_token=token)


def _place_of(user: User) -> Place:
    return Place(moment(user.create_time), UUID(user.user_id))


def found(user: User | None, user_id: UUID) -> User:
    """The account, if there is one. Raises USER_NOT_FOUND."""
    if user is None:
        raise PourtierError(
            ErrorReason.ERROR_REASON_USER_NOT_FOUND,
            "there is no user {user_id}",
            user_id=str(user_id),
        )
    return user
