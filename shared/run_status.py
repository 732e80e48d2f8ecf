"""`--status`: the last runs, and whether each DAG's list is fresh. Made for monitoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from shared.config.config_loader import ConfigLoader
from shared.console import say
from shared.freshness import fresh_since
from shared.kite_login import IST
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.run_history import RecordedRun

SHOWN_RUNS = 10
NEWEST_ROWS = (
    "SELECT max(last_updated) AT TIME ZONE current_setting('TimeZone')"
    f" FROM {INSTRUMENT_TABLE.name}"
)
# Within 80 columns up to a million rows.
_LINE = "{:>4} {:>3} {:<16} {:<9} {:>7} {:>8} {:>8} {:>8} {:>8}"
_COLUMNS = (
    *("run", "DAG", "started (IST)", "status", "seconds"),
    *("fetched", "rejected", "inserted", "updated"),
)


def show_status(dag_ids: Sequence[int], *, now: datetime | None = None) -> bool:
    """Show the last runs (of these DAGs, or of all) and return whether every list is fresh.

    Raises ConfigurationError or DatabaseError if the history cannot be read.
    """
    wanted = {"dag_ids": list(dag_ids) or None, "limit": SHOWN_RUNS}
    config = ConfigLoader.load_database_config()
    holidays = ConfigLoader.load_holidays()
    since = fresh_since(now or datetime.now(IST), holidays)
    with DatabaseManager(asdict(config)) as manager:
        if not manager.run_in_transaction(run_history.is_kept):
            return _judge_by_rows(manager, since)
        runs = [RecordedRun(*row) for row in manager.fetch_all(run_history.READ_RUNS, wanted)]
        loads = manager.fetch_all(run_history.READ_LAST_LOADS, wanted)
    if runs:
        for line in (_COLUMNS, *map(_describe_run, runs)):
            say(_LINE.format(*line).rstrip())
        _say_remarks(runs)
    if not loads:
        say("STALE: nothing was ever loaded.")
    verdicts = [_is_fresh(since, *load) for load in loads]
    return bool(verdicts) and all(verdicts)


def _judge_by_rows(manager: DatabaseManager, since: datetime) -> bool:
    """Without a history (DB_USER may not make one) the newest rows tell how old the list is."""
    name = INSTRUMENT_TABLE.name
    rows = manager.fetch_all(NEWEST_ROWS) if manager.has_relation(name) else []
    if not rows or rows[0][0] is None:
        say("STALE: nothing was ever loaded (there is no history of runs).")
        return False
    say(f"There is no history of runs; the newest rows of {name} have to tell.")
    return _judge(name, rows[0][0], since)


def _describe_run(run: RecordedRun) -> tuple[str, ...]:
    return (
        str(run.run_id),
        str(run.dag_id),
        f"{run.started_at.astimezone(IST):%Y-%m-%d %H:%M}",
        run.status,
        f"{(run.ended_at - run.started_at).total_seconds():.1f}",
        *map(_count, (run.fetched, run.rejected, run.inserted, run.updated)),
    )


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _say_remarks(runs: Sequence[RecordedRun]) -> None:
    """What the table has no room for: the last run's error, a replay, a list that came twice."""
    last = runs[0]
    if last.status == "failed":
        say(f"\nRun {last.run_id} failed: {last.error}")
    elif last.source != run_history.API_SOURCE:
        say(f"\nRun {last.run_id} imported a saved dump:\n{last.source}")
    if not (last.succeeded and last.dump_sha256):
        return
    before = next((run for run in runs[1:] if run.dag_id == last.dag_id and run.succeeded), None)
    if before and before.dump_sha256 == last.dump_sha256:
        say(f"\nRun {last.run_id} brought the same list, byte for byte, as run {before.run_id}.")


def _is_fresh(
    since: datetime, dag_id: int, dag_name: str, source: str | None, loaded_at: datetime | None
) -> bool:
    name = f"DAG {dag_id} {dag_name}"
    expected = f"Expected: a load since {since:%a %d %b %Y %H:%M IST}."
    if source is None:
        say(f"\nSTALE: {name} was never loaded.\n{expected}")
        return False
    if loaded_at is None:
        say(f"\nSTALE: {name} holds the list of a saved dump:\n{source}\n{expected}")
        return False
    return _judge(name, loaded_at, since)


def _judge(name: str, loaded_at: datetime, since: datetime) -> bool:
    expected = f"Expected: a load since {since:%a %d %b %Y %H:%M IST}."
    when = f"{loaded_at.astimezone(IST):%a %d %b %Y %H:%M IST}"
    if loaded_at < since:
        say(f"\nSTALE: {name} was last loaded on\n{when}. {expected}")
        return False
    say(f"\nFRESH: {name} was loaded on\n{when}.")
    return True
