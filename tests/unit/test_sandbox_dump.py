"""The made-up instrument list and how it changes from day to day."""

import csv
import hashlib
import re
from collections import Counter
from datetime import date
from decimal import Decimal
from functools import cache

import pytest
from kiteconnect import KiteConnect

from sandbox.dump_generator import describe_day, generate_dump, list_renames
from sandbox.market_contracts import list_expiries
from sandbox.market_ledger import DATA, trading_day
from sandbox.market_shares import spell_company

SMALL = 4_000

Row = dict[str, str]


@cache
def load(day: int = 0, rows: int = 117_000) -> list[Row]:
    text = generate_dump(day, rows=rows).decode()
    return list(csv.DictReader(text.splitlines()))


def by_token(rows: list[Row]) -> dict[str, Row]:
    return {row["instrument_token"]: row for row in rows}


def by_symbol(rows: list[Row], exchange: str) -> dict[str, Row]:
    return {row["tradingsymbol"]: row for row in rows if row["exchange"] == exchange}


# --- one day ---


def test_same_arguments_give_same_bytes_on_every_python() -> None:
    digest = hashlib.sha256(generate_dump(7, rows=SMALL)).hexdigest()
    assert digest == "7e7db5bbf4d7e748366b34a2595fb33797f3a5ed15d2555ed3b798a8c692e586"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"day": 1}, id="day"),
        pytest.param({"rows": SMALL + 1}, id="rows"),
    ],
)
def test_other_arguments_give_other_bytes(other: dict[str, object]) -> None:
    assert generate_dump(**{"rows": SMALL, **other}) != generate_dump(rows=SMALL)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [2_000, 4_001, 20_000, 117_000])
def test_first_day_has_the_rows_asked_for(rows: int) -> None:
    assert generate_dump(rows=rows).count(b"\n") == rows + 1


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="day: expected 0 or more, got -1"):
        generate_dump(-1)
    with pytest.raises(ValueError, match="rows: expected 2000 or more, got 10"):
        generate_dump(rows=10)


def test_header_is_kites() -> None:
    assert ",".join(load()[0]) == (
        "instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,"
        "lot_size,instrument_type,segment,exchange"
    )


def test_exchanges_are_in_proportion() -> None:
    counts = Counter(row["exchange"] for row in load())
    expected = {
        "NSE": (8_000, 9_500),
        "BSE": (11_000, 14_000),
        "NFO": (33_000, 38_500),
        "BFO": (5_000, 11_000),
        "CDS": (4_000, 9_000),
        "BCD": (2_000, 6_000),
        "MCX": (4_000, 10_000),
        "NCO": (33_000, 37_000),
        "NSEIX": (50, 500),
        "GLOBAL": (5, 50),
    }
    assert counts.keys() == expected.keys()
    assert [
        (exchange, counts[exchange])
        for exchange, (low, high) in expected.items()
        if not low <= counts[exchange] <= high
    ] == []


@pytest.mark.parametrize("day", [0, 1, 2, 3, 6, 10])
def test_keys_are_unique_and_fields_well_formed(day: int) -> None:
    rows = load(day, SMALL)
    assert len({(row["instrument_token"], row["exchange"]) for row in rows}) == len(rows)
    assert len({(row["tradingsymbol"], row["exchange"]) for row in rows}) == len(rows)
    for row in rows:
        assert 0 < len(row["tradingsymbol"]) <= 50
        assert int(row["instrument_token"]) >> 8 == int(row["exchange_token"])
        assert row["last_price"] == "0.0"
        assert re.fullmatch(r"\d+\.(0|\d{0,2}[1-9])", row["strike"])
        assert Decimal(row["tick_size"]) >= 0
        assert int(row["lot_size"]) >= 0
        assert (row["instrument_type"] == "EQ") == (row["expiry"] == "")
        if row["expiry"]:
            assert date.fromisoformat(row["expiry"]) >= trading_day(day)
        if row["instrument_type"] in ("CE", "PE"):
            assert row["tradingsymbol"].endswith(
                row["strike"].removesuffix(".0") + row["instrument_type"]
            )


def test_full_list_has_unique_keys_after_many_days() -> None:
    rows = load(12)
    assert len(by_token(rows)) == len(rows)
    assert len({(row["tradingsymbol"], row["exchange"]) for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("exchange", "symbol", "expiry", "strike"),
    [
        ("NFO", "NIFTY26AUG24500CE", "2026-08-25", "24500.0"),
        ("NFO", "NIFTY2680424500CE", "2026-08-04", "24500.0"),
        ("NFO", "NIFTY26AUGFUT", "2026-08-25", "0.0"),
        ("BFO", "SENSEX26AUG80600PE", "2026-08-27", "80600.0"),
        ("CDS", "USDINR2680790.875CE", "2026-08-07", "90.875"),
        ("MCX", "CRUDEOIL26AUGFUT", "2026-08-19", "0.0"),
        ("NSE", "M&M", "", "0.0"),
        ("NSE", "NIFTY 50", "", "0.0"),
        ("NSE", "20MICRONS-BE", "", "0.0"),
        ("BSE", "SENSEX", "", "0.0"),
    ],
)
def test_real_looking_symbols(exchange: str, symbol: str, expiry: str, strike: str) -> None:
    row = by_symbol(load(), exchange)[symbol]
    assert (row["expiry"], row["strike"]) == (expiry, strike)


def test_indices_have_neither_tick_nor_lot() -> None:
    indices = [row for row in load() if row["segment"] == "INDICES"]
    assert {(row["tick_size"], row["lot_size"]) for row in indices} == {("0.0", "0")}
    assert {row["exchange"] for row in indices} == {"NSE", "BSE", "MCX", "NSEIX", "GLOBAL"}


def test_currency_options_have_fine_strikes_and_ticks() -> None:
    options = [row for row in load() if row["segment"] in ("CDS-OPT", "BCD-OPT")]
    assert {row["tick_size"] for row in options} == {"0.0025"}
    assert sum(Decimal(row["strike"]) % 1 == Decimal("0.875") for row in options) > 300


def test_commodity_lots_of_mcx_are_1() -> None:
    lots = {row["lot_size"] for row in load() if row["segment"].startswith("MCX")}
    assert lots == {"1"}


def test_names_hold_what_real_ones_hold() -> None:
    nse = [row["name"] for row in load() if row["exchange"] == "NSE"]
    bse = [row["name"] for row in load() if row["exchange"] == "BSE"]
    assert 0.13 < sum(name == "" for name in nse) / len(nse) < 0.19
    assert "M&M FIN. SERVICES, LTD" in nse
    assert any('"' in name for name in nse)
    assert max(map(len, bse)) == 30
    assert any(name.endswith(" ") for name in bse)


def test_series_of_nse() -> None:
    endings = Counter(row["tradingsymbol"].rpartition("-")[2] for row in load())
    for ending in ("BE", "SM", "ST", "BZ", "GB", "SG", "GS", "TB", "N0", "N1"):
        assert endings[ending] > 0


def test_exchange_tokens_are_not_unique_within_an_exchange() -> None:
    tokens = Counter(row["exchange_token"] for row in load() if row["exchange"] == "NSE")
    assert max(tokens.values()) > 1


def test_real_client_can_parse_it() -> None:
    parsed = KiteConnect("key")._parse_instruments(generate_dump(rows=SMALL))
    assert len(parsed) == SMALL


def test_company_symbols_do_not_repeat() -> None:
    places, trades = (" ".join(DATA[words]).split() for words in ("places", "trades"))
    count = len(places) * len(trades) * 2
    symbols = {spell_company(number)[0] for number in range(count)}
    assert len(symbols) == count


# --- from day to day ---


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        pytest.param(0, date(2026, 8, 3), id="start"),
        pytest.param(4, date(2026, 8, 7), id="friday"),
        pytest.param(5, date(2026, 8, 10), id="after-weekend"),
        pytest.param(30, date(2026, 9, 15), id="after-holiday"),
    ],
)
def test_trading_day(day: int, expected: date) -> None:
    assert trading_day(day) == expected


def test_expiry_on_holiday_is_the_day_before() -> None:
    expiries = list_expiries(date(2026, 11, 2), "TUE", weeks=0, months=3)
    assert [on for on, _ in expiries] == [
        date(2026, 11, 23),  # the 24th is a holiday
        date(2026, 12, 29),
        date(2027, 1, 26),
    ]


def test_weekly_expiries_are_those_that_are_not_monthly() -> None:
    assert list_expiries(date(2026, 8, 3), "TUE", weeks=5, months=2) == (
        (date(2026, 8, 4), 3),
        (date(2026, 8, 11), 3),
        (date(2026, 8, 18), 3),
        (date(2026, 9, 1), 3),
        (date(2026, 9, 8), 3),
        (date(2026, 8, 25), 0),
        (date(2026, 9, 29), 1),
    )


def test_expired_contracts_go_and_their_tokens_are_used_again() -> None:
    before, after = load(1, SMALL), load(2, SMALL)
    gone = {row["instrument_token"] for row in before if row["expiry"] == "2026-08-04"}
    assert gone
    assert not any(row["expiry"] == "2026-08-04" for row in after)
    symbols = {row["tradingsymbol"] for row in before}
    reused = [row for row in after if row["instrument_token"] in gone]
    assert reused
    assert not any(row["tradingsymbol"] in symbols for row in reused)


@pytest.mark.parametrize("rows", [SMALL, 117_000])
def test_dividend_moves_strikes_as_hindpetros_did(rows: int) -> None:
    before, after = load(0, rows), load(1, rows)
    token = by_symbol(before, "NFO")["HINDPETRO26AUG390CE"]["instrument_token"]
    assert by_token(after)[token]["tradingsymbol"] == "HINDPETRO26AUG370.75CE"
    assert by_token(after)[token]["strike"] == "370.75"
    moved = by_symbol(after, "NFO")["HINDPETRO26AUG390CE"]["instrument_token"]
    donor = by_token(before)[moved]
    assert donor["tradingsymbol"].startswith("HINDPETRO26AUG")
    assert Decimal(donor["strike"]) > 390


@pytest.mark.parametrize("rows", [SMALL, 117_000])
def test_corporate_action_swaps_rotates_and_chains(rows: int) -> None:
    before, after = by_symbol(load(0, rows), "NFO"), by_symbol(load(1, rows), "NFO")
    old_symbols = {row["instrument_token"]: symbol for symbol, row in before.items()}
    moves = {
        symbol: old_symbols[row["instrument_token"]]
        for symbol, row in after.items()
        if symbol in before and row["instrument_token"] in old_symbols
    }
    moves = {symbol: old for symbol, old in moves.items() if symbol != old}
    lengths = Counter(len(follow(moves, symbol)) for symbol in moves if is_cycle(moves, symbol))
    assert lengths[2] >= 2
    assert lengths[3] >= 3
    assert any(not is_cycle(moves, symbol) for symbol in moves)


def follow(moves: dict[str, str], symbol: str) -> list[str]:
    """Return the symbols whose tokens a symbol's move has passed on, until the end or a repeat."""
    path: list[str] = []
    while symbol in moves and symbol not in path:
        path.append(symbol)
        symbol = moves[symbol]
    return path


def is_cycle(moves: dict[str, str], symbol: str) -> bool:
    path = follow(moves, symbol)
    return moves[path[-1]] == symbol


def test_renamed_company_keeps_its_token() -> None:
    before, after = by_symbol(load(0, SMALL), "NSE"), by_symbol(load(1, SMALL), "NSE")
    assert after["CEMPRO"]["instrument_token"] == before["ITDCEM"]["instrument_token"]
    assert "ITDCEM" not in after


@pytest.mark.parametrize("day", [1, 2, 9])
def test_described_changes_are_those_of_the_lists(day: int) -> None:
    before, after = load(day - 1, SMALL), load(day, SMALL)
    changes = describe_day(day, rows=SMALL)
    assert changes.on == trading_day(day)
    assert len(after) - len(before) == changes.listed - changes.gone
    assert changes.reused_tokens > 0
    tokens = by_token(after)
    for exchange, old, new in changes.renamed:
        row = by_symbol(before, exchange)[old]
        assert tokens[row["instrument_token"]]["tradingsymbol"] == new
    for exchange, old, new in changes.moved_series:
        assert old.removesuffix("-BE") == new.removesuffix("-BE")
        was, now = by_symbol(before, exchange)[old], by_symbol(after, exchange)
        assert old not in now
        assert now[new]["name"] == was["name"]
        assert now[new]["instrument_token"] != was["instrument_token"]
    assert any(old.endswith("-BE") for _, old, _ in changes.moved_series)


@pytest.mark.parametrize("column", ["lot_size", "tick_size"])
def test_lots_and_ticks_change(column: str) -> None:
    before, after = by_token(load(2, SMALL)), by_token(load(3, SMALL))
    changed = [
        token
        for token, row in after.items()
        if token in before
        and before[token]["tradingsymbol"] == row["tradingsymbol"]
        and before[token][column] != row[column]
    ]
    assert changed


def test_small_market_lives_for_a_year() -> None:
    assert len(load(250, 2_000)) > 2_000


def test_renames_are_those_of_nse_on_each_day_up_to_the_last() -> None:
    days = range(4)
    renames = list_renames(days[-1], rows=SMALL)
    assert [(r.on, r.old, r.new) for r in renames] == [
        (trading_day(day), old, new)
        for day in days
        for exchange, old, new in describe_day(day, rows=SMALL).renamed
        if exchange == "NSE"
    ]
    listed = by_symbol(load(days[-1], SMALL), "NSE")
    names = {r.new: r.company for r in renames if r.on == trading_day(days[-1])}
    assert names == {symbol: listed[symbol]["name"] for symbol in names}
    assert list_renames(0, rows=SMALL) == []


def test_renames_of_half_a_year() -> None:
    assert len(list_renames(120, rows=SMALL)) > 200
