"""Days without candles that must have some: what the views say, and `gaps`, the command.

A gap is told of days that were asked for alone, from the first stored candle on (views.sql). Where
nothing tells the days of trading, nothing is said of gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg2.extensions import cursor as Cursor

from dag_2_import_candles_from_kite.candles import CANDLES
from dag_2_import_candles_from_kite.intervals import INTERVALS
from dag_2_import_candles_from_kite.universe import INDEX
from shared.config.config_loader import ConfigLoader
from shared.console import say, say_table, write_json
from shared.feed import Command
from shared.utils.relations import find_relation
from shared.utils.sql import load_sql, settings

if TYPE_CHECKING:
    import argparse

SQL = load_sql(__file__)

FOUND = 1  # the exit status
CANNOT_BE_KNOWN = 4
SHOWN = 40  # rows of the table


class Gap(NamedTuple):
    """Days of trading that follow each other, without a candle. `days` are those of trading."""

    instrument_id: int
    exchange: str
    tradingsymbol: str
    interval: str
    from_day: date
    to_day: date
    days: int


class States(NamedTuple):
    """How far the candles of wanted pairs of an instrument and an interval are there.

    `wanted` is the sum of `complete`, `with_gaps`, `untold` (candles are there, but nothing tells
    the days of trading) and `never_answered` (no candle; `unasked` of them were not asked for, or
    refused). `missing_days` are those of all gaps. Of the complete ones `behind` were not asked for
    up to the last day of trading: their requests have failed since, or come yet.
    """

    wanted: int
    complete: int
    with_gaps: int
    missing_days: int
    untold: int
    never_answered: int
    unasked: int
    behind: int = 0


class Exchange(NamedTuple):
    """An exchange of which candles were asked for, and whether its days of trading are known."""

    name: str
    has_candles: bool
    has_calendar: bool


def is_there(cursor: Cursor) -> bool:
    """Whether there is a table of candles."""
    return find_relation(cursor, CANDLES.name).exists


def list_gaps(cursor: Cursor) -> list[Gap]:
    """All gaps, by instrument, interval (the shortest first) and day."""
    rows = _read(cursor, "list_gaps")
    order = list(INTERVALS)

    def place(gap: Gap) -> tuple[object, ...]:
        known = order.index(gap.interval) if gap.interval in order else len(order)
        return gap.exchange, gap.tradingsymbol, gap.instrument_id, known, gap.from_day

    return sorted(map(Gap._make, rows), key=place)


def list_exchanges(cursor: Cursor) -> list[Exchange]:
    """The exchanges of which candles were asked for."""
    return [Exchange(*row) for row in _read(cursor, "read_known")]


def count_states(
    cursor: Cursor, pairs: Iterable[tuple[int, str]], until: date | None = None
) -> States:
    """The states of wanted (instrument_id, interval); one that is given twice counts once.

    `until` is the last day that is wanted.
    """
    wanted = list(pairs)
    values = {
        "until": until,
        "instrument_ids": [instrument_id for instrument_id, _ in wanted],
        "intervals": [interval for _, interval in wanted],
    }
    (row,) = _read(cursor, "count_states", values)
    return States(*row)


def _read(
    cursor: Cursor, name: str, values: Mapping[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    # To compile expressions for hundreds of partitions takes longer than to read them.
    with settings(cursor, jit="off"):
        cursor.execute(SQL[name], values)
        return cursor.fetchall()


def show_gaps(arguments: argparse.Namespace) -> int:
    """Show the gaps. Returns the exit status."""
    from shared.utils.db_manager import DatabaseManager

    def read(cursor: Cursor) -> tuple[list[Gap], list[Exchange]]:
        return (list_gaps(cursor), list_exchanges(cursor)) if is_there(cursor) else ([], [])

    with DatabaseManager(asdict(ConfigLoader.load_database_config())) as db:
        gaps, exchanges = db.run_in_transaction(read)
    untold = [each.name for each in exchanges if each.has_candles and not each.has_calendar]
    is_known = not untold and any(each.has_calendar for each in exchanges)
    if arguments.json:
        write_json(
            {
                "is_known": is_known,
                "untold": untold,
                "missing_days": sum(gap.days for gap in gaps),
                "gaps": [gap._asdict() for gap in gaps],
            }
        )
    else:
        _say_gaps(gaps)
        say(_describe(gaps, exchanges, untold))
    if gaps:
        return FOUND
    return 0 if is_known else CANNOT_BE_KNOWN


def _say_gaps(gaps: Sequence[Gap]) -> None:
    if not gaps:
        return
    header = ["instrument", "interval", "from", "to", "days"]
    say_table(
        header,
        [
            [
                f"{gap.exchange}:{gap.tradingsymbol}",
                gap.interval,
                str(gap.from_day),
                str(gap.to_day),
                f"{gap.days:,}",
            ]
            for gap in gaps[:SHOWN]
        ],
    )
    if len(gaps) > SHOWN:
        say(f"\n{len(gaps) - SHOWN:,} more: --json gives all.")
    say()


def _describe(gaps: Sequence[Gap], exchanges: Sequence[Exchange], untold: Sequence[str]) -> str:
    sentences = []
    if gaps:
        missing, count = sum(gap.days for gap in gaps), len({gap.instrument_id for gap in gaps})
        sentences.append(
            f"{missing:,} {'day is' if missing == 1 else 'days are'} missing, "
            f"of {count:,} {'instrument' if count == 1 else 'instruments'}."
        )
    elif not any(each.has_candles for each in exchanges):
        return "No candle is stored yet, so gaps cannot be told."
    elif known := [each.name for each in exchanges if each.has_calendar]:
        sentences.append(f"No gaps on {', '.join(known)}.")
    if untold:
        sentences.append(
            f"Those of {', '.join(untold)} cannot be told: {INDEX}, whose day candles are the "
            "calendar, has none yet."
        )
    return " ".join(sentences)


def _add_gaps(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"""\
Days that were asked for, from an instrument's first candle on, on which it has
no candle though its exchange has traded. Days of trading that follow each
other are one row; the table has {SHOWN} rows at most, --json gives all.

Exit status: 0 no gaps, 1 gaps, 2 bad usage, 4 it cannot be known yet."""
    parser.add_argument("--json", action="store_true", help="print all gaps as one JSON document")


GAPS = Command("gaps", "list the days whose candles are missing", show_gaps, _add_gaps)
