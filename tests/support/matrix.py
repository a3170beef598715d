"""The authorisation matrix: every RPC, by every kind of caller, on every way in.

What must happen is computed from the policy that the contract declares beside the RPC;
nothing of it is written down by hand. What does happen is asked of a running service.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cache
from uuid import UUID

import grpc
import httpx
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from pourtier.v1 import auth_service_pb2 as pb
from pourtier.v1.policy_pb2 import Access
from pourtier_grpc.caller import ADMIN_ROLE, Act
from pourtier_grpc.errors import ErrorReason
from pourtier_grpc.interceptors.error_mapping import CODE_OF_REASON
from pourtier_grpc.store.keys import KeyUse
from support import billing, escrow, legal
from support.api import TIMEOUT, refused
from support.json_api import HTTP_STATUS, JsonApi
from support.named import NAMED, OK, Named, Person
from support.passeur import PasseurSim
from support.rpcs import Binding, NoRequestError, Rpc, minimal, rule_of
from support.service import Service
from support.waiting import eventually

NATIVE, PUBLIC, INTERNAL = "native gRPC", "public JSON", "internal JSON"
# What a public method may do with a caller: whatever its rule says, but not refuse them
# for who they are, nor the request for its form.
LET_IN = "to be let in"
NEVER_LET_IN = frozenset(
    {
        "API_KEY_EXPIRED",
        "API_KEY_INVALID",
        "CREDENTIALS_MISSING",
        "DATABASE_UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "INTERNAL",
        "INVALID_FIELD",
        "MALFORMED_REQUEST",
        "METHOD_NOT_FOUND",
        "MULTIPLE_CREDENTIALS",
        "OVERLOADED",
        "PERMISSION_DENIED",
        "SERVICE_UNAVAILABLE",
        "SESSION_ENDED",
        "TOKEN_EXPIRED",
        "TOKEN_INVALID",
        "USER_SUSPENDED",
    }
)


class Caller(StrEnum):
    """Who calls."""

    ANONYMOUS = "anonymous"
    USER = "user"
    OTHER_USER = "other user"
    SUSPENDED = "suspended user"
    EXPIRED = "expired token"
    ENDED = "token of a revoked session"
    REVOKED_KEY = "token under a revoked signing key"
    SERVICE = "service with the scope"
    WRONG_SERVICE = "service without the scope"
    EXPIRED_API_KEY = "expired API key"
    REVOKED_API_KEY = "revoked API key"
    TWO = "two credentials"
    ADMIN = "admin"


class Target(StrEnum):
    """Whose the resource is that the request names."""

    OWN = "own"
    ANOTHERS = "another's"
    MISSING = "missing"


WITH_TOKEN = frozenset(
    {
        Caller.USER,
        Caller.OTHER_USER,
        Caller.SUSPENDED,
        Caller.EXPIRED,
        Caller.ENDED,
        Caller.REVOKED_KEY,
        Caller.TWO,
        Caller.ADMIN,
    }
)
WITH_API_KEY = frozenset(
    {
        Caller.SERVICE,
        Caller.WRONG_SERVICE,
        Caller.EXPIRED_API_KEY,
        Caller.REVOKED_API_KEY,
        Caller.TWO,
    }
)
# What is wrong with a credential, whatever it is used for.
FAULTS = {
    Caller.SUSPENDED: "USER_SUSPENDED",
    Caller.EXPIRED: "TOKEN_EXPIRED",
    Caller.ENDED: "SESSION_ENDED",
    Caller.REVOKED_KEY: "TOKEN_INVALID",
    Caller.EXPIRED_API_KEY: "API_KEY_EXPIRED",
    Caller.REVOKED_API_KEY: "API_KEY_INVALID",
}
# A public method that reads the bearer token asks whose session it is, no more: one
# that has ended is still a session.
READ_FAULTS = frozenset({"MULTIPLE_CREDENTIALS", "TOKEN_EXPIRED", "TOKEN_INVALID"})
# They cannot be made again, and no call that they are let in to can harm them.
LASTING = frozenset({Caller.EXPIRED, Caller.REVOKED_KEY})


# What a rule refuses although the policy lets it in.
RULED_OUT = {("ReinstateUser", Target.OWN): "PERMISSION_DENIED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """One call of the matrix; `target` is None where the RPC names no resource."""

    rpc: Rpc
    caller: Caller
    target: Target | None
    way: str
    binding: Binding | None

    def __str__(self) -> str:
        whose = f", {self.target}" if self.target else ""
        return f"{self.rpc.name} over {self.way} by {self.caller}{whose}"


def named_field(rpc: Rpc) -> tuple[str, Named] | None:
    """The field by which an RPC's requests name a resource, if they do.

    Raises NoRequestError where an id is required that `NAMED` does not know.
    """
    found = {
        name: NAMED.get(f"{rpc.request.name}.{name}", NAMED.get(name))
        for name in rpc.required
    }
    named = [(name, one) for name, one in found.items() if one is not None]
    selves = {a.self.field for a in rpc.policy.allow if a.HasField("self")}
    for name in {*rpc.required, *selves}:
        field = rpc.request.fields_by_name[name]
        is_id = rule_of(field, "uuid") or name in selves
        if is_id and found.get(name) is None:
            raise NoRequestError(
                f"{rpc.request.name}.{name} is an id, but the matrix does not know of"
                " what: put it into support.named.NAMED"
            )
    return named[0] if named else None


def combinations(rpc: Rpc, ways: Iterable[str]) -> list[Combination]:
    """Every call of the matrix that is one of this RPC."""
    targets = list(Target) if named_field(rpc) else [None]
    paths = {way: [None] if way == NATIVE else list(rpc.bindings) for way in ways}
    return [
        Combination(rpc=rpc, caller=caller, target=target, way=way, binding=binding)
        for way, bindings in paths.items()
        for binding in bindings
        for caller in Caller
        for target in targets
    ]


def expected(one: Combination) -> str:
    """What the policy says of a call: OK, a reason, or LET_IN."""
    allow = one.rpc.policy.allow
    if one.way == PUBLIC and all(access.HasField("service") for access in allow):
        return "METHOD_NOT_FOUND"
    if any(access.HasField("public") for access in allow):
        return _read_bearer(one) if one.rpc.policy.reads_bearer else LET_IN
    refusal = _unproven(one) or FAULTS.get(one.caller)
    if refusal is not None:
        return refusal
    if not any(_admits(access, one) for access in allow):
        return "PERMISSION_DENIED"
    if one.target is not None and (one.rpc.name, one.target) in RULED_OUT:
        return RULED_OUT[one.rpc.name, one.target]
    named = named_field(one.rpc)
    absent = one.target is Target.MISSING or (
        one.target is Target.ANOTHERS and named is not None and named[1].hides
    )
    return named[1].not_found if named is not None and absent else OK


def _unproven(one: Combination) -> str | None:
    """Why nobody is proven, whatever the credentials are; None where there is one."""
    # The public listener takes the API key away.
    has_api_key = one.caller in WITH_API_KEY and one.way != PUBLIC
    if one.caller not in WITH_TOKEN:
        return None if has_api_key else "CREDENTIALS_MISSING"
    return "MULTIPLE_CREDENTIALS" if has_api_key else None


def _read_bearer(one: Combination) -> str:
    """What a public method says that reads the bearer token, and nothing else."""
    if one.caller not in WITH_TOKEN:
        return "CREDENTIALS_MISSING"
    refusal = _unproven(one) or FAULTS.get(one.caller, LET_IN)
    return refusal if refusal in READ_FAULTS else LET_IN


def _admits(access: Access, one: Combination) -> bool:
    match access.WhichOneof("who"):
        case "user":
            return one.caller in WITH_TOKEN
        case "admin":
            return one.caller is Caller.ADMIN
        case "self":
            return one.caller in WITH_TOKEN and one.target is Target.OWN
        case "service":
            return one.caller is Caller.SERVICE
        case other:
            raise NotImplementedError(f"what does the policy {other} say?")


class World:
    """A running service with people and services of every kind.

    `edges` are clients of its listeners, by way. `scopes` are all that there are,
    `sim` is the service's Passeur.
    People whom a call may have changed are replaced by others.
    """

    def __init__(
        self,
        service: Service,
        scopes: Iterable[str],
        edges: Mapping[str, JsonApi],
        sim: PasseurSim,
    ) -> None:
        self.service = service
        self._parts = service.server._parts
        self._scopes = frozenset(scopes)
        self._edges = edges
        self._sim = sim
        self._document_id = legal.publish(service).document_id
        self._people: dict[Caller, Person] = {}
        self._api_keys: dict[frozenset[str], str] = {}
        self._expired_key = self._make_api_key(self._scopes, timedelta(minutes=1))
        self._revoked_key = self._make_api_key(self._scopes)
        assert self._parts.api_keys.revoke(self._revoked_key.split("_")[1])
        self._people[Caller.EXPIRED] = self._register()
        service.clock.move(minutes=30)
        self._people[Caller.REVOKED_KEY] = self._under_a_revoked_key()
        # Nobody else is ever the last administrator.
        self._make(Caller.ADMIN)

    @property
    def ways(self) -> list[str]:
        return [NATIVE, *self._edges]

    def deviations(self, rpc: Rpc) -> Iterator[str]:
        """Every call of an RPC that ends otherwise than its policy says."""
        for one in combinations(rpc, self.ways):
            wanted, got = expected(one), self.outcome(one)
            if not _agree(wanted, got):
                yield f"{one}: expected {wanted}, got {got}"

    def outcome(self, one: Combination) -> str:
        """What happens: OK, or the reason of the refusal."""
        request = self._request(one)
        if one.binding is None:
            got = self._native(one, request)
        else:
            got = self._json(one, request, one.binding)
        if one.rpc.mutates and got == OK:
            # Whoever was in it may be signed out, suspended or another one now.
            people = self._people
            self._people = {who: people[who] for who in people if who in LASTING}
        return got

    def _request(self, one: Combination) -> Message:
        named = named_field(one.rpc)
        values: dict[str, object] = {}
        if named is not None:
            name, field = named
            match one.target:
                case Target.OWN:
                    owner = one.caller if one.caller in WITH_TOKEN else Caller.USER
                    values[name] = field.of(self._person(owner))
                case Target.ANOTHERS:
                    beside = one.caller in {Caller.USER, Caller.TWO}
                    owner = Caller.OTHER_USER if beside else Caller.USER
                    values[name] = field.of(self._person(owner))
                case _:
                    values[name] = field.unknown()
        return minimal(one.rpc.request, values)

    def _native(self, one: Combination, request: Message) -> str:
        method: grpc.UnaryUnaryMultiCallable[Message, Message]
        method = self.service.api.channel.unary_unary(
            one.rpc.path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=GetMessageClass(one.rpc.response).FromString,
        )
        try:
            method(request, timeout=TIMEOUT, metadata=tuple(self._credentials(one)))
        except grpc.RpcError as error:
            told = refused(error)
            code = _code_of(told.reason)
            assert told.code is code, f"{one}: {told.reason} is {code}, not {told.code}"
            return told.reason
        return OK

    def _json(self, one: Combination, request: Message, binding: Binding) -> str:
        verb, path, body, query = binding.call(request)
        answer = self._edges[one.way].call(
            verb, path, body, params=query, headers=self._credentials(one)
        )
        return _outcome_of(answer, str(one))

    def _credentials(self, one: Combination) -> list[tuple[str, str]]:
        sent = []
        if one.caller in WITH_TOKEN:
            bearer = self._person(one.caller).bearer
            sent.append(("authorization", f"Bearer {bearer}"))
        if one.caller in WITH_API_KEY:
            sent.append(("x-api-key", self._api_key(one)))
        return sent

    def _api_key(self, one: Combination) -> str:
        match one.caller:
            case Caller.EXPIRED_API_KEY:
                return self._expired_key
            case Caller.REVOKED_API_KEY:
                return self._revoked_key
        asked = {a.service.scope for a in one.rpc.policy.allow if a.HasField("service")}
        scopes = self._scopes
        if one.caller is Caller.SERVICE and asked:
            scopes = frozenset(asked)
        elif one.caller is Caller.WRONG_SERVICE:
            scopes = self._scopes - asked
        if scopes not in self._api_keys:
            self._api_keys[scopes] = self._make_api_key(scopes)
        return self._api_keys[scopes]

    def _make_api_key(
        self, scopes: Iterable[str], expires_in: timedelta | None = None
    ) -> str:
        return self._parts.api_keys.create(
            "matrix", sorted(scopes), expires_in=expires_in, overlap=None
        )

    def _person(self, who: Caller) -> Person:
        if who is Caller.TWO:
            who = Caller.USER
        if who not in self._people:
            self._people[who] = self._make(who)
        return self._people[who]

    def _make(self, who: Caller) -> Person:
        person = self._register()
        user_id, act = UUID(person.user_id), Act(reason="the matrix")
        match who:
            case Caller.ADMIN:
                self._parts.administration.grant_role(user_id, ADMIN_ROLE, act)
            case Caller.SUSPENDED:
                self._parts.administration.suspend(user_id, act)
            case Caller.ENDED:
                api = self.service.api
                request = pb.RevokeSessionRequest(session_id=person.session_id)
                api.call(api.auth.RevokeSession, request, bearer=person.bearer)
        return person

    def _register(self) -> Person:
        agreed = legal.in_force(self.service)
        wallet, made = self.service.registered(accepted_document_ids=agreed)
        user_id = made.user.user_id
        escrow.give(self.service, self._sim, UUID(user_id), wallet.address)
        return Person(
            user_id=user_id,
            session_id=made.tokens.session_id,
            wallet_address=wallet.address,
            bearer=made.tokens.access_token,
            document_id=self._document_id,
            transaction_id=escrow.transaction(self.service, user_id),
            subscription_id=cache(lambda: str(billing.granted(self.service, user_id))),
            reservation_id=cache(lambda: str(billing.reserved(self.service, user_id))),
        )

    def _under_a_revoked_key(self) -> Person:
        # The expired token's key is another: each has one fault alone. The server
        # follows by itself; following beside it could set it back for a moment.
        keyring = self._parts.keyring
        active = self._parts.key_rotation.rotate(KeyUse.ACCESS, at_once=True)
        assert active is not None
        assert eventually(lambda: keyring.access.key_id == active)
        person = self._register()
        assert self._parts.key_rotation.revoke(active, "the matrix")
        assert eventually(lambda: keyring.access_key(active) is None)
        return person


def _agree(wanted: str, got: str) -> bool:
    return got not in NEVER_LET_IN if wanted == LET_IN else got == wanted


def _outcome_of(answer: httpx.Response, call: str) -> str:
    if answer.status_code == 200:
        return OK
    body = answer.json()
    (reason,) = [one["reason"] for one in body["details"] if "reason" in one]
    assert answer.status_code == HTTP_STATUS[body["code"]], call
    if reason != "METHOD_NOT_FOUND":
        assert body["code"] == _code_of(reason).value[0], call
    return str(reason)


def _code_of(reason: str) -> grpc.StatusCode:
    return CODE_OF_REASON[ErrorReason.Value(f"ERROR_REASON_{reason}")]
