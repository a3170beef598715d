"""Accounts and their wallets.

Every change under a user (profile, sessions, roles, …) is made under the lock of the
user's row and raises `users.version`, the version of the whole aggregate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Row,
    Select,
    Uuid,
    any_,
    bindparam,
    cast,
    false,
    func,
    literal,
    literal_column,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
from sqlalchemy.dialects.postgresql import insert as pg_insert

from pourtier.v1.user_pb2 import KycLevel, User, UserStatus, Wallet
from pourtier_grpc.caller import ADMIN_ROLE
from pourtier_grpc.store.engine import Database, Reader, Transaction
from pourtier_grpc.store.pages import Page
from pourtier_grpc.store.tables import users, wallets

MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """An account about to be opened, with its first wallet."""

    user_id: UUID
    chain: str
    address: str
    wallet_type: str
    display_name: str
    email: str
    locale: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """What a change under a user made of its counters.

    `version` is the aggregate's new version, `sequence` that of its newest event.
    """

    version: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFilter:
    """Which accounts a list is to hold; None stands for "whatever"."""

    status: int | None = None
    wallet_address: str | None = None
    email: str | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The filter as conditions of SQL, all of which must hold."""
        conditions: list[ColumnElement[bool]] = []
        if any("\0" in (text or "") for text in (self.wallet_address, self.email)):
            # PostgreSQL has no such text, so nobody has one.
            return [false()]
        if self.status is not None:
            conditions.append(users.c.status == self.status)
        if self.wallet_address is not None:
            owned = select(wallets.c.user_id).where(
                wallets.c.address == self.wallet_address
            )
            conditions.append(users.c.user_id.in_(owned))
        if self.email is not None:
            # Written out: a plan for any parameter could not take the partial index.
            conditions.append(users.c.email != literal_column("''"))
            conditions.append(func.lower(users.c.email) == func.lower(self.email))
        if self.created_from is not None:
            conditions.append(users.c.create_time >= self.created_from)
        if self.created_before is not None:
            conditions.append(users.c.create_time < self.created_before)
        return conditions


class UserReader(Protocol):
    """Reads accounts; whoever decides by them does not care from where."""

    def find(self, user_id: UUID) -> User | None:
        """The account of that id, or None."""
        ...

    def registered(self, chain: str, address: str) -> bool:
        """Whether a wallet has an account."""
        ...

    def find_by_wallet(self, chain: str, address: str) -> User | None:
        """The account that a wallet signs in to, or None."""
        ...

    def find_many(self, user_ids: Sequence[UUID]) -> dict[str, User]:
        """The accounts of those ids, by id; those that there are not are left out."""
        ...


class UserStore:
    """Accounts in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, user_id: UUID) -> User | None:
        """The account of that id, or None."""
        with self._database.read() as read:
            return _one(read, _SELECT.where(users.c.user_id == user_id))

    def registered(self, chain: str, address: str) -> bool:
        """Whether a wallet has an account."""
        query = select(true()).where(_is_wallet(chain, address))
        with self._database.read() as read:
            return read.run(query).first() is not None

    def find_by_wallet(self, chain: str, address: str) -> User | None:
        """The account that a wallet signs in to, or None."""
        with self._database.read() as read:
            return _one(read, _SELECT.where(users.c.user_id == _owner(chain, address)))

    def find_many(self, user_ids: Sequence[UUID]) -> dict[str, User]:
        """The accounts of those ids, by id; those that there are not are left out."""
        query = _SELECT.where(
            users.c.user_id == any_(bindparam("ids", type_=ARRAY(Uuid)))
        )
        with self._database.read() as read:
            rows = read.run(query, {"ids": list(user_ids)})
            found = [_user(row) for row in rows]
        return {user.user_id: user for user in found}

    def page(self, wanted: UserFilter, page: Page) -> list[User]:
        """Accounts in the order of their registration, as a filter and a page ask for.

        There is one more than the page's size, where the list goes on.
        """
        place = tuple_(users.c.create_time, users.c.user_id)
        query = _SELECT.where(*wanted.conditions())
        if page.after is not None:
            query = query.where(place > (page.after.time, page.after.row_id))
        query = query.order_by(users.c.create_time, users.c.user_id)
        with self._database.read() as read:
            return [_user(row) for row in read.run(query.limit(page.size + 1))]


def insert(tx: Transaction, new: NewUser, now: datetime) -> User | None:
    """Opens an account, or answers None where the wallet has one already.

    The transaction stays usable; what it inserted for nothing must be rolled back.
    """
    tx.run(
        pg_insert(users).values(
            user_id=new.user_id,
            version=1,
            revision=1,
            event_sequence=0,
            display_name=new.display_name,
            email=new.email,
            locale=new.locale,
            status=UserStatus.USER_STATUS_ACTIVE,
            roles=[],
            kyc_level=KycLevel.KYC_LEVEL_NONE,
            create_time=now,
            update_time=now,
        )
    )
    linked = tx.run(
        pg_insert(wallets)
        .values(
            chain=new.chain,
            address=new.address,
            user_id=new.user_id,
            wallet_type=new.wallet_type,
            is_primary=True,
            create_time=now,
        )
        .on_conflict_do_nothing(index_elements=["chain", "address"])
        .returning(wallets.c.user_id)
    )
    if linked.first() is None:
        return None
    return _one(tx, _SELECT.where(users.c.user_id == new.user_id))


def lock(tx: Transaction, user_id: UUID) -> User | None:
    """The account of that id, locked until the transaction ends, or None."""
    return _one(tx, _LOCK.where(users.c.user_id == user_id))


def lock_at_once(tx: Transaction, user_id: UUID) -> User | None:
    """The account of that id, locked, or None: also where another has locked it."""
    at_once = _SELECT.with_for_update(key_share=True, of=users, skip_locked=True)
    return _one(tx, at_once.where(users.c.user_id == user_id))


def lock_by_wallet(tx: Transaction, chain: str, address: str) -> User | None:
    """The account that a wallet signs in to, locked, or None."""
    return _one(tx, _LOCK.where(users.c.user_id == _owner(chain, address)))


def lock_admins(tx: Transaction) -> list[User]:
    """Every active administrator, locked in the order of their ids.

    Whoever takes the role or the account from one locks them all first, so that the
    last two cannot each be taken by another.
    """
    is_admin = literal(ADMIN_ROLE) == any_(users.c.roles)
    active = users.c.status == UserStatus.USER_STATUS_ACTIVE
    query = _LOCK.where(is_admin, active).order_by(users.c.user_id)
    return [_user(row) for row in tx.run(query)]


def advance(tx: Transaction, user_id: UUID, *, events: int) -> Advance:
    """Raises the aggregate's version, and makes room for that many outbox events."""
    row = tx.run(
        update(users)
        .where(users.c.user_id == user_id)
        .values(
            version=users.c.version + 1, event_sequence=users.c.event_sequence + events
        )
        .returning(users.c.version, users.c.event_sequence)
    ).one()
    return Advance(version=row.version, sequence=row.event_sequence)


def change(
    tx: Transaction, user_id: UUID, changes: Mapping[str, Any], now: datetime
) -> User:
    """Changes columns of an account that the transaction has locked.

    `changes` has column names as keys. The new etag and update time are in the answer.
    """
    tx.run(
        update(users)
        .where(users.c.user_id == user_id)
        .values(**changes, revision=users.c.revision + 1, update_time=now)
    )
    user = _one(tx, _SELECT.where(users.c.user_id == user_id))
    if user is None:  # pragma: no cover - the row is locked by this transaction
        raise LookupError(user_id)
    return user


def _is_wallet(chain: str, address: str) -> Any:
    return (wallets.c.chain == chain) & (wallets.c.address == address)


def _owner(chain: str, address: str) -> Any:
    owner = select(wallets.c.user_id).where(_is_wallet(chain, address))
    return owner.scalar_subquery()


def _wallets_of_user() -> Any:
    micros = cast(
        func.extract("epoch", wallets.c.create_time) * MICROSECONDS, BigInteger
    )
    fields = (wallets.c.chain, wallets.c.address, wallets.c.wallet_type)
    wallet = func.jsonb_build_array(*fields, wallets.c.is_primary, micros, type_=JSONB)
    order = (wallets.c.is_primary.desc(), wallets.c.create_time)
    return (
        select(func.jsonb_agg(aggregate_order_by(wallet, *order)))
        .where(wallets.c.user_id == users.c.user_id)
        .scalar_subquery()
        .label("wallets")
    )


_SELECT: Select[Any] = select(users, _wallets_of_user())
# Sign-in, refresh, suspension and every other change under a user wait for each other
# here; readers do not.
_LOCK: Select[Any] = _SELECT.with_for_update(key_share=True, of=users)


def _one(reader: Reader, query: Select[Any]) -> User | None:
    row = reader.run(query).first()
    return None if row is None else _user(row)


def _user(row: Row[Any]) -> User:
    linked = [
        Wallet(
            chain=chain,
            address=address,
            wallet_type=wallet_type,
            primary=primary,
            create_time=_micros(micros),
        )
        for chain, address, wallet_type, primary, micros in row.wallets or ()
    ]
    primary = linked[0] if linked else Wallet()
    user = User(
        user_id=str(row.user_id),
        display_name=row.display_name,
        email=row.email,
        wallet_address=primary.address,
        wallet_type=primary.wallet_type,
        wallets=linked,
        locale=row.locale,
        status=row.status,
        roles=row.roles,
        kyc_level=row.kyc_level,
        etag=f'"{row.revision}"',
    )
    user.create_time.FromDatetime(row.create_time)
    user.update_time.FromDatetime(row.update_time)
    return user


def _micros(value: int) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMicroseconds(value)
    return timestamp
