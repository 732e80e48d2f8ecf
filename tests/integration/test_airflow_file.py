"""deploy/airflow/stock_ingestion_dags.py against a stub of Airflow's names; `make airflow` has the
real ones.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sandbox.kite_faults import Hang, HttpError
from sandbox.kite_server import KiteServer
from tests import airflow_stub
from tests.airflow_stub import FILE, AirflowException, AirflowFailException, AirflowSkipException
from tests.conftest import AddDAG, Project, Server, connect_project
from tests.instruments import instrument, to_csv
from tests.rig import was_asked
from tests.table_model import wait_until

DAG_1, DAG_2 = "dag_1_import_instruments_from_kite", "dag_2_import_candles_from_kite"
DEFAULTS = {"dry_run": False, "force": False, "from_file": None}

Load = Callable[..., ModuleType]


@pytest.fixture
def load(project: Project, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load the file for the project, in which the program can run."""
    (project.folder / ".venv").symlink_to(sys.prefix)
    monkeypatch.setenv("STOCK_INGESTION_HOME", str(project.folder))
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "of-airflow-itself")

    def load(**variables: str) -> ModuleType:
        for name, value in project.environment.items():
            monkeypatch.setenv(name, value)
        return airflow_stub.load(monkeypatch, variables)

    return load


def dags_of(module: ModuleType) -> dict[str, airflow_stub.DAG]:
    found = [each for each in vars(module).values() if isinstance(each, airflow_stub.DAG)]
    return {dag.dag_id: dag for dag in found}


def execute(
    module: ModuleType, name: str, task: str = "run", *, by: str = "manual", **params: Any
) -> Any:
    """Run a task of a DAG; returns it."""
    wanted = dags_of(module)[name].tasks[task]
    wanted.execute(
        {
            "params": {**DEFAULTS, **params},
            "dag_run": SimpleNamespace(run_type=airflow_stub.DagRunType(by)),
        }
    )
    return wanted


def enable(project: Project, folder: str, **settings: Any) -> None:
    path = project.folder / folder / "local.json"
    path.write_text(json.dumps({"enabled": True, **settings}), encoding="utf-8")


# --- what Airflow is told -------------------------------------------------------------------------


def test_the_file_imports_nothing_of_the_project() -> None:
    nodes = [*ast.walk(ast.parse(FILE.read_text(encoding="utf-8")))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    roots = {name.split(".")[0] for name in names}
    assert roots - set(sys.stdlib_module_names) == {"airflow", "croniter"}


def test_every_folder_is_a_dag(load: Load) -> None:
    dags = dags_of(load())
    assert list(dags) == [DAG_1, DAG_2, "dag_3_import_symbol_changes_from_nse"]
    dag = dags[DAG_1]
    assert dag.schedule == airflow_stub.CronTriggerTimetable("30 8 * * *", "Asia/Kolkata")
    assert dag.description.startswith("Import complete instrument list from Kite Connect API (")
    assert "airflow pools set stock_ingestion 8" in dag.description
    assert (dag.catchup, dag.max_active_runs, dag.tags) == (False, 1, ["stock_ingestion"])
    assert list(dag.params) == ["dry_run", "force", "from_file"]
    assert [task.pool for task in dag.tasks.values()] == ["stock_ingestion"] * 2
    assert (dag.tasks["run"].retries, dag.tasks["stored"].upstream) == (3, ["run"])


def test_a_disabled_folder_has_no_schedule(load: Load) -> None:
    dag = dags_of(load())[DAG_2]
    assert (dag.schedule, dag.tags) == (None, ["stock_ingestion", "disabled"])
    assert dag.description.startswith("Disabled in its configuration. Import candles")


def test_after_is_a_dependency_beside_the_schedule(project: Project, load: Load) -> None:
    enable(project, DAG_2)
    dags = dags_of(load())
    schedule = dags[DAG_2].schedule
    assert schedule.timetable.cron == "0 18 * * 1-5"
    assert schedule.assets == tuple(dags[DAG_1].tasks["stored"].outlets)
    assert dags[DAG_2].tasks["run"].parts == {"part": ["1/4", "2/4", "3/4", "4/4"]}


def test_what_does_not_run_is_not_waited_for(project: Project, load: Load) -> None:
    enable(project, DAG_2)
    (project.folder / DAG_1 / "local.json").write_text('{"enabled": false}')
    dag = dags_of(load())[DAG_2]
    assert dag.schedule == airflow_stub.CronTriggerTimetable("0 18 * * 1-5", "Asia/Kolkata")
    assert dag.tasks["run"].after == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "config.json"),
        ('{"schedule": "whenever"}', "schedule: expected"),
        ('{"after": [77]}', "after: there is no DAG 77"),
    ],
)
def test_a_broken_folder_stops_no_other(
    add_dag: AddDAG, load: Load, config: str, said: str
) -> None:
    add_dag(5, "odd", config=config)
    dags = dags_of(load())
    assert dags[DAG_1].schedule is not None
    assert (dags["dag_5_odd"].schedule, dags["dag_5_odd"].tags) == (
        None,
        ["stock_ingestion", "broken"],
    )
    assert dags["dag_5_odd"].description.startswith("BROKEN: ")
    assert said in dags["dag_5_odd"].description


def test_a_broken_dag_fails_at_once_and_says_why(add_dag: AddDAG, load: Load) -> None:
    add_dag(5, "odd", config="{")
    with pytest.raises(AirflowFailException, match=r"config\.json"):
        execute(load(), "dag_5_odd")


def test_what_airflow_alone_refuses_stops_no_other(
    add_dag: AddDAG, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_dag(5, "odd", schedule="0 9 * * 2")

    take = airflow_stub.croniter

    def refuse(expression: str) -> Any:
        if expression == "0 9 * * 2":
            raise ValueError("a Tuesday")
        return take(expression)

    monkeypatch.setattr(airflow_stub, "croniter", refuse)
    dags = dags_of(load())
    assert "Airflow cannot take it: ValueError: a Tuesday" in dags["dag_5_odd"].description
    assert dags[DAG_1].schedule is not None


TAKEN = ("0 9 * * mon-fri", "*/20 9,18 1-15 jan-mar/2 *", "0 9 L * *", "0 9 * * 5#1")
OTHERWISE = (
    *("0 9 * * 6-6", "0 9 1 mar-3 *", "0 9 */3 * 6", "0 9 1 * */5", "0 9 1 * 5#1"),
    *("0 9 * * *,2#3", "0 9 * * 4/2"),
)


def test_a_schedule_that_airflow_takes_for_another_is_none(add_dag: AddDAG, load: Load) -> None:
    for number, schedule in enumerate((*TAKEN, *OTHERWISE), start=10):
        add_dag(number, "odd", schedule=schedule)
    dags = dags_of(load())
    for number, schedule in enumerate(TAKEN, start=10):
        expected = airflow_stub.CronTriggerTimetable(schedule, "Asia/Kolkata")
        assert dags[f"dag_{number}_odd"].schedule == expected
    for number, schedule in enumerate(OTHERWISE, start=10 + len(TAKEN)):
        dag = dags[f"dag_{number}_odd"]
        assert (dag.schedule, "broken" in dag.tags) == (None, True)
        assert f'other times are meant by "{schedule}"' in dag.description


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_what_airflows_database_refuses_is_escaped(add_dag: AddDAG, load: Load, text: str) -> None:
    add_dag(5, "odd", description=text)
    add_dag(6, "even", config=json.dumps({"enabled": True, "schedule": text}))
    dags = dags_of(load())
    assert dags["dag_5_odd"].schedule is not None
    told = [dag.description for dag in dags.values()]
    told.append(dags["dag_6_even"].tasks["run"].fault)
    assert [each for each in told if "\0" in each or not each.isascii()] == []


def test_a_folder_of_another_encoding_stops_no_other(project: Project, load: Load) -> None:
    folder = project.folder / os.fsdecode(b"dag_5_\xff")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    dags = dags_of(load())
    assert dags[DAG_1].schedule is not None
    assert dags["dag_5_-dcff"].description.startswith(r"BROKEN: dag_5_\udcff: ")


def test_the_asset_of_any_name_has_an_address_of_ascii(add_dag: AddDAG, load: Load) -> None:
    add_dag(5, "größe")
    [asset] = dags_of(load())["dag_5_größe"].tasks["stored"].outlets
    assert (asset.name, asset.uri) == ("dag_5_größe", "stock-ingestion://dag_5_gr%C3%B6%C3%9Fe")


@pytest.mark.parametrize("config", ["{}", "{"])
def test_a_name_that_is_too_long_for_airflow_is_cut(
    add_dag: AddDAG, load: Load, config: str
) -> None:
    add_dag(5, "x" + "ö" * 120, config=config)
    dag = dags_of(load())[f"dag_5_x{'ö' * 116}"]
    assert (dag.schedule is None) == (config == "{")


def test_a_name_that_airflow_takes_is_made_of_any_folder(project: Project, load: Load) -> None:
    copy = DAG_1.replace("dag_1_", "dag_1 ")
    shutil.copytree(project.folder / DAG_1, project.folder / copy)
    dags = dags_of(load())
    assert f"BROKEN: {copy}" in dags[copy.replace(" ", "-20")].description
    assert dags[DAG_1].schedule is not None


def test_without_the_program_the_folders_tell(
    project: Project, add_dag: AddDAG, load: Load
) -> None:
    add_dag(5, "odd", config="{")
    add_dag(6, "even", schedule="0 9 * * 2", after=[1])
    enable(project, DAG_2)
    with_program = dags_of(load())
    (project.folder / ".venv").unlink()
    dags = dags_of(load())
    assert list(dags) == list(with_program)
    for name, dag in dags.items():
        told = with_program[name]
        assert (repr(dag.schedule), dag.tags) == (repr(told.schedule), told.tags), name
        assert "`execute_dags.py list` does not answer" in dag.description
        if name != "dag_5_odd":
            assert dag.tasks["run"].parts == told.tasks["run"].parts
            assert dag.tasks["run"].after == told.tasks["run"].after
    with pytest.raises(AirflowFailException, match=r"cannot be started.*STOCK_INGESTION_HOME"):
        execute(load(), DAG_1)


def test_a_program_that_fails_says_why(project: Project, load: Load) -> None:
    (project.folder / "execute_dags.py").write_text("import no_such_module")
    dag = dags_of(load())[DAG_1]
    assert dag.schedule is not None
    assert "does not answer (ModuleNotFoundError: No module named 'no_such_mo" in dag.description


ODD: Sequence[Any] = (
    *({"slices": "many"}, {"slices": "4"}, {"slices": 101}, {"slices": True}, {"after": "x"}),
    *({"after": ["1"]}, {"after": 1}, {"after": [None]}, {"description": None}, {"enabled": 0}),
    *({"schedule": "@daily"}, {"schedule": "0 9 * * * 0"}, {"schedule": "0 9 * * 5-1"}),
    *({"schedule": "R R * * *"}, {"schedule": "0 9 ? * *"}, {"schedule": "0 9 * * L5"}),
    *({"schedule": None}, {"enabled": "yes"}, {"enabled": "True"}, {"enabled": "false"}),
    *({"enabled": False}, {"schedule": "${WHEN:-0 9 * * 2}"}, [1], None),
)


def test_without_the_program_nothing_odd_is_scheduled(
    project: Project, add_dag: AddDAG, load: Load
) -> None:
    (project.folder / ".venv").unlink()
    for number, config in enumerate(ODD, start=10):
        add_dag(number, "odd", config="\ufeff" + json.dumps(config))
    add_dag(8, "even", config="\ufeff{}")
    (project.folder / "dag_9_left_by_git").mkdir()
    scheduled = {name for name, dag in dags_of(load()).items() if dag.schedule is not None}
    assert scheduled == {DAG_1, "dag_8_even"}


@pytest.mark.parametrize("home", ["~/project", "project"])
def test_the_home_may_be_told_briefly(
    project: Project, load: Load, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    project.environment["HOME"] = str(project.folder.parent)
    monkeypatch.chdir(project.folder.parent)
    assert project.folder.name == "project"
    monkeypatch.setenv("STOCK_INGESTION_HOME", home)
    dag = dags_of(load())[DAG_1]
    assert "does not answer" not in dag.description


def test_a_wrong_home_is_an_error_of_the_file(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STOCK_INGESTION_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="STOCK_INGESTION_HOME"):
        load()


def test_the_project_around_the_file_is_the_default(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STOCK_INGESTION_HOME")
    assert FILE.parent.parent.parent == load().HOME


def test_the_pool_can_have_another_name(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCK_INGESTION_POOL", "kite")
    dag = dags_of(load())[DAG_1]
    assert [task.pool for task in dag.tasks.values()] == ["kite"] * 2
    assert "airflow pools set kite 8" in dag.description


# --- what a task does -----------------------------------------------------------------------------


@pytest.fixture
def stocked(project: Project, server: Server, database: str, kite: KiteServer) -> KiteServer:
    """The Kite of the project, which has a list."""
    kite.dump = to_csv([instrument(token, f"S{token}") for token in range(1, 1001)])
    connect_project(project, server, database, kite)
    return kite


def count(server: Server, database: str) -> int:
    return int(server.execute("SELECT count(*) FROM kite_instrument_master", dbname=database)[0][0])


def test_a_good_run(load: Load, stocked: KiteServer, server: Server, database: str) -> None:
    execute(load(), DAG_1)
    assert count(server, database) == 1000


def test_a_dry_run_stores_and_starts_nothing(
    load: Load, stocked: KiteServer, server: Server, database: str
) -> None:
    module = load()
    execute(module, DAG_1, dry_run=True)
    assert count(server, database) == 0
    with pytest.raises(AirflowSkipException):
        execute(module, DAG_1, "stored", dry_run=True)
    execute(module, DAG_1, "stored")


def test_a_saved_list_is_stored_and_starts_nothing(
    load: Load, stocked: KiteServer, server: Server, database: str, tmp_path: Path
) -> None:
    path = tmp_path / "a list; $(of) old.csv"
    path.write_bytes(to_csv([instrument(1, "S1")]))
    module = load()
    execute(module, DAG_1, from_file=str(path))
    assert count(server, database) == 1
    with pytest.raises(AirflowSkipException):
        execute(module, DAG_1, "stored", from_file=str(path))


def test_a_lost_list_is_stored_with_force(
    load: Load, stocked: KiteServer, server: Server, database: str
) -> None:
    module = load()
    execute(module, DAG_1)
    stocked.dump = to_csv([instrument(1, "S1")])
    with pytest.raises(AirflowException, match=r"^Exit status 1: .*--force"):
        execute(module, DAG_1)
    execute(module, DAG_1, force=True)


def test_a_dead_session_fails_at_once(load: Load, stocked: KiteServer) -> None:
    stocked.expire_token()
    with pytest.raises(
        AirflowFailException, match=r"^Exit status 3: authenticate failed: Kite ref"
    ) as e:
        execute(load(), DAG_1)
    assert "Variable" not in str(e.value)


def test_wrong_settings_fail_at_once_with_each_fault(
    project: Project, load: Load, stocked: KiteServer
) -> None:
    project.environment |= {"DB_PORT": "many", "KITE_API_KEY": ""}
    with pytest.raises(AirflowFailException) as caught:
        execute(load(), DAG_1)
    first, *faults = str(caught.value).splitlines()
    assert first == "Exit status 2: load configuration failed: The configuration has faults:"
    assert ["KITE_API_KEY" in faults[0], 'got "many"' in faults[1], len(faults)] == [True, True, 2]


def test_what_may_pass_is_tried_again(load: Load, stocked: KiteServer) -> None:
    stocked.fail_next("/instruments", HttpError(429), times=3)
    module = load()
    with pytest.raises(AirflowException, match=r"^Exit status 1: fetch instr.*429") as caught:
        execute(module, DAG_1)
    assert type(caught.value) is AirflowException
    execute(module, DAG_1)


def test_a_parameter_that_is_none_is_refused(load: Load, stocked: KiteServer) -> None:
    with pytest.raises(AirflowFailException, match="got dryrun: nothing ran"):
        execute(load(), DAG_1, dryrun=True)
    assert not stocked.requests


def test_what_no_command_line_can_hold_fails_at_once(load: Load) -> None:
    with pytest.raises(AirflowFailException, match="null"):
        execute(load(), DAG_1, from_file="a\0b")


@pytest.mark.parametrize("value", ["", " \n", "{token}\n"])
def test_blanks_of_the_variable_are_none_of_the_token(
    project: Project, load: Load, stocked: KiteServer, value: str
) -> None:
    token = project.environment["KITE_ACCESS_TOKEN"]
    execute(load(kite_access_token=value.format(token=token)), DAG_1)


def test_the_token_is_that_of_the_variable(
    project: Project, load: Load, stocked: KiteServer
) -> None:
    token = project.environment["KITE_ACCESS_TOKEN"]
    project.environment["KITE_ACCESS_TOKEN"] = "yesterdays"
    task = execute(load(kite_access_token=token), DAG_1)
    assert token not in "\n".join(task._program.lines)
    with pytest.raises(AirflowFailException, match="that of the Variable kite_access_token"):
        execute(load(kite_access_token="yesterdays-too"), DAG_1)


def test_the_program_gets_no_variable_of_airflow_itself(load: Load) -> None:
    given = load().environment()
    assert "of-airflow-itself" not in given.values()
    assert given["PYTHONUNBUFFERED"] == "1"


def test_sigterm_is_passed_on(
    load: Load, stocked: KiteServer, server: Server, database: str
) -> None:
    stocked.fail_next("/instruments", Hang())
    module = load()
    task = dags_of(module)[DAG_1].tasks["run"]
    task.on_kill()  # before it has begun
    caught: list[BaseException] = []

    def run() -> None:
        try:
            execute(module, DAG_1)
        except AirflowException as exc:
            caught.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(was_asked(stocked, "/instruments"))
    task.on_kill()
    thread.join()
    assert str(caught[0]).startswith(f"Exit status {128 + signal.SIGTERM}: Terminated: ")
    assert count(server, database) == 0


def test_old_rows_are_no_success(load: Load, stocked: KiteServer) -> None:
    """Kite may serve yesterday's list for a while: a scheduled run is tried again then."""
    module = load()
    asked: list[tuple[str, ...]] = []
    told(module, asked, {1: True}, {1: False})
    with pytest.raises(AirflowException, match="DAG 1 has run well, and its rows are not fresh"):
        execute(module, DAG_1, by="scheduled")
    execute(module, DAG_1, by="manual")
    assert asked == [("status", "--dag", "1", "--json")]
    execute(module, DAG_1, by="scheduled")


# --- what comes after -----------------------------------------------------------------------------


Due = Mapping[int, bool | None]


def told(module: ModuleType, asked: list[tuple[str, ...]], *answers: Due) -> None:
    """Let `status` say these, one after the other."""
    left = [*answers]

    def ask(*arguments: str) -> str:
        asked.append(arguments)
        dags = [{"dag_id": number, "is_due": is_due} for number, is_due in left.pop(0).items()]
        return json.dumps({"dags": dags})

    module.ask = ask  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("by", "due", "ends"),
    [
        ("scheduled", {1: False, 6: True}, None),
        ("scheduled", {1: False, 6: False}, None),
        ("scheduled", {1: None, 6: None}, None),
        ("scheduled", {1: True, 6: True}, AirflowException),
        ("asset_triggered", {1: False, 6: True}, None),
        ("asset_triggered", {1: False, 6: None}, None),
        ("asset_triggered", {1: False, 6: False}, AirflowSkipException),
        ("asset_triggered", {1: True, 6: True}, AirflowSkipException),
        ("manual", {1: True, 6: False}, None),
    ],
)
def test_who_runs_when(
    add_dag: AddDAG,
    load: Load,
    stocked: KiteServer,
    by: str,
    due: Due,
    ends: type[BaseException] | None,
) -> None:
    """A DAG that comes after waits, and is not started twice for the same rows."""
    add_dag(6, "even", after=[1])
    module = load()
    asked: list[tuple[str, ...]] = []
    told(module, asked, due, {6: False})
    if ends is None:
        execute(module, "dag_6_even", by=by)
    else:
        with pytest.raises(ends) as caught:
            execute(module, "dag_6_even", by=by)
        assert type(caught.value) is ends
    first = ("status", "--dag", "6", "--dag", "1", "--json")
    after = ("status", "--dag", "6", "--json")
    assert asked == ([] if by == "manual" else [first] if ends else [first, after])


def test_what_cannot_be_known_does_not_stop_a_run(
    add_dag: AddDAG, load: Load, stocked: KiteServer
) -> None:
    add_dag(6, "even", after=[1])
    module = load()
    for answer in ("", "[]", '{"dags": [{}]}', '{"dags": 1}'):
        module.ask = lambda *_, answer=answer: answer  # type: ignore[attr-defined]
        execute(module, "dag_6_even", by="asset_triggered")


def test_the_program_says_what_is_due(
    add_dag: AddDAG, load: Load, stocked: KiteServer, server: Server, database: str
) -> None:
    add_dag(6, "even", after=[1])
    module = load()
    with pytest.raises(AirflowException, match="DAG 6 waits for the rows of DAG 1"):
        execute(module, "dag_6_even", by="scheduled")
    execute(module, DAG_1)
    execute(module, "dag_6_even", by="asset_triggered")
    with pytest.raises(AirflowSkipException, match="DAG 6 is not due"):
        execute(module, "dag_6_even", by="asset_triggered")
