"""The design's properties of storage, on a real PostgreSQL whose table each example empties."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dag_1_import_instruments_from_kite.import_instruments import (
    create_kite_instrument_master_table,
    parse_instruments,
    transform_instruments,
    validate_instruments,
)
from shared.exceptions import DatabaseError
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils.db_manager import DatabaseManager
from tests.conftest import NO_WAIT, Server
from tests.instruments import instrument
from tests.property.strategies import (
    FIELDS,
    Rendering,
    list_of_instruments,
    renderings,
    valid_instrument,
)
from tests.table_model import COLUMNS, Row, TableModel, fields_of, key_of, read_table, write_table

# Few keys and symbols, so that examples meet: in one dump, and with what is stored.
few_tokens = st.integers(1, 5)
few_symbols = st.sampled_from(["A", "B", "C", "M&M", "\\.", "D\nE\r"])
few_exchanges = st.sampled_from(["NSE", "NFO"])
meeting_instruments = valid_instrument(
    instrument_token=few_tokens, tradingsymbol=few_symbols, exchange=few_exchanges
)
dumps = st.lists(meeting_instruments, max_size=8)

COUNTS = re.compile(r"(\d+) rows: (\d+) inserted, (\d+) updated, (\d+) superseded")


@pytest.fixture(scope="module")
def manager(server: Server, module_database: str) -> Iterator[DatabaseManager]:
    with DatabaseManager(server.config(module_database), retry=NO_WAIT) as manager:
        yield manager


@pytest.fixture(scope="module")
def connection(server: Server, module_database: str) -> Iterator[Any]:
    connection = server.connect(module_database)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def bare_database(server: Server) -> Iterator[str]:
    """A database of the module's in which the table may come and go."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name}")
    yield name
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def ingest(manager: DatabaseManager, body: bytes) -> tuple[int, int, int]:
    """What DAG 1 does with a dump: how many were fetched, inserted, updated."""
    fetched = parse_instruments(body)
    valid = validate_instruments(fetched)
    return len(fetched), *manager.upsert_instruments(transform_instruments(valid))


def is_metadata_equal(stored: Row, given_row: Row) -> bool:
    return all(stored[name] == given_row[name] for name in COLUMNS)


# Feature: stock-ingestion, Property 5: For any number of initialization calls, the
# kite_instrument_master table must exist after execution, and running initialization multiple
# times must not cause errors or data loss.
@given(
    is_old=st.booleans(),
    before=st.integers(0, 1),
    rows=list_of_instruments(max_size=4),
    after=st.integers(1, 3),
)
def test_table_exists_and_keeps_its_rows_however_often_it_is_initialized(
    server: Server, bare_database: str, is_old: bool, before: int, rows: list[Row], after: int
) -> None:
    with DatabaseManager(server.config(bare_database)) as manager:
        manager.execute_query("DROP TABLE IF EXISTS kite_instrument_master")
        create_kite_instrument_master_table(manager)
        if is_old:  # as the design first had it
            rows = [{**row, "strike": None} for row in rows]
            manager.execute_query(
                "ALTER TABLE kite_instrument_master ALTER strike TYPE numeric(15, 2)"
            )
        for _ in range(before):
            create_kite_instrument_master_table(manager)
        manager.upsert_instruments(rows)
        with manager.transaction() as cursor:
            stored = read_table(cursor.connection)
        for _ in range(after):
            create_kite_instrument_master_table(manager)
        with manager.transaction() as cursor:
            assert read_table(cursor.connection) == stored
            cursor.execute(
                "SELECT count(*) FILTER (WHERE indisunique), count(*) FROM pg_index"
                " WHERE indrelid = 'kite_instrument_master'::regclass"
            )
            assert cursor.fetchone() == (2, 6)
        assert fields_of(stored) == {key_of(row): row for row in rows}
        finest = instrument(rows[0]["instrument_token"], "finest", strike=Decimal("0.0001"))
        manager.upsert_instruments([finest])
        assert manager.get_instrument(*key_of(finest))["strike"] == Decimal("0.0001")  # type: ignore[index]


# Feature: stock-ingestion, Property 6: For any instrument from the Kite API, the mapping to
# database columns must preserve all non-null fields without data loss.
@given(rows=list_of_instruments(max_size=4), rendering=renderings())
def test_every_field_of_the_dump_reaches_its_column(
    manager: DatabaseManager, connection: Any, rows: list[Row], rendering: Rendering
) -> None:
    manager.execute_query("DELETE FROM kite_instrument_master")
    ingest(manager, rendering.write(rows))
    stored = read_table(connection)
    for row in rows:
        for name, value in row.items():
            if value is not None:
                assert stored[key_of(row)][name] == value


# Feature: stock-ingestion, Property 7: For any instrument, performing an upsert operation
# multiple times with the same data must result in exactly one record in the database with the
# latest data.
@given(
    others=list_of_instruments(max_size=3, exchange=st.just("MCX")),
    first=valid_instrument(exchange=st.just("NSE")),
    latest=valid_instrument(exchange=st.just("NSE")),
    times=st.integers(1, 3),
)
def test_upsert_again_and_again_leaves_one_record_with_the_latest_data(
    manager: DatabaseManager,
    connection: Any,
    others: list[Row],
    first: Row,
    latest: Row,
    times: int,
) -> None:
    latest = {**latest, "instrument_token": first["instrument_token"]}
    write_table(connection, [*others, first])
    created_at = read_table(connection)[key_of(first)]["created_at"]
    moments = []
    for _ in range(times):
        assert manager.upsert_instruments([latest]) == (0, 1)
        moments.append(read_table(connection)[key_of(latest)]["last_updated"])
    table = read_table(connection)
    assert fields_of(table) == {key_of(row): row for row in [*others, latest]}
    assert table[key_of(latest)]["created_at"] == created_at
    assert moments == sorted(set(moments))
    assert moments[0] > created_at


# Feature: stock-ingestion, Property 8: For any two instruments with the same (instrument_token,
# exchange) composite key, only one record must exist in the database after upsert operations
# complete.
@given(
    earlier=valid_instrument(),
    later=valid_instrument(),
    between=list_of_instruments(max_size=2, exchange=st.just("between")),
    is_one_dump=st.booleans(),
)
def test_two_instruments_with_one_key_are_one_record(
    manager: DatabaseManager,
    connection: Any,
    earlier: Row,
    later: Row,
    between: list[Row],
    is_one_dump: bool,
) -> None:
    later = {**later, **{name: earlier[name] for name in ("instrument_token", "exchange")}}
    manager.execute_query("DELETE FROM kite_instrument_master")
    if is_one_dump:
        counts = [manager.upsert_instruments([earlier, *between, later])]
    else:
        counts = [
            manager.upsert_instruments([earlier, *between]),
            manager.upsert_instruments([later]),
        ]
    assert fields_of(read_table(connection)) == {key_of(row): row for row in [*between, later]}
    assert manager.count_instruments(*key_of(later)) == 1
    assert tuple(map(sum, zip(*counts))) == (1 + len(between), 1)


# Feature: stock-ingestion, Property 9: For any upsert operation, the system must log the count of
# inserted records and updated records, and the sum must equal the total number of instruments
# processed.
@given(stored=dumps, dump=dumps.filter(bool))
def test_logged_counts_are_right_and_add_up(
    manager: DatabaseManager, connection: Any, stored: list[Row], dump: list[Row]
) -> None:
    model = TableModel()
    manager.execute_query("DELETE FROM kite_instrument_master")
    if stored:
        model.run(stored)
        manager.upsert_instruments(validate_instruments(stored))
    expected = model.run(dump)
    valid = validate_instruments(dump)
    handler = ListHandler()
    logger = logging.getLogger("shared.utils.db_manager")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        returned = manager.upsert_instruments(valid)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    (match,) = filter(None, map(COUNTS.search, handler.messages))
    processed, inserted, updated, superseded = map(int, match.groups())
    assert inserted + updated == processed == expected.processed
    assert (inserted, updated) == returned == (expected.inserted, expected.updated)
    assert superseded == expected.superseded
    model.assert_equals(read_table(connection))


class ListHandler(logging.Handler):
    """Keeps the messages: caplog would keep those of all examples."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


# What the database itself refuses, each in another place: the stage, a constraint, the stream.
faults = st.sampled_from(
    [
        {"instrument_token": None},
        {"instrument_token": "many"},
        {"instrument_token": 2**63},
        {"exchange": None},
        {"exchange": "X" * 11},
        {"tradingsymbol": None},
        {"tradingsymbol": "S" * 51},
        {"name": "N" * 256},
        {"name": "a\0b"},
        {"name": "\ud800"},
        {"strike": Decimal("0.00001")},
        {"strike": Decimal(10) ** 11},
        {"tick_size": Decimal("999999.99999")},
        {"lot_size": 2**31},
        {"lot_size": "1.5"},
        {"expiry": "2026-02-30"},
    ]
)


# Feature: stock-ingestion, Property 10: For any database error that occurs during a transaction,
# the system must rollback all changes, leaving the database in its pre-transaction state.
@given(
    stored=list_of_instruments(max_size=4, tradingsymbol=few_symbols, exchange=few_exchanges),
    dump=dumps,
    fault=faults,
    position=st.integers(0, 8),
    is_missing=st.booleans(),
)
def test_error_of_the_database_leaves_everything_as_it_was(
    manager: DatabaseManager,
    connection: Any,
    stored: list[Row],
    dump: list[Row],
    fault: Row,
    position: int,
    is_missing: bool,
) -> None:
    write_table(connection, stored)
    before = read_table(connection)
    bad: Row = {**instrument(99, "bad"), **fault}
    if is_missing:
        for name in fault:
            del bad[name]
    with pytest.raises(DatabaseError):
        manager.upsert_instruments([*dump[:position], bad, *dump[position:]])
    assert read_table(connection) == before
    assert manager.count_all_instruments() == len(stored)  # the connection is of use


# Feature: stock-ingestion, Property 16: For any set of instruments fetched from the Kite API, the
# count of instruments stored in the database must equal the count of instruments fetched (no
# filtering or loss).
@given(
    stored=list_of_instruments(max_size=5),
    fetched=list_of_instruments(min_size=6, max_size=16),
    rendering=renderings(),
)
def test_as_many_are_stored_as_were_fetched(
    manager: DatabaseManager,
    connection: Any,
    stored: list[Row],
    fetched: list[Row],
    rendering: Rendering,
) -> None:
    write_table(connection, stored)
    count, inserted, updated = ingest(manager, rendering.write(fetched))
    assert count == inserted + updated == len(fetched)
    table = read_table(connection)
    newest = max(row["last_updated"] for row in table.values())
    assert sum(row["last_updated"] == newest for row in table.values()) == len(fetched)
    assert {key_of(row) for row in fetched} <= table.keys()
    tokens = [row["instrument_token"] for row in fetched]
    assert manager.count_instruments_by_tokens(tokens) >= len(fetched)


# Feature: stock-ingestion, Property 17: For any instrument stored in the database, all metadata
# fields (exchange, segment, instrument_type, expiry, strike, lot_size) must match the values from
# the Kite API response.
@given(
    yesterday=list_of_instruments(max_size=4, exchange=few_exchanges),
    today=list_of_instruments(max_size=6, exchange=few_exchanges),
    rendering=renderings(),
)
def test_metadata_match_the_response_whatever_was_stored_before(
    manager: DatabaseManager,
    connection: Any,
    yesterday: list[Row],
    today: list[Row],
    rendering: Rendering,
) -> None:
    tokens = {row["instrument_token"] for row in today}
    yesterday = [
        {**row, "instrument_token": min(tokens)} if number == 0 else row
        for number, row in enumerate(yesterday)
    ]
    write_table(connection, validate_instruments(yesterday))
    ingest(manager, rendering.write(today))
    table = read_table(connection)
    for row in today:
        assert is_metadata_equal(table[key_of(row)], row)
        assert is_metadata_equal(manager.get_instrument(*key_of(row)) or {}, row)


# Feature: stock-ingestion, Property 16: For any set of instruments fetched from the Kite API, the
# count of instruments stored in the database must equal the count of instruments fetched (no
# filtering or loss).
@given(rows=list_of_instruments(min_size=1, max_size=12), batch_size=st.integers(1, 14))
def test_no_row_is_lost_between_batches(
    manager: DatabaseManager, connection: Any, rows: list[Row], batch_size: int
) -> None:
    manager.execute_query("DELETE FROM kite_instrument_master")
    told: list[int] = []
    result = manager.merge(
        INSTRUMENT_TABLE,
        rows,
        batch_size=batch_size,
        progress=lambda done, total: told.append(done),
    )
    assert result.inserted == len(rows) == told[-1]
    assert len(told) == -(-len(rows) // batch_size)
    assert fields_of(read_table(connection)) == {key_of(row): row for row in rows}


def test_strategies_cover_every_stored_column() -> None:
    assert set(FIELDS) == set(COLUMNS)
