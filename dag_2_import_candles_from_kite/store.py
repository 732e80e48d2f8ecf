"""The transaction of an answer: compared with what is stored, merged, and noted as covered.

Takes a cursor inside a transaction and never commits. After it the table holds the answer exactly,
which is looked at before it is said (ruling 29).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from typing import IO, Any, NamedTuple

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from dag_2_import_candles_from_kite.answers import Candle, render
from dag_2_import_candles_from_kite.candles import CANDLES
from dag_2_import_candles_from_kite.compare import Comparison, compare
from dag_2_import_candles_from_kite.intervals import Interval
from dag_2_import_candles_from_kite.plan import (
    Covered,
    Span,
    add_covered,
    find_missing,
    is_final,
    midnight,
)
from dag_2_import_candles_from_kite.tables import ADJUSTMENTS, COVERAGE
from dag_2_import_candles_from_kite.universe import Target
from shared.calendar import IST
from shared.exceptions import DatabaseError
from shared.feed import Slice
from shared.utils.merge_proof import find_hooks
from shared.utils.relations import Relation, find_relation, only_own_functions
from shared.utils.sql import compose, fetch_one, joined, load_sql
from shared.utils.staged_merge import MergeResult, lock_name

SQL = load_sql(__file__)
_COPY_BYTES = 1 << 16
_LONG_AGO = midnight(date(1990, 1, 1))
_OWN_FUNCTIONS = "pg_catalog, pg_temp"  # a search_path that finds PostgreSQL's own alone


class Series(NamedTuple):
    """The candles of one instrument in one interval.

    `elsewhere` is when the instrument had another token: Kite may not answer for that by this one.
    """

    target: Target
    interval: Interval
    elsewhere: tuple[Span, ...] = ()

    @property
    def name(self) -> str:
        """What messages call it: "NSE:INFY day"."""
        return f"{self.target.name} {self.interval.name}"


class Adjustment(NamedTuple):
    """A factor that Kite has multiplied a history with, and the candles that showed it."""

    factor: Decimal
    compared: Span


class Overlap(NamedTuple):
    """The last so many stored candles of an instrument before a moment."""

    instrument_id: int
    before: datetime
    candles: int


@dataclass(frozen=True)
class Store:
    """Where the tables are. Rows are read back where `hooks` may change them on their way.

    These find what they name as in other sessions: writing goes by the `search_path` of those.
    """

    table: Relation  # that of the candles
    coverage: Relation
    adjustments: Relation
    hooks: Sequence[str]
    search_path: str

    @classmethod
    def open(cls, cursor: Cursor) -> "Store":
        """The tables, which a dry run may find to be lacking."""
        names = (CANDLES.name, COVERAGE.name, ADJUSTMENTS.name)
        places = [find_relation(cursor, name) for name in names]
        with only_own_functions(cursor):
            hooks = find_hooks(cursor, places[0]) if places[0].exists else ()
        return cls(places[0], places[1], places[2], hooks, fetch_one(cursor, SQL["read_path"])[0])

    @property
    def is_there(self) -> bool:
        """Whether there are such tables; before the first run, a dry run finds none."""
        return self.table.exists and self.coverage.exists

    def forget_lost(self, cursor: Cursor, part: Slice | None = None) -> Sequence[str]:
        """Forget what was answered in intervals of which no candle is there at all.

        Somebody has emptied the table, or dropped it: what it had is asked for anew. Returns them.
        A part goes by its own instruments alone: another one may have come to an empty answer and
        no candle yet, or have put back already what it had.
        """
        lock_name(cursor, CANDLES.name)
        cursor.execute(self._render("read_covered"))
        lost = []
        for interval, found in cursor.fetchall():
            ids = [each for each in found if part is None or part.holds(each)]
            params = {"interval": interval, "instrument_ids": ids}
            if ids and not fetch_one(cursor, self._render("has_candles"), params)[0]:
                cursor.execute(self._render("forget"), params)
                lost.append(interval)
        return lost

    def read_coverage(
        self, cursor: Cursor, instrument_ids: Sequence[int], interval: Interval
    ) -> dict[int, list[Covered]]:
        """What was answered for these instruments, by their ids."""
        params = (list(instrument_ids), interval.name)
        cursor.execute(self._render("read_coverage"), params)
        found: dict[int, list[Covered]] = {}
        for instrument_id, *row in cursor.fetchall():
            begin, end, fetched_at = (moment.astimezone(IST) for moment in row[:3])
            found.setdefault(instrument_id, []).append(Covered(begin, end, fetched_at, row[3]))
        return found

    def read_overlaps(
        self, cursor: Cursor, wanted: Sequence[Overlap], interval: Interval, *, is_far: bool = False
    ) -> list[datetime | None]:
        """Where the last candles before a moment begin, for each of the wanted; None: none are.

        Those more than half of a request's longest span before it count only if it `is_far`: the
        partitions of all times are looked into then.
        """
        if not wanted:
            return []
        reach = timedelta(days=interval.longest_days) / 2
        instrument_ids, befores, counts = zip(*wanted)
        begins = [_LONG_AGO if is_far else before - reach for before in befores]
        params = {
            "interval": interval.name,
            "instrument_ids": list(instrument_ids),
            "begins": begins,
            "befores": list(befores),
            "counts": list(counts),
            "begin": min(begins),
            "end": max(befores),
        }
        cursor.execute(self._render("read_overlaps"), params)
        return [begin and begin.astimezone(IST) for (begin,) in cursor.fetchall()]

    def merge(
        self,
        cursor: Cursor,
        series: Series,
        span: Span,
        answered: Sequence[Candle],
        now: datetime,
        is_accepted: Callable[[Comparison], bool],
    ) -> tuple[Comparison, MergeResult | None]:
        """Store an answer that was asked for all of `span`, in place of what is stored there.

        What was final and is off is told by the comparison: unless it `is_accepted` nothing is
        stored, and there is no result. Candles before the answer's first one stay.
        """
        covered = self._begin(cursor, series)
        stored = self._read_candles(cursor, series, span)
        final = [candle for candle in stored if is_final(covered, candle.ts)]
        comparison = compare(final, answered, series.elsewhere)
        every = compare(stored, answered, series.elsewhere)
        if not comparison.compared and every.factor is not None:  # no final one is reached
            comparison = every
        if comparison.off and not is_accepted(comparison):
            return comparison, None
        kept = {old[0] for old in every.compared}.difference(old[0] for old, _ in every.off)
        new = [candle for candle in answered if candle[0] not in kept]
        with self._writing(cursor):
            self._delete(cursor, series, span, [old[0] for old, _ in every.off])
            if new:
                lines = render(new, series.target.instrument_id, series.interval.name)
                self._copy(cursor, BytesIO(lines))
        count = len(stored) - len(every.off) + len(new)
        is_exact = not self.hooks or {*answered} <= {*self._read_candles(cursor, series, span)}
        self._prove(cursor, series, span, count, is_exact=is_exact)
        self._cover(cursor, series, add_covered(covered, span, now))
        changed = sum(candle is not None for _, candle in every.off)
        result = MergeResult(
            inserted=len(new) - changed, updated=len(kept) + changed, changed=changed
        )
        return comparison, result

    def holds(
        self,
        cursor: Cursor,
        series: Series,
        span: Span,
        answered: Sequence[Candle],
        now: datetime,
    ) -> bool:
        """Whether `merge` would change nothing: the answer is stored, and noted as covered."""
        covered = self._begin(cursor, series)
        stored = self._read_candles(cursor, series, span)
        is_there = {*answered} <= {*stored} and not find_missing(span, covered, now)
        return is_there and not compare(stored, answered, series.elsewhere).off

    def replace(
        self,
        cursor: Cursor,
        series: Series,
        span: Span,
        history: IO[bytes],
        count: int,
        now: datetime,
        adjustment: Adjustment | None,
    ) -> tuple[MergeResult, Adjustment | None]:
        """Put the whole history, which was asked anew for `span`, in place of what is stored.

        `history` has `count` candles in COPY's form. What is stored and Kite does not answer for
        is kept, if it is before them or of another token; an adjustment multiplies it, and is
        returned, unless what is stored shows none.
        """
        covered = self._begin(cursor, series)
        params = self._params(series, span)
        cursor.execute(self._render("create_stage"))
        history.seek(0)
        cursor.copy_expert(self._render("copy_to_stage"), history, _COPY_BYTES)
        cursor.execute(self._render("choose_unreached"), params)
        (same,) = fetch_one(cursor, self._render("count_as_staged"), params)
        if adjustment is not None and not self._adjust(cursor, params, now, adjustment):
            adjustment = None
        with self._writing(cursor):
            cursor.execute(self._render("delete_reached"), params)
            before = cursor.rowcount
            cursor.execute(self._render("insert_staged"))
        (kept,) = fetch_one(cursor, SQL["count_unreached"])
        (exact,) = fetch_one(cursor, self._render("count_as_staged"), params)
        self._prove(cursor, series, span, kept + count, is_exact=exact == count)
        self._cover(cursor, series, add_covered(covered, span, now))
        updated = min(before, count)
        result = MergeResult(inserted=count - updated, updated=updated, changed=updated - same)
        return result, adjustment

    def was_adjusted(self, cursor: Cursor, series: Series, now: datetime) -> bool:
        """Whether an adjustment that was found at this moment is stored, and the history with it.

        To store it once more would multiply once more what Kite does not answer for.
        """
        key = (series.target.instrument_id, series.interval.name, now)
        (is_stored,) = fetch_one(cursor, self._render("was_adjusted"), key)
        return bool(is_stored)

    def close(self, cursor: Cursor, series: Series, span: Span, now: datetime) -> None:
        """Note that Kite no longer answers for this span."""
        self._cover(cursor, series, add_covered(self._begin(cursor, series), span, now))

    def _begin(self, cursor: Cursor, series: Series) -> list[Covered]:
        """Wait for other runs, find no functions but PostgreSQL's own, and read what is covered."""
        lock_name(cursor, CANDLES.name)
        cursor.execute(SQL["set_path"], (_OWN_FUNCTIONS,))
        instrument_id = series.target.instrument_id
        coverage = self.read_coverage(cursor, [instrument_id], series.interval)
        return coverage.get(instrument_id, [])

    def _adjust(
        self, cursor: Cursor, params: Mapping[str, Any], now: datetime, found: Adjustment
    ) -> bool:
        """Multiply and record, if what is stored shows the adjustment; returns whether it does.

        Another run may have stored the history meanwhile, and the few candles that were compared
        may have been corrected in a way that looks like a factor.
        """
        row = {
            **params,
            "factor": found.factor,
            "found_at": now,
            "compared_from": found.compared.begin,
            "compared_to": found.compared.end,
        }
        (is_adjusted,) = fetch_one(cursor, self._render("is_adjusted"), row)
        if is_adjusted:
            with self._writing(cursor):
                cursor.execute(self._render("scale_unreached"), row)
                cursor.execute(self._render("insert_adjustment"), row)
        return bool(is_adjusted)

    def _read_candles(self, cursor: Cursor, series: Series, span: Span) -> list[Candle]:
        cursor.execute(self._render("read_candles"), self._params(series, span))
        return list(map(Candle._make, cursor.fetchall()))

    def _delete(
        self, cursor: Cursor, series: Series, span: Span, moments: Sequence[datetime]
    ) -> None:
        if moments:
            params = {**self._params(series, span), "moments": list(moments)}
            cursor.execute(self._render("delete_candles"), params)

    def _copy(self, cursor: Cursor, lines: IO[bytes]) -> None:
        cursor.copy_expert(self._render("copy_candles"), lines, _COPY_BYTES)

    @contextmanager
    def _writing(self, cursor: Cursor) -> Iterator[None]:
        """What the body sets off, also at the end of the transaction, is over when it ends."""
        if not self.hooks:
            yield
            return
        cursor.execute(SQL["set_path"], (self.search_path,))
        yield
        cursor.execute(SQL["fire_deferred"])
        cursor.execute(SQL["set_path"], (_OWN_FUNCTIONS,))

    def _prove(
        self, cursor: Cursor, series: Series, span: Span, expected: int, *, is_exact: bool
    ) -> None:
        """Look whether the table holds what was sent, before anybody is told that it does."""
        (found,) = fetch_one(cursor, self._render("count_candles"), self._params(series, span))
        if found == expected and is_exact:
            return
        suspects = f" Here that may be: {', '.join(self.hooks)}." if self.hooks else ""
        raise DatabaseError(
            f"Nothing of {series.name} was stored: {expected:,} candles were to be in "
            f"{CANDLES.name}, and {found:,} are there, or others, after they were written. "
            f"Triggers, rules and row security do such things.{suspects} Take away, or change, "
            "what keeps candles from being stored as they are."
        )

    def _cover(self, cursor: Cursor, series: Series, rows: Iterable[Covered]) -> None:
        key = (series.target.instrument_id, series.interval.name)
        values = [(*key, *row) for row in rows]
        places = joined([sql.SQL("%s")] * len(values))
        with self._writing(cursor):
            cursor.execute(self._render("delete_coverage"), key)
            cursor.execute(self._render("insert_coverage", rows=places), values)

    def _params(self, series: Series, span: Span) -> dict[str, Any]:
        return {
            "instrument_id": series.target.instrument_id,
            "interval": series.interval.name,
            "begin": span.begin,
            "end": span.end,
            "begins": [each.begin for each in series.elsewhere],
            "ends": [each.end for each in series.elsewhere],
        }

    def _render(self, name: str, **parts: sql.Composable) -> sql.Composed:
        return compose(
            SQL[name],
            candles=self.table.identifier,
            coverage=self.coverage.identifier,
            adjustments=self.adjustments.identifier,
            **parts,
        )
