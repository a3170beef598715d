"""The tables, as the newest migration leaves them.

A test compares them with what the migrations make.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import INET, JSONB

from pourtier_grpc.store import billing_tables, escrow_tables, schema, usage_tables

VERSION_TABLE = schema.VERSION_TABLE
# Of all tables together, also those that have a module of their own.
MODULES = (billing_tables, escrow_tables, usage_tables)
metadata = schema.metadata
_time = schema.time_column

# Whose order an event has its place in; those that tell of no user are one subject.
EVENT_SUBJECT = "COALESCE(user_id, '00000000-0000-0000-0000-000000000000'::uuid)"
# One of 32. The end of a UUIDv7 is random, its beginning is the time.
EVENT_PARTITION = f"get_byte(uuid_send({EVENT_SUBJECT}), 15) & 31"

escrow_accounts = escrow_tables.escrow_accounts
escrow_transactions = escrow_tables.escrow_transactions

users = Table(
    "users",
    metadata,
    Column("user_id", Uuid, primary_key=True),
    # Of the whole aggregate: raised by any change under the user.
    Column("version", BigInteger, nullable=False),
    # Of the resource `User` alone: its etag.
    Column("revision", BigInteger, nullable=False),
    # The sequence of the newest outbox event of this user.
    Column("event_sequence", BigInteger, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("locale", Text, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("roles", ARRAY(Text), nullable=False),
    Column("kyc_level", SmallInteger, nullable=False),
    _time("create_time"),
    _time("update_time"),
    Index(None, "create_time", "user_id"),
    # The few suspended ones are not looked for among all.
    Index(None, "status", "create_time", "user_id"),
    # With the order of the list: the planner cannot guess how few have an address.
    Index(
        "users_email_idx",
        text("lower(email)"),
        "create_time",
        "user_id",
        postgresql_where=text("email <> ''"),
    ),
    Index(
        "users_admins_idx", "user_id", postgresql_where=text("'admin' = ANY (roles)")
    ),
)

wallets = Table(
    "wallets",
    metadata,
    Column("chain", Text, primary_key=True),
    Column("address", Text, primary_key=True),
    Column("user_id", ForeignKey("users.user_id"), nullable=False),
    Column("wallet_type", Text, nullable=False),
    Column("is_primary", Boolean, nullable=False),
    _time("create_time"),
    Index(
        "wallets_primary_key",
        "user_id",
        unique=True,
        postgresql_where=text("is_primary"),
    ),
    Index(None, "user_id"),
    # For whoever knows a wallet and not its chain.
    Index(None, "address"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", Uuid, primary_key=True),
    Column("user_id", ForeignKey("users.user_id"), nullable=False),
    Column("chain", Text, nullable=False),
    Column("address", Text, nullable=False),
    # Half of what a refresh token's MAC is made of; the server's key is the other.
    Column("secret", LargeBinary, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    # The generation that the present one was exchanged for, until it is used up.
    Column("parent_generation", Integer, nullable=True),
    # Whether the present generation has ever come back, and so had arrived.
    Column("presented", Boolean, nullable=False),
    _time("create_time"),
    _time("rotate_time"),
    _time("expire_time"),
    _time("end_time", nullable=True),
    Column("end_cause", Text, nullable=True),
    Column("client_address", INET, nullable=True),
    Column("user_agent", Text, nullable=False),
    Index(
        "sessions_live_idx",
        "user_id",
        "create_time",
        postgresql_where=text("end_time IS NULL"),
    ),
    # For the sweep of those whose time is over.
    Index(
        "sessions_live_expire_time_idx",
        "expire_time",
        postgresql_where=text("end_time IS NULL"),
    ),
    Index(
        "sessions_live_rotate_time_idx",
        "rotate_time",
        postgresql_where=text("end_time IS NULL"),
    ),
)

consumed_nonces = Table(
    "consumed_nonces",
    metadata,
    Column("nonce", LargeBinary, primary_key=True),
    _time("expire_time"),
    Index(None, "expire_time"),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    _time("event_time"),
    Column("action", Text, nullable=False),
    Column("user_id", Uuid, nullable=True),
    # The event in canonical JSON (RFC 8785): the bytes that evidence is made of. The
    # other columns repeat parts of it, to be searched by.
    Column("body", LargeBinary, nullable=False),
    Index(None, "user_id", "event_time"),
    Index(None, "event_time", "event_id"),
    Index(None, "action", "event_time"),
)

# What can be erased of an event; the event itself holds only its salted hash.
audit_personal = Table(
    "audit_personal",
    metadata,
    Column("event_id", ForeignKey("audit_events.event_id"), primary_key=True),
    Column("user_id", Uuid, nullable=True),
    Column("salt", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index(None, "user_id"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    # None where it tells of the platform, and of no user.
    Column("user_id", Uuid, nullable=True),
    Column("sequence", BigInteger, nullable=False),
    Column("channel", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("payload", JSONB, nullable=False),
    _time("create_time"),
    _time("publish_time", nullable=True),
    # How often it has failed by itself, until it is sent, and when it is tried again.
    Column("attempts", SmallInteger, nullable=False, server_default=text("0")),
    _time("retry_time", nullable=True),
    # Parked: the relay tries no more, until somebody says so.
    _time("park_time", nullable=True),
    Column("park_reason", Text, nullable=True),
    UniqueConstraint("user_id", "sequence"),
    Index(
        "outbox_platform_sequence_key",
        "sequence",
        unique=True,
        postgresql_where=text("user_id IS NULL"),
    ),
    Index(
        "outbox_waiting_idx",
        "create_time",
        postgresql_where=text("publish_time IS NULL"),
    ),
    # What a relay sends next; the partition and the subject as `relaying` has them.
    Index(
        "outbox_relay_idx",
        text(f"({EVENT_PARTITION})"),
        text(EVENT_SUBJECT),
        "sequence",
        postgresql_where=text("publish_time IS NULL"),
    ),
    # The few that hold back their subjects.
    Index(
        "outbox_held_idx",
        text(EVENT_SUBJECT),
        postgresql_where=text("attempts > 0"),
    ),
)

# Which events the sealer has yet to seal; a trigger adds each as it comes.
audit_unsealed = Table(
    "audit_unsealed", metadata, Column("event_id", Uuid, primary_key=True)
)

# One row: who seals has it locked, which nobody may who only serves.
audit_sealing = Table(
    "audit_sealing",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
)

# The chain over the audit log: each hash covers the event's bytes and the hash before.
audit_seals = Table(
    "audit_seals",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column(
        "event_id", ForeignKey("audit_events.event_id"), nullable=False, unique=True
    ),
    Column("prev_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

audit_checkpoints = Table(
    "audit_checkpoints",
    metadata,
    # Of the newest seal that it covers.
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    _time("checkpoint_time"),
    # Signed, in canonical JSON.
    Column("body", LargeBinary, nullable=False),
)

legal_documents = Table(
    "legal_documents",
    metadata,
    Column("document_id", Uuid, primary_key=True),
    Column("type", SmallInteger, nullable=False),
    Column("major", Integer, nullable=False),
    Column("minor", Integer, nullable=False),
    Column("locale", Text, nullable=False),
    Column("title", Text, nullable=False),
    # The exact bytes that were published; a trigger and a check hold them.
    Column("content", LargeBinary, nullable=False),
    Column("content_sha256", LargeBinary, nullable=False),
    _time("effective_time"),
    _time("publish_time"),
    _time("withdraw_time", nullable=True),
    Index(
        "legal_documents_version_key",
        "type",
        "major",
        "minor",
        text("lower(locale)"),
        unique=True,
    ),
    Index(None, "publish_time", "document_id"),
)

# Evidence: it outlives the account, to which it has therefore no foreign key.
document_acceptances = Table(
    "document_acceptances",
    metadata,
    Column("acceptance_id", Uuid, primary_key=True),
    Column("user_id", Uuid, nullable=False),
    Column("document_id", ForeignKey("legal_documents.document_id"), nullable=False),
    # The document's, so that who has agreed to what is read from this table alone.
    Column("type", SmallInteger, nullable=False),
    Column("major", Integer, nullable=False),
    _time("accept_time"),
    Column("session_id", Uuid, nullable=False),
    Column("request_id", Text, nullable=False),
    # Signed, in canonical JSON: the bytes that evidence is made of.
    Column("receipt", LargeBinary, nullable=False),
    UniqueConstraint("user_id", "document_id"),
    Index(None, "user_id", "accept_time", "acceptance_id"),
)

# What can be erased of an acceptance; its receipt holds only salted hashes.
acceptance_personal = Table(
    "acceptance_personal",
    metadata,
    Column(
        "acceptance_id",
        ForeignKey("document_acceptances.acceptance_id"),
        primary_key=True,
    ),
    Column("user_id", Uuid, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index(None, "user_id"),
)

# The sequences of events that tell of no user.
event_sequences = Table(
    "event_sequences",
    metadata,
    Column("subject", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
)

# Refused proofs, counted; not evidence, and erased with the wallet.
refused_proofs = Table(
    "refused_proofs",
    metadata,
    Column("wallet_address", Text, primary_key=True),
    Column("client_address", Text, primary_key=True),
    Column("minute", DateTime(timezone=True), primary_key=True),
    Column("event_id", Uuid, nullable=False),
    Column("count", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Index(None, "minute", "event_id"),
    # For each refusal: how many wallets were claimed from there.
    Index(None, "client_address", "minute"),
)

# The keys of internal services; of each only a hash is kept.
api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Uuid, primary_key=True),
    Column("prefix", Text, nullable=False, unique=True),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    _time("create_time"),
    _time("expire_time", nullable=True),
    _time("revoke_time", nullable=True),
    _time("last_used_time", nullable=True),
)

# Which keys there are and in what state; the material lies in KEY_DIR.
signing_keys = Table(
    "signing_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("use", Text, nullable=False),
    Column("algorithm", Text, nullable=False),
    Column("state", Text, nullable=False),
    _time("create_time"),
    _time("activate_time", nullable=True),
    _time("retire_time", nullable=True),
    # Of keys whose signatures outlive their material, such as evidence's.
    Column("public_key", LargeBinary, nullable=True),
    Index(
        "signing_keys_active_key",
        "use",
        unique=True,
        postgresql_where=text("state = 'active'"),
    ),
    Index(
        "signing_keys_next_key",
        "use",
        unique=True,
        postgresql_where=text("state = 'next'"),
    ),
)

# Calls that came with an idempotency key, and what repeats are answered.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("caller", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("method", Text, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    # What the call makes, where that takes more than one transaction.
    Column("resource_id", Uuid, nullable=True),
    # The answer, serialised; None while the effect is under way.
    Column("response", LargeBinary, nullable=True),
    _time("create_time"),
    _time("complete_time", nullable=True),
    Index(None, "create_time"),
    Index(
        "idempotency_keys_resource_id_idx",
        "resource_id",
        postgresql_where=text("resource_id IS NOT NULL"),
    ),
)
