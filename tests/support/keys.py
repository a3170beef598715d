"""What the database and tokens say of signing keys."""

from __future__ import annotations

from pourtier_grpc.store.keys import KeyUse
from support.sql import Sql
from support.tokens import parts


def states(sql: Sql, use: KeyUse) -> dict[str, str]:
    """The state of every key of a use, by its id."""
    query = "SELECT key_id, state FROM signing_keys WHERE use = %s"
    return {row["key_id"]: row["state"] for row in sql.run(query, use.value)}


def in_state(sql: Sql, use: KeyUse, state: str) -> str:
    """The one key of a use in a state. Fails where there is not exactly one."""
    (key_id,) = [each for each, now in states(sql, use).items() if now == state]
    return key_id


def signed_by(token: str) -> str:
    """The id of the key that an access token says to be signed by."""
    return str(parts(token)[0]["kid"])
