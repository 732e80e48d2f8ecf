"""psycopg2's errors in the project's words, with the database's own text kept."""

import psycopg2
from psycopg2 import errorcodes

from shared.exceptions import DatabaseError, TransientDatabaseError
from shared.utils.merge_statements import STAGE_NAME

# What may pass by itself: a lost or refused connection, and a lost race (ruling 22).
_TRANSIENT_CODES = (
    errorcodes.CLASS_CONNECTION_EXCEPTION,
    errorcodes.ADMIN_SHUTDOWN,
    "57P05",  # idle session time-out (PostgreSQL 14)
    errorcodes.IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    errorcodes.CRASH_SHUTDOWN,
    errorcodes.CANNOT_CONNECT_NOW,
    errorcodes.TOO_MANY_CONNECTIONS,
    errorcodes.SERIALIZATION_FAILURE,
    errorcodes.DEADLOCK_DETECTED,
)

_ADVICE = {
    errorcodes.INSUFFICIENT_PRIVILEGE: (
        "DB_USER may not do this. A run needs SELECT, INSERT, UPDATE and DELETE on its table and "
        "TEMPORARY on the database; the first run also needs CREATE on the schema."
    ),
    errorcodes.READ_ONLY_SQL_TRANSACTION: (
        "The database is read-only: DB_HOST may be a standby, or its role or database has "
        "default_transaction_read_only set. Point DB_HOST to the primary."
    ),
    errorcodes.DUPLICATE_TABLE: (
        "Something else has a name that the table gives to a key or an index. A table that was "
        "renamed keeps theirs: rename them as well (ALTER INDEX ... RENAME TO ...)."
    ),
    errorcodes.DISK_FULL: "The database server's disk is full: make room there, then run again.",
    errorcodes.LOCK_NOT_AVAILABLE: (
        "Another session held a lock on the table for longer than "
        "database.lock_timeout_seconds: end it (see pg_locks), then run again."
    ),
    errorcodes.QUERY_CANCELED: (
        "The statement was cancelled: it took longer than database.statement_timeout_seconds, or "
        "somebody cancelled it."
    ),
    errorcodes.UNDEFINED_TABLE: (
        "The table does not exist: run the DAG once with a role that may create it."
    ),
    errorcodes.NUMERIC_VALUE_OUT_OF_RANGE: "A value is too large for its column.",
    errorcodes.STRING_DATA_RIGHT_TRUNCATION: "A text is too long for its column.",
}

_ROW_SECURITY = (
    "Row security keeps DB_USER from writing a row: give it a policy on the table "
    "(CREATE POLICY ... FOR ALL ... USING (true) WITH CHECK (true)), or BYPASSRLS."
)
_NO_PARTITION = (
    "No partition of {table} takes a row of the list: make one, such as CREATE TABLE "
    "{table}_others PARTITION OF {table} DEFAULT."
)
_REFERENCE = (
    "The foreign key {constraint} of your table {table} refers to a row that has to change or go. "
    "Let it refer to the columns that name the row, not to its number, with ON UPDATE CASCADE "
    "DEFERRABLE INITIALLY DEFERRED: it follows the row then, and none of yours is lost "
    "(docs/errors.md shows it)."
)
# Of what a table's owner may have added.
_CONSTRAINT = (
    "{constraint} of {table}, which is no constraint of this program's, refuses a row of the list: "
    "change it or drop it, then run again."
)
_CONSTRAINTS = {
    errorcodes.CHECK_VIOLATION: _CONSTRAINT,
    errorcodes.UNIQUE_VIOLATION: _CONSTRAINT,
    errorcodes.EXCLUSION_VIOLATION: _CONSTRAINT,
    errorcodes.FOREIGN_KEY_VIOLATION: _REFERENCE,
    errorcodes.RESTRICT_VIOLATION: _REFERENCE,
    errorcodes.NOT_NULL_VIOLATION: (
        "The column {column} of {table} is NOT NULL, and a row of the list has no value for it: "
        "ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL, or give it a DEFAULT."
    ),
}

# libpq gives no error code for a failed connection, only the server's text.
_CONNECTION_ADVICE = {
    "password authentication failed": "The password or user is wrong: check DB_USER, DB_PASSWORD.",
    "no password supplied": "The server wants a password: set DB_PASSWORD.",
    "Peer authentication failed": (
        "Without a password the server's socket admits a system user as the role of that name "
        "alone: set DB_USER to it, or set DB_HOST=localhost and DB_PASSWORD."
    ),
    "no pg_hba.conf entry": "The server's pg_hba.conf does not admit this host, user or SSL mode.",
    "permission denied for database": "DB_USER may not connect to DB_NAME: GRANT CONNECT on it.",
    "server does not support SSL": "The server has no SSL: check DB_SSLMODE.",
    "certificate": "The server's certificate is not trusted: check DB_SSLMODE.",
    "is not permitted to log in": "DB_USER is a role that may not log in.",
}


def translate(error: psycopg2.Error, where: str) -> DatabaseError:
    """The project's error for one of psycopg2; `where` names server, port and database."""
    said = _database_text(error)
    code = error.pgcode or ""
    is_lost = isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError)) and not code
    if is_lost or code.startswith(_TRANSIENT_CODES):
        return TransientDatabaseError(f"The database {where} failed. PostgreSQL said: {said}")
    return DatabaseError(f"{_advise(error, code)} PostgreSQL said: {said}")


def _advise(error: psycopg2.Error, code: str) -> str:
    found = error.diag
    table, constraint, column = found.table_name, found.constraint_name, found.column_name
    if table == STAGE_NAME and code == errorcodes.CHECK_VIOLATION:
        return "A value does not fit its column exactly; it was not rounded."
    if found.source_function == "ExecFindPartition":
        return _NO_PARTITION.format(table=table)
    if found.source_function == "ExecWithCheckOptions":
        return _ROW_SECURITY
    # A domain's constraint has no table, what a function raises may have neither.
    where = table or found.datatype_name
    if code in _CONSTRAINTS and where and (constraint or column):
        return _CONSTRAINTS[code].format(table=where, constraint=constraint, column=column)
    return _ADVICE.get(code, "The database refused.")


def translate_connect(error: psycopg2.Error, where: str) -> DatabaseError:
    """The project's error for a connection to `where` that could not be made."""
    said = _database_text(error)
    end = f"PostgreSQL said: {said}"
    if 'database "' in said and "does not exist" in said:
        way_out = "create it (createdb), or check DB_NAME"
        return DatabaseError(f"The database {where} does not exist: {way_out}. {end}")
    if 'role "' in said and "does not exist" in said:
        return DatabaseError(f"No connection to {where}. There is no role DB_USER. {end}")
    for text, advice in _CONNECTION_ADVICE.items():
        if text in said:
            return DatabaseError(f"No connection to {where}. {advice} {end}")
    question = "is the server up, and are DB_HOST and DB_PORT right?"
    return TransientDatabaseError(f"No connection to {where}: {question} {end}")


def _database_text(error: psycopg2.Error) -> str:
    """What the database said: its message and detail, without the query that it was about."""
    found = error.diag
    if not found.message_primary:
        # libpq asks whether the server is running; what is said before it does, too.
        lines = [line.strip() for line in str(error).splitlines() if "Is the server" not in line]
        return " ".join(" ".join(lines).split())
    context = found.context or ""  # of a COPY: the line and the column
    place = context if context.startswith("COPY ") else None
    parts = (found.message_primary, found.message_detail, found.message_hint, place)
    text = ". ".join(part.rstrip(".") for part in parts if part) + "."
    return " ".join(text.splitlines())
