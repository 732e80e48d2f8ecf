"""Runs of feeds that are not DAG 1: what a payload, a column or a list may be with them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from shared import archive
from shared.checks import check
from shared.config.fields import Field, dates
from shared.dag_discovery import DAG
from shared.exceptions import ConfigurationError, DAGExecutionError, StockIngestionError
from shared.feed import (
    API_SOURCE,
    Batch,
    Feed,
    Payload,
    RejectedRow,
    Run,
    RunKey,
    RunOptions,
    Stage,
)
from shared.models.table import Column, Table
from shared.preparation import prove_schema
from shared.run import run_feed
from shared.run_plan import plan_runs
from shared.utils import db_manager
from shared.utils.changes import read_changes
from shared.utils.db_manager import DatabaseManager
from shared.utils.operation import operation
from shared.utils.run_history import LastRun
from shared.utils.staged_merge import MergeResult
from tests.command_line import CommandLine

pytestmark = pytest.mark.usefixtures("trading_today")

COLUMNS = (
    Column("id", "bigint"),
    Column("day", "date", nullable=True),
    Column("price", "numeric", precision=12, scale=4, nullable=True),
)
SNAPSHOT = Table("thing", COLUMNS, ("id",))
ROWS = Table("thing", COLUMNS, ("id",), last_updated="", created_at="", is_snapshot=False)
SCHEMA = """
CREATE TABLE thing (id BIGINT PRIMARY KEY, day DATE, price NUMERIC(12, 4) CHECK (price < 1000),
                    last_updated TIMESTAMP, created_at TIMESTAMP)
"""
PARAMETERS: dict[str, Any] = {"batch_size": 1000, "retry_attempts": 2, "retry_delay_seconds": 0}

# Each payload is a list of rows: id, day, price.
Rows = Sequence[tuple[Any, ...]]


def parse(body: bytes) -> Batch:
    names = [column.name for column in COLUMNS]
    converted = (
        [column.convert(value) for column, value in zip(COLUMNS, row)] for row in json.loads(body)
    )
    return Batch([dict(zip(names, values)) for values in converted])


class Things:
    """A DAG of things, whose source gives what a test puts into it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "schema.sql").write_text(SCHEMA)
        self.parameters = {**PARAMETERS, "archive_directory": str(folder / "archive")}
        self.folder = folder

    def feed(self, table: Table, payloads: Sequence[Rows], **fields: Any) -> Feed:
        config = {"enabled": True, "schedule": "daily", "description": ""}
        (self.folder / "config.json").write_text(
            json.dumps({**config, "parameters": self.parameters})
        )
        given = [Payload(json.dumps(rows).encode()) for rows in payloads]
        steps = {} if "load" in fields else {"fetch": lambda run: iter(given), "parse": parse}
        return Feed(self.folder, "things", table, **{**steps, "source": "The shop", **fields})

    def run(self, table: Table, *payloads: Rows, **fields: Any) -> str:
        return run_feed(self.feed(table, payloads, **fields))


@pytest.fixture
def things(cli: CommandLine, tmp_path: Path) -> Things:
    return Things(tmp_path / "dag_2_import_things")


def rows_of(*ids: int, day: str | None = None) -> Rows:
    return [(number, day, "1.5") for number in ids]


# A snapshot


def test_snapshot_without_groups_is_judged_as_a_whole(
    things: Things, cli: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    things.run(SNAPSHOT, rows_of(*range(200)))
    with pytest.raises(DAGExecutionError, match=r"the list fell from 200 rows to 99 since"):
        things.run(SNAPSHOT, rows_of(*range(99)))
    assert cli.query("SELECT count(*) FROM thing") == [(200,)]
    caplog.clear()
    assert "\n     100  removed" in things.run(SNAPSHOT, rows_of(*range(100)))
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_groups_may_be_days_and_may_be_missing(things: Things) -> None:
    first = [*rows_of(*range(150), day="2026-01-01"), *rows_of(*range(150, 300))]
    said = things.run(SNAPSHOT, first, count_by=("day",))
    assert "  -                   150\n  2026-01-01          150" in said
    with pytest.raises(DAGExecutionError, match=r"\(no day\) fell from 150 rows to 10 since"):
        things.run(SNAPSHOT, first[:160], count_by=("day",))
    assert "nothing changed" in things.run(SNAPSHOT, first, count_by=("day",))


def test_rows_that_go_to_another_group_are_lost_to_theirs(things: Things, cli: CommandLine) -> None:
    first, second = rows_of(*range(200), day="2026-01-01"), rows_of(*range(200, 400))
    things.run(SNAPSHOT, [*first, *second], count_by=("day",))
    with pytest.raises(DAGExecutionError, match=r"plausible: 2026-01-01 fell from 200 rows to 0"):
        things.run(SNAPSHOT, rows_of(*range(400)), count_by=("day",))
    assert cli.query("SELECT count(*) FROM thing WHERE day IS NULL") == [(200,)]


def test_snapshot_whose_own_rules_leave_nothing(things: Things) -> None:
    with pytest.raises(DAGExecutionError, match=r"^The shop's list has no row to store: nothing"):
        things.run(SNAPSHOT, rows_of(1), prepare=lambda run, batch: [])


@pytest.mark.parametrize("payloads", [[], [rows_of(1), rows_of(2)]], ids=["none", "two"])
def test_snapshot_is_one_payload(
    things: Things, cli: CommandLine, payloads: Sequence[Rows]
) -> None:
    said = f"expected a snapshot as one payload of fetch, got {len(payloads)}"
    for dry_run in (True, False):
        with pytest.raises(DAGExecutionError, match=said):
            run_feed(things.feed(SNAPSHOT, payloads), dry_run=dry_run)
    assert cli.runs("status") == [("failed",)]
    assert cli.query("SELECT to_regclass('thing')") == [(None,)]


def test_row_that_comes_twice_is_counted_once(things: Things, cli: CommandLine) -> None:
    for dry_run in (False, True):
        feed = things.feed(SNAPSHOT, [[*rows_of(1, 2), (1, None, "7")]])
        said = run_feed(feed, dry_run=dry_run)
        assert "2 things" in said
        assert "repeated             1\n" in said
    assert cli.runs("rows_inserted, rows_updated") == [
        (2, 0)
    ]  # status compares them with the table
    assert cli.query("SELECT id, price::text FROM thing ORDER BY id") == [
        (1, "7.0000"),
        (2, "1.5000"),
    ]


def test_rules_may_make_several_rows_of_one(things: Things) -> None:
    def prepare(run: Run, batch: Batch) -> list[dict[str, Any]]:
        return [{**row, "id": 10 * row["id"] + n} for row in batch.rows for n in range(3)]

    said = things.run(SNAPSHOT, rows_of(1, 2), prepare=prepare)
    assert "Stored 6 things" in said
    assert "repeated" not in said


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, "dag_2_import_things/schema.sql, which makes thing, cannot be read: "),
        ("CREATE TABLE things (id BIGINT)", "makes the table thing does not make it"),
        (SCHEMA.replace("BIGINT", "INT"), "cannot take the rows of a run: id is integer"),
        ("CREATE TABEL thing", 'syntax error at or near "TABEL"'),
    ],
    ids=["missing", "another table", "unsuited", "syntax"],
)
def test_script_that_makes_no_table_for_the_rows(
    things: Things, cli: CommandLine, server: Any, database: str, schema: str | None, said: str
) -> None:
    path = things.folder / "schema.sql"
    path.unlink() if schema is None else path.write_text(schema)
    feed = things.feed(SNAPSHOT, [rows_of(1)])
    manager = DatabaseManager(server.config(database))
    with manager, pytest.raises(StockIngestionError, match=said):
        manager.run_in_transaction(lambda cursor: prove_schema(cursor, feed))
    with pytest.raises(DAGExecutionError, match=said):
        run_feed(feed)
    assert cli.query("SELECT to_regclass('thing'), to_regclass('things')") == [(None, None)]


def test_proof_of_the_script_leaves_no_table(
    things: Things, cli: CommandLine, server: Any, database: str
) -> None:
    feed = things.feed(SNAPSHOT, [])
    with DatabaseManager(server.config(database)) as manager:
        manager.run_in_transaction(lambda cursor: prove_schema(cursor, feed))
    assert cli.query("SELECT to_regclass('thing')") == [(None,)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count_by": ("id", "dya")}, "count_by: expected columns of thing, got dya"),
        (
            {"only": "days", "count_by": ("day",)},
            "only: expected a parameter in fields .*, got days",
        ),
        (
            {"only": "days", "fields": (Field("parameters.days", dates),)},
            "only: expected .*, got days",
        ),
    ],
    ids=["count_by", "only", "only without count_by"],
)
def test_description_that_no_run_could_follow(
    things: Things, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        things.feed(SNAPSHOT, [], **fields)


def test_column_whose_values_python_cannot_tell_apart_as_postgresql_does(things: Things) -> None:
    table = Table("thing", (*COLUMNS, Column("ratio", "double precision")), ("id",))
    with pytest.raises(ValueError, match=r"^thing: expected columns of .*, got double precision$"):
        things.feed(table, [])


def test_change_of_a_number_is_one_of_its_value(things: Things, server: Any, database: str) -> None:
    things.run(SNAPSHOT, [(1, None, "1.5")])
    things.run(SNAPSHOT, [(1, "2026-01-01", "1.50")])
    with DatabaseManager(server.config(database)) as manager:
        [report] = read_changes(manager, things.feed(SNAPSHOT, []))
    assert [(each["field"], each["old"], each["new"]) for each in report.changes] == [
        ("day", None, "2026-01-01")
    ]


def test_rows_that_are_all_key_come_and_go(things: Things, cli: CommandLine) -> None:
    table = Table("thing", COLUMNS[:1], ("id",))
    things.run(table, rows_of(1, 2))
    assert "nothing changed" not in things.run(table, rows_of(2, 3))
    assert cli.query("SELECT key, kind FROM ingestion_change ORDER BY key") == [
        ("1", "removed"),
        ("3", "added"),
    ]


def test_rows_that_somebody_else_has_touched_are_of_the_last_list(
    things: Things, cli: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    things.run(SNAPSHOT, rows_of(1, 2, 3, 4))
    things.run(SNAPSHOT, rows_of(1, 2, 3))
    cli.query("UPDATE thing SET last_updated = clock_timestamp() WHERE id <> 1 RETURNING 1")
    things.run(SNAPSHOT, rows_of(1, 2))
    things.run(SNAPSHOT, rows_of(1, 2, 4))
    assert cli.query("SELECT run_id, key, kind FROM ingestion_change ORDER BY run_id") == [
        (2, "4", "removed"),
        (3, "3", "removed"),
        (4, "4", "added"),
    ]
    assert "something else has changed" not in caplog.text


def test_null_in_a_unique_key_is_the_same_as_no_other(things: Things, cli: CommandLine) -> None:
    schema = SCHEMA.replace("day DATE", "day TEXT UNIQUE")
    (things.folder / "schema.sql").write_text(schema)
    table = Table(
        "thing", (COLUMNS[0], Column("day", "text", nullable=True)), ("id",), unique=(("day",),)
    )
    things.run(
        table,
        [*rows_of(1, 2), *rows_of(3, 4, day="2026-01-01")],
        prepare=lambda run, batch: [{**row, "day": row["day"] and "a"} for row in batch.rows],
    )
    assert cli.query("SELECT id, day FROM thing ORDER BY id") == [(1, None), (2, None), (4, "a")]


def test_row_that_is_followed_by_another_with_its_key_is_repeated(
    things: Things, cli: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        said = things.run(SNAPSHOT, [(1, None, 7), (2, None, 7), (2, None, 8)])
    assert "Stored 2 things in " in said
    assert "repeated             1\ninserted             0\nupdated              2\n" in said
    assert cli.query("SELECT id, price::int FROM thing ORDER BY id") == [(1, 7), (2, 8)]
    assert cli.runs("rows_fetched, rows_inserted, rows_updated") == [(3, 2, 0), (3, 0, 2)]
    assert "something else has changed" not in caplog.text


# Several payloads


def test_payload_that_the_database_refuses_leaves_those_before_it(
    things: Things, cli: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    things.run(ROWS, rows_of(1, 2))
    caplog.set_level(logging.INFO)
    with pytest.raises(DAGExecutionError, match="violates check constraint"):
        things.run(ROWS, [(1, None, 7), (3, None, 7)], [(2, None, 8), (4, None, 1000)])
    assert cli.query("SELECT id, price::int FROM thing ORDER BY id") == [(1, 7), (2, 2), (3, 7)]
    columns = "status, rows_fetched, rows_inserted, rows_updated"
    assert cli.runs(columns)[-1:] == [("failed", 4, 1, 1)]
    assert cli.query("SELECT run_id, key FROM ingestion_change") == [(2, "1")]
    assert "What it stored before stays: 2 things." in caplog.text
    summary = caplog.text.partition("did not complete: ")[2]
    assert "Stored 2 things in " in summary
    assert "       1  changed\n" in summary


def test_figures_are_those_of_all_payloads(things: Things, cli: CommandLine) -> None:
    assert "\nnothing changed in rows stored before" in things.run(ROWS, rows_of(1, 2, 3))
    said = things.run(ROWS, [(1, None, 7)], rows_of(4), [(2, None, 8)], rows_of(5, 5))
    counted = ("repeated             1", "inserted             2", "updated              2")
    for words in ("Stored 4 things", *counted):
        assert words in said
    assert "       2  changed" in said  # of the first payload and the third
    columns = "rows_fetched, rows_inserted, rows_updated, status"
    assert cli.runs(columns)[-1:] == [(5, 2, 2, "succeeded")]


def test_same_payloads_again_are_the_same_list(things: Things) -> None:
    things.run(ROWS, rows_of(1), rows_of(2))
    assert "as that of run" not in things.run(ROWS, rows_of(3), rows_of(2))
    assert "byte for byte, as that of run 2 " in things.run(ROWS, rows_of(3), rows_of(2))


@pytest.fixture
def lost_answers(things: Things, cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Thing 1 is stored; the answer to the COMMIT of a second one does not come."""
    things.run(ROWS, rows_of(1))
    call, lost = db_manager.call_interruptibly, []

    def lose_answer(function: Callable[[], Any], **options: Any) -> Any:
        answer = call(function, **options)
        if not lost and cli.query("SELECT count(*) FROM thing") == [(2,)]:
            lost.append(answer)
            raise psycopg2.OperationalError("server closed the connection")
        return answer

    monkeypatch.setattr(db_manager, "call_interruptibly", lose_answer)
    return lost


def test_payload_whose_commit_goes_unanswered_is_stored_once(
    things: Things, cli: CommandLine, lost_answers: list[Any]
) -> None:
    assert "Stored 3 things" in things.run(ROWS, rows_of(2), rows_of(3, 4))
    assert len(lost_answers) == 1
    columns = "status, rows_inserted, rows_updated"
    assert cli.runs(columns)[-1:] == [("succeeded", 3, 0)]


def test_payload_that_was_stored_without_an_answer_is_on_record(
    things: Things, cli: CommandLine, lost_answers: list[Any]
) -> None:
    things.parameters["retry_attempts"] = 1
    with pytest.raises(DAGExecutionError, match="server closed the connection"):
        things.run(ROWS, rows_of(1), rows_of(2), rows_of(3))
    assert cli.query("SELECT id FROM thing ORDER BY id") == [(1,), (2,)]
    columns = "status, rows_fetched, rows_inserted, rows_updated"
    assert cli.runs(columns)[-1:] == [("failed", 2, 1, 1)]
    assert len(lost_answers) == 1


def test_run_that_another_one_overtakes_keeps_its_changes(things: Things, cli: CommandLine) -> None:
    things.run(ROWS, rows_of(1, 2))

    def fetch(run: Run) -> Iterator[Payload]:
        yield Payload(b'[[1, null, "7"]]')
        cli.query(
            "INSERT INTO ingestion_run (dag_id, dag_name, source, status, started_at, ended_at)"
            " VALUES (2, 'import_things', 'api', 'succeeded', now(), now()) RETURNING 1"
        )
        yield Payload(b'[[2, null, "8"]]')

    things.run(ROWS, fetch=fetch)
    assert cli.runs("run_id, status") == [(1, "succeeded"), (2, "succeeded"), (3, "succeeded")]
    assert cli.query("SELECT run_id, key FROM ingestion_change ORDER BY key") == [
        (2, "1"),
        (2, "2"),
    ]


def test_wrong_clock_deletes_no_kept_payload_whatever_their_number(things: Things) -> None:
    folder = things.folder / "archive"
    for year in (2026, 2040):
        key = RunKey(2, "import_things", API_SOURCE, datetime(year, 1, 1, tzinfo=UTC))
        parameters = {"archive_days": 30, "archive_directory": folder}
        run = Run(things.feed(ROWS, []), key, parameters=parameters)
        for body in (b"1", b"2"):
            archive.keep(run, Payload(body))
        archive.delete_old(run)
    assert len(list(folder.iterdir())) == 4


def test_payload_that_a_killed_run_was_keeping_is_missed(
    things: Things, caplog: pytest.LogCaptureFixture
) -> None:
    folder, began, payload = things.folder / "archive", datetime(2026, 1, 1, tzinfo=UTC), b"1"
    run = Run(
        things.feed(ROWS, []),
        RunKey(2, "import_things", API_SOURCE, began),
        parameters={"archive_days": 30, "archive_directory": folder},
        last=LastRun(1, API_SOURCE, began, Payload(payload).sha256, None, 1),
    )
    archive.keep(run, Payload(payload))
    archive.warn_of_missing(run)
    assert caplog.text == ""
    [path] = folder.iterdir()
    path.rename(path.with_suffix(".part"))
    archive.warn_of_missing(run)
    assert "What run 1 loaded is not among the files" in caplog.text


# A feed that asks and stores by itself


def test_notes_of_a_run_are_in_its_summary_and_in_the_log(
    things: Things, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    long = "An adjustment: " + "all prices before it are halved, " * 3 + "\x1b[2J"

    def load(run: Run, manager: DatabaseManager) -> None:
        load_things(run, manager)
        run.figures.notes += [long, "A short one"]

    said = things.run(ROWS, load=load)
    notes = said.partition("updated              0\n\n")[2].partition("\n\nrejected 1 row:\n")[0]
    first, second, third = notes.split("\n")
    assert f"{first} {second.lstrip()}" == long.replace("\x1b", "\\x1b")
    assert len(first) < 80
    assert third == "A short one"
    assert notes in caplog.text


def load_things(run: Run, manager: DatabaseManager) -> None:
    """Store a thing a transaction, the next one after what is stored. A fourth one is refused."""

    def add(cursor: Any) -> None:
        cursor.execute("INSERT INTO thing (id) SELECT count(*) + 1 FROM thing RETURNING id")
        [(number,)] = cursor.fetchall()
        assert number < 4, "refused"

    run.figures.rejected.append(RejectedRow(None, "unknown to the shop", ["thing 9"]))
    with operation("ask the shop", run.durations):
        for _ in range(2):
            run.figures.fetched += 1
            manager.run_in_transaction(add)
            run.figures.merge = MergeResult(inserted=1) + (run.figures.merge or MergeResult())
            run.stage = Stage.STORED


def test_feed_that_loads_by_itself(things: Things, cli: CommandLine) -> None:
    looked_up: list[Any] = []

    def load(run: Run, manager: DatabaseManager) -> None:
        assert run.table is not None
        looked_up.append((run.table.exists, run.runs is not None, run.last and run.last.run_id))
        load_things(run, manager)

    said = things.run(ROWS, load=load)
    assert said.startswith(f"Stored 2 things in {cli.connection.info.dbname}.thing\n\nfetched")
    assert "they are:\n  unknown to the shop: 'thing 9'\nall of them: /" in said
    [rejects] = (things.folder.parent / "logs").glob("rejected_rows_*.csv")
    assert rejects.read_text().endswith("\n,unknown to the shop,thing 9\n")
    columns = "status, rows_fetched, rows_rejected, rows_inserted, dump_sha256"
    assert cli.runs(columns) == [("succeeded", 2, 1, 2, None)]
    assert cli.query("SELECT durations ? 'ask the shop' FROM ingestion_run") == [(True,)]
    assert not (things.folder / "archive").exists()
    assert "byte for byte" not in things.run(ROWS, load=lambda run, manager: looked_up.append(run))
    assert looked_up[:1] == [(True, True, None)]
    assert looked_up[1].last.run_id == 1


def test_feed_that_loads_by_itself_and_fails_keeps_what_it_stored(
    things: Things, cli: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    things.run(ROWS, load=load_things)
    with pytest.raises(DAGExecutionError, match=r"^unexpected AssertionError: refused"):
        things.run(ROWS, load=load_things)
    assert cli.query("SELECT count(*) FROM thing") == [(3,)]
    assert cli.runs("status, rows_fetched, rows_inserted")[-1] == ("failed", 2, 1)
    assert "What it stored before stays: 1 things." in caplog.text
    assert len(list((things.folder.parent / "logs").glob("rejected_rows_*.csv"))) == 2


def test_dry_run_of_a_feed_that_loads_by_itself(things: Things, cli: CommandLine) -> None:
    def load(run: Run, manager: DatabaseManager) -> None:
        assert run.options.dry_run
        assert run.table is not None
        run.figures.notes += [f"There is a table: {run.table.exists}", "7 would be asked for"]

    said = run_feed(things.feed(ROWS, [], load=load), dry_run=True)
    assert said == "Dry run: nothing was stored\n\nThere is a table: False\n7 would be asked for"
    assert said.counts == "nothing was stored"
    assert cli.query("SELECT to_regclass('thing'), to_regclass('ingestion_run')") == [(None, None)]


def test_dry_run_of_a_feed_that_loads_by_itself_without_a_database(
    things: Things,
    cli: CommandLine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DB_PORT", "1")
    run_feed(things.feed(ROWS, [], load=load_things), dry_run=True)
    assert "What would change in the table could not be worked out: " in caplog.text


@pytest.mark.parametrize(
    ("table", "fields"),
    [
        (ROWS, {"load": load_things, "parse": parse}),
        (SNAPSHOT, {"load": load_things}),
        (ROWS, {"load": None}),
        (ROWS, {"load": None, "parse": parse}),
    ],
    ids=["both", "snapshot", "none", "parse alone"],
)
def test_feed_has_one_way_to_load(things: Things, table: Table, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^thing: expected fetch and parse, or load alone"):
        things.feed(table, [], **fields)


@pytest.mark.parametrize("table", [ROWS, SNAPSHOT], ids=["rows", "snapshot"])
def test_feed_in_parts_loads_by_itself(things: Things, table: Table) -> None:
    with pytest.raises(ValueError, match=r"^thing: can_slice is for a feed with load$"):
        things.feed(table, [], can_slice=True)
    things.feed(ROWS, [], load=load_things, can_slice=True)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        pytest.param(
            ("there is no part for 2027", "CREATE TABLE a ();\nCREATE TABLE b ();"),
            "lacking DAG 2 import_things: there is no part for 2027\n"
            "        What the owner has to run, in psql for example:\n"
            "        CREATE TABLE a ();\n        CREATE TABLE b ();\n",
            id="with SQL",
        ),
        pytest.param(("a word", ""), "lacking DAG 2 import_things: a word\n", id="words alone"),
        pytest.param(None, "", id="nothing"),
        pytest.param("SELECT 1 FROM thing", "lacking DAG 2 import_things: ", id="an error"),
    ],
)
def test_check_names_what_a_feed_lacks(
    things: Things,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    found: Any,
    said: str,
) -> None:
    def find_lacking(cursor: Any) -> Any:
        if isinstance(found, str):
            cursor.execute(found)
        return found

    feed = things.feed(ROWS, [], load=load_things, find_lacking=find_lacking)
    monkeypatch.setattr(DAG, "load_feed", lambda dag: feed)
    assert check([DAG(2, "import_things", things.folder)]) == []
    output = capsys.readouterr().out
    assert said in output
    assert output.count("lacking ") == (1 if said else 0)
    if isinstance(found, str):
        assert 'relation "thing" does not exist' in output


def test_saved_file_is_nothing_for_a_feed_that_loads_by_itself(
    things: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = things.feed(ROWS, [], load=load_things)
    dag = DAG(2, "import_things", things.folder)
    monkeypatch.setattr(DAG, "load", lambda dag: partial(run_feed, feed))
    monkeypatch.setattr(DAG, "load_feed", lambda dag: feed)
    message = r"^DAG 2 has no --from-file: it asks and stores by itself\.$"
    with pytest.raises(ConfigurationError, match=message):
        plan_runs([dag], RunOptions(from_file="list.csv"))
    assert len(plan_runs([dag], RunOptions())) == 1
