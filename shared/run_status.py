"""`--status`: the last runs, and whether each DAG's list is fresh. Made for monitoring."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, time
from typing import Any

from shared.calendar import IST, Freshness
from shared.config.config_loader import ConfigLoader
from shared.console import say
from shared.feed import API_SOURCE
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.relations import find_relation, only_own_functions
from shared.utils.run_history import LastLoad, RecordedRun
from shared.utils.staged_merge import has_time_zone

SHOWN_RUNS = 10
READ_CLOCK = "SELECT clock_timestamp()"

# The DAG that stores INSTRUMENT_TABLE.
_INSTRUMENT_DAG = 1
FRESHNESS = {_INSTRUMENT_DAG: Freshness(due_from=time(8, 0), changes_daily=True)}
DEFAULT_FRESHNESS = Freshness()

# How many rows of the last list are in the table. Both moments were written in one transaction:
# they are equal, whatever the time zones are. The history keeps those that have one in UTC.
COUNT_ROWS = (
    "(SELECT count(*) FROM {table} AS t WHERE last.dag_id = {dag_id} AND t.last_updated = {moment})"
)

# The newest moment that can be, and how many rows are later than that. The moments are read in the
# session's time zone.
NEWEST_ROWS = """
SELECT max(moment) FILTER (WHERE isfinite(moment) AND moment <= %(limit)s),
       count(*) FILTER (WHERE moment > %(limit)s)
FROM (SELECT last_updated::timestamptz AS moment FROM {table}) AS t
"""

# Within 80 columns up to a million rows.
_LINE = "{:>4} {:>3} {:<16} {:<9} {:>7} {:>8} {:>8} {:>8} {:>8}"
_COLUMNS = (
    *("run", "DAG", "started (IST)", "status", "seconds"),
    *("fetched", "rejected", "inserted", "updated"),
)


@dataclass(frozen=True)
class _Now:
    """What it is now: by the clock of this machine, and by that of the database server.

    Which of them is right cannot be known: a list has to be fresh by the later one, and no moment
    may be ahead of the earlier one.
    """

    here: datetime
    server: datetime
    holidays: Collection[date]

    @property
    def latest(self) -> datetime:
        return max(self.here, self.server)

    @property
    def limit(self) -> datetime:
        return min(self.here, self.server) + run_history.CLOCK_TOLERANCE

    def describe(self) -> str:
        """What the clocks say, and the way out if they are behind what is stored."""
        return (
            f"Now it is {_in_words(self.here)} by the clock of this machine,\n"
            f"and {_in_words(self.server)} by that of the database server.\n"
            'Set the wrong clock right; then see "A clock that was ahead" in\n'
            "docs/production.md."
        )


def show_status(dag_ids: Sequence[int], *, now: datetime | None = None) -> bool:
    """Show the last runs (of these DAGs, or of all) and return whether every list is fresh.

    Raises ConfigurationError or DatabaseError if the history or the table cannot be read.
    """
    wanted = {"dag_ids": list(dag_ids) or None, "limit": SHOWN_RUNS}
    config = ConfigLoader.load_database_config()
    holidays = ConfigLoader.load_holidays()
    with DatabaseManager(asdict(config)) as manager:
        [(server_now,)] = manager.fetch_all(READ_CLOCK)
        clocks = _Now(now or datetime.now(IST), server_now, holidays)
        table = _find_table(manager)
        if not manager.run_in_transaction(run_history.is_kept):
            return _judge_by_rows(manager, table, clocks)
        runs = [RecordedRun(*row) for row in manager.fetch_all(run_history.READ_RUNS, wanted)]
        zone = " AT TIME ZONE 'UTC'" if table and _has_zone(manager) else ""
        moment = f"(CASE WHEN {run_history.IS_REAL_MOMENT} THEN last.list_moment END{zone})"
        parts = {"moment": moment, "table": table, "dag_id": _INSTRUMENT_DAG}
        count = COUNT_ROWS.format(**parts) if table else "NULL"
        query = run_history.READ_LAST_LOADS.format(stored_rows=count, moment=moment)
        loads = manager.fetch_all(query, wanted)
    if runs:
        for line in (_COLUMNS, *map(_describe_run, runs)):
            say(_LINE.format(*line).rstrip())
        _say_remarks(runs)
    if not loads:
        say("STALE: nothing was ever loaded.")
    verdicts = [_judge(clocks, *row) for row in loads]
    return bool(verdicts) and all(verdicts)


def _find_table(manager: DatabaseManager) -> str | None:
    """The instrument table as a statement names it; None if it is not there."""
    table = manager.run_in_transaction(lambda cursor: find_relation(cursor, INSTRUMENT_TABLE.name))
    return table.name if table.exists else None


def _has_zone(manager: DatabaseManager) -> bool:
    def work(cursor: Any) -> bool:
        relation = find_relation(cursor, INSTRUMENT_TABLE.name)
        with only_own_functions(cursor):
            return has_time_zone(cursor, INSTRUMENT_TABLE, relation)

    return manager.run_in_transaction(work)


def _judge_by_rows(manager: DatabaseManager, table: str | None, now: _Now) -> bool:
    """Without a history (DB_USER may not make one) the newest rows tell how old the list is."""
    query = NEWEST_ROWS.format(table=table)
    rows = manager.fetch_all(query, {"limit": now.limit}) if table else []
    loaded_at, ahead = rows[0] if rows else (None, 0)
    if loaded_at is None and not ahead:
        say("STALE: nothing was ever loaded (there is no history of runs).")
        return False
    say(
        f"There is no history of runs; the newest rows of {table} have to tell.\n"
        "They cannot tell whether the list is a new one, and whole."
    )
    since = FRESHNESS[_INSTRUMENT_DAG].fresh_since(now.latest, now.holidays)
    fault = None
    if ahead:
        fault = f"CLOCK: {table} has rows ahead of the clock: {ahead:,}.\n{now.describe()}"
    elif loaded_at < since:
        fault = _describe_old_load(str(table), loaded_at, since)
    say(f"\n{fault or _describe_fresh_load(str(table), loaded_at)}")
    return fault is None


def _describe_run(run: RecordedRun) -> tuple[str, ...]:
    seconds = f"{(run.ended_at - run.started_at).total_seconds():.1f}"
    return (
        str(run.run_id),
        str(run.dag_id),
        f"{run.started_at.astimezone(IST):%Y-%m-%d %H:%M}",
        run.status,
        # The machine's clock began it and the database server's ended it.
        seconds if len(seconds) <= len("seconds") else "?",
        *map(_count, (run.fetched, run.rejected, run.inserted, run.updated)),
    )


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _say_remarks(runs: Sequence[RecordedRun]) -> None:
    """What the table has no room for: the last run's error, a replay, a list that came twice."""
    last = runs[0]
    if last.status == "failed":
        say(f"\nRun {last.run_id} failed: {last.error}")
    elif last.source != API_SOURCE:
        say(f"\nRun {last.run_id} imported a saved dump:\n{last.source}")
    if not (last.succeeded and last.dump_sha256):
        return
    before = next((run for run in runs[1:] if run.dag_id == last.dag_id and run.succeeded), None)
    if before and before.dump_sha256 == last.dump_sha256:
        say(f"\nRun {last.run_id} brought the same list, byte for byte, as run {before.run_id}.")


def _judge(now: _Now, dag_id: int, dag_name: str, *values: Any) -> bool:
    """Say whether a DAG's list is fresh, and return it. `values` are those of a LastLoad."""
    name = f"DAG {dag_id} {dag_name}"
    freshness = FRESHNESS.get(dag_id, DEFAULT_FRESHNESS)
    since = freshness.fresh_since(now.latest, now.holidays)
    if values[0] is None:
        say(f"\nSTALE: {name} was never loaded.\nExpected: a load since {_in_words(since)}.")
        return False
    load = LastLoad(*values)
    repeat = _describe_repeat(load, freshness, now.holidays)
    fault = _find_ahead(name, load, now)
    if fault is None and dag_id == _INSTRUMENT_DAG:
        fault = _find_lost_rows(name, load)
    if fault is None:
        fault = _find_old_list(name, load, since, repeat)
    say(f"\n{fault or _describe_fresh_load(name, load.served_at, repeat)}")
    return fault is None


def _find_ahead(name: str, load: LastLoad, now: _Now) -> str | None:
    moments = {
        "It started": load.started_at,
        "It ended": load.ended_at,
        "Its rows are of": load.list_moment,
        "Its list came": load.served_at,
    }
    ahead = {what: at for what, at in moments.items() if at is not None and at > now.limit}
    if not ahead:
        return None
    lines = [f"{what} {_in_words(at)}." for what, at in ahead.items()]
    return "\n".join(
        (f"CLOCK: {name}: run {load.run_id} is ahead of the clock.", *lines, now.describe())
    )


def _find_lost_rows(name: str, load: LastLoad) -> str | None:
    if load.rows and load.stored_rows == load.rows:
        return None
    table = INSTRUMENT_TABLE.name
    found = f"has {load.stored_rows:,} rows now" if load.stored_rows is not None else "is not there"
    return (
        f"STALE: {name}: its table is not as it was stored.\n"
        f"Run {load.run_id} ({_in_words(load.started_at)}) stored {load.rows:,} rows.\n"
        f"Of its list, {table} {found}.\n"
        "Something else has changed it since. Run the DAG again: it stores the list."
    )


def _find_old_list(name: str, load: LastLoad, since: datetime, repeat: str | None) -> str | None:
    if load.served_at is None:
        return (
            f"STALE: {name} holds the list of a saved dump:\n{load.source}\n"
            f"Expected: a load since {_in_words(since)}."
        )
    if load.served_at < since:
        return "\n".join(filter(None, (_describe_old_load(name, load.served_at, since), repeat)))
    if repeat and load.first_started_at < since:
        return (
            f"STALE: {name} was last loaded on\n"
            f"{_in_words(load.served_at)}. {repeat}\n"
            f"Expected: a new list since {_in_words(since)}.\n"
            "Run the DAG again later. A day without trading belongs in calendar.holidays."
        )
    return None


def _describe_repeat(
    load: LastLoad, freshness: Freshness, holidays: Collection[date]
) -> str | None:
    """Whose list it is, where the source has served the list of an earlier day."""
    if not freshness.changes_daily or load.served_at is None:
        return None
    day = freshness.day_of(load.first_started_at, holidays)
    if day >= freshness.day_of(load.served_at, holidays):
        return None
    return (
        f"It has the list of {day:%a %d %b %Y},\nthe same list as that of run {load.first_run_id} "
        f"({_in_words(load.first_started_at)})."
    )


def _describe_old_load(name: str, loaded_at: datetime, since: datetime) -> str:
    return (
        f"STALE: {name} was last loaded on\n{_in_words(loaded_at)}. "
        f"Expected: a load since {_in_words(since)}."
    )


def _describe_fresh_load(name: str, loaded_at: datetime | None, repeat: str | None = None) -> str:
    assert loaded_at is not None  # else it is stale
    return " ".join(filter(None, (f"FRESH: {name} was loaded on\n{_in_words(loaded_at)}.", repeat)))


def _in_words(moment: datetime) -> str:
    return f"{moment.astimezone(IST):%a %d %b %Y %H:%M IST}"
