"""Services that ask who may deploy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pourtier.v1 import compliance_service_pb2 as pb
from pourtier.v1.denial_pb2 import Consistency
from support.billing import granted
from support.callers import Person, person
from support.service import Service

ANY = Consistency.CONSISTENCY_UNSPECIFIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """A service that asks who may deploy; `api_key` is the metadata of its key."""

    service: Service
    api_key: tuple[str, str]

    def one(
        self, user_id: str, consistency: Consistency.ValueType = ANY
    ) -> pb.ValidateDeploymentResponse:
        request = pb.ValidateDeploymentRequest(user_id=user_id, consistency=consistency)
        api = self.service.api
        return api.call(api.compliance.ValidateDeployment, request, self.api_key)

    def many(
        self, user_ids: Iterable[str], consistency: Consistency.ValueType = ANY
    ) -> Sequence[pb.DeploymentValidation]:
        request = pb.BatchValidateDeploymentsRequest(
            user_ids=user_ids, consistency=consistency
        )
        api = self.service.api
        method = api.compliance.BatchValidateDeployments
        return api.call(method, request, self.api_key).results

    def reasons(self, user_id: str) -> list[str]:
        """Why it is denied to a user; single and batch answer must be the same."""
        answer, (among,) = self.one(user_id), self.many([user_id])
        assert among.user_id == user_id
        assert (among.allowed, among.denials) == (answer.allowed, answer.denials)
        assert answer.allowed == (not answer.denials)
        return [each.reason for each in answer.denials]


def deployer(service: Service, **fields: Any) -> Person:
    """A new account with a plan by which it may deploy."""
    made = person(service, **fields)
    granted(service, made.user_id)
    return made


def metadata_of(answer: pb.ValidateDeploymentResponse) -> list[dict[str, Any]]:
    """What stands beside each reason."""
    return [dict(each.metadata) for each in answer.denials]
