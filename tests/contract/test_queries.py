"""The table is as the README describes it, and the documents' queries tell the truth of it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from dag_1_import_instruments_from_kite.import_instruments import parse_instruments
from dag_3_import_symbol_changes_from_nse import FEED as SYMBOL_CHANGES
from sandbox.dump_generator import generate_dump, list_renames
from shared.preparation import read_schema
from shared.utils.db_manager import DatabaseManager
from tests.change_model import Days
from tests.conftest import Server
from tests.documents import README, blocks_of, section, table_rows

FEW_ROWS = 6_000


def test_columns(server: Server, database: str) -> None:
    columns = server.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = 'kite_instrument_master'::regclass AND attnum > 0 ORDER BY attnum",
        dbname=database,
    )
    names = {"character varying": "varchar", "numeric": "decimal", " without time zone": ""}
    told = table_rows(section(README, "The table `kite_instrument_master`"))
    assert sorted((row[0].strip("`"), row[1].lower().replace(" ", "")) for row in told) == sorted(
        (name, re.sub("|".join(names), lambda m: names[m[0]], kind).replace(" ", ""))
        for name, kind in columns
    )


@pytest.fixture(scope="module")
def market(server: Server, template_database: str) -> Iterator[str]:
    """A database with the sandbox's market after days on which contracts came and went."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    connection = server.connect(name)
    with DatabaseManager(server.config(name)) as manager:
        days = Days(manager, connection)
        for day in (0, 8):
            days.load(parse_instruments(generate_dump(day, rows=FEW_ROWS)))
        manager.execute_query(read_schema(SYMBOL_CHANGES))
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO nse_symbol_change VALUES (%s, %s, %s, %s)",
            [(r.company, r.old, r.new, r.on) for r in list_renames(8, rows=FEW_ROWS)],
        )
    connection.close()
    yield name
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def queries() -> dict[str, str]:
    """Each query of the documents by its place; scripts that make or move something are others'."""
    makes = re.compile(r"\\connect|\b(CREATE|DROP|GRANT|UPDATE)\b")
    statements = {
        f"{block.document}: {statement.strip().splitlines()[0].strip('- ')[:40]}": statement.strip()
        for block in blocks_of("sql")
        if not makes.search(block.text)
        for statement in block.text.split(";")
        if statement.strip()
    }
    assert len(statements) > 5
    return statements


@pytest.mark.parametrize("query", queries().values(), ids=queries().keys())
def test_query_gives_rows(server: Server, market: str, query: str) -> None:
    assert server.execute(query, dbname=market)


def test_queries_tell_the_truth(server: Server, market: str) -> None:
    def run(title: str) -> list[tuple[Any, ...]]:
        (query,) = [text for name, text in queries().items() if title in name]
        return server.execute(query, dbname=market)

    today = {
        (row["tradingsymbol"], row["exchange"]): row["instrument_token"]
        for row in parse_instruments(generate_dump(8, rows=FEW_ROWS))
    }
    token_map = {(symbol.split(":", 1)[1], "NSE"): token for token, symbol in run("Token map")}
    assert token_map == {key: token for key, token in today.items() if key[1] == "NSE"}
    gone = {(symbol, exchange) for exchange, symbol, _ in run("Not listed any more")}
    assert gone
    assert not gone & set(today)
    assert {(row[2], row[1]): row[0] for row in run("Listed today")} == today
    chain = run("Option chain")
    assert [row[0] for row in chain] == sorted({row[0] for row in chain})
    for _, call, put, lot_size in chain:
        assert (call, "NFO") in today or (put, "NFO") in today
        assert lot_size > 0
