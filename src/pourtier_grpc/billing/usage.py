"""What people use of their plans: places that services take, hold and give back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

from pourtier.v1 import subscription_service_pb2 as pb
from pourtier.v1.usage_pb2 import Reservation
from pourtier.v1.user_pb2 import UserStatus
from pourtier_grpc.auth.lifetimes import require_active
from pourtier_grpc.billing.catalogue import Catalogue
from pourtier_grpc.billing.in_force import InForce, in_force
from pourtier_grpc.billing.quotas import Quotas
from pourtier_grpc.caller import Service, SignedInUser
from pourtier_grpc.clock import Clock
from pourtier_grpc.errors import ErrorReason, PourtierError
from pourtier_grpc.store import pages, subscriptions
from pourtier_grpc.store import usage as rows
from pourtier_grpc.store import users as user_rows
from pourtier_grpc.store.engine import Database, Reader, Transaction
from pourtier_grpc.store.ids import new_id
from pourtier_grpc.store.pages import Place
from pourtier_grpc.store.plan_terms import term_of
from pourtier_grpc.store.usage import (
    BACKTESTS,
    COMMITTED,
    LAPSED,
    METRICS,
    RELEASED,
    RESERVED,
    Count,
    ReservationFilter,
    ReservationRecord,
    ReservationStore,
)
from pourtier_grpc.times import moment
from pourtier_grpc.users.directory import found

# How long a place holds without being committed, where nobody says.
TTL = timedelta(minutes=5)
MAX_PAGE = 100


class Usage:
    """Takes places, holds them and gives them back; tells what is used.

    A plan that has become smaller ends nothing: it only refuses what is new.
    """

    def __init__(
        self,
        *,
        database: Database,
        store: ReservationStore,
        catalogue: Catalogue,
        quotas: Quotas,
        clock: Clock,
    ) -> None:
        self._database = database
        self._store = store
        self._free = catalogue.free
        self._quotas = quotas
        self._clock = clock

    def reserve(
        self, service: Service, request: pb.ReserveUsageRequest
    ) -> pb.ReserveUsageResponse:
        """Takes a place for a user.

        Raises USER_NOT_FOUND, USER_SUSPENDED, TIER_INSUFFICIENT or QUOTA_EXCEEDED.
        """
        user_id, metric = UUID(request.user_id), request.metric
        with self._database.transaction() as tx:
            rows.lock(tx, user_id)
            user = found(user_rows.lock(tx, user_id), user_id)
            require_active(user.status)
            # The time after the wait for the lock, in which places may have lapsed.
            now = self._clock.now()
            force, count = self._standing(tx, user_id, metric, now)
            self._quotas.refuse(user_id, force.plan, metric, count.used)
            reservation = ReservationRecord(
                reservation_id=new_id(now),
                user_id=user_id,
                service=service.name,
                metric=metric,
                reference=request.reference,
                period_start=_period_start(metric, force),
                state=RESERVED,
                create_time=now,
                expire_time=now + _ttl(request),
                commit_time=None,
                release_time=None,
            )
            rows.insert_one(tx, reservation)
            with_it = Count(count.used + 1, count.reserved + 1)
            answer = pb.ReserveUsageResponse(
                reservation=reservation.shown(now), usage=force.level(metric, with_it)
            )
            user_rows.advance(tx, user_id, events=0)
            tx.commit(answer)
        return answer

    def commit(self, reservation_id: UUID) -> pb.CommitUsageResponse:
        """Holds a place for good; one that has lapsed is taken again, if there is room.

        Raises RESERVATION_NOT_FOUND, RESERVATION_LAPSED or RESERVATION_RELEASED.
        """
        with self._database.transaction() as tx:
            reservation = _locked(tx, reservation_id)
            now = self._clock.now()
            state = reservation.state_at(now)
            if state == RELEASED:
                raise PourtierError(
                    ErrorReason.ERROR_REASON_RESERVATION_RELEASED,
                    "the reservation {reservation_id} was given back",
                    reservation_id=str(reservation_id),
                )
            if state != COMMITTED:
                changes = {"state": COMMITTED, "commit_time": now}
                if state == LAPSED:
                    changes["period_start"] = self._again(tx, reservation, now)
                reservation = _changed(tx, reservation, changes)
                if reservation.metric == BACKTESTS:
                    rows.add_one(tx, reservation)
            answer = pb.CommitUsageResponse(reservation=reservation.shown(now))
            tx.commit(answer)
        return answer

    def release(self, reservation_id: UUID) -> pb.ReleaseUsageResponse:
        """Gives a place back; a committed backtest stays counted.

        Raises RESERVATION_NOT_FOUND.
        """
        with self._database.transaction() as tx:
            reservation = _locked(tx, reservation_id)
            now = self._clock.now()
            counted = reservation.state == COMMITTED and reservation.metric == BACKTESTS
            if reservation.state != RELEASED and not counted:
                changes = {"state": RELEASED, "release_time": now}
                reservation = _changed(tx, reservation, changes)
            answer = pb.ReleaseUsageResponse(reservation=reservation.shown(now))
            tx.commit(answer)
        return answer

    def page(
        self, service: Service, request: pb.ListReservationsRequest
    ) -> pb.ListReservationsResponse:
        """A page of what a service holds, the newest first.

        Raises INVALID_PAGE_TOKEN.
        """
        wanted = ReservationFilter(
            service=service.name,
            user_id=UUID(request.user_id) if request.user_id else None,
            metric=request.metric or None,
        )
        filters = ("reservations", wanted.service, wanted.user_id, wanted.metric)
        size, token = request.page_size, request.page_token
        page = pages.read_page(size, token, filters, most=MAX_PAGE)
        now = self._clock.now()
        held = [each.shown(now) for each in self._store.page(wanted, page, now)]
        shown, next_token = pages.end_page(page, held, _place_of, filters)
        return pb.ListReservationsResponse(
            reservations=shown, next_page_token=next_token
        )

    def levels(self, caller: SignedInUser) -> pb.GetUsageResponse:
        """How much the caller uses of what their plan limits."""
        current = self.current(caller)
        return pb.GetUsageResponse(usage=current.usage, plan_id=current.plan_id)

    def current(self, caller: SignedInUser) -> pb.GetCurrentSubscriptionResponse:
        """What the caller may use now, and by which subscription."""
        now = self._clock.now()
        with self._database.read() as read:
            live = subscriptions.find_live(read, caller.user_id)
            force = in_force(term_of(live), self._free, now)
            counts = _counts(read, caller.user_id, force, now)
        return pb.GetCurrentSubscriptionResponse(
            subscription=None if live is None else live.shown(),
            plan_id=force.plan.plan_id,
            usage=[force.level(metric, counts[metric]) for metric in METRICS],
            limits=force.plan.limits,
            features=force.plan.features,
        )

    def _again(
        self, tx: Transaction, reservation: ReservationRecord, now: datetime
    ) -> datetime | None:
        """Takes the place of one that has lapsed again; answers its period.

        Raises RESERVATION_LAPSED where there is none for it.
        """
        user_id, metric = reservation.user_id, reservation.metric
        user = found(user_rows.lock(tx, user_id), user_id)
        force, count = self._standing(tx, user_id, metric, now)
        if (
            user.status != UserStatus.USER_STATUS_ACTIVE
            or self._quotas.deny_metric(force.plan, metric, count.used) is not None
        ):
            raise PourtierError(
                ErrorReason.ERROR_REASON_RESERVATION_LAPSED,
                "the reservation {reservation_id} has lapsed, and its place is gone",
                reservation_id=str(reservation.reservation_id),
            )
        return _period_start(metric, force)

    def _standing(
        self, tx: Transaction, user_id: UUID, metric: str, now: datetime
    ) -> tuple[InForce, Count]:
        """What is in force for a user who is locked, and how much of it is used."""
        term = term_of(subscriptions.find_live(tx, user_id))
        force = in_force(term, self._free, now)
        return force, _counts(tx, user_id, force, now)[metric]


def _locked(tx: Transaction, reservation_id: UUID) -> ReservationRecord:
    """A place as it is once its user is locked. Raises RESERVATION_NOT_FOUND."""
    known = rows.find(tx, reservation_id)
    if known is not None:
        rows.lock(tx, known.user_id)
        known = rows.find(tx, reservation_id)
    if known is None:
        raise PourtierError(
            ErrorReason.ERROR_REASON_RESERVATION_NOT_FOUND,
            "there is no reservation {reservation_id}",
            reservation_id=str(reservation_id),
        )
    return known


def _changed(
    tx: Transaction, reservation: ReservationRecord, values: Mapping[str, object]
) -> ReservationRecord:
    """Changes a place under a user, whose aggregate is then another."""
    changed = rows.change(tx, reservation, values)
    user_rows.advance(tx, reservation.user_id, events=0)
    return changed


def _counts(
    reader: Reader, user_id: UUID, force: InForce, now: datetime
) -> Mapping[str, Count]:
    asked = str(user_id), force.period.start
    return rows.counts(reader, [asked], now)[str(user_id)]


def _period_start(metric: str, force: InForce) -> datetime | None:
    return force.period.start if metric == BACKTESTS else None


def _ttl(request: pb.ReserveUsageRequest) -> timedelta:
    return request.ttl.ToTimedelta() if request.HasField("ttl") else TTL


def _place_of(reservation: Reservation) -> Place:
    return Place(moment(reservation.create_time), UUID(reservation.reservation_id))
