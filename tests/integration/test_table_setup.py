"""The table's creation and its widening: idempotent, safe at the same moment, least privileges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any

import pytest

from dag_1_import_instruments_from_kite.import_instruments import (
    create_kite_instrument_master_table,
)
from shared.exceptions import DatabaseError
from shared.models.instrument import INSTRUMENT_TABLE
from shared.models.table import Column, Table
from shared.utils.db_manager import DatabaseManager
from shared.utils.table_setup import ensure_table, find_access_faults
from tests.conftest import PROJECT, Server
from tests.instruments import instrument
from tests.table_model import fields_of, key_of, read_table, wait_until

# As the design has it, before the ruling on strikes.
DESIGNED_TABLE = """
CREATE TABLE kite_instrument_master (
    instrument_token BIGINT NOT NULL,
    exchange VARCHAR(10) NOT NULL,
    tradingsymbol VARCHAR(50) NOT NULL,
    exchange_token VARCHAR(50),
    instrument_type VARCHAR(10),
    name VARCHAR(255),
    segment VARCHAR(20),
    expiry DATE,
    strike DECIMAL(15, 2),
    tick_size DECIMAL(10, 4),
    lot_size INTEGER,
    last_updated TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (instrument_token, exchange),
    CONSTRAINT unique_tradingsymbol_exchange UNIQUE (tradingsymbol, exchange)
)
"""
INSERT_TWO = """
INSERT INTO kite_instrument_master
    (instrument_token, exchange, tradingsymbol, strike, tick_size, lot_size, created_at)
VALUES (1, 'NFO', 'A', 370.75, 0.05, 2025, '2024-01-02 03:04:05.000006'),
       (2, 'NSE', 'B', NULL, 0.0025, 1, '2024-01-02 03:04:05.000006')
"""

# Creates the table and stores rows of its own, at the moment when it is told to.
RUN_SCRIPT = """
import json, sys
from dag_1_import_instruments_from_kite.import_instruments import (
    create_kite_instrument_master_table,
)
from shared.utils.db_manager import DatabaseManager
from tests.instruments import instrument
config, first = json.loads(sys.argv[1])
with DatabaseManager(config) as manager:
    manager.get_connection()
    print("ready", flush=True)
    sys.stdin.readline()
    create_kite_instrument_master_table(manager)
    print(*manager.upsert_instruments([instrument(first + n, f"S{first + n}") for n in range(50)]))
"""


@pytest.fixture
def manager(server: Server, empty_database: str) -> Iterator[DatabaseManager]:
    with DatabaseManager(server.config(empty_database)) as manager:
        yield manager


def look(server: Server, dbname: str) -> dict[Any, Any]:
    with closing(server.connect(dbname)) as connection:
        return read_table(connection)


def describe_table(server: Server, dbname: str) -> dict[str, Any]:
    """All that makes the table what it is, its files included (an unchanged one keeps them)."""
    queries = {
        "columns": "SELECT attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute"
        " WHERE attrelid = 'kite_instrument_master'::regclass AND attnum > 0 ORDER BY attnum",
        "indexes": "SELECT indexname, indexdef FROM pg_indexes"
        " WHERE tablename = 'kite_instrument_master' ORDER BY 1",
        "storage": "SELECT relname, relfilenode, reloptions FROM pg_class"
        " WHERE relname LIKE '%kite_instrument_master%' ORDER BY 1",
    }
    return {name: server.execute(query, dbname=dbname) for name, query in queries.items()}


def test_table_from_nothing_has_what_the_model_says(
    server: Server, empty_database: str, manager: DatabaseManager
) -> None:
    create_kite_instrument_master_table(manager)
    columns = {
        name: rest
        for name, *rest in server.execute(
            "SELECT column_name, data_type, character_maximum_length, numeric_precision,"
            " numeric_scale, is_nullable, column_default FROM information_schema.columns"
            " WHERE table_name = 'kite_instrument_master'",
            dbname=empty_database,
        )
    }
    names = {"varchar": "character varying"}
    for column in INSTRUMENT_TABLE.columns:
        data_type, length, precision, scale, nullable, default = columns.pop(column.name)
        assert data_type == names.get(column.sql_type, column.sql_type), column.name
        assert length == column.length, column.name
        if column.sql_type == "numeric":
            assert (precision, scale) == (column.precision, column.scale), column.name
        required = column.name in ("instrument_token", "exchange", "tradingsymbol")
        assert nullable == ("NO" if required else "YES"), column.name
        assert default is None
    assert columns == {
        name: ["timestamp without time zone", None, None, None, "YES", "CURRENT_TIMESTAMP"]
        for name in (INSTRUMENT_TABLE.last_updated, INSTRUMENT_TABLE.created_at)
    }


def test_table_from_nothing_has_the_designed_keys_and_indexes(
    server: Server, empty_database: str, manager: DatabaseManager
) -> None:
    create_kite_instrument_master_table(manager)
    description = describe_table(server, empty_database)
    definitions = {
        name: definition.partition(" ON public.")[2] for name, definition in description["indexes"]
    }
    prefix = "kite_instrument_master USING btree "
    assert definitions == {
        "idx_kite_instrument_master_exchange": prefix + "(exchange)",
        "idx_kite_instrument_master_instrument_type": prefix + "(instrument_type)",
        "idx_kite_instrument_master_segment": prefix + "(segment)",
        "idx_kite_instrument_master_tradingsymbol": prefix + "(tradingsymbol)",
        "kite_instrument_master_pkey": prefix + "(instrument_token, exchange)",
        "unique_tradingsymbol_exchange": prefix + "(tradingsymbol, exchange)",
    }
    options = {name: options for name, _, options in description["storage"]}
    assert options["kite_instrument_master"] == ["fillfactor=50"]


def test_creation_again_changes_nothing(
    server: Server, empty_database: str, manager: DatabaseManager
) -> None:
    create_kite_instrument_master_table(manager)
    manager.upsert_instruments([instrument(1, "A"), instrument(2, "B")])
    description, rows = describe_table(server, empty_database), look(server, empty_database)
    for _ in range(3):
        create_kite_instrument_master_table(manager)
    assert describe_table(server, empty_database) == description
    assert look(server, empty_database) == rows


def test_creation_on_a_table_takes_no_lock_that_anybody_waits_for(
    server: Server, database: str, db_manager: DatabaseManager
) -> None:
    create_kite_instrument_master_table(db_manager)  # its version is put into its comment
    with db_manager.transaction() as cursor:
        create_kite_instrument_master_table(db_manager)
        cursor.execute(
            "SELECT mode FROM pg_locks WHERE relation = 'kite_instrument_master'::regclass"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND mode <> 'AccessShareLock'"
        )
        assert cursor.fetchall() == []


def test_creation_when_another_run_is_creating(
    server: Server, empty_database: str, manager: DatabaseManager
) -> None:
    """The second waits for the first, and finds the table: no error of a unique index."""
    failures: list[Exception] = []

    def create() -> None:
        try:
            with DatabaseManager(server.config(empty_database)) as second:
                create_kite_instrument_master_table(second)
        except Exception as exc:
            failures.append(exc)

    other = threading.Thread(target=create)
    with manager.transaction():
        create_kite_instrument_master_table(manager)
        other.start()
        wait_until(
            lambda: server.execute(
                "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'",
                (empty_database,),
            )
        )
        assert server.execute(
            "SELECT to_regclass('kite_instrument_master')", dbname=empty_database
        ) == [(None,)]
    other.join(20)
    assert not other.is_alive()
    assert failures == []
    assert look(server, empty_database) == {}


@pytest.mark.parametrize("runs", [2, 4])
def test_processes_that_create_and_store_at_the_same_moment(
    server: Server, empty_database: str, runs: int
) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RUN_SCRIPT, json.dumps([server.config(empty_database), first])],
            cwd=PROJECT,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in range(1, 25 * runs, 25)  # each shares half of its rows with the next
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        outputs = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * runs, outputs
    counts = [tuple(map(int, output.split())) for output, _ in outputs]
    assert all(inserted + updated == 50 for inserted, updated in counts)
    stored = look(server, empty_database)
    assert len(stored) == 25 * (runs + 1) == sum(inserted for inserted, _ in counts)
    moments = {row["last_updated"] for row in stored.values()}
    assert len(moments) <= runs
    newest = max(moments)
    assert sum(row["last_updated"] == newest for row in stored.values()) == 50


def test_widening_keeps_rows_and_takes_finer_strikes(
    server: Server, empty_database: str, manager: DatabaseManager, caplog: pytest.LogCaptureFixture
) -> None:
    server.execute(DESIGNED_TABLE, dbname=empty_database)
    server.execute(INSERT_TWO, dbname=empty_database)
    before = look(server, empty_database)
    create_kite_instrument_master_table(manager)
    assert look(server, empty_database) == before
    assert "its rows are kept" in caplog.text
    columns = {name: kind for name, kind, _ in describe_table(server, empty_database)["columns"]}
    assert columns["strike"] == "numeric(15,4)"
    assert columns["tick_size"] == "numeric(10,4)"
    row = instrument(1, "A", strike=Decimal("90.8753"))
    assert manager.upsert_instruments([row]) == (0, 1)
    assert fields_of(look(server, empty_database))[1, "NFO"] == row


def test_widening_happens_once(
    server: Server, empty_database: str, manager: DatabaseManager
) -> None:
    server.execute(DESIGNED_TABLE, dbname=empty_database)
    create_kite_instrument_master_table(manager)
    description = describe_table(server, empty_database)
    create_kite_instrument_master_table(manager)
    assert describe_table(server, empty_database) == description


def test_table_whose_strike_is_wider_still_stays_as_it_is(
    server: Server, empty_database: str, manager: DatabaseManager
) -> None:
    server.execute(DESIGNED_TABLE, dbname=empty_database)
    server.execute(
        "ALTER TABLE kite_instrument_master ALTER strike TYPE numeric(20, 6),"
        " ALTER tick_size TYPE numeric, ADD remark text",
        dbname=empty_database,
    )
    description = describe_table(server, empty_database)
    create_kite_instrument_master_table(manager)
    assert describe_table(server, empty_database) == description
    assert manager.upsert_instruments([instrument(1, "A")]) == (1, 0)


def test_widening_that_fails_leaves_the_table_as_it_was(
    server: Server, empty_database: str, manager: DatabaseManager
) -> None:
    """A view of the user's holds on to the column."""
    server.execute(DESIGNED_TABLE, dbname=empty_database)
    server.execute(INSERT_TWO, dbname=empty_database)
    server.execute(
        "CREATE VIEW options_of_mine AS SELECT strike FROM kite_instrument_master",
        dbname=empty_database,
    )
    description, rows = describe_table(server, empty_database), look(server, empty_database)
    with pytest.raises(DatabaseError, match="options_of_mine") as caught:
        create_kite_instrument_master_table(manager)
    assert "with the views on it dropped" in str(caught.value)
    assert describe_table(server, empty_database) == description
    assert look(server, empty_database) == rows


def test_widening_by_a_role_that_does_not_own_the_table(
    server: Server, empty_database: str, make_role: Callable[..., str]
) -> None:
    role = make_role("Widen-Secret-1")
    server.execute(DESIGNED_TABLE, dbname=empty_database)
    server.execute(INSERT_TWO, dbname=empty_database)
    server.execute(f"GRANT ALL ON kite_instrument_master TO {role}", dbname=empty_database)
    description, rows = describe_table(server, empty_database), look(server, empty_database)
    config = server.config(empty_database, user=role, password="Widen-Secret-1")
    with DatabaseManager(config) as manager, pytest.raises(DatabaseError) as caught:
        create_kite_instrument_master_table(manager)
    message = str(caught.value)
    assert "must be owner of table kite_instrument_master" in message
    assert 'ALTER COLUMN "strike" TYPE numeric(15, 4)' in message
    assert describe_table(server, empty_database) == description
    assert look(server, empty_database) == rows


def test_view_on_a_table_that_is_as_it_should_be_does_no_harm(
    server: Server, database: str, db_manager: DatabaseManager
) -> None:
    server.execute(
        "CREATE VIEW everything AS SELECT * FROM kite_instrument_master", dbname=database
    )
    create_kite_instrument_master_table(db_manager)
    db_manager.upsert_instruments([instrument(1, "A"), instrument(2, "B")])
    db_manager.upsert_instruments([instrument(1, "B"), instrument(2, "A")])
    assert server.execute(
        "SELECT instrument_token, tradingsymbol FROM everything ORDER BY 1", dbname=database
    ) == [(1, "B"), (2, "A")]


@pytest.mark.parametrize("column", ["strike", "last_updated", "created_at", "segment"])
def test_table_that_lacks_a_column_is_refused_by_name(
    server: Server, empty_database: str, manager: DatabaseManager, column: str
) -> None:
    server.execute(DESIGNED_TABLE, dbname=empty_database)
    server.execute(INSERT_TWO, dbname=empty_database)
    server.execute(f"ALTER TABLE kite_instrument_master DROP {column}", dbname=empty_database)
    description = describe_table(server, empty_database)
    with pytest.raises(DatabaseError, match=f"lacks the column {column}:"):
        create_kite_instrument_master_table(manager)
    assert describe_table(server, empty_database) == description
    assert server.execute("SELECT count(*) FROM kite_instrument_master", dbname=empty_database) == [
        (2,)
    ]


def test_run_with_the_least_privileges_on_a_table_that_exists(
    server: Server, database: str, make_role: Callable[..., str]
) -> None:
    """What the README asks for, and not a bit more (ruling 23)."""
    role = make_role("Least-Secret-1")
    server.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    server.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {role}")
    server.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC", dbname=database)
    server.execute(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON kite_instrument_master TO {role}",
        dbname=database,
    )
    with DatabaseManager(server.config(database, user=role, password="Least-Secret-1")) as manager:
        for rows in (
            [instrument(1, "A"), instrument(2, "B"), instrument(3, "C")],
            [instrument(1, "B"), instrument(2, "A"), instrument(4, "C")],
        ):
            create_kite_instrument_master_table(manager)
            manager.upsert_instruments(rows)
            stored = look(server, database)
            assert fields_of(stored) == {key_of(row): row for row in rows}


def test_table_in_the_schema_of_the_search_path_is_the_one(
    server: Server, empty_database: str, make_role: Callable[..., str]
) -> None:
    role = make_role("Own-Secret-1")
    server.execute(f"CREATE SCHEMA {role} AUTHORIZATION {role}", dbname=empty_database)
    server.execute(f"ALTER ROLE {role} SET search_path = {role}")
    with DatabaseManager(
        server.config(empty_database, user=role, password="Own-Secret-1")
    ) as manager:
        create_kite_instrument_master_table(manager)
        create_kite_instrument_master_table(manager)
        assert manager.upsert_instruments([instrument(1, "A")]) == (1, 0)
    assert server.execute(
        "SELECT schemaname FROM pg_tables WHERE tablename = 'kite_instrument_master'",
        dbname=empty_database,
    ) == [(role,)]


# What `check` tells of a table of any description

SHOPS = Table("shop", (Column("id", "integer"), Column("name", "text")), ("id",))


def find_faults(manager: DatabaseManager, table: Table = SHOPS) -> tuple[str, list[str]]:
    return manager.run_in_transaction(lambda cursor: find_access_faults(cursor, table))


def test_table_that_the_first_run_would_make(db_manager: DatabaseManager) -> None:
    description, faults = find_faults(db_manager)
    assert faults == []
    assert description.endswith(", the first run makes public.shop")


def test_every_fault_is_told_at_once(
    server: Server, database: str, db_manager: DatabaseManager, make_role: Callable[[], str]
) -> None:
    db_manager.execute_query("CREATE TABLE shop (id smallint PRIMARY KEY)")
    role = make_role()
    server.execute(f"REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC")
    config = server.config(database, user=role, password="Role-Secret-3f9")
    with DatabaseManager(config) as manager:
        description, faults = find_faults(manager)
        assert description.endswith(f"role {role}, table public.shop is there")
        assert faults == [
            f"{role} lacks TEMPORARY on the database",
            f"{role} lacks SELECT, INSERT, UPDATE, DELETE on shop",
            "the table shop cannot take its rows: id is smallint, which does not hold every "
            "integer exactly: ALTER TABLE shop ALTER COLUMN id TYPE integer USING id::integer; "
            "it lacks the column name: ALTER TABLE shop ADD COLUMN name text; "
            "it lacks the column last_updated: ALTER TABLE shop ADD COLUMN last_updated timestamp; "
            "it lacks the column created_at: ALTER TABLE shop ADD COLUMN created_at timestamp",
        ]


def test_name_in_two_other_schemas_is_a_fault_like_others(
    server: Server, database: str, db_manager: DatabaseManager
) -> None:
    for schema in ("first", "second", "third"):
        db_manager.execute_query(f"CREATE SCHEMA {schema}")
    for schema in ("second", "third"):
        db_manager.execute_query(f"CREATE TABLE {schema}.shop (id integer)")
    server.execute(f"ALTER DATABASE {database} SET search_path = first, second, third")
    db_manager.close()
    _, faults = find_faults(db_manager)
    assert len(faults) == 1
    assert faults[0].startswith("shop is in two schemas of the search_path: second and third.")


@pytest.mark.parametrize(
    ("fillfactor", "options"), [(None, None), (70, ["fillfactor=70"])], ids=["none", "70"]
)
def test_widened_table_has_the_fill_factor_of_its_description(
    db_manager: DatabaseManager, fillfactor: int | None, options: list[str] | None
) -> None:
    db_manager.execute_query(
        "CREATE TABLE shop (id integer PRIMARY KEY, price numeric(8, 2), last_updated timestamp,"
        " created_at timestamp)"
    )
    price = Column("price", "numeric", precision=10, scale=4)
    table = Table("shop", (Column("id", "integer"), price), ("id",), fillfactor=fillfactor)
    db_manager.run_in_transaction(lambda cursor: ensure_table(cursor, table, ""))
    assert db_manager.fetch_all("SELECT reloptions FROM pg_class WHERE relname = 'shop'") == [
        (options,)
    ]
    assert find_faults(db_manager, table)[1] == []
