"""The checks of a deployment: each alone, all at once, and how large answers are."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID

import pytest

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier.v1.denial_pb2 import Denial, Remedy
from pourtier.v1.document_pb2 import DocumentType
from pourtier.v1.user_pb2 import KycLevel, UserStatus
from pourtier_grpc.billing.catalogue import read_catalogue
from pourtier_grpc.billing.quotas import Quotas
from pourtier_grpc.compliance.deployments import CHECKS, Rules, denials_of
from pourtier_grpc.compliance.screening import Screening
from pourtier_grpc.config import load
from pourtier_grpc.store.deployment_facts import UserFacts
from pourtier_grpc.store.plan_terms import PlanTerm
from pourtier_grpc.store.subscriptions import Period
from support.threads import tell

SCREENED = "AKnL4NNf3DGWZJS6cPknBuEGnVsV4A4m5tgebLHaRSZ9"
SERVED = "9hSR6S7WPtxmTojgo6GG3k4yDPecgJY292j7xrsUGWBu"
TERMS, PRIVACY, RISK = (
    DocumentType.DOCUMENT_TYPE_TERMS_OF_SERVICE,
    DocumentType.DOCUMENT_TYPE_PRIVACY_POLICY,
    DocumentType.DOCUMENT_TYPE_RISK_DISCLOSURE,
)
NOW = datetime(2026, 5, 7, tzinfo=UTC)
MONTH = Period(start=NOW - timedelta(days=6), end=NOW + timedelta(days=25))
CATALOGUE = read_catalogue(None)
RULES = Rules(
    required=frozenset({(RISK, 2), (TERMS, 1)}),
    kyc_level=KycLevel.KYC_LEVEL_BASIC,
    screening=Screening(addresses=(SCREENED,), file=None),
    free=CATALOGUE.free,
    quotas=Quotas(CATALOGUE),
    now=NOW,
)


def term(plan_id: str, access_end: datetime | None = MONTH.end) -> PlanTerm:
    return PlanTerm(
        plan=CATALOGUE.plans[plan_id],
        period=MONTH,
        anchor_time=MONTH.start,
        access_end=access_end,
    )


GOOD: dict[str, Any] = {
    "status": UserStatus.USER_STATUS_ACTIVE,
    "kyc_level": KycLevel.KYC_LEVEL_BASIC,
    "wallets": (SERVED,),
    "accepted": RULES.required,
    "term": term("basic"),
    "strategies": 0,
}
# Each fault, and what is said of it, in the order of the checks.
FAULTS: tuple[tuple[dict[str, Any], Denial], ...] = (
    (
        {"status": UserStatus.USER_STATUS_SUSPENDED},
        Denial(reason="USER_SUSPENDED", remedy=Remedy.REMEDY_CONTACT_SUPPORT),
    ),
    (
        {"accepted": frozenset[Any]()},
        Denial(
            reason="CONSENT_REQUIRED",
            remedy=Remedy.REMEDY_ACCEPT_DOCUMENTS,
            metadata={"missing": "TERMS_OF_SERVICE,RISK_DISCLOSURE"},
        ),
    ),
    (
        {"kyc_level": KycLevel.KYC_LEVEL_NONE},
        Denial(
            reason="KYC_REQUIRED",
            remedy=Remedy.REMEDY_VERIFY_IDENTITY,
            metadata={"kyc_level": "NONE", "required_kyc_level": "BASIC"},
        ),
    ),
    (
        {"wallets": (SERVED, SCREENED)},
        Denial(reason="WALLET_SCREENED", remedy=Remedy.REMEDY_CONTACT_SUPPORT),
    ),
    (
        {"term": None},
        Denial(
            reason="TIER_INSUFFICIENT",
            remedy=Remedy.REMEDY_CHANGE_PLAN,
            metadata={
                "required_plan": "basic",
                "current_plan": "free",
                "metric": "running_strategies",
            },
        ),
    ),
)
WORST = UserFacts(
    status=UserStatus.USER_STATUS_SUSPENDED,
    kyc_level=KycLevel.KYC_LEVEL_BASIC,
    wallets=(SCREENED,),
    accepted=frozenset(),
    term=None,
    strategies=0,
)


def facts(**changes: Any) -> UserFacts:
    return UserFacts(**{**GOOD, **changes})


def test_who_meets_every_rule_is_denied_nothing() -> None:
    assert denials_of(facts(), RULES) == []
    assert denials_of(facts(kyc_level=KycLevel.KYC_LEVEL_FULL), RULES) == []


@pytest.mark.parametrize("chosen", [*product([False, True], repeat=len(FAULTS))])
def test_every_reason_is_given_at_once_and_no_other(chosen: tuple[bool, ...]) -> None:
    faults = [fault for fault, is_one in zip(FAULTS, chosen, strict=True) if is_one]
    changes = {name: value for change, _ in faults for name, value in change.items()}
    found = denials_of(facts(**changes), RULES)
    assert found == [denial for _, denial in faults]


def test_every_check_has_a_fault_here() -> None:
    assert len(CHECKS) == len(FAULTS)


@pytest.mark.parametrize(
    ("accepted", "missing"),
    [
        ({(TERMS, 1), (RISK, 2)}, None),
        ({(TERMS, 1), (RISK, 2), (PRIVACY, 7)}, None),
        ({(TERMS, 1), (RISK, 1)}, "RISK_DISCLOSURE"),
        # A later version is another text, which whoever accepted it did not see.
        ({(TERMS, 2), (RISK, 2)}, "TERMS_OF_SERVICE"),
        ({(PRIVACY, 1)}, "TERMS_OF_SERVICE,RISK_DISCLOSURE"),
    ],
)
def test_each_type_needs_its_own_major_version(
    accepted: set[Any], missing: str | None
) -> None:
    found = denials_of(facts(accepted=frozenset(accepted)), RULES)
    told = [each.metadata["missing"] for each in found]
    assert told == ([] if missing is None else [missing])


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"strategies": 1}, ["QUOTA_EXCEEDED"]),
        # A plan that has shrunk.
        ({"strategies": 7}, ["QUOTA_EXCEEDED"]),
        ({"strategies": 7, "term": term("pro")}, []),
        ({"term": term("basic", NOW + timedelta(microseconds=1))}, []),
        ({"term": term("basic", NOW)}, ["TIER_INSUFFICIENT"]),
        ({"term": term("basic", None)}, ["TIER_INSUFFICIENT"]),
        # Nobody who is denied the thing itself needs to hear how much of it is used.
        ({"term": None, "strategies": 7}, ["TIER_INSUFFICIENT"]),
    ],
)
def test_a_plan_must_be_in_force_and_have_room(
    changes: dict[str, Any], reasons: list[str]
) -> None:
    assert [each.reason for each in denials_of(facts(**changes), RULES)] == reasons


def test_types_are_named_in_the_order_of_the_contract() -> None:
    every = frozenset({(RISK, 1), (PRIVACY, 30), (TERMS, 2)})
    rules = replace(RULES, required=every)
    (denial,) = denials_of(facts(), rules)
    said = "TERMS_OF_SERVICE,PRIVACY_POLICY,RISK_DISCLOSURE"
    assert denial.metadata["missing"] == said


def test_ten_thousand_with_every_denial_fit_into_an_answer() -> None:
    types = [number for _, number in DocumentType.items() if number]
    rules = replace(
        RULES,
        required=frozenset((each, 99_999) for each in types),
        kyc_level=KycLevel.KYC_LEVEL_FULL,
    )
    denials = denials_of(WORST, rules)
    assert len(denials) == len(CHECKS)
    answer = pb.BatchValidateDeploymentsResponse(
        results=[
            pb.DeploymentValidation(user_id=str(UUID(int=each)), denials=denials)
            for each in range(10_000)
        ]
    )
    tell(f"10,000 users with every denial: {answer.ByteSize():,} bytes")
    # What a client of grpcio's reads unless it is told otherwise, and what we send.
    assert answer.ByteSize() < 4 * 1024 * 1024
    assert load().max_response_bytes >= 4 * 1024 * 1024
