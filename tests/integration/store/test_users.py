"""Accounts, their wallets, and the lock that every change under them takes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, timedelta
from uuid import UUID

import pytest
from sqlalchemy import exc, insert, select, text, update

from integration.store.rows import LATER, NOW, known, make_user, new_user
from pourtier.v1.user_pb2 import KycLevel, UserStatus
from pourtier_grpc.store import users
from pourtier_grpc.store.engine import Database, Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.tables import users as users_table
from pourtier_grpc.store.tables import wallets
from pourtier_grpc.store.users import UserStore

NOBODY = UUID(int=0)


class TestOpening:
    def test_a_new_account_is_what_was_asked_for(self, tx: Transaction) -> None:
        new = new_user("wallet", wallet_type="ledger")
        user = users.insert(tx, new, NOW)
        assert user is not None
        assert user.user_id == str(new.user_id)
        assert user.display_name == "Ann Ünïcödé 🦊"
        assert (user.email, user.locale) == ("ann@example.com", "en")
        assert user.status == UserStatus.USER_STATUS_ACTIVE
        assert user.kyc_level == KycLevel.KYC_LEVEL_NONE
        assert list(user.roles) == []
        assert user.etag == '"1"'
        assert user.create_time.ToDatetime(UTC) == NOW
        assert user.update_time.ToDatetime(UTC) == NOW
        assert (user.wallet_address, user.wallet_type) == ("wallet", "ledger")
        (wallet,) = user.wallets
        assert (wallet.chain, wallet.address) == ("solana", "wallet")
        assert (wallet.wallet_type, wallet.primary) == ("ledger", True)
        assert wallet.create_time.ToDatetime(UTC) == NOW

    def test_a_wallet_that_has_an_account_opens_none_and_breaks_nothing(
        self, tx: Transaction
    ) -> None:
        first = make_user(tx, "taken")
        assert users.insert(tx, new_user("taken"), NOW) is None
        assert users.lock_by_wallet(tx, "solana", "taken") == first
        assert make_user(tx, "free")

    def test_an_address_of_another_chain_is_another_wallet(
        self, tx: Transaction
    ) -> None:
        make_user(tx, "same", chain="solana")
        assert make_user(tx, "same", chain="stellar")

    def test_of_many_that_open_one_at_once_exactly_one_does(
        self, database: Database
    ) -> None:
        together = threading.Barrier(8)
        address = f"raced-{new_id(NOW)}"

        def register(_: int) -> bool:
            together.wait()
            with database.transaction() as tx:
                user = users.insert(tx, new_user(address), NOW)
                if user is not None:
                    tx.commit()
                return user is not None

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(register, range(8))) == 1
        assert UserStore(database).registered("solana", address)


class TestFinding:
    def test_an_account_is_found_by_its_id_and_its_wallet(
        self, database: Database
    ) -> None:
        store = UserStore(database)
        with database.transaction() as tx:
            user = make_user(tx)
            tx.commit()
        assert store.find(UUID(user.user_id)) == user
        assert store.registered("solana", user.wallet_address)
        assert not store.registered("stellar", user.wallet_address)
        with database.transaction() as tx:
            assert users.lock(tx, UUID(user.user_id)) == user
            assert users.lock_by_wallet(tx, "solana", user.wallet_address) == user

    def test_what_is_not_there_is_none(self, database: Database) -> None:
        store = UserStore(database)
        assert store.find(NOBODY) is None
        assert not store.registered("solana", "nobody's")
        with database.transaction() as tx:
            assert users.lock(tx, NOBODY) is None
            assert users.lock_by_wallet(tx, "solana", "nobody's") is None

    @pytest.mark.parametrize("address", ["", "'; DROP TABLE users; --", "%", "ä" * 128])
    def test_an_address_is_never_read_as_anything_else(
        self, database: Database, address: str
    ) -> None:
        assert not UserStore(database).registered("solana", address)

    def test_the_primary_wallet_comes_first_and_the_others_by_age(
        self, tx: Transaction
    ) -> None:
        user = make_user(tx, "b")
        for address, hours in (("c", 2), ("a", 1)):
            values = {
                "chain": "solana",
                "address": address,
                "user_id": user.user_id,
                "wallet_type": "other",
                "is_primary": False,
                "create_time": NOW - timedelta(hours=hours),
            }
            tx.run(insert(wallets), values)
        found = users.lock(tx, UUID(user.user_id))
        assert found is not None
        assert [wallet.address for wallet in found.wallets] == ["b", "c", "a"]
        assert found.wallet_address == "b"

    def test_an_account_has_one_primary_wallet_at_most(self, tx: Transaction) -> None:
        user = make_user(tx)
        values = {
            "chain": "solana",
            "address": "second",
            "user_id": user.user_id,
            "wallet_type": "other",
            "is_primary": True,
            "create_time": NOW,
        }
        with pytest.raises(exc.IntegrityError, match="wallets_primary_key"):
            tx.run(insert(wallets), values)

    def test_roles_and_status_are_read_as_they_are(self, tx: Transaction) -> None:
        user = make_user(tx)
        suspended = UserStatus.USER_STATUS_SUSPENDED
        tx.run(update(users_table).values(roles=["admin", "x"], status=suspended))
        found = users.lock(tx, UUID(user.user_id))
        assert found is not None
        assert list(found.roles) == ["admin", "x"]
        assert found.status == suspended


class TestChanging:
    def test_a_change_moves_etag_and_update_time_alone(self, tx: Transaction) -> None:
        user = make_user(tx)
        changes = {"display_name": "", "email": "new@example.com"}
        changed = users.change(tx, UUID(user.user_id), changes, LATER)
        assert changed.etag == '"2"'
        assert changed.update_time.ToDatetime(UTC) == LATER
        assert (changed.display_name, changed.email) == ("", "new@example.com")
        changed.MergeFrom(type(user)(display_name=user.display_name))
        changed.email, changed.etag = user.email, user.etag
        changed.update_time.CopyFrom(user.update_time)
        assert changed == user

    def test_a_change_of_one_account_leaves_the_others(self, tx: Transaction) -> None:
        ann, bob = make_user(tx), make_user(tx)
        users.change(tx, UUID(ann.user_id), {"display_name": "A"}, LATER)
        users.advance(tx, UUID(ann.user_id), events=1)
        assert users.lock(tx, UUID(bob.user_id)) == bob

    def test_the_aggregates_counters_only_rise(self, tx: Transaction) -> None:
        user_id = UUID(make_user(tx).user_id)
        made = [users.advance(tx, user_id, events=events) for events in (1, 3, 0)]
        assert [each.version for each in made] == [2, 3, 4]
        assert [each.sequence for each in made] == [1, 4, 4]

    @pytest.mark.parametrize("by", ["id", "wallet"])
    def test_a_locked_account_is_waited_for_by_writers_and_not_by_readers(
        self, database: Database, by: str
    ) -> None:
        with database.transaction() as tx:
            user = make_user(tx)
            tx.commit()
        user_id = UUID(user.user_id)

        def lock(tx: Transaction) -> object:
            if by == "id":
                return users.lock(tx, user_id)
            return users.lock_by_wallet(tx, "solana", user.wallet_address)

        with database.transaction() as holder, database.transaction() as other:
            lock(holder)
            assert UserStore(database).find(user_id) == user
            other.run(text("SET LOCAL lock_timeout = '20ms'"))
            with pytest.raises(exc.OperationalError, match="lock timeout"):
                lock(other)

    def test_the_lock_does_not_hold_back_rows_that_refer_to_the_account(
        self, database: Database
    ) -> None:
        with database.transaction() as tx:
            user = make_user(tx)
            tx.commit()
        with database.transaction() as holder, database.transaction() as other:
            users.lock(holder, UUID(user.user_id))
            other.run(text("SET LOCAL lock_timeout = '20ms'"))
            values = {
                "chain": "solana",
                "address": f"second-{user.user_id}",
                "user_id": user.user_id,
                "wallet_type": "other",
                "is_primary": False,
                "create_time": NOW,
            }
            other.run(insert(wallets), values)

    def test_counters_do_not_lose_a_change_in_a_race(self, database: Database) -> None:
        with database.transaction() as tx:
            user_id = UUID(make_user(tx).user_id)
            tx.commit()

        def advance(_: int) -> int:
            with database.transaction() as tx:
                users.lock(tx, user_id)
                made = users.advance(tx, user_id, events=2)
                tx.commit()
            return made.sequence

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(advance, range(16))) == list(range(2, 34, 2))
        with database.read() as read:
            query = select(users_table.c.version).where(
                users_table.c.user_id == user_id
            )
            assert read.run(query).scalar_one() == 17


def test_an_account_that_was_rolled_back_never_was(database: Database) -> None:
    with database.transaction() as tx:
        user = make_user(tx, "rolled-back")
    assert not known(database, user)
    assert not UserStore(database).registered("solana", "rolled-back")
