"""Runs of a part (`--slice 3/8`): what they are told to be, and what they prove."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import notify, run_lock
from shared.calendar import IST
from shared.exceptions import ConfigurationError
from shared.feed import RunKey, Slice
from shared.notify import FAILED, Report, read_told
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from tests.clock import set_clocks
from tests.command_line import AddFolder, CommandLine, Result, empty_project
from tests.conftest import NO_WAIT, Server

FEED = """
from pathlib import Path
from shared.feed import Feed, Stage
from shared.models.table import Column, Table
from shared.utils.staged_merge import MergeResult

FOLDER = Path(__file__).parent

def load(run, manager):
    part = run.options.slice
    keys = [key for key in range(8) if part is None or part.holds(key)]
    run.figures.fetched += len(keys)
    if (FOLDER / "broken").exists():
        raise RuntimeError("no luck")
    def add(cursor):
        for key in keys:
            cursor.execute("INSERT INTO thing VALUES (%s) ON CONFLICT DO NOTHING", (key,))
    if not run.options.dry_run:
        manager.run_in_transaction(add)
        run.figures.merge = MergeResult(inserted=len(keys))
        run.stage = Stage.STORED

FEED = Feed(
    FOLDER, "things",
    Table("thing", (Column("id", "bigint"),), ("id",), last_updated="", created_at="",
          is_snapshot=False),
    load=load, can_slice=True,
)
"""
WHOLE_ONLY = FEED.replace("can_slice=True", "can_slice=False")
FUNCTION = """
def things(*, slice=None):
    return f"did {slice!r}"
"""
FUNCTION_OF_THE_WHOLE = "def things():\n    raise AssertionError('it ran')\n"
BEGIN = datetime.fromisoformat("2026-11-17T08:40+05:30")  # a Tuesday
NAME = "DAG 5 things"
# A source, and when its run began: minutes after 00:00 of the day.
Runs = Sequence[tuple[str, int]]


@pytest.fixture
def database(clocked_database: str) -> str:
    return clocked_database


@pytest.fixture
def project(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[AddFolder]:
    """Adds a DAG to a project that has none."""
    with empty_project(cli, monkeypatch, tmp_path / "root", BEGIN) as add_folder:

        def add(code: str = FEED, name: str = "dag_5_things", **settings: Any) -> Path:
            schema = "CREATE TABLE thing (id bigint PRIMARY KEY)"
            return add_folder(name, code, schema, **{"parameters": {}, **settings})

        yield add


def run_part(cli: CommandLine, part: str, *options: str) -> Result:
    return cli.run("--dag", "5", "--slice", part, *options)


def stored(cli: CommandLine) -> list[int]:
    return [key for (key,) in cli.query("SELECT id FROM thing ORDER BY id")]


# What a run of a part says, and is


def test_part_is_told_as_one_everywhere(
    project: AddFolder, cli: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    project()
    caplog.set_level(logging.INFO)
    result = run_part(cli, "2/3")
    assert result.status == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"{NAME}, part 2/3"
    assert lines[-1].startswith(f"{NAME}, part 2/3 succeeded in ")
    assert "This is part 2/3: the others are runs of their own" in lines
    assert not re.search(rf"{NAME}(?!, part 2/3)", result.stdout)
    assert "DAG 5, part 2/3, completed: " in caplog.text
    assert f"{NAME}, part 2/3: succeeded in " in caplog.text
    assert stored(cli) == [1, 4, 7]
    [(source, status, host)] = cli.runs("source", "status", "host")
    assert (source, status) == ("api 2/3", "succeeded")
    assert host.endswith("/logs/dag_5_part_2_of_3.lock")


def test_part_that_fails_is_told_and_recorded_as_one(
    project: AddFolder, cli: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    (project() / "broken").touch()
    caplog.set_level(logging.INFO)
    result = run_part(cli, "2/3")
    assert result.status == 1
    assert f"{NAME}, part 2/3 failed in " in result.stdout
    assert "DAG 5, part 2/3, did not complete: " in caplog.text
    assert cli.runs("source", "status") == [("api 2/3", "failed")]


def test_parts_and_the_whole_store_the_same(project: AddFolder, cli: CommandLine) -> None:
    project()
    for part in ("3/3", "1/3", "2/3", "1/3"):
        assert run_part(cli, part).status == 0
    assert stored(cli) == [*range(8)]
    cli.query("TRUNCATE thing")
    whole = cli.run("--dag", "5")
    assert "part" not in whole.stdout
    assert stored(cli) == [*range(8)]
    assert cli.runs("source")[-1] == ("api",)


@pytest.mark.parametrize("option", ["--dry-run", "--force"])
def test_options_that_go_with_a_part(option: str, project: AddFolder, cli: CommandLine) -> None:
    project()
    result = run_part(cli, "2/3", option)
    assert result.status == 0
    assert "This is part 2/3: the others are runs of their own" in result.stdout


def test_function_that_takes_a_part_gets_it(project: AddFolder, cli: CommandLine) -> None:
    project(FUNCTION)
    result = run_part(cli, "2/3")
    assert result.status == 0
    assert "did Slice(number=2, count=3)" in result.stdout
    [(source, host)] = cli.runs("source", "host")
    assert (source, host.endswith("/logs/dag_5_part_2_of_3.lock")) == ("api 2/3", True)
    assert "did None" in cli.run("--dag", "5").stdout
    assert cli.runs("source")[-1] == ("api",)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        pytest.param(WHOLE_ONLY, "it is loaded as a whole", id="feed"),
        pytest.param(FUNCTION_OF_THE_WHOLE, "its function things takes no slice", id="function"),
    ],
)
def test_part_of_a_dag_that_has_none_is_refused_before_anything_runs(
    code: str, why: str, project: AddFolder, cli: CommandLine
) -> None:
    project(code)
    assert run_part(cli, "1/2") == Result(2, "", f"ERROR: DAG 5 has no --slice: {why}.\n")
    assert cli.query("SELECT to_regclass('ingestion_run')") == [(None,)]


def test_part_is_of_one_dag(project: AddFolder, cli: CommandLine) -> None:
    project()
    project(FUNCTION.replace("things", "more"), "dag_6_more")
    for dags in ((), ("--dag", "5", "--dag", "6")):
        result = cli.run(*dags, "--slice", "1/2")
        assert (result.status, result.stdout) == (2, "")
        assert result.stderr == (
            "ERROR: --slice is for one DAG, and these would run: 5, 6. Name one with --dag.\n"
        )
    assert cli.query("SELECT to_regclass('ingestion_run')") == [(None,)]


@pytest.mark.parametrize(
    ("code", "slices", "said"),
    [
        pytest.param(FEED, 4, "", id="a feed in parts"),
        pytest.param(FUNCTION, 4, "", id="a function in parts"),
        pytest.param(WHOLE_ONLY, 1, "", id="a whole"),
        pytest.param(
            WHOLE_ONLY, 4, "slices: expected 1, since the DAG has no --slice, got 4.", id="feed"
        ),
        pytest.param(
            FUNCTION_OF_THE_WHOLE,
            2,
            "slices: expected 1, since the DAG has no --slice, got 2.",
            id="function",
        ),
    ],
)
def test_check_names_slices_that_a_scheduler_could_not_run(
    code: str, slices: int, said: str, project: AddFolder, cli: CommandLine
) -> None:
    project(code, slices=slices)
    result = cli.run("check")
    assert result.status == (2 if said else 0)
    assert said in result.stdout
    assert ("FAILED" in result.stdout) == bool(said)


# The last good run, and the record of a run


def test_run_of_a_part_is_no_last_good_run(
    project: AddFolder, cli: CommandLine, server: Server
) -> None:
    project()
    cli.run("--dag", "5")
    run_part(cli, "1/2")
    run_part(cli, "2/2")
    with cli.connection.cursor() as cursor:
        last = run_history.read_last_good_run(cursor, 5)
    assert last is not None
    assert (last.run_id, last.source) == (1, "api")


def test_parts_that_began_at_the_same_moment_are_told_apart(
    project: AddFolder, cli: CommandLine
) -> None:
    project()
    run_part(cli, "1/2")
    with cli.connection.cursor() as cursor:
        found = {
            source: run_history.has_succeeded(cursor, RunKey(5, "things", source, BEGIN))
            for source in ("api 1/2", "api 2/2", "api")
        }
    assert found == {"api 1/2": True, "api 2/2": False, "api": False}


# Fresh


def add_runs(cli: CommandLine, runs: Runs, day: int = 17, status: str = "succeeded") -> None:
    """Record these runs, in this order."""
    with cli.connection.cursor() as cursor:
        cursor.execute(run_history.SQL["create_ingestion_run"])
    for source, minute in runs:
        moment = datetime(2026, 11, day, tzinfo=IST) + timedelta(minutes=minute)
        cli.query(
            "INSERT INTO ingestion_run (dag_id, dag_name, source, status, started_at, ended_at)"
            " VALUES (5, 'things', %s, %s, %s, %s)",
            *(source, status, moment, moment + timedelta(seconds=1)),
        )


EIGHT, NINE, TEN, ELEVEN = 480, 540, 600, 660
FRESH = "FRESH: DAG 5 things was loaded on\n  Tue 17 Nov 2026 {}:00 IST.\n"
STALE = (
    "STALE: DAG 5 things was last loaded on\n  Tue 17 Nov 2026 {}:00 IST. "
    "Expected: a load since Tue 17 Nov 2026 08:30 IST.\n"
)
NEVER = (
    "STALE: DAG 5 things was never loaded as a whole.\n"
    "  Expected: a load since Tue 17 Nov 2026 08:30 IST.\n"
)


def parts(count: int, minute: int, *without: int) -> list[tuple[str, int]]:
    return [(f"api {n}/{count}", minute) for n in range(1, count + 1) if n not in without]


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        pytest.param(parts(4, NINE), FRESH.format("09"), id="all parts"),
        pytest.param([("api 1/1", NINE)], FRESH.format("09"), id="the one part"),
        pytest.param(
            [*reversed(parts(3, NINE)), ("api 2/3", TEN)], FRESH.format("09"), id="in any order"
        ),
        pytest.param(
            [*parts(3, EIGHT), *parts(3, NINE, 2), ("api 2/3", TEN)],
            FRESH.format("09"),
            id="the oldest counts",
        ),
        pytest.param([("api", EIGHT), *parts(2, NINE)], FRESH.format("09"), id="parts are newer"),
        pytest.param([*parts(2, EIGHT), ("api", NINE)], FRESH.format("09"), id="whole is newer"),
        pytest.param(
            [("api", NINE), *parts(2, TEN, 2)], FRESH.format("09"), id="whole, and a part"
        ),
        pytest.param(
            [("api 1/2", EIGHT), ("api", NINE), ("api 2/2", TEN)],
            FRESH.format("09"),
            id="whole between parts",
        ),
        pytest.param(
            [*parts(4, NINE), *parts(8, TEN, 5)], FRESH.format("09"), id="two numbers of parts"
        ),
        pytest.param(
            parts(4, NINE, 3), f"{NEVER}  Part 3/4 has not been loaded since.\n", id="three of four"
        ),
        pytest.param(
            [*parts(4, EIGHT), *parts(4, NINE, 2, 3)],
            f"{STALE.format('08')}  Parts 2/4 and 3/4 have not been loaded since.\n",
            id="two of four",
        ),
        pytest.param(
            [("api", EIGHT), *parts(2, NINE, 1)],
            f"{STALE.format('08')}  Part 1/2 has not been loaded since.\n",
            id="a part after the whole",
        ),
        pytest.param(parts(4, EIGHT), STALE.format("08"), id="all parts are old"),
        pytest.param(
            parts(3, EIGHT + 30, 3),
            f"{NEVER}  Part 3/3 has not been loaded since.\n",
            id="at the schedule",
        ),
        pytest.param(
            [*parts(4, NINE, 3, 4), *[(f"api {n}/8", TEN) for n in range(5, 9)]],
            f"{NEVER}  Parts 1/8, 2/8, 3/8 and 4/8 have not been loaded since.\n",
            id="parts of four and of eight",
        ),
        pytest.param(
            parts(100, NINE, *range(7, 100)),
            f"{NEVER}  Parts 7/100, 8/100, 9/100, 10/100, 11/100 and 88 more have not been loaded\n"
            "  since.\n",
            id="many",
        ),
        pytest.param([("api 0/2", NINE), ("api 3/2", NINE), ("api 1/2x", NINE)], None, id="others"),
    ],
)
def test_parts_stand_for_the_whole_when_all_are_loaded(
    runs: Runs, said: str | None, project: AddFolder, cli: CommandLine
) -> None:
    project()
    add_runs(cli, runs)
    set_clocks(cli, BEGIN.replace(hour=12))
    result = cli.run("status")
    if said is None:
        said = NEVER.replace(" as a whole", "")
    assert result.stdout.endswith(f"\n{said}")
    assert max(map(len, result.stdout.splitlines())) < 80


def test_part_that_failed_does_not_count(project: AddFolder, cli: CommandLine) -> None:
    project()
    add_runs(cli, parts(2, NINE, 2))
    add_runs(cli, [("api 2/2", TEN)], status="failed")
    add_runs(cli, [("api 2/2", TEN)], status="running")
    set_clocks(cli, BEGIN.replace(hour=12))
    assert "Part 2/2 has not been loaded since." in cli.run("status").stdout


def test_parts_of_a_function_and_in_an_older_table(project: AddFolder, cli: CommandLine) -> None:
    project(FUNCTION)
    add_runs(cli, parts(2, NINE))
    cli.query("ALTER TABLE ingestion_run DROP COLUMN host, DROP COLUMN valid_from")
    set_clocks(cli, BEGIN.replace(hour=12))
    assert cli.run("status").stdout.endswith(f"\n{FRESH.format('09')}")


def test_parts_on_record_are_none_of_a_snapshot(project: AddFolder, cli: CommandLine) -> None:
    code = FEED.replace("load=load, can_slice=True", "fetch=load, parse=load").replace(
        'last_updated="", created_at="",\n          is_snapshot=False', ""
    )
    project(code)
    add_runs(cli, parts(2, NINE))
    set_clocks(cli, BEGIN.replace(hour=12))
    assert cli.run("status").stdout.endswith(f"\n{NEVER.replace(' as a whole', '')}")


def test_part_that_is_ahead_of_the_clock_is_never_fresh(
    project: AddFolder, cli: CommandLine
) -> None:
    project()
    add_runs(cli, parts(3, NINE))
    cli.query("UPDATE ingestion_run SET started_at = '2030-01-01' WHERE run_id = 2")
    set_clocks(cli, BEGIN.replace(hour=12))
    result = cli.run("status")
    assert result.status == 4
    assert f"UNKNOWN: {NAME}: run 2 is ahead of the clock.\n" in result.stdout
    add_runs(cli, [("api 2/3", TEN)])
    assert cli.run("status").status == 0


@pytest.fixture(scope="module")
def manager(server: Server, module_database: str) -> Iterator[DatabaseManager]:
    with DatabaseManager(server.config(module_database), retry=NO_WAIT) as manager:
        manager.execute_query(run_history.SQL["create_ingestion_run"])
        yield manager


SOURCES = ["api", *(f"api {n}/{count}" for count in (1, 2, 3) for n in range(1, count + 1))]
histories = st.lists(
    st.tuples(st.sampled_from([*SOURCES, "/a.csv"]), st.booleans(), st.integers(0, 20)),
    max_size=14,
)


def model(history: Sequence[tuple[str, bool, int]]) -> tuple[int | None, Mapping[int, int]]:
    """The minute of what is stored, and of the newest good runs of parts, by their numbers."""
    newest = {source: (i, at) for i, (source, is_good, at) in enumerate(history) if is_good}
    whole = [[newest["api"]]] if "api" in newest else []
    parts = {
        count: {
            n: newest[name] for n in range(1, count + 1) if (name := f"api {n}/{count}") in newest
        }
        for count in (1, 2, 3)
    }
    complete = [[*runs.values()] for count, runs in parts.items() if len(runs) == count]
    last = max([*whole, *complete], key=min, default=[])
    shown = max(parts.values(), key=lambda runs: max(runs.values(), default=(-1, 0)))
    return min((at for _, at in last), default=None), {n: at for n, (_, at) in shown.items()}


@given(history=histories)
def test_what_is_loaded_is_what_the_model_says(
    manager: DatabaseManager, history: Sequence[tuple[str, bool, int]]
) -> None:
    def look(cursor: Any) -> Any:
        cursor.execute("TRUNCATE ingestion_run RESTART IDENTITY CASCADE")
        for source, is_good, at in history:
            moment = BEGIN + timedelta(minutes=at)
            cursor.execute(
                "INSERT INTO ingestion_run (dag_id, dag_name, source, status, started_at, ended_at)"
                " VALUES (5, 'things', %s, %s, %s, %s)",
                (source, "succeeded" if is_good else "failed", moment, moment),
            )
        wanted = {"dag_id": 5, "also_files": False, "has_parts": True}
        return run_history.read_last_load(cursor, wanted, stored_rows="(NULL)", zone="")

    load, found = manager.run_in_transaction(look)
    minute, starts = model(history)
    assert (load and load.served_at) == (
        None if minute is None else BEGIN + timedelta(minutes=minute)
    )
    assert found.starts == {n: BEGIN + timedelta(minutes=at) for n, at in starts.items()}


# What follows from it


def due_in_json(cli: CommandLine) -> bool | None:
    [dag] = json.loads(cli.run("status", "--json").stdout)["dags"]
    is_due: bool | None = dag["is_due"]
    return is_due


def test_due_runs_the_whole_unless_all_parts_are_loaded(
    project: AddFolder, cli: CommandLine
) -> None:
    project()
    for part in ("1/3", "3/3"):
        assert run_part(cli, part).status == 0
    assert due_in_json(cli) is True
    assert f"{NAME} succeeded" in cli.run("--due").stdout
    assert due_in_json(cli) is False
    set_clocks(cli, BEGIN + timedelta(days=1))
    assert due_in_json(cli) is True
    for part in ("1/3", "2/3", "3/3"):
        assert run_part(cli, part).status == 0
    assert due_in_json(cli) is False
    assert cli.run("--due") == Result(0, "", "")
    assert [source for (source,) in cli.runs("source")].count("api") == 1


def test_due_lets_a_part_that_runs_go_on(project: AddFolder, cli: CommandLine) -> None:
    project()
    with run_lock.hold(cli.folder / "logs", 5, Slice(2, 3)):
        assert cli.run("--due") == Result(0, "", "")
    assert f"{NAME} succeeded" in cli.run("--due").stdout


def test_dag_that_comes_after_waits_for_all_parts(project: AddFolder, cli: CommandLine) -> None:
    project()
    later = FEED.replace('"thing"', '"later"').replace("INTO thing", "INTO later")
    folder = project(later.replace("can_slice", "needs_fresh"), "dag_6_later", after=[5])
    (folder / "schema.sql").write_text("CREATE TABLE later (id bigint PRIMARY KEY)")
    run_part(cli, "1/2")
    refused = cli.run("--dag", "6")
    assert refused.status == 1
    assert "whose rows are stale: DAG 5 things was never loaded as a whole." in refused.stderr
    assert "Part 2/2 has not been loaded since. Run DAG 5 first" in refused.stderr
    run_part(cli, "2/2")
    assert cli.run("--dag", "6").status == 0


@pytest.mark.parametrize(
    ("hour", "minute", "is_due"),
    [
        pytest.param(8, 29, False, id="before its schedule"),
        pytest.param(8, 30, True, id="within the grace"),
        pytest.param(9, 30, True, id="stale"),
    ],
)
def test_what_is_due_has_no_grace(
    hour: int, minute: int, is_due: bool, project: AddFolder, cli: CommandLine
) -> None:
    project()
    assert cli.run("--dag", "5").status == 0
    assert due_in_json(cli) is False
    set_clocks(cli, BEGIN.replace(day=18, hour=hour, minute=minute))
    assert due_in_json(cli) is is_due


def test_what_is_due_by_one_of_the_clocks_is_due(project: AddFolder, cli: CommandLine) -> None:
    project()
    assert cli.run("--dag", "5").status == 0
    before = BEGIN.replace(day=18, hour=8, minute=29)
    set_clocks(cli, before)
    cli.query("UPDATE test_clock SET moment = %s", before + timedelta(minutes=1))
    assert due_in_json(cli) is True


def test_what_is_due_cannot_be_known(
    project: AddFolder, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project()
    assert due_in_json(cli) is None  # there is no history
    assert cli.run("--dag", "5").status == 0
    set_clocks(cli, BEGIN - timedelta(hours=2))  # the run is ahead of the clock
    assert due_in_json(cli) is None
    (folder / "__init__.py").write_text("raise RuntimeError")
    sys.modules.pop("dag_5_things")
    assert due_in_json(cli) is None
    monkeypatch.setenv("DB_PORT", "1")
    monkeypatch.setattr("shared.utils.interruptible.time.sleep", lambda seconds: None)
    assert due_in_json(cli) is None


# What monitors see


def test_status_says_which_runs_were_of_a_part(project: AddFolder, cli: CommandLine) -> None:
    project()
    add_runs(cli, [("api", EIGHT), ("api 1/9999", NINE)])
    said = cli.run("status").stdout
    assert "\nNot of the whole, but of a part: run 2 (1/9999).\n" in said
    assert "saved" not in said
    add_runs(cli, [(f"api {n}/9999", NINE) for n in range(9990, 9998)])
    said = cli.run("status").stdout
    assert re.search(
        r"^Not of the whole, but of a part: runs 10 \(9997/9999\),"
        r"[^.]*\n  [^.]* and 2 \(1/9999\)\.$",
        said,
        re.M,
    )
    assert max(map(len, said.splitlines())) < 80
    document = json.loads(cli.run("status", "--json").stdout)
    assert document["runs"][0]["source"] == "api 9997/9999"


def metrics(cli: CommandLine, name: str) -> dict[str, float]:
    """The values of a gauge by the label `part`, "" where there is none."""
    text = cli.run("status", "--prometheus").stdout
    found = re.findall(rf"^stock_ingestion_{name}{{(.*)}} (\S+)$", text, re.M)
    values = {
        (re.findall(r'part="(.*?)"', labels) or [""])[0]: float(value) for labels, value in found
    }
    assert len(values) == len(found)
    return values


@pytest.mark.parametrize(
    ("runs", "is_well"),
    [
        pytest.param("1/2 2/2", True, id="all"),
        pytest.param("1/2 -2/2", False, id="the last one"),
        pytest.param("-1/2 2/2", False, id="another one's later success"),
        pytest.param("-1/2 2/2 1/2", True, id="it ran again"),
        pytest.param("-1/2 2/2 -1/2", False, id="it failed again"),
        pytest.param("-1/2 api 2/2", True, id="the whole ran since"),
        pytest.param("1/2 2/2 -api", False, id="the whole failed"),
        pytest.param("-api 1/2", False, id="a part after the whole failed"),
        pytest.param("-api 1/2 2/2", True, id="all parts after the whole failed"),
        pytest.param("1/2 -api 2/2", False, id="one part before it"),
        pytest.param("-1/4 2/4 1/2 2/2", True, id="another number of parts"),
        pytest.param("-1/4 1/2", False, id="one part of another number"),
        pytest.param("-1/4 2/2 -1/2", False, id="all parts of another number, and one failed"),
        pytest.param("1/2 -1/4 2/2", False, id="parts of another number before and after it"),
        pytest.param("-api 1/2 2/3 3/3", False, id="parts of two numbers"),
        pytest.param("-1/2 -api api", True, id="the whole is well again"),
    ],
)
def test_failure_of_a_part_is_not_hidden(
    runs: str, is_well: bool, project: AddFolder, cli: CommandLine
) -> None:
    project()
    for minute, run in enumerate(runs.split()):
        name = run.removeprefix("-")
        source = name if name == "api" else f"api {name}"
        add_runs(cli, [(source, NINE + minute)], status="failed" if run != name else "succeeded")
    assert metrics(cli, "last_run_succeeded") == {"": is_well}


def test_each_part_has_gauges_of_its_own(project: AddFolder, cli: CommandLine) -> None:
    project()
    for part in ("1/3", "1/2", "2/2", "2/2"):
        assert run_part(cli, part).status == 0
        assert run_part(cli, "1/2").status == 0
    assert cli.run("--dag", "5").status == 0
    expected = {"": 8, "1/2": 4, "2/2": 4}
    assert metrics(cli, "last_success_fetched_rows") == expected
    assert metrics(cli, "last_success_stored_rows") == expected
    assert set(metrics(cli, "last_success_timestamp_seconds")) == set(expected)
    assert list(metrics(cli, "last_run_timestamp_seconds")) == [""]
    add_runs(cli, [("/a.csv", NINE), ("/b.csv", NINE)])  # as of the whole
    assert set(metrics(cli, "last_success_timestamp_seconds")) == set(expected)


def test_gauges_stay_while_the_first_part_of_another_number_runs(
    project: AddFolder, cli: CommandLine
) -> None:
    """It has neither ended nor loaded anything yet."""
    project()
    add_runs(cli, [("api 1/2", NINE), ("api 2/2", NINE)])
    add_runs(cli, [("api 1/3", TEN)], status="running")
    for _ in range(2):
        assert set(metrics(cli, "last_success_timestamp_seconds")) == {"1/2", "2/2"}
        assert list(metrics(cli, "last_run_timestamp_seconds")) == [""]
        cli.query("UPDATE ingestion_run SET status = 'failed' WHERE run_id = 3")
    assert metrics(cli, "last_run_succeeded") == {"": False}


def test_part_that_is_well_does_not_speak_for_another(
    project: AddFolder, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    def send(message: notify.Message, urls: list[str], end: float) -> bool:
        sent.append(message.title)
        return True

    monkeypatch.setenv("NOTIFY_URLS", "json://127.0.0.1:9/")
    monkeypatch.setattr(notify, "send", send)
    folder = project()
    (folder / "broken").touch()
    run_part(cli, "1/2")
    (folder / "broken").unlink()
    run_part(cli, "2/2")
    assert len(sent) == 1
    run_part(cli, "1/2")
    failed, well = sent
    assert failed.endswith(": DAG 5 things, part 1/2 failed")
    assert well.endswith(": well again")
    assert read_told(Slice(1, 2)).moments == {}


def test_what_was_told_of_a_part_is_kept_apart(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report({5: NAME}, {5: ConfigurationError("x")}, 2, part=Slice(1, 2))
    notify.tell(report)
    assert list(read_told(Slice(1, 2)).moments[5]) == [FAILED]
    assert read_told().moments == {}
    assert (cli.folder / "logs" / "told_part_1_of_2.json").exists()


# Locks


def test_each_part_has_a_lock_of_its_own(tmp_path: Path) -> None:
    with (
        run_lock.hold(tmp_path, 5, Slice(1, 2)) as first,
        run_lock.hold(tmp_path, 5) as whole,
    ):
        assert first
        assert whole
        with run_lock.hold(tmp_path, 5, Slice(2, 2)) as second:
            assert second
            assert len({first.host, second.host, whole.host}) == 3
            assert all(lock.is_alone() for lock in (first, second, whole))
        assert run_lock.has_ended(second.host)
        assert not run_lock.has_ended(first.host)
        assert not run_lock.has_ended(whole.host)
        with run_lock.hold(tmp_path, 5, Slice(1, 2)) as again:
            assert again
            assert not again.is_alone()
            assert whole.is_alone()


@pytest.mark.parametrize("part", [None, Slice(2, 3)], ids=["whole", "part"])
def test_dag_runs_where_any_part_does(part: Slice | None, tmp_path: Path) -> None:
    assert not run_lock.is_held(tmp_path, 5)
    with run_lock.hold(tmp_path, 5, part):
        assert run_lock.is_held(tmp_path, 5)
        assert not run_lock.is_held(tmp_path, 55)
        assert not run_lock.is_held(tmp_path, 6)
    assert not run_lock.is_held(tmp_path, 5)
    with run_lock.hold(tmp_path, 55, part):
        assert not run_lock.is_held(tmp_path, 5)


def test_killed_part_is_told_while_others_live(project: AddFolder, cli: CommandLine) -> None:
    project()
    logs = cli.folder / "logs"
    add_runs(cli, [("api 1/3", NINE), ("api 2/3", NINE), ("api", NINE)], status="running")
    statuses = "SELECT source, status FROM ingestion_run WHERE run_id < 4 ORDER BY run_id"
    with (
        run_lock.hold(logs, 5, Slice(2, 3)) as second,
        run_lock.hold(logs, 5) as whole,
        run_lock.hold(logs, 5, Slice(1, 3)) as first,
    ):
        for run_id, lock in enumerate((first, second, whole), 1):
            assert lock
            host = ("UPDATE ingestion_run SET host = %s WHERE run_id = %s", lock.host, run_id)
            cli.query(*host)
        assert "It ended without a word" not in cli.run("status").stdout
    with run_lock.hold(logs, 5, Slice(2, 3)), run_lock.hold(logs, 5):
        said = cli.run("status").stdout
        assert "\nRun 1 failed: It ended without a word" in said
        assert len(re.findall(" running ", said)) == 2
        assert run_part(cli, "3/3").status == 0
        assert cli.query(statuses)[0] == ("api 1/3", "running")
        assert run_part(cli, "1/3").status == 0
        assert cli.query(statuses) == [
            ("api 1/3", "failed"),
            ("api 2/3", "running"),
            ("api", "running"),
        ]
    assert run_part(cli, "2/3").status == 0
    assert [status for _, status in cli.query(statuses)] == ["failed", "failed", "running"]
    assert cli.run("--dag", "5").status == 0
    assert [status for _, status in cli.query(statuses)] == ["failed"] * 3
