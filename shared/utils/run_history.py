"""The history of runs in the table `ingestion_run`.

Takes a cursor inside a transaction and never commits. A run is recorded as `running` when it
begins, and as `succeeded` in the transaction of its data; as `failed` in one of its own, so that a
rollback keeps it.
"""

import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from psycopg2 import errors
from psycopg2.extensions import cursor as Cursor

from shared import clock
from shared.calendar import IST
from shared.exceptions import DatabaseError
from shared.feed import PART_SOURCE, Figures, RunKey, Slice, read_part
from shared.utils.extras import ExtraTable, find_extra
from shared.utils.sql import fetch_one, load_sql
from shared.utils.staged_merge import MergeResult, lock_name

logger = logging.getLogger(__name__)

CLOCK_TOLERANCE = timedelta(hours=1)  # clocks that are right go apart by seconds
ENDED_SILENTLY = "It ended without a word: it was killed, or the machine went down."

SQL = load_sql(__file__)
TABLE = ExtraTable(
    "ingestion_run",
    SQL["create_ingestion_run"],
    privileges=("SELECT", "INSERT", "UPDATE"),
    key=("run_id",),
    upgrades={"host": SQL["add_host"], "valid_from": SQL["add_valid_from"]},
)
_NOT_RECORDED = (
    f"Nothing was stored: the run is not in {TABLE.name} as it was written there. A trigger, a "
    "rule or row security on that table does such things: take it away, or rename the table."
)


class RecordedRun(NamedTuple):
    """A row of read_runs. The counts are None as far as the run did not come.

    `durations` are seconds by step.
    """

    run_id: int
    dag_id: int
    source: str
    status: str
    started_at: datetime
    ended_at: datetime
    fetched: int | None
    rejected: int | None
    inserted: int | None
    updated: int | None
    dump_sha256: str | None
    error: str | None
    dag_name: str
    host: str | None
    durations: Mapping[str, float] | None

    @property
    def part(self) -> Slice | None:
        """Which part it loaded; None if it was of the whole, or of a file."""
        return read_part(self.source)


class LastLoad(NamedTuple):
    """Of read_last_load: a DAG's last good run, and where its list came from.

    Where good runs of all its parts stand for one, it is the latest of them, and `served_at` the
    start of the oldest.

    `list_moment` is read in the session's time zone. `stored_rows` of the `rows` that the run
    stored are in the table now. `served_at` is when the API gave that list, to the last run that it
    did; `first_run_id` is the first run that had its bytes, from wherever; those of
    a dated file it had by the end of that day.
    """

    run_id: int
    source: str
    started_at: datetime
    ended_at: datetime
    list_moment: datetime | None
    rows: int
    stored_rows: int | None
    served_at: datetime | None
    first_run_id: int
    first_started_at: datetime


class LoadedParts(NamedTuple):
    """Of read_last_load: when the newest good run of each of `total` parts began, by its number.

    `total` is 0 where no part was ever loaded.
    """

    total: int
    starts: Mapping[int, datetime]


class LastRun(NamedTuple):
    """The last good run of the whole before this one: it stored `stored` rows.

    `list_moment` is what they have in last_updated, in the time zone of the run's sessions.
    `valid_from` is since when its list counts, where versions of its rows are kept.
    """

    run_id: int
    source: str
    started_at: datetime
    dump_sha256: str | None
    list_moment: datetime | None
    stored: int
    valid_from: datetime | None = None


def is_kept(cursor: Cursor) -> bool:
    """Whether the history is there, and not a table of something else under its name."""
    return find_extra(cursor, TABLE) is not None


def start_run(cursor: Cursor, key: RunKey) -> int:
    """Record a run that begins; returns its run_id, higher than any other, also after a restore."""
    values = asdict(key)
    number = _take_number(cursor, SQL["insert_run"], values)
    return _read_number(cursor, SQL["insert_run_last"], values) if number is None else number


def set_host(cursor: Cursor, run_id: int, key: RunKey, host: str, *, is_alone: bool) -> None:
    """Record where the run is, and what it holds a lock on, where the table has room for that.

    `is_alone`: nobody else holds that lock. What is still called running there was killed, then.
    """
    found = find_extra(cursor, TABLE)
    if found is None or "host" not in found.columns:
        return
    cursor.execute(SQL["set_host"], (host, run_id))
    if is_alone:
        values = {"dag_id": key.dag_id, "host": host, "run_id": run_id, "error": ENDED_SILENTLY}
        cursor.execute(SQL["end_killed"], values)


def put_last(cursor: Cursor, key: RunKey, run_id: int) -> int:
    """The number for a run that is about to be recorded as good: higher than those of the others.

    A run that began later and has ended before this one has a higher number than `run_id`.
    """
    lock_name(cursor, TABLE.name)
    if fetch_one(cursor, SQL["is_overtaken"], (key.dag_id, run_id)) != (True,):
        return run_id
    number = _take_number(cursor, SQL["renumber"], (run_id,))
    if number is None:
        number = start_run(cursor, key)
        give_up(cursor, run_id, f"It goes on as run {number}: another run has ended meanwhile.")
    return number


def give_up(cursor: Cursor, run_id: int, error: str) -> None:
    """Record that a run has failed, and leave what it says of its rows as it is."""
    cursor.execute(SQL["give_up"], (error, run_id))


def _take_number(cursor: Cursor, statement: str, values: Any) -> int | None:
    """The run_id that the statement gives; None, and nothing is done, unless it is the highest."""
    lock_name(cursor, TABLE.name)  # two would take the same number
    newest = _read_number(cursor, SQL["newest_run"])
    cursor.execute("SAVEPOINT run")
    with contextlib.suppress(errors.UniqueViolation):
        number = _read_number(cursor, statement, values)
        if number > newest:
            cursor.execute("RELEASE SAVEPOINT run")  # what is set after it holds to the COMMIT
            return number
    cursor.execute("ROLLBACK TO SAVEPOINT run; RELEASE SAVEPOINT run")
    return None


def _read_number(cursor: Cursor, statement: str, values: Any = None) -> int:
    cursor.execute(statement, values)
    row = cursor.fetchone()
    if row is None:
        raise DatabaseError(_NOT_RECORDED)
    return int(row[0])


def has_succeeded(cursor: Cursor, key: RunKey) -> bool:
    """Whether the run is recorded as a good one: its data are committed."""
    return bool(fetch_one(cursor, SQL["has_succeeded"], asdict(key))[0])


def is_at_payload(cursor: Cursor, run_id: int, sha256: str | None) -> bool:
    """Whether what a running run has stored has this hash."""
    return fetch_one(cursor, SQL["is_at_payload"], (run_id, sha256)) == (True,)


def update_run(
    cursor: Cursor,
    run_id: int,
    figures: Figures,
    merge: MergeResult | None,
    durations: Mapping[str, float],
    *,
    status: str,
    error: str | None = None,
) -> None:
    """Record what the run has come to. Raises DatabaseError if the row is not so afterwards."""
    moment = merge.moment if merge else None
    if moment is not None and moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    values = {
        "run_id": run_id,
        "status": status,
        "fetched": figures.fetched,
        "left_out": figures.left_out.total(),
        "rejected": len(figures.rejected),
        "inserted": merge and merge.inserted,
        "updated": merge and merge.updated,
        "superseded": merge and merge.superseded,
        "moment": moment,
        "sha256": figures.sha256,
        "bytes": figures.payload_bytes,
        "durations": json.dumps({step: round(seconds, 3) for step, seconds in durations.items()}),
        "error": error,
    }
    cursor.execute(SQL["update_run"], values)
    if fetch_one(cursor, SQL["is_recorded"], values) != (True,):
        raise DatabaseError(_NOT_RECORDED)


def has_versions(cursor: Cursor) -> bool:
    """Whether the history, which is there, is of a version that has `valid_from`."""
    return fetch_one(cursor, SQL["has_versions"]) == (True,)


def read_newest_version(cursor: Cursor, dag_id: int) -> datetime | None:
    """The newest `valid_from` of the DAG's good runs; None if versions were never kept."""
    newest: datetime | None
    (newest,) = fetch_one(cursor, SQL["newest_version"], (dag_id,))
    return newest


def set_valid_from(cursor: Cursor, run_id: int, moment: datetime) -> None:
    """Record that the versions are those of this run, and since when they count.

    Raises DatabaseError if the record is not so afterwards.
    """
    cursor.execute(SQL["set_valid_from"], (moment, run_id))
    if cursor.fetchone() != (moment,):
        raise DatabaseError(_NOT_RECORDED)


def warn_of_clock(cursor: Cursor, moment: datetime | None) -> None:
    """Warn of a list's moment that is more than an hour ahead of the server's or our own clock.

    `moment` has a time zone, or is in that of the session.
    """
    row = fetch_one(cursor, SQL["read_moment_and_clock"], (moment,))
    loaded_at, *clocks = (*row, clock.now())
    if loaded_at is not None and loaded_at - min(clocks) > CLOCK_TOLERANCE:
        logger.warning(
            "The list's moment, %s, is more than an hour ahead of a clock: the database server's "
            "says %s, this machine's %s. One of them is wrong, or was when a run before stored its "
            'list: see "A clock that was ahead" in docs/production.md',
            *(f"{each.astimezone(IST):%Y-%m-%d %H:%M IST}" for each in (loaded_at, *clocks)),
        )


def read_last_good_run(cursor: Cursor, dag_id: int) -> LastRun | None:
    """The last good run of the DAG as a whole, or None if there is none."""
    cursor.execute(SQL["read_last_good_run"], (dag_id, PART_SOURCE))
    row = cursor.fetchone()
    return None if row is None else LastRun(*row)


def read_last_load(
    cursor: Cursor, wanted: Mapping[str, Any], *, stored_rows: str, zone: str
) -> tuple[LastLoad | None, LoadedParts]:
    """What the DAG has loaded last, and its parts.

    `wanted` has `dag_id`, `also_files` (whether runs of saved files count) and `has_parts` (whether
    those of parts do). `stored_rows` is SQL that counts the rows of the list whose moment is
    `last.moment`, `zone` what makes that moment of the one on record.
    """
    query = SQL["read_last_load"].format(stored_rows=stored_rows, zone=zone)
    total, numbers, starts, *load = fetch_one(cursor, query, {**wanted, "part": PART_SOURCE})
    parts = LoadedParts(total or 0, dict(zip(numbers or (), starts or ())))
    return None if load[0] is None else LastLoad(*load), parts


def read_list_days(cursor: Cursor, dag_id: int) -> list[tuple[date, str | None]]:
    """Of each good run of the DAG, the last one last: the day (India) of its list, and its hash."""
    cursor.execute(SQL["read_list_days"], (dag_id,))
    return [(moment.astimezone(IST).date(), sha256) for moment, sha256 in cursor.fetchall()]
