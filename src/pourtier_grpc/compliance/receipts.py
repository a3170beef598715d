"""Receipts: what a person holds of having agreed to a text.

A receipt names the text by its SHA-256 and holds no personal data itself: of address,
agent and wallet it has salted hashes, and of the wallet its pseudonym.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from uuid import UUID

import rfc8785

from pourtier.v1.document_pb2 import Document
from pourtier.v1.user_pb2 import User
from pourtier_grpc.auth.keyring import Keyring
from pourtier_grpc.caller import Client
from pourtier_grpc.compliance import evidence
from pourtier_grpc.compliance.documents import described
from pourtier_grpc.compliance.evidence import Kind
from pourtier_grpc.store.acceptances import NewAcceptance
from pourtier_grpc.store.audit import SALT_BYTES, hashed, personal_fields
from pourtier_grpc.store.documents import major_of
from pourtier_grpc.store.ids import new_id


class Receipts:
    """Writes receipts, under the evidence key of the moment."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def accept(
        self,
        document: Document,
        user: User,
        session_id: UUID,
        client: Client,
        now: datetime,
    ) -> NewAcceptance:
        """That a user agrees to a text, in a session, by a call, with its receipt."""
        acceptance_id = new_id(now)
        salt = secrets.token_bytes(SALT_BYTES)
        personal = personal_fields(user, client)
        body = {
            "accept_time": now.isoformat(),
            "acceptance_id": str(acceptance_id),
            "document": described(document),
            "personal": hashed(salt, personal),
            "request_id": client.request_id,
            "session_id": str(session_id),
            "user_id": user.user_id,
            "wallet": self._keyring.pseudonym(user.wallet_address),
        }
        return NewAcceptance(
            acceptance_id=acceptance_id,
            user_id=UUID(user.user_id),
            document_id=UUID(document.document_id),
            type=document.type,
            major=major_of(document),
            accept_time=now,
            session_id=session_id,
            request_id=client.request_id,
            receipt=evidence.sign(self._keyring.evidence, Kind.RECEIPT, body),
            salt=salt,
            personal=rfc8785.dumps(personal),
        )
