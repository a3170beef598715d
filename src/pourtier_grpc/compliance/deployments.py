"""Whether somebody may deploy a strategy: one answer from a list of checks.

Each check looks at one thing and knows nothing of the others, so that an answer names
every reason at once, and a new one is a function and its place in `CHECKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier.v1.denial_pb2 import Consistency, Denial, Remedy
from pourtier.v1.plan_pb2 import Plan
from pourtier.v1.user_pb2 import KycLevel, UserStatus
from pourtier_grpc.billing.in_force import in_force
from pourtier_grpc.billing.quotas import Quotas
from pourtier_grpc.clock import Clock
from pourtier_grpc.compliance.documents import missing_names
from pourtier_grpc.compliance.screening import Screening
from pourtier_grpc.errors import ErrorReason
from pourtier_grpc.store.deployment_facts import DeploymentReader, UserFacts
from pourtier_grpc.store.documents import Version
from pourtier_grpc.store.usage import STRATEGIES
from pourtier_grpc.users.denials import SUSPENDED, denial, unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What everybody must meet at one moment.

    `free` is the plan of whoever has taken none.
    """

    required: frozenset[Version]
    kyc_level: KycLevel.ValueType
    screening: Screening
    free: Plan
    quotas: Quotas
    now: datetime


# Why the rules deny it to a user, or None. Denials are shared: nobody changes one.
Check = Callable[[UserFacts, Rules], Denial | None]


class Deployments:
    """Answers who may deploy now.

    `present` reads what holds every change acknowledged before; `quick` may be a second
    late.
    """

    def __init__(
        self,
        *,
        present: DeploymentReader,
        quick: DeploymentReader,
        screening: Screening,
        required_kyc_level: KycLevel.ValueType,
        free: Plan,
        quotas: Quotas,
        clock: Clock,
    ) -> None:
        self._present = present
        self._quick = quick
        self._screening = screening
        self._required_kyc_level = required_kyc_level
        self._free = free
        self._quotas = quotas
        self._clock = clock

    def validate(
        self, user_ids: Sequence[str], consistency: Consistency.ValueType
    ) -> pb.BatchValidateDeploymentsResponse:
        """An answer for each id, in their order, each as it was written."""
        fresh = consistency == Consistency.CONSISTENCY_FULLY_CONSISTENT
        reader = self._present if fresh else self._quick
        ids = [each.lower() for each in user_ids]
        now = self._clock.now()
        facts = reader.read(ids, now)
        rules = Rules(
            required=facts.required,
            kyc_level=self._required_kyc_level,
            screening=self._screening,
            free=self._free,
            quotas=self._quotas,
            now=now,
        )
        answer = pb.BatchValidateDeploymentsResponse()
        for asked, user_id in zip(user_ids, ids, strict=True):
            user = facts.users.get(user_id)
            denials = [unknown(user_id)] if user is None else denials_of(user, rules)
            # In its place at once: a message that is put into another is copied.
            answer.results.add(user_id=asked, allowed=not denials, denials=denials)
        return answer


def denials_of(user: UserFacts, rules: Rules) -> list[Denial]:
    """Every reason against a user, in the order of the checks."""
    return [found for check in CHECKS if (found := check(user, rules)) is not None]


def is_active(user: UserFacts, _: Rules) -> Denial | None:
    """USER_SUSPENDED, unless the account is in good standing."""
    return None if user.status == UserStatus.USER_STATUS_ACTIVE else SUSPENDED


def has_consented(user: UserFacts, rules: Rules) -> Denial | None:
    """CONSENT_REQUIRED, unless one text of each required version was accepted."""
    missing = rules.required - user.accepted
    return _consent_required(missing) if missing else None


def is_identified(user: UserFacts, rules: Rules) -> Denial | None:
    """KYC_REQUIRED, unless the identity is checked as far as everybody's must be."""
    enough = user.kyc_level >= rules.kyc_level
    return None if enough else _kyc_required(user.kyc_level, rules.kyc_level)


def is_served(user: UserFacts, rules: Rules) -> Denial | None:
    """WALLET_SCREENED, where the platform does not serve one of the wallets."""
    return _SCREENED if rules.screening.is_screened(user.wallets) else None


def has_room(user: UserFacts, rules: Rules) -> Denial | None:
    """TIER_INSUFFICIENT or QUOTA_EXCEEDED, unless one more strategy may run."""
    plan = in_force(user.term, rules.free, rules.now).plan
    return rules.quotas.deny_metric(plan, STRATEGIES, user.strategies)


CHECKS: tuple[Check, ...] = (
    is_active,
    has_consented,
    is_identified,
    is_served,
    has_room,
)


@lru_cache(maxsize=64)
def _consent_required(missing: frozenset[Version]) -> Denial:
    return denial(
        ErrorReason.ERROR_REASON_CONSENT_REQUIRED,
        Remedy.REMEDY_ACCEPT_DOCUMENTS,
        missing=missing_names(missing),
    )


@lru_cache(maxsize=64)
def _kyc_required(present: KycLevel.ValueType, required: KycLevel.ValueType) -> Denial:
    return denial(
        ErrorReason.ERROR_REASON_KYC_REQUIRED,
        Remedy.REMEDY_VERIFY_IDENTITY,
        kyc_level=KycLevel.Name(present).removeprefix("KYC_LEVEL_"),
        required_kyc_level=KycLevel.Name(required).removeprefix("KYC_LEVEL_"),
    )


_SCREENED = denial(
    ErrorReason.ERROR_REASON_WALLET_SCREENED, Remedy.REMEDY_CONTACT_SUPPORT
)
