"""Consent and its seals across real processes that are killed at every point."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from pourtier.v1 import auth_service_pb2 as auth_pb
from pourtier.v1 import compliance_service_pb2 as pb
from pourtier_grpc.devtools.wallet import DevWallet
from pourtier_grpc.failpoints import Failpoint
from support.api import Api, Refused
from support.audit import Log, log_on
from support.commands import quickly
from support.crashes import flow_of, killed_at, killed_call, workers
from support.legal import published_by_command
from support.processes import serve_process, serving, start_worker, worker_process
from support.servers import Databases
from support.threads import tell
from support.waiting import wait_until

AT_ONCE = 4


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.kills("sealing")
def test_a_sealer_killed_at_any_point_loses_and_forks_nothing(
    databases: Databases,
    folder: Path,
    points: list[Failpoint],
    rounds: Callable[[int, int], int],
) -> None:
    total = rounds(1, 20)
    with databases.fresh() as url, log_on(url, folder) as log:
        make = workers(folder, url)
        for _ in range(total):
            killed_at(points, make, lambda: log.add(3))
        sealed_in_the_end(log, url, folder)
        events = log.sql.one("SELECT count(*) FROM audit_events")["count"]
        assert len(log.seals()) == events
    tell(f"{total} kills at each of {len(points)} points: {events} sealed")


def sealed_in_the_end(log: Log, url: str, folder: Path) -> None:
    """A worker that nobody kills seals all there is, in one chain."""
    worker = worker_process(folder, url)
    start_worker(worker)
    try:
        wait_until(lambda: log.waiting() == 0)
    finally:
        worker.stop()
    log.assert_whole()
    done = quickly("audit", "verify", database_url=url, pourtier_data_dir=folder)
    assert done.returncode == 0, done.stderr


@dataclass(frozen=True, kw_only=True)
class Office:
    """A process that lives, others that are killed, and the texts to agree to."""

    folder: Path
    url: str
    api: Api
    required: list[str]
    numbers: Iterator[int]

    def killed(self, point: Failpoint, call: Callable[[Api], object]) -> None:
        """Makes a call of a process that is killed at a point of it."""
        doomed = serve_process(
            self.folder, self.url, next(self.numbers), failpoints=point.value
        )
        killed_call(doomed, call)

    def register(self, api: Api, wallet: DevWallet) -> auth_pb.RegisterResponse:
        return api.register(wallet, accepted_document_ids=self.required)

    def accept(self, api: Api, bearer: str, document_id: str) -> pb.Acceptance:
        request = pb.AcceptDocumentsRequest(document_ids=[document_id])
        accept = api.compliance.AcceptDocuments
        answer = api.call(accept, request, ("idempotency-key", "k"), bearer=bearer)
        (acceptance,) = answer.acceptances
        return acceptance


@pytest.mark.proof
@pytest.mark.timeout(900)
@pytest.mark.kills("registration", "acceptance", "event")
def test_consent_killed_at_any_point_is_there_whole_or_not_at_all(
    databases: Databases,
    folder: Path,
    points: list[Failpoint],
    rounds: Callable[[int, int], int],
) -> None:
    total = rounds(1, 20)
    plan = points * total
    with (
        databases.fresh() as url,
        serving(folder, url) as (server,),
        log_on(url, folder) as log,
        ExitStack() as stack,
    ):
        api = Api(server.target)
        stack.callback(api.close)
        required, later = published_by_command(api, url, folder)
        office = Office(
            folder=folder,
            url=url,
            api=api,
            required=required,
            numbers=itertools.count(10),
        )
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda point: _once(office, point, later), plan))
        rows = log.sql.run(
            "SELECT count(acceptance_id) AS accepted FROM users"
            " LEFT JOIN document_acceptances USING (user_id) GROUP BY user_id"
        )
        further = [flow_of(point) != "registration" for point in plan]
        expected = [len(required) + each for each in further]
        assert sorted(row["accepted"] for row in rows) == sorted(expected)
        told = log.sql.one(
            "SELECT count(*) FROM outbox WHERE event_type = 'legal_document.accepted'"
        )
        assert told["count"] == sum(expected)
        sealed_in_the_end(log, url, folder)
    tell(f"{len(plan)} kills, {total} at each point")


def _once(office: Office, point: Failpoint, later: str) -> None:
    wallet = DevWallet.generate()
    if flow_of(point) == "registration":
        office.killed(point, lambda api: office.register(api, wallet))
        try:
            office.register(office.api, wallet)
        except Refused as told:
            assert told.reason == "WALLET_ALREADY_REGISTERED"  # noqa: PT017 - either way is right
            assert point is Failpoint.REGISTRATION_COMMITTED
            office.api.login(wallet)
    else:
        bearer = office.register(office.api, wallet).tokens.access_token
        office.killed(point, lambda api: office.accept(api, bearer, later))
        first = office.accept(office.api, bearer, later)
        assert office.accept(office.api, bearer, later) == first
