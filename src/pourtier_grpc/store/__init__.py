"""The store: everything that is kept in PostgreSQL, and the only place with SQL.

One module an aggregate. Reads return the contract's own messages, which the caller
treats as read-only; rows of SQLAlchemy never leave this package.
"""
