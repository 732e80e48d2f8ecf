"""`status`: the last runs, and whether each DAG's data are fresh (ruling 31). For monitoring."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any

from shared import run_lock
from shared.calendar import IST, Freshness
from shared.config.config_loader import ConfigLoader
from shared.console import say, write_data
from shared.dag_discovery import DAG
from shared.exceptions import StockIngestionError
from shared.feed import API_SOURCE
from shared.models.table import Table
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.relations import find_relation, only_own_functions
from shared.utils.run_history import LastLoad, RecordedRun
from shared.utils.sql import fetch_one, load_sql
from shared.utils.staged_merge import has_time_zone

SHOWN_RUNS = 10

SQL = load_sql(Path(__file__).with_suffix(".sql"))

_NO_HISTORY = """\
There is no history of runs: the newest rows had to tell. They cannot tell
whether the list is a new one, and whole."""

# Within 80 columns up to a million rows.
_HEADER = " run DAG started (IST)    status    seconds  fetched rejected inserted  updated"
_LINE = "{:>4} {:>3} {:<16} {:<9} {:>7} {:>8} {:>8} {:>8} {:>8}"


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

    dag_id: int
    name: str
    schedule: str
    verdict: str
    reason: str
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
        text = json.dumps(document, indent=1, default=lambda at: at.astimezone(IST).isoformat())
        write_data(text)
    else:
        for line in (_HEADER, *map(_describe_run, runs)) if runs else ():
            say(line)
        judgements = (f"{each.verdict.upper()}: {each.reason}" for each in verdicts)
        for text in (*_find_remarks(runs), *judgements):
            say(f"\n{text}")
    return all(each.verdict == "fresh" for each in verdicts)


def _read_runs(manager: DatabaseManager, dag_ids: Sequence[int]) -> list[RecordedRun]:
    """The last runs. One that is recorded as running, and holds no lock, has failed."""
    wanted = {"dag_ids": list(dag_ids) or None, "limit": SHOWN_RUNS}

    def read() -> list[RecordedRun]:
        found = manager.fetch_all(run_history.SQL["read_runs"], wanted)
        return [RecordedRun(*row) for row in found]

    running = [run for run in read() if run.status == "running"]
    ended = {run.run_id for run in running if run_lock.has_ended(run.host)}
    failed: dict[str, Any] = {"status": "failed", "error": run_history.ENDED_SILENTLY}
    return [  # read once more: what has ended meanwhile may have ended well
        run._replace(**failed) if run.run_id in ended and run.status == "running" else run
        for run in read()
    ]


def _describe_run(run: RecordedRun) -> str:
    started_at = f"{run.started_at.astimezone(IST):%Y-%m-%d %H:%M}"
    seconds = f"{(run.ended_at - run.started_at).total_seconds():.1f}"
    if run.ended_at == run.started_at:  # it goes on, or was killed
        seconds = "-"
    elif len(seconds) > 7:  # this machine's clock began it and the database server's ended it
        seconds = "?"
    counts = (run.fetched, run.rejected, run.inserted, run.updated)
    shown = ("-" if count is None else f"{count:,}" for count in counts)
    return _LINE.format(run.run_id, run.dag_id, started_at, run.status, seconds, *shown)


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
    verdict = partial(_Verdict, dag.dag_id, dag.name, dag.schedule)
    try:
        feed = dag.load_feed()
    except StockIngestionError as exc:
        return verdict("stale", f"{name} cannot be judged:\n{exc}")
    promise = (feed.due_from, feed.changes_daily) if feed else (None, False)
    freshness = Freshness(dag.schedule, *promise, dag.grace_minutes)
    since = freshness.fresh_since(max(now.here, now.server), now.holidays)
    table = feed.table if feed and feed.table.is_snapshot else None
    if has_history:
        # A file that was read into a table that is no snapshot has taken nothing away.
        wanted = {"dag_id": dag.dag_id, "also_files": feed is None or table is not None}
        load = manager.run_in_transaction(partial(_read_load, table=table, wanted=wanted))
        word, reason = _judge_load(load, table, freshness, since, now)
        loaded_at = load and load.served_at
    else:
        judge = partial(_judge_rows, table=table, since=since, now=now)
        word, reason, loaded_at = manager.run_in_transaction(judge)
    return verdict(word, f"{name}{reason}", loaded_at, since)


def _read_load(cursor: Any, table: Table | None, wanted: dict[str, Any]) -> LastLoad | None:
    """The DAG's last good run, and how much of a snapshot is in its table."""
    zone, count = "", "NULL"
    if table and (relation := find_relation(cursor, table.name)).exists:
        with only_own_functions(cursor):
            zone = " AT TIME ZONE 'UTC'" if has_time_zone(cursor, table, relation) else ""
        count = SQL["count_rows"].format(table=table.name, column=table.last_updated)
    query = run_history.SQL["read_last_load"].format(stored_rows=f"({count})", zone=zone)
    cursor.execute(query, wanted)
    row = cursor.fetchone()
    return LastLoad(*row) if row else None


def _judge_load(
    load: LastLoad | None, table: Table | None, freshness: Freshness, since: datetime, now: _Now
) -> tuple[str, str]:
    """The verdict, and what follows the DAG's name in its reason."""
    expected = f"Expected: a load since {_in_words(since)}."
    if load is None:
        return "stale", f" was never loaded.\n{expected}"
    if fault := _find_ahead(load, now):
        return "clock", fault
    if table and (fault := _find_lost_rows(load, table)):
        return "stale", fault
    if load.served_at is None:
        return "stale", f" holds the list of a saved dump:\n{load.source}\n{expected}"
    repeat = _describe_repeat(load, load.served_at, freshness, now)
    if repeat and load.first_started_at < since <= load.served_at:
        return "stale", (
            f" was last loaded on\n{_in_words(load.served_at)}. {repeat}\n"
            f"Expected: a new list since {_in_words(since)}.\n"
            "Run the DAG again later. A day without trading belongs in calendar.holidays."
        )
    return _judge_moment(load.served_at, since, repeat)


def _judge_moment(loaded_at: datetime, since: datetime, note: str = "") -> tuple[str, str]:
    if loaded_at >= since:
        return "fresh", f" was loaded on\n{_in_words(loaded_at)}. {note}".rstrip()
    return "stale", (
        f" was last loaded on\n{_in_words(loaded_at)}. "
        f"Expected: a load since {_in_words(since)}.\n{note}".rstrip()
    )


def _judge_rows(
    cursor: Any, table: Table | None, since: datetime, now: _Now
) -> tuple[str, str, datetime | None]:
    """Without a history (DB_USER may not make one) the newest rows tell how old a snapshot is."""
    loaded_at, ahead = None, 0
    if table and find_relation(cursor, table.name).exists:
        query = SQL["newest_rows"].format(table=table.name, column=table.last_updated)
        loaded_at, ahead = fetch_one(cursor, query, {"limit": now.limit})
    if ahead:
        return "clock", f": rows ahead of the clock: {ahead:,}.\n{now.describe()}", loaded_at
    if loaded_at is None:
        return "stale", " was never loaded, as far as can be told\nwithout a history of runs.", None
    word, reason = _judge_moment(loaded_at, since)
    return word, f"{reason}\n{_NO_HISTORY}", loaded_at


def _find_ahead(load: LastLoad, now: _Now) -> str | None:
    moments = {
        "It started": load.started_at,
        "It ended": load.ended_at,
        "Its rows are of": load.list_moment,
        "Its list came": load.served_at,
    }
    ahead = [f"{what} {_in_words(at)}." for what, at in moments.items() if at and at > now.limit]
    if not ahead:
        return None
    return "\n".join((f": run {load.run_id} is ahead of the clock.", *ahead, now.describe()))


def _find_lost_rows(load: LastLoad, table: Table) -> str | None:
    if load.rows and load.stored_rows == load.rows:
        return None
    found = f"has {load.stored_rows:,} rows now" if load.stored_rows is not None else "is not there"
    return (
        ": its table is not as it was stored.\n"
        f"Run {load.run_id} ({_in_words(load.started_at)}) stored {load.rows:,} rows.\n"
        f"Of its list, {table.name} {found}.\n"
        "Something else has changed it since. Run the DAG again: it stores the list."
    )


def _describe_repeat(load: LastLoad, served_at: datetime, freshness: Freshness, now: _Now) -> str:
    """Whose list it is, where the source has served the list of an earlier day."""
    if not freshness.changes_daily:
        return ""
    day = freshness.day_of(load.first_started_at, now.holidays)
    if day >= freshness.day_of(served_at, now.holidays):
        return ""
    return (
        f"It has the list of {day:%a %d %b %Y},\nthe same list as that of run {load.first_run_id} "
        f"({_in_words(load.first_started_at)})."
    )


def _in_words(moment: datetime) -> str:
    return f"{moment.astimezone(IST):%a %d %b %Y %H:%M IST}"
