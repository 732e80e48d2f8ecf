"""`status`: the last runs, and whether each DAG's data are fresh (ruling 31). For monitoring."""

import logging
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from shared import run_lock
from shared.calendar import IST
from shared.config.config_loader import ConfigLoader
from shared.console import say, write_data, write_json
from shared.dag_discovery import DAG
from shared.exceptions import DatabaseError
from shared.feed import API_SOURCE, PART_SOURCE
from shared.freshness import (
    COLUMNS,
    FRESH,
    STALE,
    UNKNOWN,
    Now,
    Verdict,
    add_state,
    cannot_judge,
    enumerate_words,
    judge,
    read_clocks,
)
from shared.metrics import describe_metrics
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.run_history import RecordedRun

logger = logging.getLogger(__name__)

SHOWN_RUNS = 10

# Within 80 columns up to a million rows.
_HEADER = " run DAG started (IST)    status    seconds  fetched rejected inserted  updated"
_LINE = "{:>4} {:>3} {:<16} {:<9} {:>7} {:>8} {:>8} {:>8} {:>8}"


def show_status(
    judged: Sequence[DAG],
    dag_ids: Sequence[int],
    *,
    as_json: bool = False,
    as_metrics: bool = False,
    clocks: Callable[[DatabaseManager], tuple[datetime, datetime]] = read_clocks,
) -> str:
    """Show the last runs (of these ids, or all) and a verdict for each DAG.

    Returns the verdict on all of them: stale if one is stale, else unknown if that of one cannot be
    known, as when the database is away. Raises ConfigurationError for settings that are wrong.
    """
    config, calendar = asdict(ConfigLoader.load_database_config()), ConfigLoader.load_calendar()
    now, runs = None, []
    try:
        with DatabaseManager(config) as manager:
            now = Now(*clocks(manager), calendar)
            has_history = manager.run_in_transaction(run_history.is_kept)
            if has_history:
                runs = _read_runs(manager, dag_ids, only_last=as_metrics)
            verdicts = [
                add_state(manager, dag, judge(manager, dag, now, has_history)) for dag in judged
            ]
    except DatabaseError as exc:
        logger.error("%s", exc, exc_info=exc)
        now, runs, verdicts = None, [], [cannot_judge(dag, exc) for dag in judged]
    words = {each.verdict for each in verdicts}
    verdict = next(word for word in (STALE, UNKNOWN, FRESH) if word in words)
    if as_metrics:
        write_data(describe_metrics(verdicts, runs, now))
    elif as_json:
        dags, all_runs = [*map(asdict, verdicts)], [run._asdict() for run in runs]
        write_json({"verdict": verdict, "dags": dags, "runs": all_runs})
    elif now is not None:  # else the error that was logged has said it
        _say_status(verdicts, runs)
    return verdict


def _say_status(verdicts: Sequence[Verdict], runs: Sequence[RecordedRun]) -> None:
    for line in (_HEADER, *map(_describe_run, runs)) if runs else ():
        say(line)
    judgements = (
        "\n".join((f"{each.verdict.upper()}: {each.reason}", *_describe_state(each)))
        for each in verdicts
    )
    for text in (*_find_remarks(runs), *judgements):
        say(f"\n{text}")


def _describe_state(verdict: Verdict) -> list[str]:
    """The figures of the DAG in lines; a figure stays with its name."""
    figures = [f"{name}: {number:,}" for name, number in (verdict.state or {}).items()]
    return _wrap(", ".join(each.replace(" ", "\0") for each in figures)).splitlines()


def _wrap(text: str) -> str:
    """The text in lines that fit; a NUL is a blank at which none ends."""
    lines = textwrap.wrap(text, COLUMNS, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


def _read_runs(
    manager: DatabaseManager, dag_ids: Sequence[int], *, only_last: bool
) -> list[RecordedRun]:
    """The last runs; with `only_last`, of each DAG, or part, the last one of each status.

    One that is recorded as running, and holds no lock, has failed.
    """
    wanted = {
        "dag_ids": list(dag_ids) or None,
        "only_last": only_last,
        "limit": None if only_last else SHOWN_RUNS,
        "part": PART_SOURCE,
    }

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


def _find_remarks(runs: Sequence[RecordedRun]) -> Iterator[str]:
    """What the table has no room for: parts, every error, a replay, a list that came twice."""
    parts = [f"{run.run_id}\0({run.part})" for run in runs if run.part]
    if parts:
        said = f"Not of the whole, but of a part: {'run' if len(parts) == 1 else 'runs'} "
        yield _wrap(f"{said}{enumerate_words(parts)}.")
    failed: dict[str, list[int]] = {}
    for run in runs:
        if run.status == "failed":
            failed.setdefault(run.error or "It is not on record why.", []).append(run.run_id)
    for error, run_ids in failed.items():
        yield f"{_name_runs(run_ids)} failed: {error}"
    for run in runs:
        if run.status == "succeeded" and run.error:
            yield f"Run {run.run_id}: {run.error}"
    for dag_id in dict.fromkeys(run.dag_id for run in runs):
        yield from _describe_source([run for run in runs if run.dag_id == dag_id])


def _name_runs(run_ids: Sequence[int]) -> str:
    return f"Run{'s' if len(run_ids) > 1 else ''} {enumerate_words([*map(str, run_ids)])}"


def _describe_source(runs: Sequence[RecordedRun]) -> Iterator[str]:
    """Where the list of the DAG's last run came from, if it is a good one and that is unusual."""
    last, *before = runs
    if last.status != "succeeded":
        return
    if last.part is None and last.source != API_SOURCE:
        yield f"Run {last.run_id} imported a saved dump:\n{last.source}"
    good = next((run for run in before if run.status == "succeeded"), None)
    if good and last.dump_sha256 and good.dump_sha256 == last.dump_sha256:
        same = f"the same list, byte for byte, as run {good.run_id}"
        yield f"Run {last.run_id} brought {same}."
