"""Who may call what: every RPC by every kind of caller, on every way in.

The expectation is computed from the contract's policies (see `support.matrix`), so an
RPC that is added is in here by itself. The later tests doctor policies of a running
server, and of an edge, and see that the matrix reports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest
from google.protobuf.descriptor import ServiceDescriptor
from structlog.testing import capture_logs

from e2e.edge_rig import SYNTHETIC, compile_contract, services_of
from pourtier.v1.policy_pb2 import (
    Access,
    AdminAccess,
    MethodPolicy,
    PublicAccess,
    SelfAccess,
    ServiceAccess,
    UserAccess,
)
from pourtier_grpc import server
from pourtier_grpc.call import Method, methods_of
from pourtier_grpc.devtools.edge import Contract, read_contract
from support import edge
from support.matrix import (
    INTERNAL,
    NATIVE,
    PUBLIC,
    Caller,
    Target,
    World,
    combinations,
    expected,
)
from support.passeur import PasseurSim
from support.rpcs import NoRequestError, Rpc, contract_rpcs, minimal, rpc_of, scopes_of
from support.servers import Databases
from support.service import service
from support.stack import Stack, stack
from support.threads import tell

RPCS = {rpc.name: rpc for rpc in contract_rpcs()}
SCOPES = scopes_of(RPCS.values())


def world_of(made: Stack, sim: PasseurSim) -> World:
    return World(made, SCOPES, {PUBLIC: made.public, INTERNAL: made.internal}, sim)


@pytest.fixture(scope="module")
def world(databases: Databases, redis_url: str, sim: PasseurSim) -> Iterator[World]:
    with stack(databases, redis_url, passeur_url=sim.url) as made:
        yield world_of(made, sim)


@pytest.mark.parametrize("name", RPCS)
def test_every_caller_is_let_in_or_refused_as_the_policy_says(
    world: World, name: str
) -> None:
    assert list(world.deviations(RPCS[name])) == []


def test_the_matrix_has_every_rpc_caller_target_and_way(world: World) -> None:
    running = world.service.server
    served = server.servicers_of(running._parts, running._readiness)
    paths = {method.path for one in served for method in methods_of(one)}
    assert {rpc.path for rpc in RPCS.values()} == paths
    total = 0
    for rpc in RPCS.values():
        found = combinations(rpc, world.ways)
        targets = {one.target for one in found}
        assert targets in ({None}, set(Target))
        assert rpc.bindings, "no browser could call it"
        ways = 1 + 2 * len(rpc.bindings)
        assert len(set(map(str, found))) == len(Caller) * len(targets) * 3
        assert len(found) == len(Caller) * len(targets) * ways
        total += len(found)
    tell(f"{len(RPCS)} RPCs, {len(Caller)} callers: {total} combinations")


# Their rule asks who acts once more, and so stands where the policy is wrong.
GUARDED_TWICE = {"PublishDocument", "ReinstateUser", "SetKycLevel", "SuspendUser"}

# Ways in which a policy can be wrong: its alternatives instead, or None where they
# would let in the same callers.
Doctoring = Callable[[Rpc], list[Access] | None]


def kinds(rpc: Rpc) -> set[str | None]:
    return {access.WhichOneof("who") for access in rpc.policy.allow}


def one_more(access: Access, *covering: str) -> Doctoring:
    """An alternative too many, unless one of those covers it."""
    covered = {access.WhichOneof("who"), "public", *covering}
    return lambda rpc: None if kinds(rpc) & covered else [*rpc.policy.allow, access]


def everybody(rpc: Rpc) -> list[Access] | None:
    return None if "public" in kinds(rpc) else [Access(public=PublicAccess())]


def another_service(rpc: Rpc) -> list[Access] | None:
    scope = min(SCOPES - scopes_of([rpc]))
    more = Access(service=ServiceAccess(scope=scope))
    return None if "public" in kinds(rpc) else [*rpc.policy.allow, more]


def themselves(rpc: Rpc) -> list[Access] | None:
    more = one_more(Access(self=SelfAccess(field="user_id")), "user")
    return more(rpc) if "user_id" in rpc.required else None


def some_of(part: slice) -> Doctoring:
    """Some of several alternatives."""
    return lambda rpc: rpc.policy.allow[part] if len(rpc.policy.allow) > 1 else None


def users_alone(rpc: Rpc) -> list[Access] | None:
    # Without these two there would be no users.
    spared = "user" in kinds(rpc) or rpc.name in {"CreateChallenge", "Register"}
    return None if spared else [Access(user=UserAccess())]


DOCTORINGS: dict[str, Doctoring] = {
    "everybody": lambda rpc: (
        None if "public" in kinds(rpc) else [Access(public=PublicAccess())]
    ),
    "users too": one_more(Access(user=UserAccess())),
    "admins too": one_more(Access(admin=AdminAccess()), "user"),
    "another service too": another_service,
    "themselves too": themselves,
    "all but the first": some_of(slice(1, None)),
    "all but the last": some_of(slice(-1)),
    "users alone": users_alone,
}


def serve_doctored(
    monkeypatch: pytest.MonkeyPatch, changed: Mapping[str, list[Access]]
) -> None:
    """Servers that start from now on go by other policies than the contract's."""

    def doctored(method: Method) -> Method:
        policy = MethodPolicy()
        policy.CopyFrom(method.policy)
        if method.name in changed:
            del policy.allow[:]
            policy.allow.extend(changed[method.name])
        return replace(method, policy=policy)

    def doctored_methods(descriptor: ServiceDescriptor) -> list[Method]:
        return list(map(doctored, methods_of(descriptor)))

    monkeypatch.setattr(server, "methods_of", doctored_methods)


@pytest.mark.parametrize("doctoring", DOCTORINGS)
def test_a_policy_that_the_server_does_not_keep_is_reported(
    databases: Databases,
    sim: PasseurSim,
    monkeypatch: pytest.MonkeyPatch,
    doctoring: str,
) -> None:
    tried = {name: DOCTORINGS[doctoring](rpc) for name, rpc in RPCS.items()}
    changed = {name: allow for name, allow in tried.items() if allow is not None}
    assert changed
    serve_doctored(monkeypatch, changed)
    # Without it, what breaks inside would be written out at length.
    with capture_logs(), service(databases, passeur_url=sim.url) as made:
        world = World(made, SCOPES, {}, sim)
        found = {name: next(world.deviations(RPCS[name]), None) for name in changed}
    kept = {name for name, deviation in found.items() if deviation is None}
    assert kept <= GUARDED_TWICE


def test_only_what_was_doctored_is_reported_and_as_what_it_is(
    databases: Databases, sim: PasseurSim, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_doctored(monkeypatch, {"GetUser": list(RPCS["GetUser"].policy.allow[:2])})
    with service(databases, passeur_url=sim.url) as made:
        world = World(made, SCOPES, {}, sim)
        found = [one for rpc in RPCS.values() for one in world.deviations(rpc)]
    call = "GetUser over native gRPC by admin"
    assert found == [
        f"{call}, another's: expected OK, got PERMISSION_DENIED",
        f"{call}, missing: expected USER_NOT_FOUND, got PERMISSION_DENIED",
    ]


def test_an_edge_that_routes_otherwise_is_reported(
    databases: Databases,
    redis_url: str,
    sim: PasseurSim,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def doctored(descriptors: bytes) -> Contract:
        contract = read_contract(descriptors)
        swapped = {"IntrospectToken": True, "GetMe": False}
        methods = (
            replace(one, public=swapped.get(one.name.rpartition(".")[2], one.public))
            for one in contract.methods
        )
        return Contract(methods=tuple(methods))

    monkeypatch.setattr(edge, "read_contract", doctored)
    with stack(databases, redis_url, passeur_url=sim.url) as made:
        world = world_of(made, sim)
        opened = list(world.deviations(RPCS["IntrospectToken"]))
        closed = list(world.deviations(RPCS["GetMe"]))
    for found in (opened, closed):
        assert len(found) == len(Caller)
        assert all(f" over {PUBLIC} by " in one for one in found)
    assert all("expected METHOD_NOT_FOUND" in one for one in opened)
    assert all("got METHOD_NOT_FOUND" in one for one in closed)


UNBUILDABLE = """
service NewService {
  rpc Redeem(RedeemRequest) returns (Thing) {
    option (google.api.http) = { post: "/api/codes:redeem" body: "*" };
    option (pourtier.v1.policy) = { allow { user {} } };
  }
}
message RedeemRequest {
  string code = 1 [
    (google.api.field_behavior) = REQUIRED,
    (buf.validate.field).string.pattern = "^[0-9]{3}-[A-Z]{3}$"
  ];
}
"""
IMPORTS = """
import "buf/validate/validate.proto";
import "google/api/field_behavior.proto";
"""


@pytest.fixture(scope="module")
def new_rpcs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rpc]:
    """RPCs that the contract does not have."""
    head, _, rest = SYNTHETIC.partition("import")
    source = f"{head}{IMPORTS}import{rest}{UNBUILDABLE}"
    compiled = compile_contract(tmp_path_factory.mktemp("new"), source)
    names = ("synthetic.v1.ThingService", "synthetic.v1.NewService")
    services = services_of(compiled, *names)
    return {one.name: rpc_of(one) for each in services for one in each.methods}


def test_a_new_rpc_is_in_the_matrix_by_itself(new_rpcs: dict[str, Rpc]) -> None:
    found = combinations(new_rpcs["PurgeThings"], [NATIVE, PUBLIC])
    wanted = {(one.way, one.caller): expected(one) for one in found}
    assert wanted[NATIVE, Caller.SERVICE] == "OK"
    assert wanted[NATIVE, Caller.ADMIN] == "PERMISSION_DENIED"
    assert wanted[NATIVE, Caller.TWO] == "MULTIPLE_CREDENTIALS"
    assert {wanted[PUBLIC, caller] for caller in Caller} == {"METHOD_NOT_FOUND"}
    assert not minimal(new_rpcs["PurgeThings"].request, {}).ListFields()


def test_an_rpc_without_a_request_that_can_be_built_says_what_to_do(
    new_rpcs: dict[str, Rpc],
) -> None:
    with pytest.raises(NoRequestError, match=r"give RedeemRequest\.code a value"):
        minimal(new_rpcs["Redeem"].request, {})
    assert minimal(new_rpcs["Redeem"].request, {"code": "123-ABC"})
    with pytest.raises(NoRequestError, match=r"Thing\.thing_id is an id"):
        combinations(new_rpcs["GetThing"], [NATIVE])
