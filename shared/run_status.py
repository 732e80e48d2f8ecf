"""`status`: the last runs, and whether each DAG's data are fresh (ruling 31). For monitoring."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from typing import Any

from shared import run_lock
from shared.calendar import IST, Freshness
from shared.config.config_loader import ConfigLoader
from shared.console import say, write_data
from shared.dag_discovery import DAG
from shared.exceptions import StockIngestionError
from shared.feed import API_SOURCE, Feed
from shared.models.table import Table
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.relations import find_relation, only_own_functions
from shared.utils.run_history import LastLoad, RecordedRun
from shared.utils.staged_merge import has_time_zone

SHOWN_RUNS = 10

# How many rows of the last list are in the table. Both moments were written in one transaction:
# they are equal, whatever the time zones are. The history keeps those that have one in UTC.
COUNT_ROWS = "(SELECT count(*) FROM {table} AS t WHERE t.{column} = last.moment)"

# The newest moment that can be, and how many rows are later than that. The moments are read in the
# session's time zone.
NEWEST_ROWS = """
SELECT max(moment) FILTER (WHERE isfinite(moment) AND moment <= %(limit)s),
       count(*) FILTER (WHERE moment > %(limit)s)
FROM (SELECT {column}::timestamptz AS moment FROM {table}) AS t
"""

_NO_HISTORY = """\
There is no history of runs: the newest rows had to tell. They cannot tell
whether the list is a new one, and whole."""

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


@dataclass(frozen=True)
class _Verdict:
    """Whether a DAG's data are fresh: `fresh`, `stale`, or `clock` where that cannot be told."""

    id: int
    name: str
    schedule: str
    verdict: str = "stale"
    reason: str = ""
    loaded_at: datetime | None = None
    expected_since: datetime | None = None


def read_clocks(manager: DatabaseManager) -> tuple[datetime, datetime]:
    """What it is now by this machine's clock, and by that of the database server."""
    [(server_now,)] = manager.fetch_all("SELECT clock_timestamp()")
    return datetime.now(IST), server_now


def show_status(
    judged: Sequence[DAG],
    dag_ids: Sequence[int],
    *,
    as_json: bool = False,
    clocks: Callable[[DatabaseManager], tuple[datetime, datetime]] = read_clocks,
) -> bool:
    """Show the last runs (of these ids, or all) and a verdict for each DAG.

    Returns whether all of the DAGs are fresh. Raises ConfigurationError or DatabaseError if the
    history or a table cannot be read.
    """
    holidays = ConfigLoader.load_holidays()
    with DatabaseManager(asdict(ConfigLoader.load_database_config())) as manager:
        now = _Now(*clocks(manager), holidays)
        has_history = manager.run_in_transaction(run_history.is_kept)
        runs = _read_runs(manager, dag_ids) if has_history else []
        verdicts = [_judge(manager, dag, now, has_history) for dag in judged]
    if as_json:
        document = {"dags": [*map(asdict, verdicts)], "runs": [run._asdict() for run in runs]}
        write_data(json.dumps(document, indent=1, default=_as_text))
    else:
        for line in (_COLUMNS, *map(_describe_run, runs)) if runs else ():
            say(_LINE.format(*line).rstrip())
        verdict_lines = [f"{each.verdict.upper()}: {each.reason}" for each in verdicts]
        for text in (*_find_remarks(runs), *verdict_lines):
            say(f"\n{text}")
    return all(each.verdict == "fresh" for each in verdicts)


def _as_text(moment: datetime) -> str:
    return moment.astimezone(IST).isoformat()


def _read_runs(manager: DatabaseManager, dag_ids: Sequence[int]) -> list[RecordedRun]:
    """The last runs. One that is recorded as running, and holds no lock, has failed."""
    wanted = {"dag_ids": list(dag_ids) or None, "limit": SHOWN_RUNS}

    def read() -> list[RecordedRun]:
        found = manager.fetch_all(run_history.SQL["read_runs"], wanted)
        return [RecordedRun(*row) for row in found]

    running = [run for run in read() if run.status == "running"]
    ended = {run.run_id for run in running if run_lock.has_ended(run.host)}
    return [  # read once more: what has ended meanwhile may have ended well
        run._replace(status="failed", error=run_history.ENDED_SILENTLY)
        if run.run_id in ended and run.status == "running"
        else run
        for run in read()
    ]


def _describe_run(run: RecordedRun) -> tuple[str, ...]:
    seconds = f"{(run.ended_at - run.started_at).total_seconds():.1f}"
    return (
        str(run.run_id),
        str(run.dag_id),
        f"{run.started_at.astimezone(IST):%Y-%m-%d %H:%M}",
        run.status,
        # The machine's clock began it and the database server's ended it.
        "-" if run.ended_at == run.started_at else seconds if len(seconds) <= 7 else "?",
        *map(_count, (run.fetched, run.rejected, run.inserted, run.updated)),
    )


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _find_remarks(runs: Sequence[RecordedRun]) -> list[str]:
    """What the table has no room for: errors, a replay, a list that came twice."""
    remarks = [f"Run {run.run_id} failed: {run.error}" for run in runs if run.status == "failed"]
    good = [run for run in runs if run.status == "succeeded" and run.dag_id == runs[0].dag_id]
    if good and good[0] is runs[0]:
        last, *before = good
        if last.source != API_SOURCE:
            remarks.append(f"Run {last.run_id} imported a saved dump:\n{last.source}")
        if before and last.dump_sha256 and before[0].dump_sha256 == last.dump_sha256:
            same = f"the same list, byte for byte, as run {before[0].run_id}"
            remarks.append(f"Run {last.run_id} brought {same}.")
    return remarks


def _judge(manager: DatabaseManager, dag: DAG, now: _Now, has_history: bool) -> _Verdict:
    name = f"DAG {dag.dag_id} {dag.name}"
    verdict = _Verdict(dag.dag_id, dag.name, dag.schedule)
    try:
        feed = dag.load_feed()
    except StockIngestionError as exc:
        return replace(verdict, reason=f"{name} cannot be judged:\n{exc}")
    promise = (feed.due_from, feed.changes_daily) if feed else (None, False)
    freshness = Freshness(dag.schedule, *promise, dag.grace_minutes)
    since = freshness.fresh_since(now.latest, now.holidays)
    verdict = replace(verdict, expected_since=since)
    table = feed.table if feed and feed.table.is_snapshot else None
    if not has_history:
        return _judge_by_rows(manager, name, table, now, verdict)
    load = _read_load(manager, dag, feed)
    if load is None:
        expected = f"Expected: a load since {_in_words(since)}."
        return replace(verdict, reason=f"{name} was never loaded.\n{expected}")
    verdict = replace(verdict, loaded_at=load.served_at)
    if fault := _find_ahead(name, load, now):
        return replace(verdict, verdict="clock", reason=fault)
    repeat = _describe_repeat(load, freshness, now.holidays)
    fault = _find_lost_rows(name, load, table) or _find_old_list(name, load, since, repeat)
    if fault:
        return replace(verdict, reason=fault)
    return replace(verdict, verdict="fresh", reason=_describe_load(name, load.served_at, repeat))


def _read_load(manager: DatabaseManager, dag: DAG, feed: Feed | None) -> LastLoad | None:
    """The DAG's last good run, and how much of a snapshot is in its table."""
    table = feed.table if feed and feed.table.is_snapshot else None
    is_there = table is not None and _is_there(manager, table)
    zone = " AT TIME ZONE 'UTC'" if table and is_there and _has_zone(manager, table) else ""
    count = "NULL"
    if table and is_there:
        count = COUNT_ROWS.format(table=table.name, column=table.last_updated)
    query = run_history.SQL["read_last_load"].format(stored_rows=count, zone=zone)
    # A file that was read into a table that is no snapshot has taken nothing away.
    also_files = feed is None or feed.table.is_snapshot
    rows = manager.fetch_all(query, {"dag_id": dag.dag_id, "also_files": also_files})
    return LastLoad(*rows[0]) if rows else None


def _is_there(manager: DatabaseManager, table: Table) -> bool:
    return manager.run_in_transaction(lambda cursor: find_relation(cursor, table.name)).exists


def _has_zone(manager: DatabaseManager, table: Table) -> bool:
    def work(cursor: Any) -> bool:
        relation = find_relation(cursor, table.name)
        with only_own_functions(cursor):
            return has_time_zone(cursor, table, relation)

    return manager.run_in_transaction(work)


def _judge_by_rows(
    manager: DatabaseManager, name: str, table: Table | None, now: _Now, verdict: _Verdict
) -> _Verdict:
    """Without a history (DB_USER may not make one) the newest rows tell how old a snapshot is."""
    loaded_at: datetime | None = None
    ahead = 0
    if table and _is_there(manager, table):
        query = NEWEST_ROWS.format(table=table.name, column=table.last_updated)
        [(loaded_at, ahead)] = manager.fetch_all(query, {"limit": now.limit})
    verdict = replace(verdict, loaded_at=loaded_at)
    if ahead:
        fault = f"{name}: rows ahead of the clock: {ahead:,}.\n{now.describe()}"
        return replace(verdict, verdict="clock", reason=fault)
    if loaded_at is None:
        fault = f"{name} was never loaded, as far as can be told\nwithout a history of runs."
        return replace(verdict, reason=fault)
    since = verdict.expected_since
    assert since is not None  # the caller has set it
    if loaded_at < since:
        fault = _describe_old_load(name, loaded_at, since)
        return replace(verdict, reason=f"{fault}\n{_NO_HISTORY}")
    reason = f"{_describe_load(name, loaded_at)}\n{_NO_HISTORY}"
    return replace(verdict, verdict="fresh", reason=reason)


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
    first = f"{name}: run {load.run_id} is ahead of the clock."
    return "\n".join((first, *lines, now.describe()))


def _find_lost_rows(name: str, load: LastLoad, table: Table | None) -> str | None:
    if table is None or (load.rows and load.stored_rows == load.rows):
        return None
    found = f"has {load.stored_rows:,} rows now" if load.stored_rows is not None else "is not there"
    return (
        f"{name}: its table is not as it was stored.\n"
        f"Run {load.run_id} ({_in_words(load.started_at)}) stored {load.rows:,} rows.\n"
        f"Of its list, {table.name} {found}.\n"
        "Something else has changed it since. Run the DAG again: it stores the list."
    )


def _find_old_list(name: str, load: LastLoad, since: datetime, repeat: str) -> str | None:
    if load.served_at is None:
        return (
            f"{name} holds the list of a saved dump:\n{load.source}\n"
            f"Expected: a load since {_in_words(since)}."
        )
    if load.served_at < since:
        return f"{_describe_old_load(name, load.served_at, since)}\n{repeat}".rstrip()
    if repeat and load.first_started_at < since:
        return (
            f"{name} was last loaded on\n"
            f"{_in_words(load.served_at)}. {repeat}\n"
            f"Expected: a new list since {_in_words(since)}.\n"
            "Run the DAG again later. A day without trading belongs in calendar.holidays."
        )
    return None


def _describe_repeat(load: LastLoad, freshness: Freshness, holidays: Collection[date]) -> str:
    """Whose list it is, where the source has served the list of an earlier day."""
    if not freshness.changes_daily or load.served_at is None:
        return ""
    day = freshness.day_of(load.first_started_at, holidays)
    if day >= freshness.day_of(load.served_at, holidays):
        return ""
    return (
        f"It has the list of {day:%a %d %b %Y},\nthe same list as that of run {load.first_run_id} "
        f"({_in_words(load.first_started_at)})."
    )


def _describe_old_load(name: str, loaded_at: datetime, since: datetime) -> str:
    return (
        f"{name} was last loaded on\n{_in_words(loaded_at)}. "
        f"Expected: a load since {_in_words(since)}."
    )


def _describe_load(name: str, loaded_at: datetime | None, repeat: str = "") -> str:
    assert loaded_at is not None  # else it is stale
    return f"{name} was loaded on\n{_in_words(loaded_at)}. {repeat}".rstrip()


def _in_words(moment: datetime) -> str:
    return f"{moment.astimezone(IST):%a %d %b %Y %H:%M IST}"
