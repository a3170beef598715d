"""The people of the authorisation matrix, and the resources that its requests name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from pourtier_grpc.devtools.wallet import DevWallet

OK = "OK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with an account and a session."""

    user_id: str
    session_id: str
    wallet_address: str
    bearer: str
    # Nobody's own, and there for everybody.
    document_id: str
    transaction_id: str
    # Made when it is asked for: whoever has one can buy no other.
    subscription_id: Callable[[], str]
    reservation_id: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A field by which a request names a resource.

    `of` is a person's own, `unknown` one that there is not. `not_found` is what whoever
    is let in hears of that, and `hides` says that another's is the same to them.
    """

    of: Callable[[Person], object]
    unknown: Callable[[], object]
    not_found: str
    hides: bool = False


_ANSWERED = Named(
    of=lambda person: person.user_id, unknown=lambda: str(uuid4()), not_found=OK
)
# Every required field that names a resource: by name, or by `Message.field`.
NAMED = {
    "user_id": Named(
        of=lambda person: person.user_id,
        unknown=lambda: str(uuid4()),
        not_found="USER_NOT_FOUND",
    ),
    "user_ids": Named(
        of=lambda person: [person.user_id],
        unknown=lambda: [str(uuid4())],
        # Ids without an account are named in the answer.
        not_found=OK,
    ),
    "session_id": Named(
        of=lambda person: person.session_id,
        unknown=lambda: str(uuid4()),
        not_found="SESSION_NOT_FOUND",
        hides=True,
    ),
    # That there is no such user is an answer, too.
    "ValidateDeploymentRequest.user_id": _ANSWERED,
    "CheckEntitlementRequest.user_id": _ANSWERED,
    "document_id": Named(
        of=lambda person: person.document_id,
        unknown=lambda: str(uuid4()),
        not_found="DOCUMENT_NOT_FOUND",
    ),
    "document_ids": Named(
        of=lambda person: [person.document_id],
        unknown=lambda: [str(uuid4())],
        not_found="DOCUMENT_NOT_FOUND",
    ),
    "transaction_id": Named(
        of=lambda person: person.transaction_id,
        unknown=lambda: str(uuid4()),
        not_found="TRANSACTION_NOT_FOUND",
        hides=True,
    ),
    "subscription_id": Named(
        of=lambda person: person.subscription_id(),
        unknown=lambda: str(uuid4()),
        not_found="SUBSCRIPTION_NOT_FOUND",
        hides=True,
    ),
    "reservation_id": Named(
        of=lambda person: person.reservation_id(),
        unknown=lambda: str(uuid4()),
        not_found="RESERVATION_NOT_FOUND",
    ),
    "GetUserByWalletRequest.wallet_address": Named(
        of=lambda person: person.wallet_address,
        unknown=lambda: DevWallet.generate().address,
        not_found="USER_NOT_FOUND",
    ),
}
