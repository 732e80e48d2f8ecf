"""The table is as the README describes it, and the documents' queries tell the truth of it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from dag_1_import_instruments_from_kite.import_instruments import parse_instruments
from dag_2_import_candles_from_kite.plan import midnight
from dag_3_import_symbol_changes_from_nse import FEED as SYMBOL_CHANGES
from sandbox.dump_generator import generate_dump, list_renames
from shared.preparation import read_schema
from shared.utils.db_manager import DatabaseManager
from tests.change_model import Days
from tests.conftest import Server
from tests.documents import README, blocks_of, section, table_rows
from tests.stored_candles import CONTRACT, GAP, MINUTES_OF, SHARE, SPLIT, list_days, store_candles

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
    """A database with the sandbox's market after days on which contracts came and went.

    It has some candles, too.
    """
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name} TEMPLATE {template_database}")
    connection = server.connect(name)
    with DatabaseManager(server.config(name)) as manager:
        days = Days(manager, connection)
        for day in (0, 8):
            days.load(parse_instruments(generate_dump(day, rows=FEW_ROWS)))
        manager.execute_query(read_schema(SYMBOL_CHANGES))
        store_candles(manager)
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
    statements: dict[str, str] = {}
    for block in blocks_of("sql"):
        for statement in block.text.split(";") if not makes.search(block.text) else ():
            if text := statement.strip():
                place = f"{block.document}: {text.splitlines()[0].strip('- ')[:40]}"
                others = sum(name.startswith(place) for name in statements)
                statements[f"{place} ({others + 1})" if others else place] = text
    assert len(statements) > 5
    return statements


@pytest.mark.parametrize("query", queries().values(), ids=queries().keys())
def test_query_gives_rows(server: Server, market: str, query: str) -> None:
    ask(server, market, query)


def ask(server: Server, market: str, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query; there has to be one."""
    [(version,)] = server.execute("SELECT current_setting('server_version_num')::int")
    if "date_bin" in query and version < 140_000:
        pytest.skip("date_bin is PostgreSQL's from 14 on, as docs/candles.md says")
    rows = server.execute(query, dbname=market)
    assert rows
    return rows


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


# --- candles -------------------------------------------------------------------------------------


def query_with(part: str) -> str:
    """The one query of docs/candles.md that has these words."""
    found = [q for name, q in queries().items() if name.startswith("candles.md") and part in q]
    (query,) = found
    return query


def test_last_candles_by_view_and_table(server: Server, market: str) -> None:
    last = [midnight(day) for day in list_days() if day != GAP][:-21:-1]
    rows = ask(server, market, query_with("The same, from the table"))
    assert [row[0] for row in rows] == last
    assert [row[1:] for row in ask(server, market, query_with("AS day, open"))] == [
        row[1:] for row in rows
    ]


def test_minutes_joined_to_quarters_of_an_hour_since_the_session_began(
    server: Server, market: str
) -> None:
    begins = [midnight(MINUTES_OF) + timedelta(minutes=555 + 15 * n) for n in range(25)]
    quarters = [(at, n * 15 + 15, n * 15 + 1, 15) for n, at in enumerate(begins)]
    assert ask(server, market, query_with("to_timestamp(floor(")) == quarters
    rows = ask(server, market, query_with("date_bin("))
    assert [(at, high, low, volume) for at, _, high, low, _, volume in rows] == quarters
    assert all((opens, closes) == (low, high) for _, opens, high, low, closes, _ in rows)


def test_price_of_the_day_before_and_after_an_adjustment(server: Server, market: str) -> None:
    rows = ask(server, market, query_with("close_of_the_day"))
    for ts, close, factor, paid in rows:
        assert factor == (0.5 if ts < midnight(SPLIT) else 1)
        assert paid == close / factor
    assert {factor for _, _, factor, _ in rows} == {1, 0.5}


def test_candles_of_what_has_expired_and_what_is_missing(server: Server, market: str) -> None:
    rows = ask(server, market, query_with("tradingsymbol = 'NIFTY2680424500CE'"))
    assert [row[0] for row in rows] == [midnight(day) for day in list_days()]
    share = tuple(SHARE.split(":"))
    assert ask(server, market, query_with("FROM kite_candle_gap")) == [(*share, "day", GAP, GAP, 1)]
    series = [row[:3] for row in ask(server, market, query_with("FROM kite_candle_last"))]
    expected = [(*CONTRACT.split(":"), "day"), (*share, "day"), (*share, "minute")]
    assert series == [*expected, ("NSE", "NIFTY 50", "day")]
    (never,) = ask(server, market, query_with("WHERE NOT EXISTS (SELECT FROM kite_candle AS c"))
    assert never[:3] == ("NSE", "RELIANCE", "day")
