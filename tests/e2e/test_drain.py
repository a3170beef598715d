"""SIGTERM under load: what was accepted ends well, what comes later is told so."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import pytest

from pourtier_grpc.config import Settings
from pourtier_grpc.devtools.wallet import DevWallet
from support.edge import Edge, edge
from support.json_api import JsonApi, answered, refused
from support.processes import ServeProcess, serve_process
from support.sql import Sql
from support.threads import tell
from support.waiting import wait_until

ME = "/api/users/me"
CALLERS = 8
SLOW = 4
# Twice as long as the edge goes on trying a read.
PATIENCE = 5.0


@dataclass
class Seen:
    """How every call of the load ended."""

    outcomes: Counter[str] = field(default_factory=Counter)
    sessions: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    longest: float = 0.0
    last: list[tuple[float, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, answer: httpx.Response, began: float) -> bool:
        """Whether the call succeeded. Fails unless it was refused as it should be."""
        outcome = "200"
        if answer.status_code != httpx.codes.OK:
            told = refused(answer, "SERVICE_UNAVAILABLE")
            assert told.retry_seconds == 1
            outcome = f"{answer.status_code} {told.reason}"
        now = time.monotonic()
        with self.lock:
            self.outcomes[outcome] += 1
            self.longest = max(self.longest, now - began)
            self.last.append((now, outcome))
        return outcome == "200"

    def since(self, moment: float) -> Counter[str]:
        """The outcomes of calls that ended after a moment."""
        with self.lock:
            return Counter(outcome for when, outcome in self.last if when >= moment)


def _call(
    web: JsonApi, seen: Seen, verb: str, path: str, body: object, bearer: str = ""
) -> httpx.Response | None:
    began = time.monotonic()
    answer = web.call(verb, path, body, bearer=bearer)
    return answer if seen.note(answer, began) else None


def _sign_in(web: JsonApi, seen: Seen, wallet: DevWallet, method: str) -> str:
    """One sign-in, as far as it gets; the access token, or nothing."""
    asked = {"wallet_address": wallet.address}
    challenge = _call(web, seen, "POST", "/api/auth/challenge", asked)
    if challenge is None:
        return ""
    body = {**web.proof(wallet, challenge.json()["message"]), "wallet_type": "phantom"}
    answer = _call(web, seen, "POST", f"/api/auth/{method}", body)
    if answer is None:
        return ""
    made = answer.json()
    with seen.lock:
        seen.sessions.append(made["tokens"]["session_id"])
        if method == "register":
            seen.users.append(made["user"]["user_id"])
    return str(made["tokens"]["access_token"])


def _live(url: str, seen: Seen, stop: threading.Event) -> None:
    """Registers, signs in and reads without a pause."""
    with JsonApi(url) as web:
        while not stop.is_set():
            wallet = DevWallet.generate()
            if not _sign_in(web, seen, wallet, "register"):
                # Not to take the processor from the successor's start.
                stop.wait(0.02)
                continue
            bearer = _sign_in(web, seen, wallet, "login")
            for _ in range(3):
                if bearer:
                    _call(web, seen, "GET", ME, None, bearer)


@contextmanager
def load(url: str) -> Iterator[Seen]:
    """Callers at work for as long as the block lasts."""
    seen, stop = Seen(), threading.Event()
    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(_live, url, seen, stop) for _ in range(CALLERS)]
        try:
            yield seen
        finally:
            stop.set()
        for caller in callers:
            caller.result()


class SlowCalls:
    """Changes that have entered their handlers and wait there for a lock."""

    def __init__(
        self, web: JsonApi, database_url: str, pool: ThreadPoolExecutor
    ) -> None:
        made = [web.register(DevWallet.generate()) for _ in range(SLOW)]
        self.users = [one["user"]["user_id"] for one in made]
        self._lock = psycopg.connect(database_url)
        self._lock.execute(
            "SELECT 1 FROM users WHERE user_id = ANY(%s) FOR UPDATE", (self.users,)
        )
        self.calls: list[Future[httpx.Response]] = [
            pool.submit(
                web.call,
                "PATCH",
                ME,
                {"display_name": "Ann"},
                bearer=one["tokens"]["access_token"],
            )
            for one in made
        ]

    def release(self) -> None:
        self._lock.close()


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


@pytest.fixture
def front(settings: Settings, folder: Path) -> Iterator[Edge]:
    with edge(settings, folder) as made:
        yield made


def serve(settings: Settings, url: str, folder: Path, number: int) -> ServeProcess:
    """A process of the service on the edge's one socket."""
    return serve_process(
        folder,
        url,
        number,
        grpc_unix_socket=settings.grpc_unix_socket,
        drain_seconds=10,
        drain_notice_seconds=2,
    )


def test_sigterm_under_load_loses_nothing_and_a_successor_takes_over(
    settings: Settings, database_url: str, folder: Path, front: Edge
) -> None:
    with ExitStack() as opened:
        beside = opened.enter_context(Sql(database_url))
        web = opened.enter_context(JsonApi(front.public))
        first, second = (serve(settings, database_url, folder, n) for n in range(2))
        for process in (first, second):
            opened.callback(process.child.stop)
        first.start()
        wait_until(lambda: web.call("GET", "/health").status_code == 200)
        pool = opened.enter_context(ThreadPoolExecutor(SLOW))
        with load(front.public) as seen:
            slow = SlowCalls(web, database_url, pool)
            wait_until(lambda: _waiting(beside) >= SLOW)
            wait_until(lambda: seen.outcomes["200"] > 100)
            assert seen.outcomes.total() == seen.outcomes["200"]

            os.kill(first.child.pid, signal.SIGTERM)
            signalled = time.monotonic()
            wait_until(lambda: seen.outcomes.total() > seen.outcomes["200"] + 50)
            assert not any(call.done() for call in slow.calls)
            assert first.child.running
            slow.release()
            names = [answered(call.result())["display_name"] for call in slow.calls]
            assert names == ["Ann"] * SLOW
            wait_until(lambda: not first.child.running)
            drained = time.monotonic() - signalled
            assert first.child.poll() == 0, first.child.log_tail()

            second.start()
            ready = time.monotonic()
            wait_until(lambda: seen.since(ready)["200"] > 0)
            recovered = time.monotonic() - ready
            settled = time.monotonic() + 0.5
            wait_until(lambda: seen.since(settled)["200"] > 100)
        assert set(seen.since(settled)) == {"200"}
    tell(
        f"{dict(seen.outcomes)}; drained in {drained:.2f} s, recovered in "
        f"{recovered:.2f} s, longest call {seen.longest:.2f} s"
    )
    assert recovered < PATIENCE
    assert seen.longest < PATIENCE
    _assert_kept(database_url, seen, slow)


def _waiting(beside: Sql) -> int:
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    return int(beside.one(query)["count"])


def _assert_kept(database_url: str, seen: Seen, slow: SlowCalls) -> None:
    """The database holds what was acknowledged, and nothing of what was refused."""
    with Sql(database_url) as beside:
        users = {
            str(row["user_id"]): row["display_name"]
            for row in beside.run("SELECT user_id, display_name FROM users")
        }
        rows = beside.run("SELECT session_id FROM sessions")
    sessions = {str(row["session_id"]) for row in rows}
    assert len(seen.users) > CALLERS
    assert {*seen.users, *slow.users} == set(users)
    assert set(seen.sessions) <= sessions
    assert len(sessions) == len(seen.sessions) + SLOW
    assert {users[one] for one in slow.users} == {"Ann"}
