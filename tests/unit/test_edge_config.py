"""The edge's configuration, held against the contract without running anything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodOptions

from e2e.edge_rig import SYNTHETIC, compile_contract, contract_services
from pourtier.v1 import error_reason_pb2, policy_pb2
from pourtier_grpc.config import load
from pourtier_grpc.devtools import edge
from pourtier_grpc.devtools.edge_replies import replies
from pourtier_grpc.devtools.edge_settings import Address, EdgeSettings
from pourtier_grpc.devtools.edge_yaml import plain
from pourtier_grpc.interceptors.entry import EDGE_LISTENER

METHODS = [method for one in contract_services() for method in one.methods]
BUFFER = "envoy.filters.http.buffer"
RBAC = "envoy.filters.http.rbac"
TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
GUARD = "envoy.filters.http.rbac"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(edge.render(EdgeSettings()))
    return parsed


@pytest.fixture
def synthetic(tmp_path: Path) -> dict[str, Any]:
    return of(tmp_path, SYNTHETIC)


def of(folder: Path, source: str) -> dict[str, Any]:
    contract = edge.read_contract(compile_contract(folder, source).read_bytes())
    parsed: dict[str, Any] = yaml.safe_load(edge.render(EdgeSettings(), contract))
    return parsed


def manager(config: dict[str, Any], listener: str) -> dict[str, Any]:
    (found,) = [
        one
        for one in config["static_resources"]["listeners"]
        if one["name"] == listener
    ]
    (chain,) = found["filter_chains"]
    (network,) = chain["filters"]
    config_: dict[str, Any] = network["typed_config"]
    return config_


def routes(config: dict[str, Any], listener: str) -> dict[str, Any]:
    """The action of each exact path."""
    (host,) = manager(config, listener)["route_config"]["virtual_hosts"]
    *exact, grpc, last = host["routes"]
    assert set(grpc["match"]) == {"prefix", "headers"}
    assert last["match"] == {"prefix": "/"}
    assert grpc["route"]["cluster"] == last["route"]["cluster"] == "nothing"
    return {one["match"]["path"]: one["route"] for one in exact}


def http_filter(config: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [
        one for one in manager(config, "public")["http_filters"] if one["name"] == name
    ]
    config_: dict[str, Any] = found["typed_config"]
    return config_


def path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def is_public(method: MethodDescriptor) -> bool:
    allow = method.GetOptions().Extensions[policy_pb2.policy].allow
    return any(access.WhichOneof("who") != "service" for access in allow)


class TestRoutes:
    def test_the_public_listener_has_what_people_may_call(
        self, config: dict[str, Any]
    ) -> None:
        expected = {path(method) for method in METHODS if is_public(method)}
        assert set(routes(config, "public")) == expected

    def test_the_internal_listener_has_everything(self, config: dict[str, Any]) -> None:
        assert set(routes(config, "internal")) == {
            *map(path, METHODS),
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        }

    def test_what_only_services_may_call_is_internal(
        self, synthetic: dict[str, Any]
    ) -> None:
        service = "/synthetic.v1.ThingService"
        assert set(routes(synthetic, "public")) == {
            f"{service}/GetThing",
            f"{service}/PutOwner",
            f"{service}/PutThing",
        }
        assert f"{service}/PurgeThings" in routes(synthetic, "internal")

    def test_only_reads_are_tried_again_after_an_answer(
        self, config: dict[str, Any]
    ) -> None:
        actions = routes(config, "internal")
        for method in METHODS:
            policy = actions[path(method)]["retry_policy"]
            level = method.GetOptions().idempotency_level
            if level == MethodOptions.NO_SIDE_EFFECTS:
                assert "unavailable" in policy["retry_on"].split(",")
                assert policy["per_try_timeout"] == "10s"
            else:
                assert policy["retry_on"] == "connect-failure,refused-stream"
                assert "per_try_timeout" not in policy

    def test_every_unary_call_has_a_deadline(self, config: dict[str, Any]) -> None:
        for action in routes(config, "public").values():
            assert action["max_stream_duration"]["grpc_timeout_header_max"] == "30s"
            # The default of 15 seconds would end calls that the deadline allows.
            assert action["timeout"] == "0s"

    def test_api_keys_are_removed_on_the_public_listener(
        self, config: dict[str, Any]
    ) -> None:
        removed = {
            name: manager(config, name)["route_config"]["request_headers_to_remove"]
            for name in ("public", "internal")
        }
        assert set(removed["public"]) - set(removed["internal"]) == {"x-api-key"}

    def test_each_listener_says_which_it_is(self, config: dict[str, Any]) -> None:
        for name in ("public", "internal"):
            added = manager(config, name)["route_config"]["request_headers_to_add"]
            told = [one for one in added if one["header"]["key"] == EDGE_LISTENER]
            assert [one["header"]["value"] for one in told] == [name]
            assert told[0]["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"

    def test_proxies_stand_before_the_public_listener_only(self) -> None:
        settings = EdgeSettings(trusted_proxies=2)
        config = yaml.safe_load(edge.render(settings))
        assert manager(config, "public")["xff_num_trusted_hops"] == 2
        assert manager(config, "internal")["xff_num_trusted_hops"] == 0


class TestFilters:
    def test_headers_are_cleaned_first(self, config: dict[str, Any]) -> None:
        names = [one["name"] for one in manager(config, "public")["http_filters"]]
        assert names[0] == "envoy.filters.http.header_mutation"
        assert manager(config, "internal")["http_filters"][0]["name"] == names[0]

    def test_bodies_are_whole_before_and_after_the_transcoder(
        self, config: dict[str, Any]
    ) -> None:
        names = [one["name"] for one in manager(config, "public")["http_filters"]]
        at = names.index(TRANSCODER)
        assert [name for name in names if name.startswith(BUFFER)] == [
            names[at - 1],
            names[at + 1],
        ]
        (host,) = manager(config, "internal")["route_config"]["virtual_hosts"]
        (stream, *_) = [r for r in host["routes"] if "typed_per_filter_config" in r]
        off = stream["typed_per_filter_config"]
        assert set(off) == {names[at - 1], names[at + 1]}
        assert all(one["disabled"] for one in off.values())

    def test_the_listeners_differ_in_limits_alone(self, config: dict[str, Any]) -> None:
        public, internal = (
            manager(config, listener)["http_filters"]
            for listener in ("public", "internal")
        )
        assert [each["name"] for each in public] == [each["name"] for each in internal]
        differ = {
            (one["name"], key)
            for one, other in zip(public, internal, strict=True)
            for key, value in one["typed_config"].items()
            if other["typed_config"][key] != value
        }
        assert differ == {
            (f"{BUFFER}.received", "max_request_bytes"),
            (TRANSCODER, "max_request_body_size"),
            (TRANSCODER, "max_response_body_size"),
            (BUFFER, "max_request_bytes"),
        }

    def test_services_may_send_what_the_service_reads(self) -> None:
        assert EdgeSettings().max_internal_body_bytes == load().max_request_bytes

    def test_no_query_reaches_into_a_body(self, synthetic: dict[str, Any]) -> None:
        policies = http_filter(synthetic, RBAC)["rules"]["policies"]
        verb, path = policies["query-into-body-of-PUT"]["permissions"][0]["and_rules"][
            "rules"
        ]
        pattern = path["header"]["string_match"]["safe_regex"]["regex"]
        assert verb["header"]["string_match"]["safe_regex"]["regex"] == "PUT"
        for refused in ("newOwner", "new_owner=", "a&new_owner.owner_id=x"):
            assert re.fullmatch(pattern, f"/api/owners?{refused}")
        for taken in ("thing_id=new_owner", "a=new_owner.owner_id", "new_owners=1"):
            assert not re.fullmatch(pattern, f"/api/owners?{taken}")

    def test_a_query_parameter_called_like_a_body_is_refused(
        self, tmp_path: Path
    ) -> None:
        lost = SYNTHETIC.replace(
            'post: "/api/things:purge" body: "*"',
            'put: "/api/things/{thing_id}/{owner.owner_id}" body: "note_text"',
        )
        with pytest.raises(edge.EdgeError, match=r"PutOwner: .* note_text has the"):
            of(tmp_path, lost)


class TestTranscoder:
    def test_every_path_variable_is_ignored_or_guarded_in_queries(
        self, config: dict[str, Any]
    ) -> None:
        variables = set()
        for method in METHODS:
            # The stubs of google.api do not say what their extensions extend.
            extension: Any = annotations_pb2.http
            rule = method.GetOptions().Extensions[extension]
            for one in (rule, *rule.additional_bindings):
                variables |= set(re.findall(r"{([\w.]+)", str(one)))
        ignored = set(http_filter(config, TRANSCODER)["ignored_query_parameters"])
        guarded = {
            name
            for _, names in edge.committed_contract().guarded_paths
            for name in names
        }
        assert variables <= ignored | guarded
        assert not ignored & guarded

    def test_nested_variables_in_every_spelling(
        self, synthetic: dict[str, Any]
    ) -> None:
        assert http_filter(synthetic, TRANSCODER)["ignored_query_parameters"] == [
            "owner.ownerId",
            "owner.owner_id",
            "thingId",
            "thing_id",
        ]

    def test_every_service_is_transcoded(self, config: dict[str, Any]) -> None:
        services = http_filter(config, TRANSCODER)["services"]
        assert set(services) == {m.containing_service.full_name for m in METHODS}

    def test_a_path_variable_that_is_a_query_parameter_elsewhere_is_guarded(
        self, tmp_path: Path
    ) -> None:
        both = SYNTHETIC.replace(
            'post: "/api/things:purge" body: "*"', 'get: "/api/things"'
        )
        config = of(tmp_path, both)
        ignored = http_filter(config, TRANSCODER)["ignored_query_parameters"]
        assert not {"owner.owner_id", "thing_id"} & set(ignored)
        policies = http_filter(config, GUARD)["rules"]["policies"]
        guards = str([policies[name] for name in policies if "query-over" in name])
        assert "/api/owners/[^/?]+/thing" in guards
        assert "/api/things/[^/?]+" in guards

    def test_a_method_without_a_policy_is_refused(self, tmp_path: Path) -> None:
        bare = re.sub(
            r"option \(pourtier.v1.policy\) = { allow { service.*\n", "\n", SYNTHETIC
        )
        with pytest.raises(edge.EdgeError, match="PurgeThings has no policy"):
            of(tmp_path, bare)

    def test_what_is_no_descriptor_set_is_refused(self) -> None:
        with pytest.raises(edge.EdgeError):
            edge.read_contract(b"\xff")


class TestReplies:
    def test_reasons_are_in_the_registry(self) -> None:
        names = set(error_reason_pb2.ErrorReason.keys())
        assert {f"ERROR_REASON_{one.reason}" for one in replies()} <= names

    def test_details_are_known_to_the_transcoder(self) -> None:
        # It leaves the whole body empty where it does not know a detail's type.
        files = FileDescriptorSet.FromString(
            (edge.ROOT / "gen" / "pourtier" / "pourtier.binpb").read_bytes()
        )
        assert "google/rpc/error_details.proto" in {file.name for file in files.file}


class TestFile:
    def test_what_is_written_is_what_was_built(self) -> None:
        settings = EdgeSettings(sockets=("/a.sock", "/b.sock"))
        contract = edge.committed_contract()
        text = edge.render(settings, contract)
        assert yaml.safe_load(text) == plain(edge.build(contract, settings))
        assert text == edge.render(settings, contract)
        assert text.startswith("# ")

    def test_each_socket_is_an_endpoint(self) -> None:
        config = yaml.safe_load(edge.render(EdgeSettings(sockets=("/a", "/b"))))
        (cluster,) = config["static_resources"]["clusters"]
        (group,) = cluster["load_assignment"]["endpoints"]
        assert [
            one["endpoint"]["address"]["pipe"]["path"] for one in group["lb_endpoints"]
        ] == ["/a", "/b"]

    def test_no_header_of_a_call_is_remembered_for_the_next(
        self, config: dict[str, Any]
    ) -> None:
        (cluster,) = config["static_resources"]["clusters"]
        (protocol,) = cluster["typed_extension_protocol_options"].values()
        http2 = protocol["explicit_http_config"]["http2_protocol_options"]
        assert http2["hpack_table_size"] == 0

    def test_it_listens_on_loopback_by_default(self, config: dict[str, Any]) -> None:
        addresses = [
            one["address"]["socket_address"]
            for one in config["static_resources"]["listeners"]
        ]
        assert [one["address"] for one in addresses] == ["127.0.0.1"] * 2
        assert [one["port_value"] for one in addresses] == [9000, 9001]

    def test_only_its_own_user_administers_it(self, config: dict[str, Any]) -> None:
        pipe = config["admin"]["address"]["pipe"]
        assert pipe == {"path": "/run/pourtier/envoy-admin.sock", "mode": 0o600}

    def test_it_has_a_heap_limit(self) -> None:
        settings = EdgeSettings(max_heap_bytes=5)
        manager = yaml.safe_load(edge.render(settings))["overload_manager"]
        heap = "envoy.resource_monitors.fixed_heap"
        (monitor,) = [m for m in manager["resource_monitors"] if m["name"] == heap]
        assert monitor["typed_config"]["max_heap_size_bytes"] == 5
        thresholds = {
            action["name"].rpartition(".")[2]: trigger["threshold"]["value"]
            for action in manager["actions"]
            for trigger in action["triggers"]
            if trigger["name"] == heap
        }
        assert thresholds == {"shrink_heap": 0.9, "stop_accepting_requests": 0.95}

    def test_a_stale_file_is_noticed(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(edge, "TARGET", tmp_path / "envoy.yaml")
        assert edge.main(["--check"]) == 1
        assert edge.main([]) == 0
        assert edge.main(["--check"]) == 0
        (tmp_path / "envoy.yaml").write_text("# changed\n")
        assert edge.main(["--check"]) == 1
        assert "envoy.yaml" in capsys.readouterr().err

    def test_the_committed_file_is_fresh(self) -> None:
        assert edge.main(["--check"]) == 0


class TestSettings:
    def test_any_origin_is_refused(self) -> None:
        with pytest.raises(ValueError, match="exact"):
            EdgeSettings(public_origins=("*",))

    def test_a_socket_is_needed(self) -> None:
        with pytest.raises(ValueError, match="socket"):
            EdgeSettings(sockets=())

    def test_a_socket_with_a_long_path_is_refused(self) -> None:
        EdgeSettings(admin="/" + "x" * 106)
        with pytest.raises(ValueError, match="too long for a Unix socket"):
            EdgeSettings(admin="/" + "x" * 107)
        with pytest.raises(ValueError, match="too long for a Unix socket"):
            EdgeSettings(sockets=("/" + "x" * 107,))

    def test_addresses(self) -> None:
        settings = EdgeSettings(public=Address(host="0.0.0.0", port=1))  # noqa: S104 - not opened
        assert "address: 0.0.0.0, port_value: 1 }" in edge.render(settings)
