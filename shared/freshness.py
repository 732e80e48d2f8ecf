"""Whether a DAG's data are fresh (ruling 31): by the last good run, or else by the newest rows."""

import logging
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from shared import clock
from shared.calendar import IST, Calendar, Freshness
from shared.config.config_loader import ConfigLoader
from shared.config.logging_config import redact
from shared.dag_discovery import DAG
from shared.exceptions import DAGExecutionError, StockIngestionError, TransientDatabaseError
from shared.models.table import Table
from shared.program import command
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.relations import find_relation, only_own_functions
from shared.utils.run_history import LastLoad, LoadedParts
from shared.utils.sql import fetch_one, load_sql, settings
from shared.utils.staged_merge import has_time_zone

logger = logging.getLogger(__name__)

SQL = load_sql(Path(__file__).with_suffix(".sql"))

_NO_HISTORY = """\
There is no history of runs (a run makes one where it may): the newest rows
had to tell. They cannot tell whether the list is a new one, and whole."""

FRESH, STALE, UNKNOWN = "fresh", "stale", "unknown"
COLUMNS = 77  # of a line that is indented by two
_SHOWN_PARTS = 5
_STATE_TIMEOUT = "5s"  # for a statement: the verdicts do not wait long for what stands beside them


@dataclass(frozen=True)
class Now:
    """What it is now: by the clock of this machine, and by that of the database server.

    Which of them is right cannot be known: a list has to be fresh by the later one, and no moment
    may be ahead of the earlier one.
    """

    here: datetime
    server: datetime
    calendar: Calendar

    @property
    def limit(self) -> datetime:
        """What is later than this is ahead of a clock."""
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
class Verdict:
    """Whether a DAG's data are fresh: `fresh`, `stale`, or `unknown` where that cannot be known.

    `loaded_at` is when the source gave what is stored, as far as that is known. `state` are the
    figures that the DAG's feed tells; None if it tells none, or they cannot be read. `is_due`:
    whether its schedule has come round since; None if that cannot be known.
    """

    dag_id: int
    name: str
    schedule: str
    verdict: str
    reason: str
    loaded_at: datetime | None = None
    expected_since: datetime | None = None
    state: Mapping[str, int] | None = None
    is_due: bool | None = None


def read_clocks(manager: DatabaseManager) -> tuple[datetime, datetime]:
    """What it is now by this machine's clock, and by that of the database server."""
    [(server_now,)] = manager.fetch_all("SELECT clock_timestamp()")
    return clock.now(), server_now


def judge(manager: DatabaseManager, dag: DAG, now: Now, has_history: bool) -> Verdict:
    """Whether the DAG's data are fresh; `unknown` if the DAG is broken, or they cannot be read.

    Raises TransientDatabaseError if the database is away.
    """
    try:
        return _judge(manager, dag, now, has_history)
    except TransientDatabaseError:
        raise
    except StockIngestionError as exc:
        return cannot_judge(dag, exc)


def require_fresh(
    manager: DatabaseManager, dag: DAG, before: Sequence[DAG], *, in_sandbox: bool, dry_run: bool
) -> None:
    """Refuse a run of `dag` where the rows of one of those `before` it are not fresh.

    The message has the command that runs it, `in_sandbox` or not. In a dry run it is a warning.
    Raises DAGExecutionError, TransientDatabaseError if the database is away.
    """
    now = Now(*read_clocks(manager), ConfigLoader.load_calendar())
    has_history = manager.run_in_transaction(run_history.is_kept)
    for each in before:
        verdict = judge(manager, each, now, has_history)
        if verdict.verdict == FRESH:
            continue
        rows = "stale" if verdict.verdict == STALE else "not known to be fresh"
        place = ("--sandbox",) if in_sandbox else ()
        words = command(*place, "--dag", str(each.dag_id))
        said = (
            f"DAG {dag.dag_id} comes after DAG {each.dag_id}, whose rows are {rows}: "
            f"{' '.join(verdict.reason.split())} Run DAG {each.dag_id} first: '{words}'"
        )
        if not dry_run:
            raise DAGExecutionError(said)
        logger.warning("%s", said)


def add_state(manager: DatabaseManager, dag: DAG, verdict: Verdict) -> Verdict:
    """The verdict, and the figures that the DAG's feed tells.

    Where they cannot be told the reason says why; the verdict is what it was.
    """
    try:
        feed = dag.load_feed()
    except StockIngestionError:  # the verdict has said it
        return verdict
    if feed is None or feed.describe_state is None:
        return verdict
    try:
        with manager.transaction() as cursor, settings(cursor, statement_timeout=_STATE_TIMEOUT):
            state = feed.describe_state(cursor)
        return replace(verdict, state={name: int(number) for name, number in state.items()})
    except Exception as exc:  # the DAG's own code
        kind = "" if isinstance(exc, StockIngestionError) else f"{type(exc).__name__}: "
        fault = f"Its state cannot be told:\n{kind}{redact(str(exc))}"
        return replace(verdict, reason=f"{verdict.reason}\n{fault}")


def cannot_judge(dag: DAG, error: StockIngestionError) -> Verdict:
    """The verdict where this error is all that is known."""
    reason = f"{dag.label} cannot be judged:\n{redact(str(error))}"
    return Verdict(dag.dag_id, dag.name, dag.schedule, UNKNOWN, reason)


def _judge(manager: DatabaseManager, dag: DAG, now: Now, has_history: bool) -> Verdict:
    feed = dag.load_feed()
    promise = (feed.due_from, feed.changes_daily) if feed else (None, False)
    freshness = Freshness(dag.schedule, *promise, dag.grace_minutes)
    table = feed.table if feed and feed.table.is_snapshot else None
    judge_by: Callable[[datetime], tuple[str, str]]
    if has_history:
        # A file that was read into a table that is no snapshot has taken nothing away.
        also_files = feed is None or table is not None
        wanted = {"dag_id": dag.dag_id, "also_files": also_files, "has_parts": table is None}
        load, parts = manager.run_in_transaction(partial(_read_load, table=table, wanted=wanted))
        judge_by = partial(_judge_load, load, parts, table, freshness, now)
        loaded_at = load and load.served_at
    else:
        loaded_at, ahead = manager.run_in_transaction(partial(_read_rows, table=table, now=now))
        judge_by = partial(_judge_rows, loaded_at, ahead, table, now)
    latest = max(now.here, now.server)
    since = freshness.fresh_since(latest, now.calendar)
    word, reason = judge_by(since)
    due_word, _ = judge_by(replace(freshness, grace_minutes=0).fresh_since(latest, now.calendar))
    return Verdict(
        *(dag.dag_id, dag.name, dag.schedule, word, f"{dag.label}{reason}", loaded_at, since),
        is_due={STALE: True, FRESH: False}.get(due_word),
    )


def _read_load(
    cursor: Any, table: Table | None, wanted: dict[str, Any]
) -> tuple[LastLoad | None, LoadedParts]:
    """The DAG's last good run, its parts, and how much of a snapshot is in its table."""
    zone, count = "", "NULL"
    if table and (relation := find_relation(cursor, table.name)).exists:
        with only_own_functions(cursor):
            zone = " AT TIME ZONE 'UTC'" if has_time_zone(cursor, table, relation) else ""
        count = SQL["count_rows"].format(table=table.name, column=table.last_updated)
    return run_history.read_last_load(cursor, wanted, stored_rows=f"({count})", zone=zone)


def _judge_load(
    load: LastLoad | None,
    parts: LoadedParts,
    table: Table | None,
    freshness: Freshness,
    now: Now,
    since: datetime,
) -> tuple[str, str]:
    """The verdict, and what follows the DAG's name in its reason."""
    expected = f"Expected: a load since {_in_words(since)}."
    lacking = _name_lacking(parts, since)
    if load is None:
        as_a_whole = " as a whole" if parts.total else ""
        return STALE, f" was never loaded{as_a_whole}.\n{expected}\n{lacking}".rstrip()
    if fault := _find_ahead(load, now):
        return UNKNOWN, fault
    if table and (fault := _find_lost_rows(load, table)):
        return STALE, fault
    if load.served_at is None:
        return STALE, f" holds the list of a saved dump:\n{load.source}\n{expected}"
    repeat = _describe_repeat(load, load.served_at, freshness, now)
    if repeat and load.first_started_at < since <= load.served_at:
        return STALE, (
            f" was last loaded on\n{_in_words(load.served_at)}. {repeat}\n"
            f"Expected: a new list since {_in_words(since)}.\n"
            "The source is late. A day without trading belongs in calendar.holidays."
        )
    note = repeat or ("" if load.served_at >= since else lacking)
    return _judge_moment(load.served_at, since, note)


def _name_lacking(parts: LoadedParts, since: datetime) -> str:
    """Which parts were not loaded since then; "" where none was, or all were."""
    numbers = range(1, parts.total + 1)
    wanted = [n for n in numbers if n not in parts.starts or parts.starts[n] < since]
    if len(wanted) in (0, parts.total):
        return ""
    names = [f"{number}/{parts.total}" for number in wanted]
    if more := len(names[_SHOWN_PARTS:]):
        names[_SHOWN_PARTS:] = [f"{more:,} more"]
    have = f"s {enumerate_words(names)} have" if len(names) > 1 else f" {names[0]} has"
    return textwrap.fill(f"Part{have} not been loaded since.", COLUMNS)


def enumerate_words(words: Sequence[str]) -> str:
    """The words as a sentence has them: "a, b and c"."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _judge_moment(loaded_at: datetime, since: datetime, note: str = "") -> tuple[str, str]:
    if loaded_at >= since:
        return FRESH, f" was loaded on\n{_in_words(loaded_at)}. {note}".rstrip()
    return STALE, (
        f" was last loaded on\n{_in_words(loaded_at)}. "
        f"Expected: a load since {_in_words(since)}.\n{note}".rstrip()
    )


def _read_rows(cursor: Any, table: Table | None, now: Now) -> tuple[datetime | None, int]:
    """The moment of a snapshot's newest rows, and how many rows are ahead of the clock."""
    if table is None or not find_relation(cursor, table.name).exists:
        return None, 0
    query = SQL["newest_rows"].format(table=table.name, column=table.last_updated)
    loaded_at, ahead = fetch_one(cursor, query, {"limit": now.limit})
    return loaded_at, ahead


def _judge_rows(
    loaded_at: datetime | None, ahead: int, table: Table | None, now: Now, since: datetime
) -> tuple[str, str]:
    """Without a history (DB_USER may not make one) the newest rows tell if a snapshot is too old.

    They cannot tell whether it is fresh: whether the list is a new one, and whole.
    """
    if table is None:
        return (
            UNKNOWN,
            " cannot be judged:\nthere is no history of runs. A run makes one where it may.",
        )
    if ahead:
        return UNKNOWN, f": rows ahead of the clock: {ahead:,}.\n{now.describe()}"
    if loaded_at is None:
        return STALE, " was never loaded, as far as can be told\nwithout a history of runs."
    word, reason = _judge_moment(loaded_at, since)
    return UNKNOWN if word == FRESH else word, f"{reason}\n{_NO_HISTORY}"


def _find_ahead(load: LastLoad, now: Now) -> str | None:
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


def _describe_repeat(load: LastLoad, served_at: datetime, freshness: Freshness, now: Now) -> str:
    """Whose list it is, where the source has served the list of an earlier day."""
    if not freshness.changes_daily:
        return ""
    day = freshness.day_of(load.first_started_at, now.calendar)
    if day >= freshness.day_of(served_at, now.calendar):
        return ""
    return (
        f"It has the list of {day:%a %d %b %Y},\nthe same list as that of run {load.first_run_id} "
        f"({_in_words(load.first_started_at)})."
    )


def _in_words(moment: datetime) -> str:
    return f"{moment.astimezone(IST):%a %d %b %Y %H:%M IST}"
