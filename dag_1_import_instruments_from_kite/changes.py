"""What a run changes: compared and kept in SQL, in the transaction of the merge."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from shared.exceptions import DatabaseError, ValidationError
from shared.feed import RejectedRow
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils.kite_csv import WrittenKey
from shared.utils.relations import Relation, compose
from shared.utils.run_history import LastRun

logger = logging.getLogger(__name__)

CLASSIFY = Path(__file__).with_name("changes.sql").read_text(encoding="utf-8")

# The series of NSE's shares that trade under a suffix: a share moves among them, and to none.
SERIES_SUFFIX = "-(BE|BZ|BT|SM|ST|SZ)$"

# A debt security's symbol: its rate, its issuer, its year (642AS43-SG, 1023NABARD29), or one in a
# series that is no share's (HUDX-N2).
BOND_SYMBOL = "^[0-9]+[A-Z]+[0-9]|-(?!(BE|BZ|BT|SM|ST|SZ|IV|RR)$)[A-Z0-9]{2}$"

CREATE_CHANGES = """
CREATE TEMPORARY TABLE stock_ingestion_change (
    exchange text, instrument_token bigint, tradingsymbol text, kind text, field text,
    old text, new text)
"""
COUNT_CHANGES = "SELECT kind, count(*) FROM stock_ingestion_change GROUP BY kind"
KEEP_CHANGES = """
INSERT INTO {changes}
    (run_id, exchange, instrument_token, tradingsymbol, kind, field, old, new)
SELECT %s, exchange, instrument_token, tradingsymbol, kind, field, old, new
FROM pg_temp.stock_ingestion_change
"""
COUNT_LOST_CHANGES = """
SELECT count(*) FROM (
    SELECT exchange, instrument_token, tradingsymbol, kind, field, old, new
    FROM pg_temp.stock_ingestion_change
    EXCEPT ALL
    SELECT exchange, instrument_token, tradingsymbol, kind, field, old, new
    FROM {changes} WHERE run_id = %s) AS lost
"""
DROP_CHANGES = "DROP TABLE IF EXISTS pg_temp.stock_ingestion_change"

# What the last list had without having its moment now: somebody else gave it another one since; or
# it was unclear whether the list had it (a rejected row may have been it), which this list tells.
CARRY_ON = """
UPDATE stock_ingestion_delta AS d SET was_current = true
WHERE NOT was_current AND (
    (old_instrument_token, old_exchange) IN (
        SELECT instrument_token, exchange FROM {changes}
        WHERE run_id = %(last_run)s AND kind = 'unclear')
    OR was_touched AND NOT EXISTS (      -- unless it had left before
        SELECT FROM (SELECT kind FROM {changes}
                     WHERE tradingsymbol = d.old_tradingsymbol AND exchange = d.old_exchange
                       AND instrument_token = d.old_instrument_token
                       AND kind IN ('listed', 'gone', 'expired')
                     ORDER BY run_id DESC LIMIT 1) AS latest
        WHERE kind <> 'listed'))
"""
CARRY_ON_ABSENT = """
INSERT INTO stock_ingestion_delta ({old_columns}, was_current, was_touched)
SELECT {columns}, true, false FROM {table} AS t
WHERE (t.instrument_token, t.exchange) IN (
        SELECT instrument_token, exchange FROM {changes}
        WHERE run_id = %(last_run)s AND kind = 'unclear')
  AND NOT EXISTS (SELECT FROM stock_ingestion_stage AS s
                  WHERE s.instrument_token = t.instrument_token AND s.exchange = t.exchange)
  AND NOT EXISTS (SELECT FROM stock_ingestion_delta AS d
                  WHERE d.old_instrument_token = t.instrument_token AND d.old_exchange = t.exchange)
"""
READ_ABSENT = """
SELECT old_exchange, old_instrument_token::text, old_tradingsymbol FROM stock_ingestion_delta
WHERE new_instrument_token IS NULL AND was_current
"""

COUNT_DUMP = "SELECT exchange, count(*) FROM stock_ingestion_stage GROUP BY 1"

# By exchange: the rows that only the last list has, less those that only the dump has. Counted in
# the differences: counting the last list itself would read the whole table.
COUNT_LOSSES = """
SELECT coalesce(new_exchange, old_exchange),
       count(*) FILTER (WHERE new_exchange IS NULL AND was_current)
       - count(*) FILTER (WHERE new_exchange IS NOT NULL AND NOT was_current)
FROM stock_ingestion_delta GROUP BY 1
"""

# A smaller exchange may well lose half of its few rows from one day to the next.
FEW_ROWS = 100


@dataclass(frozen=True)
class Plausibility:
    """What a dump must have to be believed, against the last good one."""

    exchanges: Sequence[str]
    max_drop_percent: float
    is_forced: bool = False
    is_file: bool = False

    def check(
        self, now: Mapping[str, int], before: Mapping[str, int], last: LastRun | None = None
    ) -> None:
        """Raise ValidationError, with the figures, if an exchange lost too many of its rows.

        `now` and `before` are rows by exchange. An exchange that the configuration names may not
        vanish; any with at least 100 rows may lose at most `max_drop_percent` of them. Where the
        table does not hold all rows of the `last` good run any more, the list as a whole may not
        lose more than that against what this run stored (ruling 30).
        """
        faults = [
            f"{exchange} fell from {count:,} rows to {now.get(exchange, 0):,}"
            for exchange, count in sorted(before.items())
            if self._is_wanted(exchange) and self._is_too_few(count, now.get(exchange, 0), exchange)
        ]
        left, total = sum(before.values()), sum(now.values())
        if last is not None and left < last.stored:
            logger.warning(
                "The table holds %d of the %d rows that run %d stored; something else has changed "
                "or removed the others",
                left,
                last.stored,
                last.run_id,
            )
            left_out = sum(n for name, n in before.items() if not self._is_wanted(name))
            stored = last.stored - left_out
            if self._is_too_few(stored, total):
                faults.append(f"the list fell from {stored:,} rows to {total:,}")
        if faults and not self.is_forced:
            raise ValidationError(self._describe(faults, now))
        for exchange in sorted(before.keys() - now.keys()):
            if self._is_wanted(exchange):
                logger.warning(
                    "Kite's list has none of the %d rows that %s had in the last list",
                    before[exchange],
                    exchange,
                )

    def exchanges_of(self, now: Mapping[str, int]) -> Sequence[str]:
        """The exchanges that the list speaks of (none named: all); the others' rows are not gone.

        A file with rows of one exchange alone, as Kite gives it on demand, is no whole list.
        """
        is_part = self.is_file and not self.exchanges and len(now) == 1
        return list(now) if is_part else self.exchanges

    def _describe(self, faults: Sequence[str], now: Mapping[str, int]) -> str:
        said = f"{'; '.join(faults)} since the last good run. Nothing was stored, the list of that "
        if self.is_file and len(now) == 1:
            (exchange,) = now
            return (
                f"The file is no whole list, its rows are of {exchange} alone: {said}run stays. "
                "Import a whole list, with all exchanges. If only this exchange is wanted from now "
                f'on, set parameters.exchanges to ["{exchange}"]. With --force the file is stored '
                f"as it is: until the next whole list the views show {exchange} alone."
            )
        if self.is_file:
            return (
                f"The file's list is not plausible: {said}run stays. If it is the list that is "
                "wanted, run once with --force."
            )
        return (
            f"Kite's list is not plausible: {said}run stays. Kite may not have finished today's "
            "list: run again in some minutes. If the exchange really has so few instruments now, "
            "run once with --force."
        )

    def _is_wanted(self, exchange: str) -> bool:
        return not self.exchanges or exchange in self.exchanges

    def _is_too_few(self, count: int, left: int, exchange: str = "") -> bool:
        if exchange in self.exchanges and left == 0:
            return True
        return count >= FEW_ROWS and 100 * (count - left) > self.max_drop_percent * count


def carry_on(cursor: Any, table: Relation, changes: Relation | None, last: LastRun | None) -> None:
    """Take for the list of the `last` good run also what has another moment than that one now.

    Without a history the newest rows are the last list.
    """
    if last is None or changes is None:
        return
    columns = INSTRUMENT_TABLE.column_names
    parts = {"columns": columns, "old_columns": [f"old_{name}" for name in columns]}
    for statement in (CARRY_ON, CARRY_ON_ABSENT):
        composed = compose(statement, table=table, changes=changes, **parts)
        cursor.execute(composed, {"last_run": last.run_id})


def count_lists(cursor: Any) -> tuple[Counter[str], Counter[str]]:
    """Rows by exchange of the dump, each key once, and of the last list."""
    cursor.execute(COUNT_DUMP)
    now = Counter(dict(cursor.fetchall()))
    cursor.execute(COUNT_LOSSES)
    return now, now + Counter(dict(cursor.fetchall()))


def classify_changes(
    cursor: Any,
    exchanges: Sequence[str] = (),
    *,
    rejected: Sequence[RejectedRow] = (),
    is_replay: bool = False,
) -> Counter[str]:
    """Classify the differences that the merge has found since the last list.

    `exchanges` are those that are stored (none named: all): the others' rows are not gone. Whether
    a row that one of the `rejected` may have been is gone is unclear. A replayed dump is of another
    day than today.
    Returns how many there are of each kind; `keep_changes` puts them into the table of changes.
    """
    unclear: list[Absent] = []
    if rejected:
        cursor.execute(READ_ABSENT)
        unclear = find_unclear([Absent(*row) for row in cursor.fetchall()], rejected)
    cursor.execute(DROP_CHANGES)
    cursor.execute(CREATE_CHANGES)
    rules = {
        "series": SERIES_SUFFIX,
        "bond": BOND_SYMBOL,
        "exchanges": list(exchanges),
        "unclear_tokens": [row.token for row in unclear],
        "unclear_exchanges": [row.exchange for row in unclear],
        "is_replay": is_replay,
    }
    cursor.execute(CLASSIFY, rules)
    cursor.execute(COUNT_CHANGES)
    return Counter(dict(cursor.fetchall()))


def keep_changes(cursor: Any, changes: Relation, run_id: int) -> None:
    """Put what `classify_changes` has found into the table of changes, as the run's.

    Raises DatabaseError if they are not there then as they were found.
    """
    cursor.execute(compose(KEEP_CHANGES, changes=changes), (run_id,))
    cursor.execute(compose(COUNT_LOST_CHANGES, changes=changes), (run_id,))
    (lost,) = cursor.fetchone()
    if lost:
        raise DatabaseError(
            f"Nothing was stored: {lost:,} of the run's changes are not in {changes} as they were "
            "found. A trigger, a rule or row security on that table does such things."
        )


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
        key = WrittenKey(*row.key) if row.key is not None else None
        exchange = key.exchange if key is not None and _is_told(key.exchange) else None
        alike = [
            each
            for text in texts
            for each in named.get(text, ())
            if exchange in (None, each.exchange)
        ]
        is_told = key is not None and (key.token.isdecimal() or _is_told(key.symbol))
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
    were = f"and {len(lines) - 1:,} more were" if len(lines) > 1 else "was"
    logger.warning(
        "%d absences%s are not told as gone: line %s %s rejected, and neither token nor symbol "
        "can be told",
        absences,
        f" of {exchange}" if exchange else "",
        lines[0],
        were,
    )


def _is_told(text: str) -> bool:
    return bool(text.strip()) and text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text
