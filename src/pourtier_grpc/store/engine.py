"""The connection to PostgreSQL: pool, transactions, deadlines, and driver errors."""

from __future__ import annotations

import re
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry
from psycopg import conninfo
from sqlalchemy import (
    URL,
    Connection,
    CursorResult,
    Engine,
    QueuePool,
    Table,
    TextClause,
    create_engine,
    exc,
    insert,
    make_url,
    text,
)
from sqlalchemy.sql.expression import Executable

from pourtier_grpc import deadline
from pourtier_grpc.config import ConfigError
from pourtier_grpc.store import claims
from pourtier_grpc.store.driver_errors import translated_errors, unavailable
from pourtier_grpc.telemetry.metrics import OPERATIONS, QueryMetrics

# How long a call waits for a connection before the pool counts as exhausted.
POOL_TIMEOUT_SECONDS = 5.0
# The statement that takes a snapshot's name has no parameters.
SNAPSHOT = re.compile(r"[0-9A-F-]+", re.ASCII)
# How many rows of a stream travel together.
STREAM_ROWS = 500
# How exactly statements keep to the call's deadline; finer would cost a journey each.
TIMEOUT_GRANULARITY_SECONDS = 0.1
# How many rows are written before the call's deadline is looked at again.
INSERT_BATCH = 500


class Reader:
    """A connection on which statements run, each no longer than the call may."""

    def __init__(
        self, connection: Connection, timeout: float, queries: QueryMetrics
    ) -> None:
        """`timeout` is the connection's own statement timeout, in seconds."""
        self.connection = connection
        self._queries = queries
        self._timeout = timeout
        self.shortened = False

    def run(
        self,
        statement: Executable,
        values: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> CursorResult[Any]:
        """Runs a statement with its parameters, or once with each of several.

        Raises DEADLINE_EXCEEDED, before or during it, where the call's time is over.
        """
        self._shorten(deadline.remaining())
        return self._queries.watch(
            operation_of(statement), self.connection.execute, statement, values
        )

    def stream(
        self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()
    ) -> Generator[tuple[Any, ...], None, None]:
        """The rows of a query as they come: any number of them, in constant memory.

        The parameters are psycopg's, `%s` or `%(name)s`. No other statement runs on the
        connection until all rows were read, or the generator is closed.
        """
        connection = self.connection.connection.driver_connection
        assert isinstance(connection, psycopg.Connection)  # noqa: S101 - for the type checker
        try:
            with connection.cursor() as cursor:
                query = statement.encode()
                yield from cursor.stream(query, values, binary=True, size=STREAM_ROWS)
        except psycopg.OperationalError as error:
            raise unavailable() from error

    def _shorten(self, left: float | None) -> None:
        if left is None or left >= self._timeout - TIMEOUT_GRANULARITY_SECONDS:
            return
        milliseconds = max(1, int(left * 1000))
        self.connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
        self._timeout, self.shortened = left, True


class Transaction(Reader):
    """A transaction that is open. Nothing is kept unless `commit` is called."""

    def commit(self, answer: Message | None = None) -> None:
        """Keeps what was done, unless the call's time is over. The transaction ends.

        `answer` is the method's response, which a repeat of the call under its
        idempotency key gets. None where the call has more transactions to come, and has
        named what it makes (`idempotency.attach`).
        """
        deadline.remaining()
        claim = claims.current()
        if claim is not None:
            claim.end(self, answer)
        self.connection.commit()
        if claim is not None:
            claim.kept()


def insert_all(
    tx: Transaction, table: Table, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Adds rows, however many: one statement may have 65,535 parameters at most."""
    for start in range(0, len(rows), INSERT_BATCH):
        tx.run(insert(table), rows[start : start + INSERT_BATCH])


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUsage:
    """The pool at one moment: most connections, those in use, and who waits for one."""

    size: int
    in_use: int
    waiting: int


class Database:
    """The pool of connections to one PostgreSQL database.

    Every wait ends with the deadline of the call that is being served: for a connection
    by a counter in front of the pool, for a statement by PostgreSQL's own timeout.

    Raises ConfigError of a URL that cannot be read.

    Driver errors leave as PourtierError: DATABASE_UNAVAILABLE, DEADLINE_EXCEEDED,
    CONFLICT, or INVALID_FIELD of a text with a NUL. Whatever else the driver raises is
    a defect of ours and passes through.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 20,
        pool_overflow: int = 10,
        recycle_seconds: int = 3600,
        statement_timeout_seconds: float = 5.0,
        queries: QueryMetrics | None = None,
    ) -> None:
        self._queries = queries or QueryMetrics(CollectorRegistry())
        self._size = pool_size + pool_overflow
        self._waiting = _Count()
        self._statement_timeout = statement_timeout_seconds
        self._places = threading.BoundedSemaphore(self._size)
        milliseconds = int(statement_timeout_seconds * 1000)
        self.engine: Engine = create_engine(
            _read(url),
            pool_size=pool_size,
            max_overflow=pool_overflow,
            pool_pre_ping=True,
            pool_recycle=recycle_seconds,
            hide_parameters=True,
            connect_args={
                "connect_timeout": 3,
                "options": f"-c statement_timeout={milliseconds} -c TimeZone=UTC"
                " -c idle_in_transaction_session_timeout=60000"
                # Unless it is named, temporary tables come before all others.
                " -c search_path=public,pg_temp",
                "application_name": "pourtier",
                # A peer that is gone without a word is noticed in about ten seconds.
                "keepalives_idle": 4,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": 10_000,
            },
        )
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction; it is rolled back unless it was committed.

        The first of a call with an idempotency key claims the key before all else.
        """
        with self._connect(self.engine) as connection:
            transaction = Transaction(
                connection, self._statement_timeout, self._queries
            )
            with translated_errors(transaction):
                claim = claims.current()
                if claim is not None:
                    claim.begin(transaction)
                yield transaction

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """For single statements that need no transaction round them."""
        left = deadline.remaining()
        # Only in a transaction can a timeout be set that does not outlive it, which
        # matters on a connection that others use next.
        hurried = left is not None and left < self._statement_timeout
        with self._connect(self.engine if hurried else self._autocommit) as connection:
            reader = Reader(connection, self._statement_timeout, self._queries)
            with translated_errors(reader):
                yield reader

    @contextmanager
    def snapshot(self, of: str | None = None) -> Iterator[Reader]:
        """For statements that are to see one moment, however long they take.

        `of` is what `pg_export_snapshot()` has answered to somebody who looks at that
        moment, and still does.
        """
        if of is not None and not SNAPSHOT.fullmatch(of):
            raise ValueError("this is no snapshot's name")
        engine = self.engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        with self._connect(engine) as connection:
            reader = Reader(connection, self._statement_timeout, self._queries)
            with translated_errors(reader):
                if of is not None:
                    connection.exec_driver_sql(f"SET TRANSACTION SNAPSHOT '{of}'")
                for limit in ("statement", "idle_in_transaction_session"):
                    connection.exec_driver_sql(f"SET LOCAL {limit}_timeout = 0")
                yield reader

    def ping(self) -> None:
        """Asks the database for an answer. Raises as every statement does."""
        with self.read() as read:
            read.run(text("SELECT 1"))

    @property
    def usage(self) -> PoolUsage:
        """How much of the pool is used at this moment."""
        pool = self.engine.pool
        in_use = pool.checkedout() if isinstance(pool, QueuePool) else 0
        return PoolUsage(size=self._size, in_use=in_use, waiting=self._waiting.value)

    def close(self) -> None:
        """Closes every idle connection; the pool opens new ones if it is used again."""
        self.engine.dispose()

    @contextmanager
    def _connect(self, engine: Engine) -> Iterator[Connection]:
        # Round the rollback too, which fails where the connection has gone.
        with self._place(), translated_errors(), engine.connect() as connection:
            yield connection

    @contextmanager
    def _place(self) -> Iterator[None]:
        left = deadline.remaining()
        if not self._places.acquire(blocking=False):
            self._wait(left)
        try:
            yield
        finally:
            self._places.release()

    def _wait(self, left: float | None) -> None:
        patience = (
            POOL_TIMEOUT_SECONDS if left is None else min(left, POOL_TIMEOUT_SECONDS)
        )
        with self._waiting:
            acquired = self._places.acquire(timeout=patience)
        if not acquired:
            deadline.remaining()
            raise unavailable()


class _Count:
    """How many threads are in the block."""

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.value += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.value -= 1


def _read(text: str) -> URL:
    """A database's URL, if the driver understands it.

    Raises ConfigError, which quotes nothing of it: where a password has characters of
    its own that were not encoded, any part may be a part of it.
    """
    try:
        url = make_url(text)
        _, options = url.get_dialect()().create_connect_args(url)
        options.pop("context", None)
        conninfo.make_conninfo(**options)
    except (ValueError, exc.ArgumentError, psycopg.ProgrammingError):
        raise ConfigError(
            "DATABASE_URL cannot be read: its port must be a number, its parameters "
            "libpq's, and special characters of its password percent-encoded"
        ) from None
    return url


def operation_of(statement: Executable) -> str:
    """What a statement does, as one of the few words by which it is counted."""
    if isinstance(statement, TextClause):
        word = statement.text.partition(" ")[0].upper()
    else:
        word = getattr(statement, "__visit_name__", "").upper()
    return word if word in OPERATIONS else "OTHER"
