"""`status`: the last runs, and whether each DAG's data are fresh (ruling 31). For monitoring."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from shared import run_lock
from shared.calendar import IST
from shared.config.config_loader import ConfigLoader
from shared.console import say, write_data
from shared.dag_discovery import DAG
from shared.feed import API_SOURCE
from shared.freshness import Now, judge, read_clocks
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.run_history import RecordedRun

SHOWN_RUNS = 10

# Within 80 columns up to a million rows.
_HEADER = " run DAG started (IST)    status    seconds  fetched rejected inserted  updated"
_LINE = "{:>4} {:>3} {:<16} {:<9} {:>7} {:>8} {:>8} {:>8} {:>8}"


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
    with DatabaseManager(asdict(ConfigLoader.load_database_config())) as manager:
        now = Now(*clocks(manager), ConfigLoader.load_calendar())
        has_history = manager.run_in_transaction(run_history.is_kept)
        runs = _read_runs(manager, dag_ids) if has_history else []
        verdicts = [judge(manager, dag, now, has_history) for dag in judged]
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
