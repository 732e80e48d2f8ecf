"""The views: each against plain Python over the list, and the plans of look-ups on a full table."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from dag_1_import_instruments_from_kite.import_instruments import (
    transform_instruments,
    validate_instruments,
)
from sandbox.dump_generator import generate_dump
from shared.utils.db_manager import DatabaseManager
from shared.utils.kite_csv import parse_dump
from tests.change_model import Days
from tests.conftest import NO_WAIT, PROJECT, Server
from tests.instruments import instrument
from tests.table_model import COLUMNS

Rows = list[dict[str, Any]]
VIEWS = ("kite_instrument_today", "kite_token_map", "kite_option_chain", "kite_expiry")


@pytest.fixture(scope="module")
def lists() -> list[Rows]:
    """Two full-size lists; the second lacks some hundred instruments for good."""
    first, second = (transform_instruments(parse_dump(generate_dump(day)).rows) for day in (1, 2))
    return [first, [row for row in second if row["name"] != "MIDCPNIFTY"]]


@pytest.fixture(scope="module")
def full(server: Server, module_database: str, lists: list[Rows]) -> Iterator[Days]:
    """A table that has had both of them, as a server has it that is left alone."""
    connection = server.connect(module_database)
    with DatabaseManager(server.config(module_database), retry=NO_WAIT) as manager:
        days = Days(manager, connection)
        for rows in lists:
            days.load(rows)
    connection.cursor().execute("VACUUM ANALYZE kite_instrument_master")
    yield days
    connection.close()


def test_instrument_today_is_the_newest_list_whole(full: Days, lists: list[Rows]) -> None:
    stored = full.query(f"SELECT {', '.join(COLUMNS)} FROM kite_instrument_today")
    assert Counter(stored) == Counter(tuple(row[name] for name in COLUMNS) for row in lists[1])
    assert len(stored) > 117_000
    [(everything,)] = full.query("SELECT count(*) FROM kite_instrument_master")
    assert everything > len(stored)  # there is something that it leaves out


def test_instrument_today_has_the_columns_of_the_table_and_the_identity(full: Days) -> None:
    columns = (
        "SELECT attname, atttypid, atttypmod FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0"
    )
    *of_the_table, identity = full.query(f"{columns} ORDER BY attnum", "kite_instrument_today")
    assert sorted(of_the_table) == full.query(f"{columns} ORDER BY 1", "kite_instrument_master")
    assert identity[0] == "instrument_id"


def test_token_map_has_every_token_and_its_quote_key(full: Days, lists: list[Rows]) -> None:
    stored = full.query(
        "SELECT instrument_token, exchange, tradingsymbol, quote_key FROM kite_token_map"
    )
    assert Counter(stored) == Counter(
        (
            row["instrument_token"],
            row["exchange"],
            row["tradingsymbol"],
            f"{row['exchange']}:{row['tradingsymbol']}",
        )
        for row in lists[1]
    )


def test_option_chain_has_call_and_put_side_by_side(full: Days, lists: list[Rows]) -> None:
    chain: dict[Any, dict[str, Any]] = defaultdict(dict)
    for row in lists[1]:
        if row["instrument_type"] in ("CE", "PE"):
            place = row["name"], row["exchange"], row["expiry"], row["strike"]
            assert row["instrument_type"] not in chain[place]
            chain[place][row["instrument_type"]] = row
    expected = Counter(
        (
            *place,
            *(sides["CE"]["tradingsymbol"], sides["CE"]["instrument_token"]),
            *(sides["PE"]["tradingsymbol"], sides["PE"]["instrument_token"]),
            sides["CE"]["lot_size"],
        )
        for place, sides in chain.items()
    )
    stored = full.query(
        "SELECT underlying, exchange, expiry, strike, call_symbol, call_token, put_symbol,"
        " put_token, lot_size FROM kite_option_chain"
    )
    assert Counter(stored) == expected
    assert len(stored) > 40_000


def test_expiry_counts_the_contracts_of_each(full: Days, lists: list[Rows]) -> None:
    counts: dict[Any, Counter[str]] = defaultdict(Counter)
    for row in lists[1]:
        if row["expiry"]:
            counts[row["name"], row["exchange"], row["expiry"]][row["instrument_type"]] += 1
    stored = full.query(
        "SELECT underlying, exchange, expiry, futures, calls, puts FROM kite_expiry"
    )
    assert Counter(stored) == Counter(
        (*place, count["FUT"], count["CE"], count["PE"]) for place, count in counts.items()
    )
    assert {row[2] for row in stored if row[:2] == ("NIFTY", "NFO")} > {date(2026, 8, 25)}


def test_underlying_counts_expiries_and_contracts(full: Days, lists: list[Rows]) -> None:
    expiries: dict[Any, list[date]] = defaultdict(list)
    for row in lists[1]:
        if row["expiry"]:
            expiries[row["name"], row["exchange"]].append(row["expiry"])
    stored = full.query("SELECT underlying, exchange, expiries, contracts FROM kite_underlying")
    assert Counter(stored) == Counter(
        (*place, len(set(dates)), len(dates)) for place, dates in expiries.items()
    )


# Where a side is missing, or nothing is there


@pytest.fixture
def days(server: Server, database: str, db_manager: DatabaseManager) -> Iterator[Days]:
    connection = server.connect(database)
    days = Days(db_manager, connection)
    assert days.prepare()
    yield days
    connection.close()


def test_option_chain_where_a_side_is_not_listed(days: Days) -> None:
    days.load(
        [
            instrument(1, "X99AUG90.875CE", strike=Decimal("90.875")),
            instrument(2, "X99AUG91PE", instrument_type="PE", strike=Decimal("91")),
            instrument(3, "X99AUGFUT", instrument_type="FUT", strike=Decimal(0)),
        ]
    )
    assert days.query(
        "SELECT strike, call_symbol, call_token, put_symbol, put_token FROM kite_option_chain"
        " ORDER BY strike"
    ) == [
        (Decimal("90.875"), "X99AUG90.875CE", 1, None, None),
        (Decimal("91"), None, None, "X99AUG91PE", 2),
    ]


@pytest.mark.parametrize("first", [201, 299], ids=["smaller token first", "smaller token last"])
def test_option_chain_where_two_contracts_share_a_strike(days: Days, first: int) -> None:
    """Symbols, tokens and lot are one contract's: that of the smallest token."""
    rows = [
        instrument(first, "ABC26DEC100CE", lot_size=10),
        instrument(250, "ABC126DEC100CE", lot_size=20),
        instrument(
            199 if first == 201 else 300, "ABC26DEC100PE", lot_size=10, instrument_type="PE"
        ),
        instrument(260, "ABC126DEC100PE", lot_size=20, instrument_type="PE"),
    ]
    days.load(rows)
    tokens = {row["tradingsymbol"]: row["instrument_token"] for row in rows}
    call, put, lot = ("ABC26DEC100CE", "ABC26DEC100PE", 10)
    if first == 299:
        call, put, lot = ("ABC126DEC100CE", "ABC126DEC100PE", 20)
    assert days.query(
        "SELECT call_symbol, call_token, put_symbol, put_token, lot_size FROM kite_option_chain"
    ) == [(call, tokens[call], put, tokens[put], lot)]


def test_option_chain_of_symbols_that_do_not_end_in_their_type(days: Days) -> None:
    rows = [instrument(9, "ZZ-1", lot_size=1), instrument(8, "AA-2", lot_size=2)]
    rows += [instrument(7, "MMCE", lot_size=3, strike=Decimal(1))]
    rows += [instrument(6, "MM", lot_size=4, strike=Decimal(1))]
    days.load(rows)
    assert days.query(
        "SELECT strike, call_symbol, call_token, lot_size FROM kite_option_chain ORDER BY strike"
    ) == [(Decimal(1), "MM", 6, 4), (Decimal("370.75"), "AA-2", 8, 2)]


def test_what_has_no_underlying_is_in_no_chain_and_in_no_expiry(days: Days) -> None:
    days.load([instrument(1, "A100CE", name=None), instrument(2, "B100CE", name="B")])
    assert len(days.query("SELECT * FROM kite_instrument_today")) == 2
    for view in ("kite_option_chain", "kite_expiry", "kite_underlying"):
        assert days.query(f"SELECT underlying FROM {view}") == [("B",)]


@pytest.mark.parametrize("name", ["dumps/nfo_2019-05.csv.gz", "dumps/nfo_2025-07.csv.gz"])
def test_option_chain_of_a_real_list_takes_each_side_from_one_row(
    days: Days, real_dump: Callable[[str], bytes], name: str
) -> None:
    rows = transform_instruments(validate_instruments(parse_dump(real_dump(name)).rows))
    days.load(rows)
    listed = {(row["tradingsymbol"], row["instrument_token"]): row["lot_size"] for row in rows}
    chain = days.query(
        "SELECT call_symbol, call_token, put_symbol, put_token, lot_size FROM kite_option_chain"
    )
    for call, call_token, put, put_token, lot_size in chain:
        lots = {listed[side] for side in ((call, call_token), (put, put_token)) if side[0]}
        assert lot_size in lots
        assert not (call and put) or call[:-2] == put[:-2]
    assert days.query("SELECT count(*) FROM kite_option_chain WHERE underlying IS NULL") == [(0,)]
    named = [row for row in rows if row["name"] and row["instrument_type"] in ("CE", "PE")]
    strikes = {(row["name"], row["expiry"], row["strike"]) for row in named}
    assert len(chain) == len(strikes)


def test_views_of_an_empty_table_are_empty(days: Days) -> None:
    for view in (*VIEWS, "kite_underlying"):
        assert days.query(f"SELECT * FROM {view}") == []


def test_views_follow_the_last_good_run(days: Days) -> None:
    days.load([instrument(1, "A"), instrument(2, "B")])
    days.load([instrument(2, "B")])
    assert days.query("SELECT tradingsymbol FROM kite_instrument_today") == [("B",)]
    assert days.query("SELECT quote_key FROM kite_token_map WHERE instrument_token = 1") == []
    days.load([instrument(1, "A"), instrument(2, "B")])
    assert len(days.query("SELECT tradingsymbol FROM kite_instrument_today")) == 2


def test_views_while_a_run_is_not_committed_yet(days: Days) -> None:
    days.load([instrument(1, "A")])
    with days.manager.transaction():
        days.load([instrument(2, "B")])
        assert days.query("SELECT tradingsymbol FROM kite_instrument_today") == [("A",)]
    assert days.query("SELECT tradingsymbol FROM kite_instrument_today") == [("B",)]


# Plans

QUERIES = {
    "option chain of an expiry": (
        "SELECT strike, call_symbol, put_symbol, lot_size FROM kite_option_chain"
        " WHERE underlying = 'NIFTY' AND exchange = 'NFO' AND expiry = '2026-08-25'"
        " ORDER BY strike",
        "idx_kite_instrument_master_name_expiry",
    ),
    "option chain of the next expiry": (
        "SELECT strike, call_symbol, put_symbol, lot_size FROM kite_option_chain"
        " WHERE underlying = 'NIFTY' AND exchange = 'NFO' AND expiry ="
        " (SELECT min(expiry) FROM kite_expiry WHERE underlying = 'NIFTY' AND exchange = 'NFO')"
        " ORDER BY strike",
        "idx_kite_instrument_master_name_expiry",
    ),
    "expiries of an underlying": (
        "SELECT expiry, futures, calls, puts FROM kite_expiry"
        " WHERE underlying = 'NIFTY' AND exchange = 'NFO' ORDER BY expiry",
        "idx_kite_instrument_master_name_expiry",
    ),
    "symbol of a token": (
        "SELECT quote_key FROM kite_token_map WHERE instrument_token = 256265",
        "kite_instrument_master_pkey",
    ),
    "tokens of some symbols": (
        "SELECT quote_key, instrument_token FROM kite_token_map"
        " WHERE exchange = 'NSE' AND tradingsymbol IN ('INFY', 'RELIANCE', 'NIFTY 50')",
        "unique_tradingsymbol_exchange|idx_kite_instrument_master_tradingsymbol",
    ),
}


@pytest.mark.parametrize(("query", "index"), QUERIES.values(), ids=QUERIES.keys())
def test_lookup_on_a_full_table_goes_by_an_index(full: Days, query: str, index: str) -> None:
    assert full.query(query)
    plan = "\n".join(line for (line,) in full.query(f"EXPLAIN {query}"))
    assert re.search(rf"(Index Scan using|Index Only Scan using|on) ({index})\b", plan), plan
    assert "Seq Scan on kite_instrument_master" not in plan


def test_lookup_page_shows_these_queries(full: Days) -> None:
    """Each query in docs/lookup.md runs, and those whose plans it shows are the ones above."""
    text = (PROJECT / "docs/lookup.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```sql\n(.*?)```", text, re.S))
    statements = [each for each in re.split(r";\s*(?:\n|$)", blocks) if each.strip()]
    assert len(statements) >= 10
    for statement in statements:
        full.query(statement)
    flat = " ".join(text.split())
    for query, _ in QUERIES.values():
        assert " ".join(query.split()) in flat


def test_index_of_the_views_leaves_the_daily_update_heap_only(
    full: Days, lists: list[Rows]
) -> None:
    """No index on what changes every day, or each update would write all indexes."""
    full.manager.close()  # its counters are sent at the end of the session
    full.query("SELECT pg_stat_reset()")
    full.load(lists[1])
    full.load(lists[1])
    full.manager.close()  # its counters are sent at the end of the session
    [(updated, heap_only)] = full.query(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
        " WHERE relname = 'kite_instrument_master'"
    )
    assert updated >= 2 * len(lists[1])
    assert heap_only > 0.95 * updated
