"""Looking instruments up: `find`, `token`, `expiries` and `chain`, which give plain dicts.

Each asks today's list, or with `as_of` that of another day (its end, in India) or moment. All raise
NotListedError if there is no such list, DatabaseError if it cannot be read.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from dag_1_import_instruments_from_kite.lookup_words import (
    EXCHANGES,
    INDICES,
    Word,
    capitals,
    find_phrases,
    parse_words,
)
from shared import clock
from shared.calendar import IST
from shared.exceptions import NotListedError
from shared.foreign_text import escape_line
from shared.models.instrument import INSTRUMENT_TABLE
from shared.program import command
from shared.utils.db_manager import DatabaseManager
from shared.utils.relations import find_relation
from shared.utils.sql import compose, fetch_one, load_sql

SQL = load_sql(__file__)
T = TypeVar("T")

COLUMNS = ("instrument_id", *INSTRUMENT_TABLE.column_names)
OPTION_COLUMNS = ("strike", "call_symbol", "call_token", "put_symbol", "put_token", "lot_size")
_MOST_WORDS = 30
_NEAR = 5  # so many expiries or names are told instead of one that is not there


class Found(list[dict[str, Any]]):
    """The rows that were found, best first: a dict each, with the keys of COLUMNS.

    `total` is how many the list has; `unmatched` are the words that no row of it meets.
    """

    total: int = 0
    unmatched: Sequence[str] = ()


def find(
    db: DatabaseManager,
    words: str | Iterable[str],
    *,
    as_of: date | datetime | None = None,
    limit: int | None = 20,
) -> Found:
    """The instruments that meet every word, in any order and case; exact matches come first.

    At most `limit` of them; None: all. `instrument_id` is None where the list has none. Raises
    ValueError if there is no word, or more than 30.
    """
    wanted = parse_words([words] if isinstance(words, str) else words)
    if not 0 < len(wanted) <= _MOST_WORDS:
        raise ValueError(f"words: expected 1 to {_MOST_WORDS}, got {len(wanted):,}")

    def work(cursor: Cursor, source: _Source) -> Found:
        statement, params = _render_find(source, wanted)
        cursor.execute(statement, {**params, "limit": limit})
        rows = cursor.fetchall()
        found = Found(dict(zip(COLUMNS, row)) for row in rows)
        if rows:
            found.total = rows[0][-1]
        else:
            source.check(cursor)
            found.unmatched = _find_unmatched(cursor, source, wanted)
        return found

    return _look_up(db, as_of, work)


def token(
    db: DatabaseManager,
    symbol: str,
    *,
    exchange: str | None = None,
    as_of: date | datetime | None = None,
) -> int | None:
    """The token of `NSE:INFY`, or of the symbol on the exchange; None if it is not listed.

    Raises ValueError if the symbol is on several exchanges, and none is named.
    """
    if exchange is None and ":" in symbol:
        exchange, _, symbol = symbol.partition(":")
    params = {
        "symbol": symbol,
        "symbols": [symbol, capitals(symbol)],
        "exchange": exchange and capitals(exchange),
    }

    def work(cursor: Cursor, source: _Source) -> int | None:
        cursor.execute(source.render("token"), {**source.params, **params})
        rows = cursor.fetchall()
        if not rows:
            source.check(cursor)
            return None
        if len(places := {place for place, _ in rows}) > 1:
            keys = " or ".join(f"{place}:{symbol}" for place in sorted(places))
            raise ValueError(f"symbol: expected {keys}, got {symbol}")
        number: int = rows[0][1]
        return number

    return _look_up(db, as_of, work)


def expiries(
    db: DatabaseManager,
    underlying: str,
    *,
    exchange: str | None = None,
    as_of: date | datetime | None = None,
) -> list[dict[str, Any]]:
    """The expiries of an underlying by exchange and day: exchange, expiry, futures, calls, puts.

    `underlying` is NIFTY, or NIFTY 50. The last three are numbers of contracts.
    """

    def work(cursor: Cursor, source: _Source) -> list[dict[str, Any]]:
        rows = _read_expiries(cursor, source, underlying, exchange)
        if not rows:
            source.check(cursor)
        return [{name: row[name] for name in row if name != "underlying"} for row in rows]

    return _look_up(db, as_of, work)


def chain(
    db: DatabaseManager,
    underlying: str,
    *,
    expiry: date | None = None,
    exchange: str | None = None,
    as_of: date | datetime | None = None,
) -> dict[str, Any]:
    """The options of an underlying on an expiry, call and put side by side.

    By default it is the nearest expiry that is not past (the first, if all are), on the exchange
    with most contracts. Gives underlying, exchange, expiry, `expiries` (of this exchange),
    `exchanges` (all), and `strikes`: a dict each with the keys of OPTION_COLUMNS, as the view
    kite_option_chain has them. Raises NotListedError that names what there is instead.
    """

    def work(cursor: Cursor, source: _Source) -> dict[str, Any]:
        rows = _read_expiries(cursor, source, underlying, None)
        rows = [row for row in rows if row["calls"] + row["puts"]]
        if not rows:
            source.check(cursor)
            raise NotListedError(_describe_unknown(cursor, source, underlying))
        name = rows[0]["underlying"]
        place, days, places = _choose(rows, exchange)
        day = _choose_expiry(days, expiry, source.day, f"{name} on {place}")
        params = {**source.params, "name": name, "exchange": place, "expiry": day}
        cursor.execute(source.render("options"), params)
        return {
            "underlying": name,
            "exchange": place,
            "expiry": day,
            "expiries": days,
            "exchanges": places,
            "strikes": pair_options(cursor.fetchall()),
        }

    return _look_up(db, as_of, work)


def pair_options(rows: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    """Calls and puts by strike, of (strike, type, symbol, token, lot_size) by strike and token.

    Where two contracts share a strike, that of the smallest token counts, as in the view.
    """
    strikes: dict[Decimal, dict[str, Any]] = {}
    stems: dict[Decimal, str] = {}
    for strike, kind, symbol, number, lot_size in rows:
        # A symbol with another ending is a contract of its own.
        stem = symbol[:-2] if symbol.endswith(kind) else f"{symbol}\0"
        option = strikes.setdefault(strike, dict.fromkeys(OPTION_COLUMNS))
        if stems.setdefault(strike, stem) == stem:
            side = "call" if kind == "CE" else "put"
            option |= {"strike": strike, f"{side}_symbol": symbol, f"{side}_token": number}
            option["lot_size"] = max(filter(None, (option["lot_size"], lot_size)), default=lot_size)
    return list(strikes.values())


class _Source(NamedTuple):
    """A list: how a statement names it, its parameters, and the day it is of."""

    name: sql.Composable
    params: dict[str, Any]
    has_id: bool
    day: date
    moment: datetime | None

    def render(self, name: str, **parts: sql.Composable) -> sql.Composed:
        """A statement of lookup.sql on this list."""
        return compose(SQL[name], source=self.name, **parts)

    def check(self, cursor: Cursor) -> None:
        """Raise NotListedError if the list has no row."""
        (is_empty,) = fetch_one(cursor, self.render("is_empty"), self.params)
        if not is_empty:
            return
        if self.moment is None:
            raise NotListedError(_NO_LIST.format(command("--dag", "1")))
        first = None
        if (history := find_relation(cursor, "kite_instrument_history")).exists:
            statement = compose(SQL["first_day"], history=history.identifier)
            (first,) = fetch_one(cursor, statement)
        since = f"the first is of {first.astimezone(IST):%Y-%m-%d}" if first else "none is kept yet"
        raise NotListedError(f"There is no list of {self.day}: {since}.")


_NO_LIST = "There is no instrument list yet. It is loaded by: {}"


def _look_up(
    db: DatabaseManager, as_of: date | datetime | None, work: Callable[[Cursor, _Source], T]
) -> T:
    if isinstance(as_of, datetime) and as_of.tzinfo is None:
        raise ValueError(f"as_of: expected a day, or a moment with a time zone, got {as_of}")
    return db.run_in_transaction(lambda cursor: work(cursor, _find_source(cursor, as_of)))


def _find_source(cursor: Cursor, as_of: date | datetime | None) -> _Source:
    if as_of is None:
        view = find_relation(cursor, "kite_instrument_today")
        if not view.exists:
            raise NotListedError(_NO_LIST.format(command("--dag", "1")))
        cursor.execute(SQL["has_id"], (view.oid,))
        return _Source(view.identifier, {}, bool(cursor.fetchall()), clock.now().date(), None)
    if isinstance(as_of, datetime):
        moment = as_of.astimezone(IST)
    else:
        moment = datetime.combine(as_of, time.max, IST)
    cursor.execute(SQL["find_function"])
    row = cursor.fetchone()
    if row is None:
        raise NotListedError(
            "The lists of other days are not kept in this database (there is no function "
            f"kite_instrument_as_of). A run of DAG 1 makes it: {command('--dag', '1')}"
        )
    function = sql.Identifier(row[0], "kite_instrument_as_of")
    name = compose("{function}(%(moment)s)", function=function)
    return _Source(name, {"moment": moment}, True, moment.date(), moment)


def _render_find(source: _Source, words: Sequence[Word]) -> tuple[sql.Composed, dict[str, Any]]:
    params = {**source.params, "day": source.day, "exchanges": list(EXCHANGES)}
    cases = [f"WHEN {word.exact} THEN 0" for word in words if word.exact]
    for number, phrases in enumerate(find_phrases(words)):
        names = [INDICES[each].replace(" ", "") for each in phrases if each in INDICES]
        params |= {f"symbols{number}": phrases + names, f"names{number}": phrases}
        cases.append(f"WHEN s = ANY (%(symbols{number})s::text[]) THEN {2 * number + 1}")
        cases.append(f"WHEN n = ANY (%(names{number})s::text[]) THEN {2 * number + 2}")
    for word in words:
        params |= word.params
    statement = source.render(
        "find",
        instrument_id=sql.SQL("instrument_id" if source.has_id else "NULL::bigint"),
        searched=source.render("searched"),
        condition=sql.SQL(" AND ".join(f"({word.condition})" for word in words)),
        phrase=sql.SQL(f"CASE {' '.join(cases) or 'WHEN false THEN 0'} ELSE 99 END"),
        rank=sql.SQL(" + ".join(["0", *(f"({word.rank})" for word in words)])),
    )
    return statement, params


def _find_unmatched(cursor: Cursor, source: _Source, words: Sequence[Word]) -> list[str]:
    if len(words) == 1:
        return [words[0].typed]
    searched = source.render("searched")
    asked = [
        source.render("is_met", searched=searched, condition=sql.SQL(word.condition))
        for word in words
    ]
    params = dict(source.params)
    for word in words:
        params |= word.params
    answers = fetch_one(cursor, sql.SQL("SELECT ") + sql.SQL(", ").join(asked), params)
    return [word.typed for word, is_met in zip(words, answers) if not is_met]


def _read_expiries(
    cursor: Cursor, source: _Source, underlying: str, exchange: str | None
) -> list[dict[str, Any]]:
    """Of the first name that has some: as it is written, in capitals, an index's options'."""
    text = " ".join(capitals(underlying).split())
    of_index = [name for name, symbol in INDICES.items() if symbol == text]
    names = list(dict.fromkeys([underlying, text, text.replace(" ", ""), *of_index]))
    params = {"names": names, "exchange": exchange and capitals(exchange)}
    cursor.execute(source.render("expiries"), {**source.params, **params})
    keys = ("underlying", "exchange", "expiry", "futures", "calls", "puts")
    rows = cursor.fetchall()
    return [dict(zip(keys, row)) for row in rows if row[0] == rows[0][0]]


def _choose(
    rows: Sequence[dict[str, Any]], exchange: str | None
) -> tuple[str, list[date], list[str]]:
    """The exchange, its expiries, and all exchanges, those with most contracts first."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["exchange"]] = counts.get(row["exchange"], 0) + row["calls"] + row["puts"]
    places = sorted(counts, key=lambda place: (-counts[place], place))
    place = places[0] if exchange is None else capitals(exchange)
    if place not in counts:
        name = rows[0]["underlying"]
        raise NotListedError(
            f"{name} has no options on {escape_line(place)}; there are some on {', '.join(places)}."
        )
    return place, [row["expiry"] for row in rows if row["exchange"] == place], places


def _choose_expiry(days: Sequence[date], wanted: date | None, today: date, which: str) -> date:
    if wanted is None:
        return next((day for day in days if day >= today), days[0])
    if wanted in days:
        return wanted
    near = sorted(sorted(days, key=lambda day: abs(day - wanted))[:_NEAR])
    raise NotListedError(
        f"{which} has no options that expire on {wanted}; the nearest expiries are "
        f"{', '.join(map(str, near))}."
    )


def _describe_unknown(cursor: Cursor, source: _Source, underlying: str) -> str:
    cursor.execute(source.render("underlyings"), source.params)
    names = [name for (name,) in cursor.fetchall()]
    near = difflib.get_close_matches(capitals(underlying), names, _NEAR)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"Nothing called {escape_line(underlying)} has options.{hint}"
