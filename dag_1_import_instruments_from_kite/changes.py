"""What a run changes: compared and kept in SQL, in the transaction of the merge."""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from psycopg2 import sql

from shared.feed import RejectedRow, Run
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils.extras import ExtraTable
from shared.utils.kite_csv import WrittenKey
from shared.utils.merge_statements import DELTA_NAME, STAGE_NAME
from shared.utils.sql import compose, fetch_one, load_sql, temporary

logger = logging.getLogger(__name__)

SQL = load_sql(Path(__file__).with_suffix(".sql"))

CHANGES = ExtraTable(
    "kite_instrument_change",
    SQL["create_kite_instrument_change"],
    privileges=("SELECT", "INSERT"),
    upgrades={"": SQL["add_primary_key"]},
)

# The series of NSE's shares that trade under a suffix: a share moves among them, and to none.
SERIES = ("BE", "BZ", "BT", "SM", "ST", "SZ")
SERIES_SUFFIX = f"-({'|'.join(SERIES)})$"

# A debt security's symbol: its rate, its issuer, its year (642AS43-SG, 1023NABARD29), or one in a
# series that is no share's (HUDX-N2).
BOND_SYMBOL = "^[0-9]+[A-Z]+[0-9]|-(?!(BE|BZ|BT|SM|ST|SZ|IV|RR)$)[A-Z0-9]{2}$"


# NSE's list of symbol changes, which another DAG brings: used where it is there.
OFFICIAL = ExtraTable(
    "nse_symbol_change",
    """CREATE TABLE nse_symbol_change (
    old_symbol VARCHAR(50) NOT NULL,
    new_symbol VARCHAR(50) NOT NULL,
    changed_on DATE NOT NULL
)""",
    privileges=("SELECT",),
)
_NO_OFFICIAL = """
(SELECT NULL::text AS old_symbol, NULL::text AS new_symbol, NULL::date AS changed_on WHERE false)
"""
_NO_HISTORY = """
(SELECT NULL::text AS exchange, NULL::text AS tradingsymbol, NULL::text AS instrument_type,
        NULL::timestamptz AS valid_to WHERE false)
"""
DELTA = temporary(DELTA_NAME)
PAIR = temporary("stock_ingestion_pair")
STAGE = temporary(STAGE_NAME)


def pair_rows(
    cursor: Any,
    run: Run,
    day: date,
    *,
    delta: sql.Composable = DELTA,
    pair: sql.Composable = PAIR,
    rows: sql.Composable = STAGE,
) -> None:
    """Find which rows of a delta are one instrument, for a list of `day` (India), `rows`."""
    cursor.execute(compose("DROP TABLE IF EXISTS {pair}", pair=pair))
    history = run.versions.identifier if run.versions else sql.SQL(_NO_HISTORY)
    parts = {"delta": delta, "pair": pair, "list": rows, "history": history}
    statement = compose(SQL["pair"], official=official_changes(run), **parts)
    cursor.execute(statement, symbol_rules(day))


def symbol_rules(day: date) -> dict[str, Any]:
    """What statements go by that tell a symbol's base, its series, and what it became by `day`."""
    suffixes = ["", *(f"-{series}" for series in SERIES)]
    return {"series": SERIES_SUFFIX, "suffixes": suffixes, "bond": BOND_SYMBOL, "day": day}


def official_changes(run: Run) -> sql.Composable:
    """NSE's list of symbol changes as what stands behind FROM, empty where it is not there."""
    found = run.reads.get(OFFICIAL.name)
    return found.identifier if found else sql.SQL(_NO_OFFICIAL)


def read_day(cursor: Any, run: Run) -> date:
    """The day (India) whose list this is: the one that is given, or today."""
    day: date
    (day,) = fetch_one(cursor, SQL["read_day"], (run.options.dated,))
    return day


def classify_changes(cursor: Any, run: Run) -> None:
    """Classify the differences since the last list, by the rules of changes.sql.

    Whether a row that one of the rejected may have been is gone is unclear.
    """
    _carry_on(cursor, run)
    day = read_day(cursor, run)
    pair_rows(cursor, run, day)
    unclear: list[Absent] = []
    if run.figures.rejected:
        cursor.execute(SQL["read_absent"])
        absent = [Absent(*row) for row in cursor.fetchall()]
        unclear = find_unclear(absent, run.figures.rejected)
    rules = {
        "day": day,
        "exchanges": list(run.scope),
        "unclear_tokens": [row.token for row in unclear],
        "unclear_exchanges": [row.exchange for row in unclear],
        "is_replay": not run.key.is_from_api and run.options.dated is None,
    }
    cursor.execute(SQL["classify"], rules)


def _carry_on(cursor: Any, run: Run) -> None:
    """Take for the list of the last good run also what has another moment than that one now."""
    if run.last is None or run.table is None or run.changes is None:
        return
    columns = INSTRUMENT_TABLE.column_names
    old_columns = [f"old_{column}" for column in columns]
    tables = {"table": run.table.identifier, "changes": run.changes.identifier}
    for name in ("carry_on", "carry_on_absent"):
        statement = compose(SQL[name], columns=columns, old_columns=old_columns, **tables)
        cursor.execute(statement, {"last_run": run.last.run_id})


class Absent(NamedTuple):
    """A row of the last list that the dump has not."""

    exchange: str
    token: str
    symbol: str


def find_unclear(absent: Sequence[Absent], rejected: Sequence[RejectedRow]) -> list[Absent]:
    """The absent rows that may be among the rejected ones.

    A reject may be the row whose token or symbol it has, in whatever column. One of which neither
    token nor symbol can be told, and that is like no absent row, may be any of its exchange; where
    that cannot be told either, any at all.
    """
    named: defaultdict[str, list[Absent]] = defaultdict(list)
    for each in absent:
        named[each.token].append(each)
        named[each.symbol].append(each)
    unclear: set[Absent] = set()
    untold: defaultdict[str | None, list[int | None]] = defaultdict(list)
    for row in rejected:
        texts = {text for field in row.row for text in re.split('[,"]', field)}
        key = WrittenKey(*(row.key or ("", "", "")))
        exchange = key.exchange if _is_told(key.exchange) else None
        found = [each for text in texts for each in named.get(text, ())]
        alike = [each for each in found if exchange in (None, each.exchange)]
        is_told = key.token.isdecimal() or _is_told(key.symbol)
        if not alike and not is_told:
            untold[exchange].append(row.line_number)
        unclear.update(alike)
    for exchange, lines in untold.items():
        in_question = [each for each in absent if exchange in (None, each.exchange)]
        unclear.update(in_question)
        if in_question:
            _warn_of_untold(exchange, len(in_question), lines)
    return sorted(unclear)


def _warn_of_untold(exchange: str | None, absences: int, lines: Sequence[int | None]) -> None:
    place = f" of {exchange}" if exchange else ""
    were = f"and {len(lines) - 1:,} more were" if len(lines) > 1 else "was"
    message = (
        "%d absences%s are not told as gone: line %s %s rejected, and neither token nor symbol "
        "can be told"
    )
    logger.warning(message, absences, place, lines[0], were)


def _is_told(text: str) -> bool:
    return bool(text.strip()) and text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text
