"""Whose candles are wanted: the configured universe, resolved against today's list."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from psycopg2.extensions import cursor as Cursor

from dag_2_import_candles_from_kite.plan import Span, day_of, midnight
from shared.exceptions import DatabaseError
from shared.feed import RejectedRow
from shared.utils import run_history
from shared.utils.relations import find_relation
from shared.utils.sql import load_sql

SQL = load_sql(__file__)

LIST_DAG = 1  # the DAG that brings the list and its history
_SOURCES = ("kite_instrument_today", "kite_instrument_history")
_FOR_EVER = midnight(date(9999, 1, 1))
INDEX = "NSE:NIFTY 50"  # whose day candles are the calendar
_MOST_EXPIRIES = 10_000
_TEXTS = ("exchange", "segment", "instrument_type", "underlying")
_PARAMETERS = (*_TEXTS, "expiries", "symbols")  # of select_listed
_EXPECTED = (
    'a symbol such as "NSE:INFY", or a selection such as {"exchange": "NSE", "segment": "NSE"}, '
    '{"exchange": "NFO", "underlying": "NIFTY", "instrument_type": "FUT"} or '
    '{"exchange": "NFO", "underlying": "BANKNIFTY", "expiries": 2}'
)

Selection = str | Mapping[str, Any]


class Target(NamedTuple):
    """An instrument whose candles are wanted.

    `listed_on` is the first day on which it can have traded, and `last_day` the last one; None
    where that is not known. `is_listed`: it is in today's list. `is_reachable`: its token is still
    its own.
    """

    instrument_id: int
    token: int
    exchange: str
    symbol: str
    has_oi: bool
    last_day: date | None = None
    listed_on: date | None = None
    is_listed: bool = True
    is_reachable: bool = True

    @property
    def name(self) -> str:
        """What messages call it: NSE:INFY."""
        return f"{self.exchange}:{self.symbol}"


def read_universe(value: Any) -> list[Selection]:
    """The converter of parameters.instruments: a list of symbols and selections."""
    if not isinstance(value, list):
        raise ValueError(f"expected a list; each item {_EXPECTED}")
    return [read_selection(item) for item in value]


def read_selection(item: Any) -> Selection:
    """A symbol with its exchange, or a selection. Raises ValueError that says what was expected."""
    if isinstance(item, str):
        exchange, _, symbol = map(str.strip, item.partition(":"))
        if exchange and symbol and item.isprintable():
            return f"{exchange.upper()}:{symbol}"
    elif isinstance(item, dict) and item.keys() <= {*_TEXTS, "expiries"}:
        texts = [item[name] for name in _TEXTS if name in item]
        count = item.get("expiries", 1)
        are_texts = all(
            isinstance(each, str) and each.strip() and each.isprintable() for each in texts
        )
        if texts and are_texts and type(count) is int and 0 < count <= _MOST_EXPIRIES:
            return {name: each.strip() if name in _TEXTS else each for name, each in item.items()}
    raise ValueError(f"expected {_EXPECTED}")


class Universe(NamedTuple):
    """What today's list has of the wanted instruments; `rejected` are the items that name none.

    `calendar` is the index whose days are the calendar, wanted or not.
    """

    calendar: Target | None
    targets: Sequence[Target]
    rejected: Sequence[RejectedRow]


class Lists(NamedTuple):
    """The days of DAG 1's lists, and since when each exchange has been in them."""

    days: Sequence[date]
    firsts: Mapping[str, date]

    @classmethod
    def read(cls, cursor: Cursor) -> Lists:
        """What there is of them."""
        days = [day for day, _ in run_history.read_list_days(cursor, LIST_DAG)]
        cursor.execute(SQL["read_first_lists"])
        return cls(days, {exchange: day_of(first) for exchange, first in cursor.fetchall()})

    def find_listing(self, exchange: str, valid_from: datetime) -> date | None:
        """The day after the last list without it; None if its exchange's first list has it."""
        day = day_of(valid_from)
        number = bisect_left(self.days, day)
        if not number or day <= self.firsts[exchange]:
            return None
        return self.days[number - 1] + timedelta(days=1)


def resolve(cursor: Cursor, selections: Sequence[Selection]) -> Universe:
    """The instruments that are wanted. Raises DatabaseError if there is no list yet."""
    for name in _SOURCES:
        if not find_relation(cursor, name).exists:
            raise DatabaseError(
                f"{name} is not there: DAG {LIST_DAG}, which brings the list, has to run first, "
                "as a role that may make it."
            )
    lists = Lists.read(cursor)
    names = [INDEX, *(item for item in selections if isinstance(item, str))]
    symbols: dict[str, list[Target | None]] = {}
    for name, target in _select(cursor, lists, symbols=[each.partition(":")[2] for each in names]):
        symbols.setdefault(name, []).append(target)
    found: dict[int, Target] = {}
    rejected = []
    for item in selections:
        if isinstance(item, str):
            listed = symbols.get(item, [])
        else:
            listed = [target for _, target in _select(cursor, lists, **item)]
        found |= {target.instrument_id: target for target in listed if target}
        if fault := _find_fault(listed):
            rejected.append(RejectedRow(None, fault, [str(item)]))
    index = next(filter(None, symbols.get(INDEX, ())), None)
    return Universe(index, list(found.values()), rejected)


def _select(cursor: Cursor, lists: Lists, **wanted: Any) -> Iterator[tuple[str, Target | None]]:
    """The names of those in today's list that are `wanted`, and what they are if that is known."""
    cursor.execute(SQL["select_listed"], {**dict.fromkeys(_PARAMETERS), **wanted})
    kept: dict[Any, Any] = {}  # of equal texts and days one: there may be 100,000 instruments
    for instrument_id, token, exchange, symbol, has_oi, expiry, valid_from in cursor:
        target = None
        if instrument_id is not None:
            keep = kept.setdefault
            own = (instrument_id, token, keep(exchange, exchange), symbol, has_oi)
            listed_on = lists.find_listing(exchange, valid_from)
            target = Target(*own, keep(expiry, expiry), keep(listed_on, listed_on))
        yield f"{exchange}:{symbol}", target


def _find_fault(listed: Sequence[Target | None]) -> str:
    if not listed:
        return "it names nothing in today's list"
    if lacking := listed.count(None):
        return f"expected an instrument_id for each, and {lacking:,} have none: run DAG {LIST_DAG}"
    return ""


def find_ended(cursor: Cursor, interval: str) -> list[Target]:
    """Those that have left the list, and were not asked for up to their last day."""
    cursor.execute(SQL["find_ended"], (interval,))
    rows = cursor.fetchall()
    return [Target._make((*row[:-1], None, False, row[-1])) for row in rows]


class Moves:
    """Instruments that have had several tokens, and when each was theirs."""

    def __init__(self, cursor: Cursor) -> None:
        cursor.execute(SQL["read_moves"])
        self._periods: dict[int, list[tuple[int, Span]]] = {}
        for instrument_id, token, begin, end in cursor.fetchall():
            span = Span(begin, end or _FOR_EVER)
            self._periods.setdefault(instrument_id, []).append((token, span))

    def find_elsewhere(self, target: Target) -> tuple[Span, ...]:
        """When it had another token than now."""
        periods = self._periods.get(target.instrument_id, ())
        return tuple(span for token, span in periods if token != target.token)
