"""The JSON edge: every path of the contract, and what else is the same path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.edge_rig import Edge, Service, assert_error, contract_edge
from pourtier_grpc.devtools.edge import committed_contract
from support.rpcs import Binding, Rpc, contract_rpcs, minimal

BINDINGS = [(rpc, binding) for rpc in contract_rpcs() for binding in rpc.bindings]
PUBLIC = {method.path for method in committed_contract().methods if method.public}
every_path = pytest.mark.parametrize(
    ("rpc", "binding"),
    BINDINGS,
    ids=[f"{binding.verb} {binding.template}" for _, binding in BINDINGS],
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Edge, Service]]:
    with contract_edge(tmp_path_factory.mktemp("edge")) as pair:
        yield pair


@pytest.fixture
def edge(pair: tuple[Edge, Service]) -> Edge:
    return pair[0]


@pytest.fixture
def service(pair: tuple[Edge, Service]) -> Service:
    pair[1].forget()
    return pair[1]


class TestTrailingSlash:
    @every_path
    @pytest.mark.parametrize("slash", ["/", "//"])
    def test_every_path_answers_with_one(
        self, edge: Edge, service: Service, rpc: Rpc, binding: Binding, slash: str
    ) -> None:
        verb, path, body, query = binding.call(minimal(rpc.request, {}))
        for end in ("", slash):
            answer = edge.internal.request(verb, path + end, json=body, params=query)
            assert answer.status_code == 200, answer.text
        without, with_one = service.calls
        assert (with_one.method, with_one.request) == (rpc.name, without.request)
        public = edge.public.request(verb, path + slash, json=body, params=query)
        if rpc.path in PUBLIC:
            assert public.status_code == 200, public.text
            assert service.calls[2].request == without.request
        else:
            assert_error(public, 404, 5, "METHOD_NOT_FOUND")
            assert len(service.calls) == 2

    @pytest.mark.parametrize(
        "address", ["a/", "a/?b/", "/", "a:b/", "a:b/?c=d:e/?", "%2F", "a" * 2_000]
    )
    def test_a_query_keeps_its_own(
        self, edge: Edge, service: Service, address: str
    ) -> None:
        for path in ("/api/users:byWallet", "/api/users:byWallet/"):
            edge.internal.get(f"{path}?wallet_address={address}")
        without, with_one = service.calls
        assert without.request.wallet_address
        assert with_one.request == without.request

    def test_what_a_query_must_not_set_it_does_not_set_there(
        self, edge: Edge, service: Service
    ) -> None:
        for query in ("user_id=evil", "reason=evil", "user%5Fid=evil"):
            answer = edge.public.post(f"/api/users/good:suspend/?{query}", json={})
            assert_error(answer, 400, 3, "MALFORMED_REQUEST")
        assert not service.calls

    @pytest.mark.parametrize(
        "path", ["/api/users:nonsense/", "/api/users:byWallet/x/", "/a:b/c:d/", "/:/"]
    )
    def test_it_makes_no_path_of_what_is_none(
        self, edge: Edge, service: Service, path: str
    ) -> None:
        assert_error(edge.internal.get(path), 404, 5, "METHOD_NOT_FOUND")
        assert not service.calls
