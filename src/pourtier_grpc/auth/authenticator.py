"""Whose credential it is: a person's bearer token or a service's API key."""

from __future__ import annotations

from typing import assert_never

from pourtier_grpc.auth.api_keys import ApiKeys
from pourtier_grpc.auth.sessions import Sessions
from pourtier_grpc.caller import ApiKey, Bearer, Credential, Service, SignedInUser


class Authenticator:
    """Proves credentials."""

    def __init__(self, *, sessions: Sessions, api_keys: ApiKeys) -> None:
        self._sessions = sessions
        self._api_keys = api_keys

    def authenticate(self, credential: Credential) -> SignedInUser | Service:
        """Whose it is.

        Raises TOKEN_INVALID, TOKEN_EXPIRED, SESSION_ENDED or USER_SUSPENDED of a bearer
        token, API_KEY_INVALID or API_KEY_EXPIRED of an API key.
        """
        match credential:
            case Bearer(token=token):
                return self._sessions.authenticate(token)
            case ApiKey(text=text):
                return self._api_keys.authenticate(text)
            case _:
                assert_never(credential)
