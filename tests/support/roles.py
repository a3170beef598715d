"""The database's roles, by which services and workers under test do their duty."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from pourtier_grpc.config import load
from pourtier_grpc.store.opening import open_database
from pourtier_grpc.store.privileges import Duty, grant

PASSWORD = "as good as any on a loopback"


def name_of(duty: Duty) -> str:
    """The role that has one duty's privileges on databases made for tests."""
    return f"pourtier_test_{duty.value}"


def make_roles(database_url: str) -> None:
    """Makes the roles where the server lacks them, and grants on one database."""
    with psycopg.connect(database_url, autocommit=True) as owner:
        for duty in Duty:
            create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
            role = sql.Identifier(name_of(duty))
            try:
                owner.execute(create.format(role, sql.Literal(PASSWORD)))
            except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                continue  # an earlier run's, or another process's at this moment
    database = open_database(load(database_url=database_url))
    try:
        for duty in Duty:
            grant(database, duty, name_of(duty))
    finally:
        database.close()


def as_role(database_url: str, duty: Duty) -> str:
    """The same database, by the role of a duty; as it is where nothing was granted."""
    role = name_of(duty)
    with psycopg.connect(database_url, autocommit=True) as owner:
        known = owner.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
        if known.fetchone() is None:
            return database_url
        query = "SELECT has_schema_privilege(%s, 'public', 'USAGE') AND EXISTS ("
        query += "SELECT FROM pg_tables WHERE tablename = 'users' AND"
        query += " has_table_privilege(%s, 'users', 'SELECT'))"
        granted = owner.execute(query, (role, role)).fetchone()
    if granted is None or not granted[0]:
        return database_url
    parts = urlsplit(database_url)
    host = parts.netloc.rpartition("@")[2]
    login = f"{role}:{PASSWORD.replace(' ', '%20')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{host}"))
