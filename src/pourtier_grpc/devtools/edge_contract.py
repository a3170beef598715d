"""What the edge has to know of the contract, read from its descriptors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
)
from google.protobuf.message import DecodeError

from pourtier.v1 import policy_pb2

# Whoever these let in may come through the public listener; a SERVICE may not.
PUBLIC_ACCESS = frozenset({"public", "user", "self", "admin"})

# A variable of a path template: `{user_id}`, `{user.id}`, `{name=users/*}`.
VARIABLE = re.compile(r"\{\s*([A-Za-z0-9_.]+)\s*(?:=[^}]*)?\}")


class EdgeError(Exception):
    """No safe edge can be made of this contract; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One RPC, as the edge sees it.

    `name` is full (`pourtier.v1.UserService.GetMe`). `public` says whether the public
    listener routes it. `read` says that a repeated call has no effect of its own
    (`NO_SIDE_EFFECTS`), so that the edge may repeat it. `bindings` are its JSON calls
    (`GET /api/users/me`), `variables` the fields that their paths bind, `query` the
    fields that their query strings can set, all as the contract spells them, and
    `query_verbs` the verbs of those whose body is not the whole request. `bodies` are
    the verbs whose body is one field, with that field.
    """

    name: str
    public: bool
    read: bool = False
    streams_in: bool = False
    streams_out: bool = False
    bindings: tuple[str, ...] = ()
    variables: frozenset[str] = frozenset()
    query: frozenset[str] = frozenset()
    query_verbs: frozenset[str] = frozenset()
    bodies: frozenset[tuple[str, str]] = frozenset()

    @property
    def path(self) -> str:
        """The path of a gRPC call, such as `/pourtier.v1.UserService/GetMe`."""
        service, _, method = self.name.rpartition(".")
        return f"/{service}/{method}"

    @property
    def service(self) -> str:
        """The full name of its service."""
        return self.name.rpartition(".")[0]


# What the internal listener serves besides the contract (gRPC only). A health check
# reads; a watch and reflection are streams and live as long as their clients wish.
INFRASTRUCTURE = (
    Method(name="grpc.health.v1.Health.Check", public=False, read=True),
    Method(name="grpc.health.v1.Health.Watch", public=False, streams_out=True),
    *(
        Method(
            name=f"grpc.reflection.{version}.ServerReflection.ServerReflectionInfo",
            public=False,
            streams_in=True,
            streams_out=True,
        )
        for version in ("v1", "v1alpha")
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """The contract's methods, in the order in which the files declare them."""

    methods: tuple[Method, ...]

    @property
    def json_services(self) -> tuple[str, ...]:
        """The services that have JSON paths."""
        return tuple(dict.fromkeys(m.service for m in self.methods if m.bindings))

    @property
    def verbs(self) -> frozenset[str]:
        """The HTTP verbs of all JSON calls."""
        bindings = (one for method in self.methods for one in method.bindings)
        return frozenset(binding.partition(" ")[0] for binding in bindings)

    @property
    def verbs_without_query(self) -> tuple[str, ...]:
        """The HTTP verbs all of whose paths take the whole request from the body."""
        taking = {verb for method in self.methods for verb in method.query_verbs}
        return tuple(sorted(self.verbs - taking))

    @property
    def body_fields(self) -> dict[str, tuple[str, ...]]:
        """By verb, the fields that bodies alone may set, in every spelling."""
        bodies = sorted({body for method in self.methods for body in method.bodies})
        spelled = {
            verb: {s for one, name in bodies if one == verb for s in _spellings(name)}
            for verb, _ in bodies
        }
        return {verb: tuple(sorted(names)) for verb, names in spelled.items()}

    @property
    def path_variables(self) -> tuple[str, ...]:
        """The path variables that are nobody's query parameters, in every spelling.

        As parameters they can be ignored everywhere; the others are in `guarded_paths`.
        """
        names = self._variables - self._ambiguous
        return tuple(sorted({s for name in names for s in _spellings(name)}))

    @property
    def guarded_paths(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Paths with a variable that is a query parameter elsewhere.

        Each is the HTTP template, and the parameters that it must not be called with.
        """
        guarded = []
        for method in self.methods:
            names = sorted(method.variables & self._ambiguous)
            spelled = tuple(s for name in names for s in sorted(_spellings(name)))
            guarded += [
                (binding.partition(" ")[2], spelled)
                for binding in method.bindings
                if spelled and "{" in binding
            ]
        return tuple(guarded)

    @property
    def literal_paths(self) -> tuple[str, ...]:
        """The HTTP paths without a variable."""
        bindings = (one for method in self.methods for one in method.bindings)
        paths = (binding.partition(" ")[2] for binding in bindings)
        return tuple(sorted({path for path in paths if "{" not in path}))

    @property
    def _variables(self) -> frozenset[str]:
        return frozenset(name for each in self.methods for name in each.variables)

    @property
    def _ambiguous(self) -> frozenset[str]:
        """The path variables of one method that are query parameters of another."""
        return frozenset(
            name
            for name in self._variables
            if any(
                name.partition(".")[0] in method.query
                for method in self.methods
                if name not in method.variables
            )
        )


def read_contract(descriptors: bytes) -> Contract:
    """The contract of a serialized FileDescriptorSet.

    Every service in it whose methods carry a policy belongs to the contract. Raises
    EdgeError where a method of such a service has no policy, and where a query
    parameter would have the name of another method's body: the guard would refuse it.
    """
    files = FileDescriptorSet()
    try:
        files.ParseFromString(descriptors)
    except DecodeError as error:
        raise EdgeError("that is no descriptor set") from error
    messages = {
        name: message
        for file in files.file
        for name, message in _messages(file.package, file.message_type)
    }
    methods = []
    for file in files.file:
        for service in file.service:
            if not any(_has_policy(method.options) for method in service.method):
                continue
            name = ".".join(filter(None, (file.package, service.name)))
            methods += [_method(name, method, messages) for method in service.method]
    contract = Contract(methods=tuple(methods))
    _refuse_lost_parameters(contract)
    return contract


def _method(
    service: str, method: MethodDescriptorProto, messages: dict[str, DescriptorProto]
) -> Method:
    name = f"{service}.{method.name}"
    options = method.options
    if not _has_policy(options):
        raise EdgeError(f"{name} has no policy")
    allow = options.Extensions[policy_pb2.policy].allow
    rules = _rules(options)
    bindings = tuple(_binding(rule) for rule in rules)
    variables = frozenset(VARIABLE.findall(" ".join(bindings)))
    return Method(
        name=name,
        public=any(access.WhichOneof("who") in PUBLIC_ACCESS for access in allow),
        read=options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS,
        streams_in=method.client_streaming,
        streams_out=method.server_streaming,
        bindings=bindings,
        variables=variables,
        query=_query(messages[method.input_type.removeprefix(".")], rules) - variables,
        query_verbs=frozenset(
            _binding(rule).partition(" ")[0] for rule in rules if rule.body != "*"
        ),
        bodies=frozenset(
            (_binding(rule).partition(" ")[0], rule.body)
            for rule in rules
            if rule.body not in {"", "*"}
        ),
    )


def _has_policy(options: MethodOptions) -> bool:
    return options.HasExtension(policy_pb2.policy)


def _rules(options: MethodOptions) -> tuple[HttpRule, ...]:
    # The stubs of google.api do not say what their extensions extend.
    if not options.HasExtension(annotations_pb2.http):  # type: ignore[arg-type] # as above
        return ()
    rule: HttpRule = options.Extensions[annotations_pb2.http]  # type: ignore[index] # as above
    return (rule, *rule.additional_bindings)


def _binding(rule: HttpRule) -> str:
    pattern = rule.WhichOneof("pattern")
    if pattern is None:
        raise EdgeError("an HTTP rule has no path")
    if pattern == "custom":
        return f"{rule.custom.kind} {rule.custom.path}"
    return f"{pattern.upper()} {getattr(rule, pattern)}"


def _query(request: DescriptorProto, rules: Iterable[HttpRule]) -> frozenset[str]:
    """The fields that a query string can set: those that no body takes."""
    bodies = [rule.body for rule in rules if rule.body != "*"]
    fields = {field.name for field in request.field}
    return frozenset().union(*(fields - {body} for body in bodies))


def _refuse_lost_parameters(contract: Contract) -> None:
    for method in contract.methods:
        for verb in sorted(method.query_verbs):
            bodies = contract.body_fields.get(verb, ())
            for name in sorted(method.query.intersection(bodies)):
                raise EdgeError(
                    f"{method.name}: the query parameter {name} has the name of another"
                    f" method's body, which no query of {verb} may name; call one of"
                    " them otherwise"
                )


def _messages(
    prefix: str, messages: Iterable[DescriptorProto]
) -> Iterator[tuple[str, DescriptorProto]]:
    for message in messages:
        name = f"{prefix}.{message.name}" if prefix else message.name
        yield name, message
        yield from _messages(name, message.nested_type)


def _spellings(path: str) -> Iterator[str]:
    """A field path with each segment as declared, and in lowerCamelCase."""
    for segments in product(*({s, _camel(s)} for s in path.split("."))):
        yield ".".join(segments)


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)
