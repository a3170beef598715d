"""TLS of the edge: what a listener's transport is, and the files that name secrets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from pourtier_grpc.devtools.edge_settings import EdgeSettings, EdgeTls
from pourtier_grpc.devtools.edge_yaml import Node, Note, render, typed

TLS = "envoy.extensions.transport_sockets.tls.v3"
# For a year, which is what browsers' own lists ask for (RFC 6797). Whether it holds for
# other hosts under the same name is their owner's to say.
STRICT_TRANSPORT = "max-age=31536000"

HEADER = """\
# A secret of Pourtier's edge. Envoy reads the files that it names again when one of
# them is moved into its folder. Generated; do not edit.

"""


def transport_socket(name: str, tls: EdgeTls, settings: EdgeSettings) -> Node:
    """What encrypts a listener of that name."""
    common: dict[str, Node] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [_secret(f"{name}-tls", settings)],
    }
    context: dict[str, Node] = {"common_tls_context": common}
    if tls.client_ca is not None:
        common["validation_context_sds_secret_config"] = _secret(
            f"{name}-clients", settings
        )
        context["require_client_certificate"] = True
        context["disable_stateless_session_resumption"] = Note(
            "Every connection shows its certificate: one that is resumed would get in"
            " with what was good when it was first shown.",
            value=True,
        )
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(f"{TLS}.DownstreamTlsContext", **context),
    }


def secrets(settings: EdgeSettings) -> Iterator[tuple[str, str]]:
    """The name and the text of each file that `EdgeSettings.secrets` is to hold."""
    for listener, tls in (
        ("public", settings.public_tls),
        ("internal", settings.internal_tls),
    ):
        if tls is None:
            continue
        yield _file(
            f"{listener}-tls",
            tls_certificate={
                "certificate_chain": {"filename": tls.certificate},
                "private_key": {"filename": tls.key},
            },
        )
        if tls.client_ca is not None:
            yield _file(
                f"{listener}-clients",
                validation_context={"trusted_ca": {"filename": tls.client_ca}},
            )


def _file(name: str, **secret: Node) -> tuple[str, str]:
    resource = typed(f"{TLS}.Secret", name=name, **secret)
    return f"{name}.yaml", HEADER + render({"resources": [resource]})


def _secret(name: str, settings: EdgeSettings) -> Node:
    path = str(PurePath(settings.secrets) / f"{name}.yaml")
    source: Node = {"path_config_source": {"path": path}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}
