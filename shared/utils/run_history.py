"""The history of runs in the table `ingestion_run`.

Takes a cursor inside a transaction and never commits. A run is recorded as `running` when it
begins, and as `succeeded` in the transaction of its data; as `failed` in one of its own, so that a
rollback keeps it.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from psycopg2 import errors
from psycopg2.extensions import cursor as Cursor

from shared.calendar import IST
from shared.exceptions import DatabaseError
from shared.feed import API_SOURCE, Figures, RunKey
from shared.models.table import Column
from shared.utils.extras import ExtraTable, Upgrade, find_extra, is_ours
from shared.utils.sql import IN_PYTHON_YEARS, fetch_one
from shared.utils.staged_merge import MergeResult, lock_name

logger = logging.getLogger(__name__)

TABLE_NAME = "ingestion_run"

# Clocks go apart by seconds; what is further ahead than this is no moment of a right clock.
CLOCK_TOLERANCE = timedelta(hours=1)
TABLE = ExtraTable(
    TABLE_NAME,
    Path(__file__).with_name("ingestion_run.sql").read_text(encoding="utf-8"),
    columns=(
        Column("dag_id", "integer"),
        Column("dag_name", "text"),
        Column("source", "text"),
        Column("status", "text"),
        Column("started_at", "timestamptz"),
        Column("ended_at", "timestamptz"),
        Column("rows_fetched", "integer", nullable=True),
        Column("rows_left_out", "integer", nullable=True),
        Column("rows_rejected", "integer", nullable=True),
        Column("rows_inserted", "integer", nullable=True),
        Column("rows_updated", "integer", nullable=True),
        Column("rows_superseded", "integer", nullable=True),
        Column("list_moment", "timestamp", nullable=True),
        Column("dump_sha256", "text", nullable=True),
        Column("dump_bytes", "bigint", nullable=True),
        Column("durations", "jsonb", nullable=True),
        Column("error", "text", nullable=True),
    ),
    privileges=("SELECT", "INSERT", "UPDATE"),
    key=("run_id",),
    upgrades=(Upgrade("host", f"ALTER TABLE {TABLE_NAME} ADD COLUMN host TEXT"),),
)
NEWEST_RUN = "SELECT coalesce(max(run_id), 0) FROM ingestion_run"

_INSERT_RUN = """
INSERT INTO ingestion_run ({}dag_id, dag_name, source, status, started_at, ended_at)
{} %(dag_id)s, %(dag_name)s, %(source)s, 'running', %(started_at)s, %(started_at)s{}
RETURNING run_id
"""
INSERT_RUN = _INSERT_RUN.format("", "SELECT", "")
# After all others, whatever the sequence says.
INSERT_RUN_LAST = _INSERT_RUN.format(
    "run_id, ",
    "OVERRIDING SYSTEM VALUE SELECT coalesce(max(run_id), 0) + 1,",
    " FROM ingestion_run",
)

UPDATE_RUN = """
UPDATE ingestion_run
SET status = %(status)s, ended_at = clock_timestamp(), rows_fetched = %(fetched)s,
    rows_left_out = %(left_out)s, rows_rejected = %(rejected)s, rows_inserted = %(inserted)s,
    rows_updated = %(updated)s, rows_superseded = %(superseded)s, list_moment = %(moment)s,
    dump_sha256 = %(sha256)s, dump_bytes = %(bytes)s, durations = %(durations)s, error = %(error)s
WHERE run_id = %(run_id)s
"""

# Good runs are numbered in the order of their lists: one that another has overtaken gets a new
# number.
IS_OVERTAKEN = """
SELECT EXISTS (SELECT FROM ingestion_run
               WHERE dag_id = %s AND status = 'succeeded' AND run_id > %s)
"""
SET_HOST = "UPDATE ingestion_run SET host = %s WHERE run_id = %s"
RENUMBER = "UPDATE ingestion_run SET run_id = DEFAULT WHERE run_id = %s RETURNING run_id"

# Runs of this DAG on this host that are still called running, while its lock was free.
END_KILLED = """
UPDATE ingestion_run SET status = 'failed', error = %(error)s
WHERE dag_id = %(dag_id)s AND host = %(host)s AND status = 'running' AND run_id <> %(run_id)s
"""
ENDED_SILENTLY = "It ended without a word: it was killed, or the machine went down."

IS_AT_PAYLOAD = """
SELECT EXISTS (SELECT FROM ingestion_run
               WHERE run_id = %s AND status = 'running' AND dump_sha256 = %s)
"""

# By this the views and the next run find the list.
IS_RECORDED = """
SELECT EXISTS (SELECT FROM ingestion_run
               WHERE run_id = %(run_id)s AND status = %(status)s
                 AND list_moment IS NOT DISTINCT FROM %(moment)s::timestamp)
"""
_NOT_RECORDED = (
    f"Nothing was stored: the run is not in {TABLE_NAME} as it was written there. A trigger, a "
    "rule or row security on that table does such things: take it away, or rename the table."
)

READ_RUNS = """
SELECT run_id, dag_id, source, status, started_at, ended_at,
       rows_fetched, rows_rejected, rows_inserted, rows_updated, dump_sha256, error, dag_name,
       to_jsonb(ingestion_run) ->> 'host'  -- which an older table lacks
FROM ingestion_run
WHERE %(dag_ids)s::integer[] IS NULL OR dag_id = ANY(%(dag_ids)s)
ORDER BY run_id DESC LIMIT %(limit)s
"""

READ_MOMENT_AND_CLOCK = "SELECT %(moment)s::timestamptz, clock_timestamp()"

HAS_SUCCEEDED = """
SELECT EXISTS (SELECT FROM ingestion_run
               WHERE dag_id = %s AND started_at = %s AND status = 'succeeded')
"""

# Python knows no other years.
IS_REAL_MOMENT = f"list_moment {IN_PYTHON_YEARS}"

READ_LAST_GOOD_RUN = f"""
SELECT run_id, source,
       CASE WHEN started_at {IN_PYTHON_YEARS} THEN started_at
            ELSE to_timestamp(0) END,
       dump_sha256,
       CASE WHEN {IS_REAL_MOMENT} THEN list_moment END,
       coalesce(rows_inserted::bigint + rows_updated, 0)
FROM ingestion_run
WHERE dag_id = %s AND status = 'succeeded' ORDER BY run_id DESC LIMIT 1
"""

# What each DAG has stored last ({moment} is that list's), how much of it is in the table now
# ({stored_rows}), and since when there are its bytes. The list of a replayed file is old, unless
# the API gave the very same one; so is a list that an earlier run had, even one that failed. One
# statement: no run comes in between.
READ_LAST_LOADS = """
WITH dag AS (
    SELECT DISTINCT ON (dag_id) dag_id, dag_name FROM ingestion_run
    WHERE %(dag_ids)s::integer[] IS NULL OR dag_id = ANY(%(dag_ids)s)
    ORDER BY dag_id, run_id DESC
), last AS (
    SELECT DISTINCT ON (dag_id) * FROM ingestion_run
    WHERE status = 'succeeded' AND (%(also_files)s OR source = 'api')
    ORDER BY dag_id, run_id DESC
)
SELECT dag.dag_id, dag.dag_name, last.run_id, last.source, last.started_at, last.ended_at,
       {moment}::timestamptz, coalesce(last.rows_inserted::bigint + last.rows_updated, 0),
       {stored_rows}, served.started_at, first.run_id, first.started_at
FROM dag LEFT JOIN last USING (dag_id)
LEFT JOIN LATERAL (
    SELECT started_at FROM ingestion_run AS run
    WHERE run.dag_id = last.dag_id AND run.status = 'succeeded' AND run.source = 'api'
      AND (run.run_id = last.run_id OR run.dump_sha256 = last.dump_sha256)
    ORDER BY run.run_id DESC LIMIT 1
) AS served ON true
LEFT JOIN LATERAL (
    SELECT run_id, started_at FROM ingestion_run AS run
    WHERE run.dag_id = last.dag_id
      AND (run.run_id = last.run_id OR run.dump_sha256 = last.dump_sha256)
    ORDER BY run.started_at, run.run_id LIMIT 1
) AS first ON true
ORDER BY dag.dag_id
"""


class RecordedRun(NamedTuple):
    """A row of READ_RUNS. The counts are None as far as the run did not come."""

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

    @property
    def succeeded(self) -> bool:
        """Whether its list was stored."""
        return self.status == "succeeded"


class LastLoad(NamedTuple):
    """A row of READ_LAST_LOADS after the DAG: its last good run, and where its list came from.

    `list_moment` is read in the session's time zone. `stored_rows` of the `rows` that the run
    stored are in the table now. `served_at` is when the API gave that list, to the last run that it
    did; `first_run_id` is the first run that had its bytes, from wherever.
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


class LastRun(NamedTuple):
    """The last good run before this one.

    `list_moment` is what its rows have in last_updated, in the time zone of the run's sessions;
    `stored` is how many there were.
    """

    run_id: int
    source: str
    started_at: datetime
    dump_sha256: str | None
    list_moment: datetime | None
    stored: int

    @property
    def is_from_api(self) -> bool:
        """Whether its rows came from the source, not from a saved file."""
        return self.source == API_SOURCE


def is_kept(cursor: Cursor) -> bool:
    """Whether the history is there, and not a table of something else under its name."""
    return is_ours(cursor, TABLE)


def start_run(cursor: Cursor, key: RunKey) -> int:
    """Record a run that begins; returns its run_id, which is higher than any other.

    Also where the table was restored and the sequence of its run_id was not.
    """
    values = asdict(key)
    lock_name(cursor, TABLE_NAME)  # two would take the same number
    newest = _read_number(cursor, NEWEST_RUN)
    run_id = _attempt_number(cursor, INSERT_RUN, values)
    if run_id is not None and run_id > newest:
        cursor.execute("RELEASE SAVEPOINT run")  # what is set after it holds to the COMMIT
        return run_id
    cursor.execute("ROLLBACK TO SAVEPOINT run")
    cursor.execute("RELEASE SAVEPOINT run")
    return _read_number(cursor, INSERT_RUN_LAST, values)


def set_host(cursor: Cursor, run_id: int, key: RunKey, host: str, *, was_free: bool) -> None:
    """Record where the run is, and what it holds a lock on, where the table has room for that.

    `was_free`: nobody held that lock. So what is still called running there was killed: it is
    recorded as failed.
    """
    found = find_extra(cursor, TABLE)
    if found is None or "host" not in found.columns:
        return
    cursor.execute(SET_HOST, (host, run_id))
    if was_free:
        values = {"dag_id": key.dag_id, "host": host, "run_id": run_id, "error": ENDED_SILENTLY}
        cursor.execute(END_KILLED, values)


def put_last(cursor: Cursor, key: RunKey, run_id: int) -> int:
    """The number for a run that is about to be recorded as good: higher than those of the others.

    A run that began later and has ended before this one has a higher number than `run_id`.
    """
    lock_name(cursor, TABLE_NAME)
    if fetch_one(cursor, IS_OVERTAKEN, (key.dag_id, run_id)) != (True,):
        return run_id
    newest = _read_number(cursor, NEWEST_RUN)
    number = _attempt_number(cursor, RENUMBER, (run_id,))
    if number is not None and number > newest:
        cursor.execute("RELEASE SAVEPOINT run")
        return number
    cursor.execute("ROLLBACK TO SAVEPOINT run")
    cursor.execute("RELEASE SAVEPOINT run")
    number = start_run(cursor, key)
    cursor.execute(
        "UPDATE ingestion_run SET status = 'failed', error = %s WHERE run_id = %s",
        (f"It goes on as run {number}: another run has ended meanwhile.", run_id),
    )
    return number


def _attempt_number(cursor: Cursor, statement: str, values: Any) -> int | None:
    """What the statement returns; None if that number is taken. Leaves a savepoint "run"."""
    cursor.execute("SAVEPOINT run")
    with contextlib.suppress(errors.UniqueViolation):
        return _read_number(cursor, statement, values)
    return None


def _read_number(cursor: Cursor, statement: str, values: Any = None) -> int:
    cursor.execute(statement, values)
    row = cursor.fetchone()
    if row is None:
        raise DatabaseError(_NOT_RECORDED)
    return int(row[0])


def has_succeeded(cursor: Cursor, key: RunKey) -> bool:
    """Whether the run is recorded as a good one: its data are committed."""
    return bool(fetch_one(cursor, HAS_SUCCEEDED, (key.dag_id, key.started_at))[0])


def is_at_payload(cursor: Cursor, run_id: int, sha256: str | None) -> bool:
    """Whether what a running run has stored has this hash."""
    return fetch_one(cursor, IS_AT_PAYLOAD, (run_id, sha256)) == (True,)


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
    """Record what the run has come to: `running`, `succeeded`, or `failed` with its error.

    Raises DatabaseError if something in the database keeps the row as it was.
    """
    values = {
        "run_id": run_id,
        "status": status,
        "fetched": figures.fetched,
        "left_out": figures.left_out.total(),
        "rejected": len(figures.rejected),
        "inserted": merge and merge.inserted,
        "updated": merge and merge.updated,
        "superseded": merge and merge.superseded,
        "moment": merge and without_zone(merge.moment),
        "sha256": figures.sha256,
        "bytes": figures.payload_bytes,
        "durations": json.dumps({step: round(seconds, 3) for step, seconds in durations.items()}),
        "error": error,
    }
    cursor.execute(UPDATE_RUN, values)
    if fetch_one(cursor, IS_RECORDED, values) != (True,):
        raise DatabaseError(_NOT_RECORDED)


def without_zone(moment: datetime | None) -> datetime | None:
    """A list's moment as the history keeps it: in UTC if it has a time zone."""
    if moment is None or moment.tzinfo is None:
        return moment
    return moment.astimezone(UTC).replace(tzinfo=None)


def warn_of_clock(cursor: Cursor, moment: datetime | None) -> None:
    """Warn of a list's moment that is more than an hour ahead of a clock: it is not to be believed.

    `moment` has a time zone, or is in that of the session. The clocks are the server's and this
    machine's.
    """
    row = fetch_one(cursor, READ_MOMENT_AND_CLOCK, {"moment": moment})
    loaded_at, server_clock = row
    own_clock = datetime.now(UTC)
    if loaded_at is not None and loaded_at - min(server_clock, own_clock) > CLOCK_TOLERANCE:
        logger.warning(
            "The list's moment, %s, is more than an hour ahead of a clock: the database server's "
            "says %s, this machine's %s. One of them is wrong, or was when a run before stored its "
            'list: see "A clock that was ahead" in docs/production.md',
            *(f"{each.astimezone(IST):%Y-%m-%d %H:%M IST}" for each in (*row, own_clock)),
        )


def read_last_good_run(cursor: Cursor, dag_id: int) -> LastRun | None:
    """The last good run of the DAG, or None if there is none."""
    cursor.execute(READ_LAST_GOOD_RUN, (dag_id,))
    row = cursor.fetchone()
    return None if row is None else LastRun(*row)
