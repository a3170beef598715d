"""How alembic runs a migration: on the connection that `migrate` hands it."""

from alembic import context

from pourtier_grpc.store.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    version_table=VERSION_TABLE,
)
context.run_migrations()
