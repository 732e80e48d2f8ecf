"""A real Airflow runs the project's DAG folders: `make airflow`, not part of `make test`.

It has the sandbox's Kite and a PostgreSQL. What is asked of the file alone is in
tests/integration/test_airflow_file.py.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError
from urllib.parse import quote

import pytest
from cronsim import CronSim

from dag_2_import_candles_from_kite.sandbox_route import PATH, CandleRoute
from sandbox.kite_faults import Hang, HttpError
from sandbox.kite_server import KiteServer
from tests.airflow.engine import Engine, find_block, find_processes, running, wait_until
from tests.candle_rig import enable_candles, make_market
from tests.candle_truth import Market
from tests.conftest import PROJECT, Project, Server, environment_for, make_project

DAG_1, DAG_2 = "dag_1_import_instruments_from_kite", "dag_2_import_candles_from_kite"
TOKEN = "The-Days-Token-6c1"

ROWS = "SELECT count(*) FROM kite_instrument_master"
LAST_RUN = "SELECT status, error FROM ingestion_run WHERE dag_id = 1 ORDER BY run_id DESC LIMIT 1"
CANDLES = """
SELECT tradingsymbol, interval, ts, open, high, low, close, volume, oi
FROM kite_candle JOIN kite_instrument_today USING (instrument_id) ORDER BY 1, 2, 3
"""
COVERAGE = """
SELECT tradingsymbol, interval, "from", "to", is_final
FROM kite_candle_coverage JOIN kite_instrument_today USING (instrument_id) ORDER BY 1, 2, 3
"""


@pytest.fixture(scope="module")
def market() -> Market:
    market = make_market()
    market.dump()  # from which a list on its instruments are told
    return market


@pytest.fixture(scope="module")
def kite(market: Market) -> Iterator[KiteServer]:
    with KiteServer(market.dump(), access_token=TOKEN) as running:
        running.add_route(PATH, CandleRoute(cast(Any, market)))
        yield running


@contextmanager
def own_database(server: Server, name: str) -> Iterator[str]:
    name = f"{name}_{uuid.uuid4().hex[:12]}"
    server.execute(f"CREATE DATABASE {name}")
    yield name
    server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def database(server: Server) -> Iterator[str]:
    """That of the project, which Airflow's runs fill."""
    with own_database(server, "test") as name:
        yield name


@pytest.fixture(scope="module")
def installed(
    shipped: Path, tmp_path_factory: pytest.TempPathFactory, market: Market
) -> Iterator[Project]:
    """The project with its environment, its file for Airflow, and a wish for candles."""
    base = tmp_path_factory.mktemp("airflow")
    project = make_project(shipped, base)
    shutil.copytree(PROJECT / "deploy", project.folder / "deploy")
    for name in (".venv", ".venv-airflow"):
        (project.folder / name).symlink_to(PROJECT / name)
    enable_candles(project, market, requests_per_second=100)
    yield project
    shutil.rmtree(base)


@pytest.fixture(scope="module")
def engine(installed: Project, server: Server, database: str, kite: KiteServer) -> Iterator[Engine]:
    """Airflow, with the pool and the day's token as docs/airflow.md makes them."""
    token = {"RETRY_DELAY_SECONDS": "0.01", "KITE_ACCESS_TOKEN": "yesterdays"}
    given = {**installed.environment, **environment_for(server, database, kite), **token}
    with running(installed.folder, server, given) as engine:
        set_token(engine, TOKEN)
        wait_until(lambda: {DAG_1, DAG_2} <= set(engine.dags()))
        assert DAG_1 in engine.run_block("First start", "airflow dags list")
        begun = [run["dag_run_id"] for run in engine.runs(DAG_1)]
        assert [engine.finish(DAG_1, run) for run in begun] == ["success"] * 2
        yield engine
    logged = "".join(path.read_text() for path in engine.home.rglob("*.log"))
    assert "Stored" in logged
    assert [each for each in (TOKEN, server.conninfo["password"]) if each in logged] == []


def set_token(engine: Engine, token: str) -> None:
    """Put it into .env, and from there into the Variable."""
    (engine.project / ".env").write_text(f"KITE_ACCESS_TOKEN={token}\n", encoding="utf-8")
    engine.run_block("Today's token", "airflow variables set")


def ask(server: Server, database: str, query: str) -> Any:
    [row] = server.execute(query, dbname=database)
    return row[0] if len(row) == 1 else row


def test_without_its_pool_a_task_waits_and_the_description_says_why(engine: Engine) -> None:
    told = re.search(r"wait for ever: (.*)\)", engine.dags()[DAG_1]["description"])
    assert told is not None
    assert told[1] in find_block("First start", "airflow db migrate")
    engine.run("airflow pools delete stock_ingestion")
    try:
        output, warning = engine.home / "scheduler.out", "non-existent pool 'stock_ingestion'"
        before = output.read_text().count(warning)
        run = engine.trigger(DAG_1, dry_run=True)
        wait_until(lambda: output.read_text().count(warning) > before)
        wait_until(lambda: engine.states(DAG_1, run) == {"run": "scheduled", "stored": None})
    finally:
        engine.run(told[1])
    assert engine.finish(DAG_1, run) == "success"


def test_the_first_unpause_runs_nothing_of_yesterday(engine: Engine) -> None:
    found = engine.dags()[DAG_1]
    assert found["next_dagrun_run_after"].endswith("T03:00:00Z")  # 08:30 in India
    assert engine.runs(DAG_1)[0]["run_type"] == "manual"  # one of yesterday would be before it


def test_dag_1_is_green(engine: Engine, server: Server, database: str, market: Market) -> None:
    run = engine.trigger(DAG_1)
    assert engine.finish(DAG_1, run) == "success"
    assert engine.states(DAG_1, run) == {"run": "success", "stored": "success"}
    stored = ask(server, database, ROWS)
    assert stored == market.dump().count(b"\n") - 1
    assert f"Stored {stored} instruments in {database}.kite_instrument_master" in engine.log(
        DAG_1, run
    )


def test_a_dry_run_stores_nothing(engine: Engine, server: Server, database: str) -> None:
    before = server.execute("SELECT count(*) FROM ingestion_run", dbname=database)
    run = engine.trigger(DAG_1, dry_run=True)
    assert engine.finish(DAG_1, run) == "success"
    assert engine.states(DAG_1, run) == {"run": "success", "stored": "skipped"}
    assert server.execute("SELECT count(*) FROM ingestion_run", dbname=database) == before


@pytest.mark.parametrize("params", [{"dry_run": "maybe"}, {"force": 1}, {"from_file": "-"}])
def test_a_bad_parameter_is_refused(engine: Engine, params: dict[str, Any]) -> None:
    before = len(engine.runs(DAG_1))
    with pytest.raises(HTTPError) as caught:
        engine.trigger(DAG_1, **params)
    assert caught.value.code == 400
    assert f"Invalid input for param {min(params)}" in caught.value.read().decode()
    assert len(engine.runs(DAG_1)) == before


def test_an_unknown_parameter_is_refused(engine: Engine, kite: KiteServer) -> None:
    before = len(kite.requests)
    run = engine.trigger(DAG_1, dryrun=True)
    assert engine.finish(DAG_1, run) == "failed"
    assert "got dryrun: nothing ran" in engine.log(DAG_1, run)
    assert (engine.attempts(DAG_1, run), len(kite.requests)) == ([1], before)


def test_a_dead_session_fails_without_a_retry(engine: Engine) -> None:
    set_token(engine, "yesterdays")
    run = engine.trigger(DAG_1)
    assert engine.finish(DAG_1, run) == "failed"
    set_token(engine, TOKEN)
    assert engine.states(DAG_1, run) == {"run": "failed", "stored": "upstream_failed"}
    assert engine.attempts(DAG_1, run) == [1]
    assert "AirflowFailException" in engine.log(DAG_1, run)
    assert "Exit status 3: authenticate failed: Kite refused the session" in engine.log(DAG_1, run)


def test_too_many_requests_are_tried_again(engine: Engine, kite: KiteServer) -> None:
    kite.fail_next("/instruments", HttpError(429), times=3)  # all attempts of one run
    run = engine.trigger(DAG_1)
    assert engine.finish(DAG_1, run) == "success"
    assert engine.attempts(DAG_1, run) == [2]
    assert "Exit status 1: fetch instruments failed: Kite answered HTTP 429" in engine.log(
        DAG_1, run
    )


def test_mark_failed_during_a_download_leaves_nothing_behind(
    engine: Engine, kite: KiteServer, server: Server, database: str, installed: Project
) -> None:
    server.execute("DELETE FROM kite_instrument_master", dbname=database)
    before = len(kite.requests)
    kite.fail_next("/instruments", Hang())
    run = engine.trigger(DAG_1)
    wait_until(lambda: any(r.path == "/instruments" for r in kite.requests[before:]))
    engine.mark_failed(DAG_1, run)
    assert engine.finish(DAG_1, run) == "failed"
    program = str(installed.folder / ".venv" / "bin" / "python")
    wait_until(lambda: not find_processes(program))
    assert server.sessions(database) == 0
    assert ask(server, database, ROWS) == 0
    assert ask(server, database, LAST_RUN) == ("failed", "ended from outside: Terminated")
    assert "Terminated: what was not committed yet is rolled back." in engine.log(DAG_1, run)
    assert engine.finish(DAG_1, engine.trigger(DAG_1)) == "success"


@pytest.mark.parametrize(
    ("number", "config"),
    [
        (7, "{"),
        (8, '{"schedule": "whenever"}'),
        (9, '{"schedule": "0 9 * * 8"}'),
        (10, '{"schedule": "0 9 5-5 * *"}'),
    ],
)
def test_a_broken_folder_stops_no_other(
    engine: Engine, installed: Project, number: int, config: str
) -> None:
    folder = installed.folder / f"dag_{number}_odd"
    folder.mkdir()
    (folder / "__init__.py").write_text("def odd():\n    return 'odd'\n")
    (folder / "config.json").write_text(config)
    wait_until(lambda: folder.name in engine.dags())
    found = engine.dags()
    assert found[folder.name]["description"].startswith("BROKEN: ")
    assert found[folder.name]["timetable_summary"] is None
    assert found[DAG_1]["timetable_summary"] == "30 8 * * *"
    assert engine.finish(DAG_1, engine.trigger(DAG_1)) == "success"
    assert engine.call("GET", "/api/v2/importErrors")["import_errors"] == []


def test_odd_names_and_texts_end_no_process(engine: Engine, installed: Project) -> None:
    """What Airflow's database refuses would end its dag-processor."""
    name = "größe" + "x" * 230
    folder = installed.folder / f"dag_11_{name}"
    folder.mkdir()
    (folder / "__init__.py").write_text(f"def {name}():\n    return 'odd'\n", encoding="utf-8")
    (folder / "config.json").write_text(r'{"description": "a\u0000b\ud800c"}')
    dag_id = folder.name.encode()[:240].decode()
    wait_until(lambda: dag_id in engine.dags())
    assert engine.dags()[dag_id]["description"].startswith(r"a\0b\ud800c (")
    wait_until(lambda: bool(engine.call("GET", f"/api/v2/dags/{quote(dag_id)}/details")))
    engine.unpause(quote(dag_id))
    assert engine.finish(quote(dag_id), engine.trigger(quote(dag_id))) == "success"


FIELDS = (
    ("0", "*/20", "5,10-20/3", "5-5", "7/15"),
    ("9", "*", "9-17", "8-8/2"),
    ("*", "L", "1", "1-31", "*/3", "31", "5-5", "1,*/9", "LW"),
    ("*", "jan-mar/2", "feb", "mar-3"),
    ("*", "0", "7", "1-5", "MON-fri", "0-6", "*/5", "4/2", "6-6", "5#1", "*,2#3", "5L", "L5"),
)
# With the environment of Airflow: what the file takes, and when Airflow finds the next ones.
TAKE = """
import json, runpy, sys
from datetime import datetime
from croniter import croniter
check = runpy.run_path("deploy/airflow/stock_ingestion_dags.py")["check_cron"]
taken = {}
for cron in json.load(sys.stdin):
    try:
        check(cron)
    except Exception:
        continue
    times = croniter(cron, datetime(2026, 1, 1))
    taken[cron] = [str(times.get_next(datetime)) for _ in range(9)]
json.dump(taken, sys.stdout)
"""


def test_a_schedule_that_is_taken_means_what_it_means_to_the_program(engine: Engine) -> None:
    asked = [" ".join(fields) for fields in itertools.product(*FIELDS)]
    result = subprocess.run(
        [engine.project / ".venv-airflow" / "bin" / "python", "-W", "ignore", "-c", TAKE],
        input=json.dumps(asked),
        env=engine.environment,
        cwd=engine.project,
        capture_output=True,
        text=True,
        check=True,
    )
    taken = json.loads(result.stdout)
    assert 1000 < len(taken) < len(asked) / 2
    assert {"0 9 1 * 1-5", "0 9 L * *", "0 9 * * 5#1"} <= taken.keys()
    for cron, found in taken.items():
        times = CronSim(cron, datetime(2026, 1, 1))
        assert found == [str(next(times)) for _ in range(9)], cron


def test_candles_in_four_tasks_are_those_of_one_process(
    engine: Engine, installed: Project, server: Server, database: str, kite: KiteServer
) -> None:
    """They come when the list is there, and once."""
    engine.unpause(DAG_2)
    assert engine.finish(DAG_1, engine.trigger(DAG_1)) == "success"
    wait_until(lambda: [run["run_type"] for run in engine.runs(DAG_2)] == ["asset_triggered"])
    [run] = (run["dag_run_id"] for run in engine.runs(DAG_2))
    assert engine.finish(DAG_2, run) == "success"
    parts = {f"run {part}/4": "success" for part in range(1, 5)}
    assert engine.states(DAG_2, run) == {**parts, "stored": "success"}

    with own_database(server, "test") as alone:
        variables = environment_for(server, alone, kite)
        result = installed.run("--dag", "1", "--dag", "2", **variables)
        assert result.returncode == 0, result.stdout + result.stderr
        for query in (CANDLES, COVERAGE):
            expected = server.execute(query, dbname=alone)
            assert len(expected) > 4
            assert server.execute(query, dbname=database) == expected

    assert engine.finish(DAG_1, engine.trigger(DAG_1)) == "success"
    wait_until(lambda: len(engine.runs(DAG_2)) == 2)
    run = engine.runs(DAG_2)[-1]["dag_run_id"]
    assert engine.finish(DAG_2, run) == "success"
    assert set(engine.states(DAG_2, run).values()) == {"skipped"}
    assert "DAG 2 is not due: its rows are fresh." in engine.log(DAG_2, run, part=1)
