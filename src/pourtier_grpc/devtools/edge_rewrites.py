"""Requests that the edge turns into another before it looks for what answers them.

Envoy lets nothing but a script change a request's path or method before the transcoder
has seen them. A script takes time, so requests that need none pass it by.
"""

from __future__ import annotations

from pourtier_grpc.devtools.edge_yaml import Node, typed

LUA = "envoy.filters.http.lua"

# `/api/users:byWallet/`. Without a verb the transcoder takes the slash by itself.
SLASH_AFTER_VERB = r"[^?]*:[^:/?]+/(?:\?.*)?"

WITHOUT_SLASH = """\
function envoy_on_request(request)
  local headers = request:headers()
  headers:replace(":path", (headers:get(":path"):gsub("^([^?]*)/", "%1")))
end
"""

# Envoy would send the body, which a client takes for the next answer or for a broken
# stream. Requests that were refused before they came here have no mark: nobody has
# looked at their method, and the second function runs for all of them.
HEAD_AS_GET = """\
function envoy_on_request(request)
  request:headers():replace(":method", "GET")
  request:streamInfo():dynamicMetadata():set("pourtier", "head", true)
end

function envoy_on_response(response)
  local marks = response:streamInfo():dynamicMetadata():get("pourtier")
  if marks == nil or not marks["head"] then
    return
  end
  for part in response:bodyChunks() do
    part:setBytes("")
  end
end
"""


def head_as_get() -> Node:
    """The filter that answers HEAD like GET, without the body (RFC 9110, 9.3.2)."""
    return _script(f"{LUA}.head", ":method", {"exact": "HEAD"}, HEAD_AS_GET)


def trailing_slash() -> Node:
    """The filter that takes the slash from behind a path's verb (`:suspend/`)."""
    return _script(
        f"{LUA}.trailing_slash", ":path", _regex(SLASH_AFTER_VERB), WITHOUT_SLASH
    )


def _script(name: str, header: str, value: Node, source: str) -> Node:
    """A script for those requests alone in which a header has such a value."""
    matcher = "envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
    wanted: Node = {
        "single_predicate": {
            "input": {
                "name": "header",
                "typed_config": typed(matcher, header_name=header),
            },
            "value_match": value,
        }
    }
    skip = typed("envoy.extensions.filters.common.matcher.action.v3.SkipFilter")
    others: Node = {
        "predicate": {"not_matcher": wanted},
        "on_match": {"action": {"name": "skip", "typed_config": skip}},
    }
    script = typed(
        "envoy.extensions.filters.http.lua.v3.Lua",
        default_source_code={"inline_string": source},
    )
    return {
        "name": name,
        "typed_config": typed(
            "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
            extension_config={"name": LUA, "typed_config": script},
            xds_matcher={"matcher_list": {"matchers": [others]}},
        ),
    }


def _regex(regex: str) -> Node:
    return {"safe_regex": {"google_re2": {}, "regex": regex}}
