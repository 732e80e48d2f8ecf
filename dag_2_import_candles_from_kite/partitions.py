"""The partitions of the table of candles: for each interval, a year of days or a month of others.

They are told by their bounds, not their names: what takes a span already, whoever made it, needs
nothing. Bounds are midnights in India. Takes a cursor inside a transaction and never commits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, time, timedelta
from typing import Any, NamedTuple

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor

from dag_2_import_candles_from_kite.candles import CANDLES
from dag_2_import_candles_from_kite.intervals import Interval
from shared.calendar import IST
from shared.exceptions import DatabaseError, TransientDatabaseError
from shared.utils.extras import attempt
from shared.utils.relations import Relation, find_relation
from shared.utils.sql import compose, fetch_one, listed, load_sql
from shared.utils.staged_merge import lock_name
from shared.utils.table_check import read_table

logger = logging.getLogger(__name__)
SQL = load_sql(__file__)

_MICROSECOND = timedelta(microseconds=1)
# PostgreSQL's codes: DAGs do not import the driver.
_NO_RIGHT = "42501"
_IN_DEFAULT = "23514"  # a check is violated: rows of the DEFAULT partition
_IS_THERE = "42P07"
_IN_USE = "55P03"


class Period(NamedTuple):
    """What a partition takes: [begin, end). `name` goes behind the interval's in its own name."""

    name: str
    begin: datetime
    end: datetime


def list_periods(interval: Interval, begin: datetime, end: datetime) -> list[Period]:
    """The years (of day candles) or months (of others) in India that [begin, end) touches."""
    periods = []
    at = _first_of_period(interval, begin)
    while begin < end and at < end:
        after = _first_of_period(interval, at + timedelta(days=366 if interval.is_day else 31))
        name = f"{at:%Y}" if interval.is_day else f"{at:%Y_%m}"
        periods.append(Period(name, at, after))
        at = after
    return periods


def ensure_partitions(
    cursor: Cursor,
    interval: Interval,
    begin: datetime,
    end: datetime,
    *,
    table: Relation | None = None,
) -> None:
    """Make the partitions of [begin, end) that are not there, for the candles of `interval`.

    `table` is where kite_candle is, if known: one look at the catalogs is enough then. A table that
    its owner has divided in another way, or not at all, stays as it is.

    Raises DatabaseError, with the statements for its owner, if the role may not, or if a DEFAULT
    partition has such candles; TransientDatabaseError if another session has the table locked.
    """
    _Tree(cursor, table or find_relation(cursor, CANDLES.name), interval).ensure(begin, end)


class Partitions:
    """Those that a run has found: what is known to be there is not looked for again.

    For one run: what others drop in the meantime is not noticed. Threads may share it.
    """

    def __init__(self, table: Relation) -> None:
        self._table = table
        self._known: set[tuple[str, datetime]] = set()

    def knows(self, interval: Interval, begin: datetime, end: datetime) -> bool:
        """Whether all of [begin, end) were found, so that nothing needs to be looked for."""
        return _names(interval, list_periods(interval, begin, end)) <= self._known

    def ensure(self, cursor: Cursor, interval: Interval, begin: datetime, end: datetime) -> None:
        """As ensure_partitions. Best at the beginning of a transaction: what is found counts."""
        if self.knows(interval, begin, end):
            return
        # Whole periods, as those are what is remembered.
        periods = list_periods(interval, begin, end)
        tree = _Tree(cursor, self._table, interval)
        if tree.ensure(periods[0].begin, periods[-1].end):
            self._known |= _names(interval, periods)


def ensure_next_partitions(cursor: Cursor, interval: Interval, now: datetime) -> None:
    """Make those of this and the next year or month, if the role may; `check` tells if not."""
    (this,) = list_periods(interval, now, now + _MICROSECOND)
    if not find_lacking_partitions(cursor, [interval], now):
        ensure_partitions(cursor, interval, now, this.end + _MICROSECOND)


def find_lacking_partitions(
    cursor: Cursor, intervals: Iterable[Interval], now: datetime, since: datetime | None = None
) -> list[str]:
    """The statements that the table's owner has to run, as the role itself may not.

    For the candles from `since` on (default: this year's or month's) to the end of the next year or
    month. Empty if nothing lacks, or the role may make it, or there is no table yet.
    """
    table = find_relation(cursor, CANDLES.name)
    statements: list[str] = []
    for interval in intervals:
        tree = _Tree(cursor, table, interval)
        (this,) = list_periods(interval, now, now + _MICROSECOND)
        (following,) = list_periods(interval, this.end, this.end + _MICROSECOND)
        found, parts = tree.look(min(since or this.begin, this.begin), following.end)
        if parts and not found.may_make:
            statements += tree.render(found, parts)
    return statements


def _names(interval: Interval, periods: Iterable[Period]) -> set[tuple[str, datetime]]:
    return {(interval.name, period.begin) for period in periods}


class _Found(NamedTuple):
    """The row of read_partitions. `rest` and `branch_rest` are the DEFAULT partitions' names."""

    is_divided: bool
    may_make: bool
    rest: str | None
    schema: str | None
    name: str | None
    branch_is_divided: bool
    branch_rest: str | None
    begins: Sequence[datetime] | None
    ends: Sequence[datetime] | None
    is_committed: bool

    @property
    def default(self) -> str | None:
        """The DEFAULT partition that takes what lacks."""
        return self.rest if self.name is None else self.branch_rest

    def find_lacking(self, periods: Iterable[Period]) -> list[Period]:
        """The parts of the periods that no partition takes, but for a DEFAULT one."""
        if not self.is_divided or (self.name is not None and not self.branch_is_divided):
            return []
        taken = list(zip(self.begins or (), self.ends or ()))
        return [part for period in periods for part in _subtract(period, taken)]


class _Tree:
    """The partitions of one interval."""

    def __init__(self, cursor: Cursor, table: Relation, interval: Interval) -> None:
        self._cursor = cursor
        self._table = table
        self._interval = interval

    def ensure(self, begin: datetime, end: datetime) -> bool:
        """Make what lacks. Returns whether nothing did, and what is there is committed."""
        found, parts = self.look(begin, end)
        if not parts:
            return found is not None and found.is_committed
        if found.may_make:
            # Another run, or thread, may be making them.
            lock_name(self._cursor, f"{CANDLES.name} partitions")
            found, parts = self.look(begin, end)
        if parts:
            self._make(found, parts)
        return False

    def look(self, begin: datetime, end: datetime) -> tuple[Any, list[Period]]:
        """What there is (_Found, None: no table), and which parts of the periods lack."""
        periods = list_periods(self._interval, begin, end)
        if not periods or not self._table.exists:
            return None, []
        values = {
            "oid": self._table.oid,
            "interval": self._interval.name,
            "begin": periods[0].begin,
            "end": periods[-1].end,
        }
        found = _Found(*fetch_one(self._cursor, SQL["read_partitions"], values))
        lacking = found.find_lacking(periods)
        return found, [part for part in lacking if part.begin < end and part.end > begin]

    def render(self, found: _Found, parts: Sequence[Period], *, moving: bool = False) -> list[str]:
        """The statements that make the parts; with `moving` they get the rows of the DEFAULT."""
        name = f"{CANDLES.name}_{self._interval.name}"
        is_new = found.name is None
        branch = sql.Identifier(found.schema or self._table.schema, found.name or name)
        fill: dict[str, sql.Composable] = {
            "table": self._table.identifier,
            "branch": branch,
            "interval": sql.Literal(self._interval.name),
        }
        if moving:
            fill |= self._find_move(found)
        statements = [compose(SQL["create_branch"], **fill)] if is_new else []
        for part in parts:
            leaf = sql.Identifier(self._table.schema, f"{name}_{part.name}")
            fill |= {"leaf": leaf, "begin": _bound(part.begin), "end": _bound(part.end)}
            statements.append(compose(SQL["create_leaf"], **fill))
            if moving and not is_new:
                statements.append(compose(SQL["move"], target=leaf, **fill))
            statements.append(compose(SQL["attach_leaf"], **fill))
        if moving and is_new:
            fill["begin"] = _bound(parts[0].begin)
            statements.append(compose(SQL["move"], target=branch, **fill))
        if is_new:
            statements.append(compose(SQL["attach_branch"], **fill))
        return [statement.as_string(self._cursor) for statement in statements]

    def _find_move(self, found: _Found) -> dict[str, sql.Composable]:
        there = read_table(self._cursor, self._table.name)
        assert there is not None
        return {"rest": sql.SQL(found.default or ""), "columns": listed(there.columns)}

    def _make(self, found: _Found, parts: Sequence[Period]) -> None:
        names = ", ".join(f"{CANDLES.name}_{self._interval.name}_{part.name}" for part in parts)
        if not found.may_make:
            if found.default is None:
                raise self._refuse(found, parts)
            return  # the candles go there
        error = attempt(self._cursor, ";\n".join(self.render(found, parts)))
        if error is None:
            self._cursor.execute("RELEASE extra")
            logger.info("made the partitions %s", names)
            return
        said = f"PostgreSQL said: {error.diag.message_primary}"
        if error.pgcode == _NO_RIGHT:
            raise self._refuse(found, parts) from error
        if error.pgcode == _IN_DEFAULT and found.default:
            raise self._refuse_default(found, parts) from error
        if error.pgcode == _IN_USE:
            raise TransientDatabaseError(
                f"The partitions {names} cannot be attached, another session is changing "
                f"{self._table} or one of its partitions: see pg_locks, then run again. {said}"
            ) from error
        if error.pgcode == _IS_THERE:
            raise DatabaseError(
                f"A partition of {self._table} for the candles of {names} cannot be made: a table "
                "of that name is there, and is no partition for them. If it has those candles, "
                f"attach it again (ALTER TABLE ... ATTACH PARTITION), else rename it. {said}"
            ) from error
        raise error

    def _refuse(self, found: _Found, parts: Sequence[Period]) -> DatabaseError:
        return DatabaseError(
            f"{self._table} has no partition for candles of {_describe(self._interval, parts)}, "
            "and DB_USER may make none. Let the table's owner run: "
            f"{'; '.join(self.render(found, parts))}"
        )

    def _refuse_default(self, found: _Found, parts: Sequence[Period]) -> DatabaseError:
        if found.name is None:
            # The interval's own table takes all of its candles.
            query = compose(SQL["read_span"], rest=sql.SQL(found.default or ""))
            first, last = fetch_one(self._cursor, query, (self._interval.name,))
            begin, end = min(first, parts[0].begin), max(last + _MICROSECOND, parts[-1].end)
            parts = list_periods(self._interval, begin, end)
        statements = "; ".join(self.render(found, parts, moving=True))
        return DatabaseError(
            f"The DEFAULT partition {found.default} has candles of "
            f"{_describe(self._interval, parts)}, for which {self._table} gets a partition of its "
            f"own. Let the table's owner move them: BEGIN; {statements}; COMMIT"
        )


def _first_of_period(interval: Interval, moment: datetime) -> datetime:
    local = moment.astimezone(IST)
    return datetime(local.year, 1 if interval.is_day else local.month, 1, tzinfo=IST)


def _subtract(period: Period, taken: Iterable[tuple[datetime, datetime]]) -> Iterator[Period]:
    """The parts of the period that none of the spans takes; those are in order."""
    at = period.begin
    for begin, end in taken:
        if at < min(begin, period.end):
            yield _cut(period, at, min(begin, period.end))
        at = max(at, end)
    if at < period.end:
        yield _cut(period, at, period.end)


def _cut(period: Period, begin: datetime, end: datetime) -> Period:
    """A part of a period; what begins within it has its beginning in its name."""
    local = begin.astimezone(IST)
    form = "%m%d" if local.time() == time() else "%m%d_%H%M%S"
    name = period.name if begin == period.begin else f"{period.name}_{local:{form}}"
    return Period(name, begin, end)


def _bound(moment: datetime) -> sql.Composable:
    """With its offset it means the same in any session."""
    return sql.Literal(moment.astimezone(IST).isoformat(" "))


def _describe(interval: Interval, parts: Sequence[Period]) -> str:
    last = (parts[-1].end - _MICROSECOND).astimezone(IST)
    return f"{interval.name} from {parts[0].begin.astimezone(IST):%Y-%m-%d} to {last:%Y-%m-%d}"
