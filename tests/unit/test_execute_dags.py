"""The command line, in this process: arguments, which DAGs run, what is told, exit statuses."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

import execute_dags
from execute_dags import ExitStatus, execute_dag_wrapper, main, parse_arguments
from shared import __version__
from shared.calendar import IST
from shared.clock import use_clock
from shared.config import logging_config
from shared.exceptions import (
    DatabaseError,
)
from shared.feed import Slice

SUCCEED = "return 'stored 5 rows'"
RAISE = {
    "authentication": "raise AuthenticationError('the token is dead')",
    "configuration": "raise ConfigurationError('DB_USER is not set')",
    "database": "raise DatabaseError('no space left')",
    "unforeseen": "raise ValueError('unforeseen')",
    "exit": "raise SystemExit(0)",
}


class Dags:
    """DAG folders of the test's own, which note in `ran` what they were called with."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, folder: str, body: str = SUCCEED, *, parameters: str = "", **config: Any) -> None:
        name = folder.split("_", 2)[2]
        path = self.root / folder
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"description": f"about {name}", **config}))
        (path / "__init__.py").write_text(
            "import pathlib\n"
            "from shared.exceptions import *\n"
            f"def {name}({parameters}):\n"
            f"    with open({str(self.root / 'ran')!r}, 'a') as file:\n"
            f"        print('{name}', locals().get('dry_run', ''), file=file)\n"
            f"    {body}\n"
        )

    def fail_with(self, folder: str, kind: str) -> None:
        """A DAG whose error is wrapped as DAG 1 wraps its own."""
        self.add(
            folder,
            f"""
    try:
        {RAISE[kind]}
    except StockIngestionError as exc:
        raise DAGExecutionError(str(exc)) from exc
""",
        )

    @property
    def ran(self) -> list[str]:
        path = self.root / "ran"
        return [line.strip() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def dags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dags]:
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.setattr(execute_dags, "PROJECT_ROOT", root)
    before = set(sys.modules)
    yield Dags(root)
    for name in set(sys.modules) - before:
        if name.startswith("dag_"):
            del sys.modules[name]


Run = Callable[..., ExitStatus]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*arguments: str) -> ExitStatus:
        monkeypatch.setattr(sys, "argv", ["execute_dags.py", *arguments])
        return execute_dags.run(parse_arguments())

    return call


# --- arguments ---------------------------------------------------------------------------------


def parse(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> argparse.Namespace:
    monkeypatch.setattr(sys, "argv", ["execute_dags.py", *arguments])
    return parse_arguments()


def test_parse_arguments_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = parse(monkeypatch)
    assert (arguments.dag, arguments.list, arguments.dry_run, arguments.log_level) == (
        [],
        False,
        False,
        None,
    )


def test_parse_arguments_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = parse(monkeypatch, "--dag", "2", "--dag", "1", "--dry-run", "--log-level", "debug")
    assert (arguments.dag, arguments.dry_run, arguments.log_level) == ([2, 1], True, "DEBUG")


@pytest.mark.parametrize("written", ["3/8", "03/08"])
def test_part_of_a_dag(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--dag", "2", "--slice", written)
    for options in ((), ("--dry-run", "--force"), ("--sandbox", "--quiet")):
        assert parse(monkeypatch, *words, *options).slice == Slice(3, 8)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dag",),
        ("--dag", "1.5"),
        ("--dag", ""),
        ("--list", "--dag", "1"),
        ("--list", "--dry-run"),
        ("--log-level", "loud"),
        ("--unknown",),
        ("--dry",),
        ("1",),
        ("status", "extra"),
        ("status", "--dry-run"),
        ("changes", "--run", "1", "--since", "2026-11-24"),
        ("changes", "--since", "yesterday"),
        ("login", "--sandbox"),
        ("--sandbox-fault", "429"),
        ("--from-file",),
        ("--line\nfeed",),
        ("--slice", "3"),
        ("--slice", "0/8"),
        ("--slice", "9/8"),
        ("--slice", "1/0"),
        ("--slice", "-1/8"),
        ("--slice", "1/10000"),
        ("status", "--slice", "1/2"),
    ],
    ids=" ".join,
)
def test_bad_usage_ends_with_2_and_one_line(
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert re.fullmatch(r"execute_dags\.py( \w+)?: .+\n", refusal(monkeypatch, capsys, *arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--dated 2026-08-03", "--dated needs --from-file: it says of which day that list is"),
        (
            "--dated 2026-08-04 --from-file x",
            "argument --dated: 2026-08-04 is in the future: in India it is 2026-08-03",
        ),
        (
            "--dated 2026-09 --from-file x",
            "argument --dated: 2026-09-01 is in the future: in India it is 2026-08-03",
        ),
        (
            "--dated 2026-02-30 --from-file x",
            "argument --dated: expected a day as YYYY-MM-DD, got '2026-02-30'",
        ),
        (
            "--dated 0205-08-18 --from-file x",
            "argument --dated: expected a day since 1900-01-01, got 0205-08-18",
        ),
        ("--days x", "--days needs --from-folder"),
        ("--from-folder=", "--from-folder: expected the path of a folder, got ''"),
        (
            "--from-folder x --from-file y",
            "--from-folder takes no --from-file or --dated: its lists have days of their own",
        ),
        (
            "--from-folder x --dated 2026-08-01",
            "--from-folder takes no --from-file or --dated: its lists have days of their own",
        ),
        (
            "--due --from-folder x",
            "--due takes no --dry-run, --force, --from-file or --from-folder: leave it out",
        ),
        (
            "--due --from-file x --dated 2026-08-01",
            "--due takes no --dry-run, --force, --from-file or --from-folder: leave it out",
        ),
        *(
            (
                f"--slice 1/2 {other}",
                "--slice takes no --due, --from-file or --from-folder: they are for the whole",
            )
            for other in ("--due", "--from-file x", "--from-folder x", "--from-file=")
        ),
        (
            "--slice 1:2",
            "argument --slice: expected a part of several such as 3/8, got '1:2'",
        ),
    ],
    ids=lambda value: value if value.startswith("--") else "",
)
def test_options_that_do_not_go_together_are_refused(
    arguments: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = datetime(2026, 8, 3, 0, 30, tzinfo=IST)  # 2 August in UTC
    with use_clock(lambda: now):
        said = refusal(monkeypatch, capsys, *arguments.split())
    assert said == f"execute_dags.py: {message}\n"


@pytest.mark.parametrize(
    ("written", "day"), [("2026-08-03", date(2026, 8, 3)), ("2026-08", date(2026, 8, 1))]
)
def test_day_of_a_list(written: str, day: date, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 8, 3, 0, 30, tzinfo=IST)
    with use_clock(lambda: now):
        arguments = parse(monkeypatch, "--from-file", "x", "--dated", written)
    assert arguments.dated == day


def call_python_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the program was called by `sh execute_dags.py`, for messages that name a command."""
    monkeypatch.setattr("sys.orig_argv", ["sh"])


def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(monkeypatch, *arguments)
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dryrun",), "execute_dags.py: --dryrun is not known; did you mean --dry-run?"),
        (
            ("--form-file=a",),
            "execute_dags.py: --form-file is not known; did you mean --from-file?",
        ),
        (("statsu", "--json"), "execute_dags.py: statsu is not known; did you mean status?"),
        (("status", "--jsno"), "execute_dags.py status: --jsno is not known; did you mean --json?"),
        (("xyz",), "execute_dags.py: xyz is not known; see sh execute_dags.py --help"),
        (
            ("status", "xyz"),
            "execute_dags.py status: xyz is not known; see sh execute_dags.py status --help",
        ),
        (
            ("--sandbox", "status"),
            "execute_dags.py: status is a command, its options follow it: "
            "sh execute_dags.py status",
        ),
        (
            ("--status",),
            "execute_dags.py: --status is not known; did you mean status?",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_bad_usage_names_the_nearest_word(
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call_python_by_name(monkeypatch)
    assert refusal(monkeypatch, capsys, *arguments) == f"{message}\n"


@pytest.mark.parametrize("words", [("--list",), ("list",), ("--log-level", "info", "--list")])
def test_list_is_a_command_and_an_option(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = parse(monkeypatch, *words)
    assert (arguments.command, arguments.list) == ("list", True)


def test_list_as_json_has_what_a_scheduler_needs(
    dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add("dag_1_first", schedule="0 18 * * 1-5", grace_minutes=30, slices=4)
    dags.add("dag_2_second", after=[1], enabled=False)
    dags.add("dag_3_broken", schedule="never")
    (dags.root / "dag_x").mkdir()
    (dags.root / "dag_x" / "config.json").write_text("{}")
    assert run("--list", "--json") == ExitStatus.SUCCESS
    document = json.loads(capsys.readouterr().out)
    nameless, first, second, broken = document.pop("dags")
    assert document == {"time_zone": "Asia/Kolkata"}
    assert first == {
        "dag_id": 1,
        "name": "first",
        "folder": "dag_1_first",
        "enabled": True,
        "schedule": "0 18 * * 1-5",
        "cron": "0 18 * * 1-5",
        "description": "about first",
        "after": [],
        "grace_minutes": 30,
        "slices": 4,
        "fault": None,
    }
    assert (second["enabled"], second["after"], second["slices"]) == (False, [1], 1)
    assert (second["schedule"], second["cron"]) == ("daily", "30 8 * * *")
    assert (broken["dag_id"], broken["name"], broken["schedule"]) == (3, "broken", None)
    assert {broken[name] for name in ("enabled", "cron", "after", "slices")} == {None}
    assert "schedule: expected" in broken["fault"]
    assert (nameless["dag_id"], nameless["name"], nameless["enabled"]) == (None, "dag_x", None)
    assert dags.ran == []


def test_parse_arguments_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = parse(monkeypatch, "status", "--json", "--sandbox", "--dag", "2")
    assert (arguments.command, arguments.json, arguments.sandbox, arguments.dag) == (
        "status",
        True,
        True,
        [2],
    )


COMMANDS = ("login", "check", "status", "changes", "list", "find", "chain")


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_fits_80_columns(
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        parse(monkeypatch, *command, "--help")
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    if not command:
        for name in COMMANDS:
            assert any(line.startswith(f"  {name} ") for line in lines)
        assert "examples:" in lines


# --- commands of DAGs --------------------------------------------------------------------------

FEED = """
from shared.console import say
from shared.feed import Batch, Command, Feed
from shared.models.table import Column, Table
from pathlib import Path

def add_arguments(parser):
    parser.add_argument("symbol")

def find(arguments):
    say(f"found {{arguments.symbol}}")
    return {status}

FEED = Feed(
    Path(__file__).resolve().parent,
    "rows",
    Table("t", (Column("a", "text"),), ("a",)),
    fetch=lambda run: (),
    parse=lambda body: Batch([]),
    commands=(Command("{name}", "find a row", find, add_arguments),),
)
"""


def add_feed(dags: Dags, folder: str, name: str = "find", status: object = None) -> None:
    dags.add(folder)
    code = FEED.format(name=name, status=status)
    (dags.root / folder / "__init__.py").write_text(code)


@pytest.mark.parametrize("status", [None, 0, 1, 4])
def test_command_of_a_dag(
    status: int | None, dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    add_feed(dags, "dag_2_rows", status=status)
    assert run("find", "ABC") == (status or 0)
    assert capsys.readouterr().out == "found ABC\n"


def test_command_of_a_dag_is_in_the_help(
    dags: Dags, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_feed(dags, "dag_2_rows")
    dags.add("dag_3_broken")
    (dags.root / "dag_3_broken" / "__init__.py").write_text("raise RuntimeError")
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--help")
    assert "\n  find     find a row\n" in capsys.readouterr().out
    assert "is not known; DAG 3: dag_3_broken cannot be loaded: RuntimeError" in refusal(
        monkeypatch, capsys, "gaps"
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("find", "find"), "dag_2_b and dag_1_a both have a command find: "),
        (("find", "status"), "dag_2_b and execute_dags.py both have a command status: "),
    ],
    ids=["two DAGs", "built in"],
)
def test_commands_of_one_name(
    names: tuple[str, str],
    message: str,
    dags: Dags,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_feed(dags, "dag_1_a", names[0])
    add_feed(dags, "dag_2_b", names[1])
    assert message in refusal(monkeypatch, capsys, "find", "x")
    assert message in refusal(monkeypatch, capsys, "--help")


def test_command_whose_arguments_cannot_be_made(
    dags: Dags, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_feed(dags, "dag_2_rows")
    path = dags.root / "dag_2_rows" / "__init__.py"
    path.write_text(path.read_text().replace('"symbol"', '"--sandbox"').replace("find a row", ""))
    said = refusal(monkeypatch, capsys, "find", "x")
    assert "execute_dags.py: the command find is broken: ArgumentError: argument --sandbox" in said


def test_command_of_a_dag_is_about_it(dags: Dags, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox opens the parts of the DAGs in `dag`, of one that is not enabled too."""
    add_feed(dags, "dag_2_rows")
    assert parse(monkeypatch, "find", "ABC", "--sandbox").dag == [2]


def test_empty_word_is_no_run_of_all_dags(
    dags: Dags, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "execute_dags.py: '' is not known; " in refusal(monkeypatch, capsys, "")


def test_built_in_command_loads_no_dag(dags: Dags, run: Run) -> None:
    dags.add("dag_1_a")
    (dags.root / "dag_1_a" / "__init__.py").write_text("raise SystemExit('loaded')")
    assert run("list") == ExitStatus.SUCCESS


def test_version_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(monkeypatch, "--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"execute_dags.py {__version__}\n"


def test_help_shows_options_and_exit_statuses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        parse(monkeypatch, "--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in ("--dag N", "--list", "--dry-run", "--log-level LEVEL", "--version"):
        assert option in text
    for status in ExitStatus:
        assert f"{int(status)} " in text.split("Exit status:")[1]


# --- execute_dag_wrapper -----------------------------------------------------------------------


def test_wrapper_of_a_dag_that_succeeds() -> None:
    assert execute_dag_wrapper(3, "name", lambda: "stored 5") == (3, True, "stored 5")


@pytest.mark.parametrize(("result", "message"), [(None, ""), (5, "5"), ("", "")])
def test_wrapper_of_a_dag_that_gives_no_text(result: Any, message: str) -> None:
    assert execute_dag_wrapper(3, "name", lambda: result) == (3, True, message)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DatabaseError("no space left"), "no space left"),
        (ValueError("unforeseen"), "ValueError: unforeseen"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
    ids=["foreseen", "unforeseen", "key-error"],
)
def test_wrapper_of_a_dag_that_fails(
    error: Exception, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    errors: dict[int, Any] = {}

    def fail() -> None:
        raise error

    assert execute_dag_wrapper(3, "name", fail, errors) == (3, False, message)

    assert errors == {3: error}
    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "ERROR", "INFO"]
    assert caplog.messages[0] == "DAG 3 name: started"
    assert caplog.messages[1].startswith("DAG 3 name failed: ")
    assert str(error) in caplog.messages[1]
    assert caplog.records[1].exc_info
    assert caplog.messages[2].startswith("DAG 3 name: failed in ")


def test_wrapper_lets_ctrl_c_through() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute_dag_wrapper(3, "name", interrupt)


# --- which DAGs run ----------------------------------------------------------------------------


def test_run_without_arguments_runs_all_enabled_dags_in_order_of_id(dags: Dags, run: Run) -> None:
    dags.add("dag_10_last")
    dags.add("dag_2_first")
    dags.add("dag_3_disabled", enabled=False)
    assert run() is ExitStatus.SUCCESS
    assert dags.ran == ["first", "last"]


def test_run_of_named_dags_runs_each_once_in_order_of_id(dags: Dags, run: Run) -> None:
    for folder in ("dag_1_a", "dag_2_b", "dag_3_c"):
        dags.add(folder)
    assert run("--dag", "3", "--dag", "1", "--dag", "3") is ExitStatus.SUCCESS
    assert dags.ran == ["a", "c"]


@pytest.mark.parametrize("kind", RAISE)
def test_run_goes_on_after_a_dag_that_fails(kind: str, dags: Dags, run: Run) -> None:
    dags.fail_with("dag_1_bad", kind)
    dags.add("dag_2_good")
    assert run() is not ExitStatus.SUCCESS
    assert dags.ran == ["bad", "good"]


@pytest.mark.parametrize("code", ["def broken(:", "raise RuntimeError", "import no_such_module"])
def test_run_goes_on_after_a_dag_that_cannot_be_loaded(code: str, dags: Dags, run: Run) -> None:
    dags.add("dag_1_broken")
    (dags.root / "dag_1_broken" / "__init__.py").write_text(code)
    dags.add("dag_2_good")
    assert run() is ExitStatus.DAG_FAILED
    assert dags.ran == ["good"]


def test_run_of_a_disabled_dag_by_name_says_so(
    dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add("dag_1_on")
    dags.add("dag_2_off", enabled=False)
    assert run("--dag", "1", "--dag", "2") is ExitStatus.USAGE_OR_CONFIGURATION
    assert dags.ran == []
    said = 'ERROR: DAG 2 is disabled: set "enabled": true in dag_2_off/local.json to run it.'
    assert capsys.readouterr().err == f"{said}\n"
    dags.add("dag_3_off", enabled=False, to_enable="It needs parameters.shares: see its page.")
    assert run("--dag", "3") is ExitStatus.USAGE_OR_CONFIGURATION
    said = said.replace("2", "3") + " It needs parameters.shares: see its page."
    assert capsys.readouterr().err == f"{said}\n"


def test_run_of_an_unknown_dag_names_the_known_ones(
    dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add("dag_1_a")
    dags.add("dag_7_b")
    assert run("--dag", "5") is ExitStatus.USAGE_OR_CONFIGURATION
    assert "ERROR: There is no DAG 5. Known ids: 1, 7" in capsys.readouterr().err
    assert dags.ran == []


def test_run_of_a_dag_by_its_name(dags: Dags, run: Run) -> None:
    dags.add("dag_1_a")
    dags.add("dag_2_prices")
    dags.add("dag_3_c")
    assert run("--dag", "prices", "--dag", "dag_3_c") is ExitStatus.SUCCESS
    assert dags.ran == ["prices", "c"]
    assert run("status", "--dag", "dag_9_prices") is ExitStatus.USAGE_OR_CONFIGURATION


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "price",
            "There is no DAG price. Did you mean prices? All are in: sh execute_dags",
        ),
        ("dag_2_prces", "There is no DAG dag_2_prces. Did you mean dag_2_prices? All are in: "),
        ("xyz", "There is no DAG xyz. All are in: sh execute_dags.py list"),
        ("twice", "Several DAGs have the name twice: give an id of 3, 4."),
        ("dag-5-x", "dag-5-x: the folder of a DAG must be named dag_<id>_<name>, such as"),
    ],
)
def test_run_of_a_name_that_is_no_dags_own(
    name: str,
    message: str,
    dags: Dags,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for folder in ("dag_2_prices", "dag_3_twice", "dag_4_twice", "dag_5_x"):
        dags.add(folder)
    (dags.root / "dag_5_x").rename(dags.root / "dag-5-x")
    call_python_by_name(monkeypatch)
    assert run("--dag", "2", "--dag", name) is ExitStatus.USAGE_OR_CONFIGURATION
    assert f"ERROR: {message}" in capsys.readouterr().err
    assert dags.ran == []


def test_run_when_no_dag_is_enabled(
    dags: Dags, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call_python_by_name(monkeypatch)
    dags.add("dag_1_off", enabled=False)
    assert run() is ExitStatus.USAGE_OR_CONFIGURATION
    assert capsys.readouterr().err == (
        "ERROR: There is no enabled DAG (see sh execute_dags.py list).\n"
    )


def test_run_of_an_id_that_two_folders_have_names_both(
    dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add("dag_1_a")
    dags.add("dag_01_b")
    assert run("--dag", "1") is ExitStatus.USAGE_OR_CONFIGURATION
    error = capsys.readouterr().err
    assert "dag_1_a" in error
    assert "dag_01_b" in error
    assert dags.ran == []


def test_dry_run_is_handed_on(dags: Dags, run: Run) -> None:
    dags.add("dag_1_a", parameters="*, dry_run=False")
    assert run("--dry-run") is ExitStatus.SUCCESS
    assert run() is ExitStatus.SUCCESS
    assert dags.ran == ["a True", "a False"]


@pytest.mark.parametrize("option", ["--dry-run", "--force"])
def test_option_that_one_of_the_dags_does_not_have_runs_none(
    option: str, dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add("dag_1_a", parameters="*, dry_run=False, force=False")
    dags.add("dag_2_b")
    assert run(option) is ExitStatus.USAGE_OR_CONFIGURATION
    assert dags.ran == []
    assert f"ERROR: DAG 2 has no {option}: its function b takes no " in capsys.readouterr().err
    assert run(option, "--dag", "1") is ExitStatus.SUCCESS


def test_day_of_a_list_is_handed_on(dags: Dags, run: Run) -> None:
    dags.add("dag_1_a", parameters="*, dated=None, from_file=None, dry_run=False")
    assert run("--from-file", "x", "--dated", "2025-08") is ExitStatus.SUCCESS
    assert dags.ran == ["a False"]


def test_dag_that_takes_no_dated_lists_is_refused(
    dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add("dag_1_a", parameters="*, from_file=None")
    assert run("--from-file", "x", "--dated", "2025-08") is ExitStatus.USAGE_OR_CONFIGURATION
    assert run("--from-folder", "x") is ExitStatus.USAGE_OR_CONFIGURATION
    assert dags.ran == []
    assert capsys.readouterr().err == (
        "ERROR: DAG 1 has no --dated: its function a takes no dated.\n"
        "ERROR: DAG 1 has no --from-folder: it is no feed.\n"
    )


@pytest.mark.parametrize("option", ["--from-file", "--from-folder"])
def test_saved_lists_are_for_one_dag(
    option: str, dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("dag_1_a", "dag_2_b"):
        dags.add(folder, parameters="*, from_file=None")
    assert run(option, "x") is ExitStatus.USAGE_OR_CONFIGURATION
    assert dags.ran == []
    assert capsys.readouterr().err == (
        f"ERROR: {option} is for one DAG, and these would run: 1, 2. Name one with --dag.\n"
    )
    assert option == "--from-folder" or run(option, "x", "--dag", "2") is ExitStatus.SUCCESS


# --- order ---------------------------------------------------------------------------------------


def test_dag_runs_after_those_that_it_names(dags: Dags, run: Run) -> None:
    dags.add("dag_1_last", after=[2, 3])
    dags.add("dag_2_middle", after=[3])
    dags.add("dag_3_first")
    assert run() is ExitStatus.SUCCESS
    assert dags.ran == ["first", "middle", "last"]


def test_dag_alone_waits_for_none(dags: Dags, run: Run) -> None:
    dags.add("dag_1_a")
    dags.add("dag_2_b", after=[1])
    assert run("--dag", "2") is ExitStatus.SUCCESS
    assert dags.ran == ["b"]


@pytest.mark.parametrize(
    ("kind", "status"), [("database", 1), ("authentication", 3), ("configuration", 2)]
)
def test_dag_after_one_that_failed_is_skipped(
    kind: str, status: int, dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.fail_with("dag_1_bad", kind)
    dags.add("dag_2_next", after=[1])
    dags.add("dag_3_then", after=[2])
    dags.add("dag_4_other")
    assert run() == status
    assert dags.ran == ["bad", "other"]
    shown = capsys.readouterr()
    assert "\nDAG 2 next skipped: DAG 1 failed\n" in shown.out
    assert "\nDAG 3 then skipped: DAG 1 failed\n" in shown.out
    assert "\nERROR: DAG 2 next skipped: DAG 1 failed\n" in shown.err
    assert re.search(r"^ *2 +next +skipped +\d+\.\d\d *$", shown.out, re.M)


# --- exit status -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "status"),
    [
        ([], 0),
        (["database"], 1),
        (["unforeseen"], 1),
        (["exit"], 1),
        (["configuration"], 2),
        (["authentication"], 3),
        (["authentication", "authentication"], 3),
        (["authentication", "database"], 1),
        (["authentication", "configuration"], 1),
        (["configuration", "database"], 1),
        (["configuration", "configuration"], 2),
    ],
    ids=lambda value: "-".join(value) or "none" if isinstance(value, list) else str(value),
)
def test_exit_status_of_a_run(kinds: list[str], status: int, dags: Dags, run: Run) -> None:
    dags.add("dag_9_good")
    for number, kind in enumerate(kinds, 1):
        dags.fail_with(f"dag_{number}_bad", kind)
    assert run() == status


def test_exit_status_of_an_error_that_is_not_wrapped(dags: Dags, run: Run) -> None:
    dags.add("dag_1_a", RAISE["authentication"])
    assert run() is ExitStatus.LOG_IN_AGAIN


def test_exit_status_does_not_come_from_the_cause_of_a_foreseen_error(dags: Dags, run: Run) -> None:
    dags.add("dag_1_a", "raise DatabaseError('lost') from ConfigurationError('x')")
    assert run() is ExitStatus.DAG_FAILED


def test_exit_status_when_the_log_settings_are_wrong(
    dags: Dags,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dags.add("dag_1_a")
    config = {"logging": {"level": "LOUD"}}
    (dags.root / "config").mkdir()
    (dags.root / "config" / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("shared.config.config_loader.PROJECT_ROOT", dags.root)
    assert run() is ExitStatus.USAGE_OR_CONFIGURATION
    assert "config/config.json: logging.level: expected one of" in capsys.readouterr().err
    assert dags.ran == []


@pytest.mark.parametrize(("body", "succeeded"), [(SUCCEED, True), (RAISE["database"], False)])
def test_main_tells_whether_all_succeeded(
    body: str, succeeded: bool, dags: Dags, monkeypatch: pytest.MonkeyPatch
) -> None:
    dags.add("dag_1_a", body)
    monkeypatch.setattr(sys, "argv", ["execute_dags.py"])
    assert main() is succeeded


# --- signals -----------------------------------------------------------------------------------


def test_ctrl_c_ends_the_run_with_one_line(
    dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add("dag_1_a", "raise KeyboardInterrupt")
    dags.add("dag_2_b")
    assert run() is ExitStatus.INTERRUPTED
    assert dags.ran == ["a"]
    assert capsys.readouterr().err == (
        "ERROR: Interrupted: what was not committed yet is rolled back.\n"
    )


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
def test_sigterm_ends_the_run_with_one_line(
    dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add(
        "dag_1_a",
        "import os, signal\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        __import__('time').sleep(10)\n"
        "    except Exception:\n"
        "        pass",
    )
    dags.add("dag_2_b")
    before = signal.getsignal(signal.SIGTERM)

    assert run() is ExitStatus.TERMINATED

    assert dags.ran == ["a"]
    assert signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr().err == (
        "ERROR: Terminated: what was not committed yet is rolled back.\n"
    )


# --- what is told ------------------------------------------------------------------------------


def test_run_shows_each_dags_message_status_and_a_table(
    dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add("dag_1_good")
    dags.fail_with("dag_2_bad", "database")

    assert run() is ExitStatus.DAG_FAILED

    shown = capsys.readouterr()
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert lines[0] == "DAG 1 good"
    assert "stored 5 rows" in lines
    rows = [line.split()[:3] for line in lines]
    assert ["id", "name", "status"] in rows
    assert ["1", "good", "succeeded"] in rows
    assert ["2", "bad", "failed"] in rows
    assert shown.err == "ERROR: DAG 2 bad failed: no space left\n"


def test_run_of_one_dag_shows_no_table(
    dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add("dag_1_good")
    run()
    assert "seconds" not in capsys.readouterr().out


def test_failed_run_tells_where_the_log_is_and_the_log_has_the_traceback(
    dags: Dags, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add("dag_1_a", RAISE["unforeseen"])
    run()
    log = tmp_path / "logs" / "stock_ingestion.log"
    shown = capsys.readouterr()
    assert f"Details: {log}" in shown.out
    assert "Traceback" not in shown.out + shown.err
    assert "ValueError: unforeseen" in log.read_text()
    assert "Traceback (most recent call last):" in log.read_text()


def test_output_that_is_no_terminal_has_no_control_characters(
    dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add("dag_1_a", "return 'name \\x1b[31m\\r\\x07 é'", description="\x1b[2J\x9b")
    assert run() is ExitStatus.SUCCESS
    assert run("--list") is ExitStatus.SUCCESS
    shown = capsys.readouterr()
    assert all(character.isprintable() or character == "\n" for character in shown.out)
    assert r"name \x1b[31m\r\x07 é" in shown.out
    assert shown.err == ""


def test_secrets_are_masked_in_what_a_dag_says_and_raises(
    dags: Dags,
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging_config.register_secrets(["hunter2/hunter"])
    dags.add("dag_1_says", "return 'password hunter2/hunter'")
    dags.add("dag_2_raises", "raise ValueError('postgres://u:hunter2%2fhunter@h')")
    run()
    shown = capsys.readouterr()
    written = shown.out + shown.err + (tmp_path / "logs" / "stock_ingestion.log").read_text()
    assert "hunter2" not in written
    assert "password ***" in shown.out
    assert "u:***@h" in shown.err


def test_log_level_shows_progress_on_standard_error(
    dags: Dags, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add("dag_1_a")
    run("--log-level", "info")
    assert "INFO: DAG 1 a: started\n" in capsys.readouterr().err


# --- list --------------------------------------------------------------------------------------


def test_list_shows_every_dag_and_runs_none(
    dags: Dags, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dags.add("dag_2_off", enabled=False, schedule="daily")
    dags.add("dag_1_on", schedule="daily")
    dags.add("dag_3_broken")
    (dags.root / "dag_3_broken" / "config.json").write_text("{")
    (dags.root / "dag_1_on" / "__init__.py").write_text("raise RuntimeError")

    assert run("--list") is ExitStatus.SUCCESS

    shown = capsys.readouterr()
    header, _, *rows = [line.split(maxsplit=4) for line in shown.out.splitlines()]
    assert header == ["id", "name", "enabled", "schedule", "description"]
    assert rows[:2] == [
        ["1", "on", "yes", "daily", "about on"],
        ["2", "off", "no", "daily", "about off"],
    ]
    assert rows[2][:3] == ["3", "broken", "?"]
    assert "is not valid JSON" in rows[2][4]
    assert shown.err == ""
    assert dags.ran == []
    assert not (tmp_path / "logs").exists()


def test_list_of_the_project_without_any_configuration(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--list") is ExitStatus.SUCCESS
    shown = capsys.readouterr()
    assert "import_instruments_from_kite" in shown.out
    assert "Import complete instrument list from Kite Connect API" in shown.out
    assert shown.err == ""


def test_exit_statuses_are_the_ruled_ones() -> None:
    assert {status.name: int(status) for status in ExitStatus} == {
        "SUCCESS": 0,
        "DAG_FAILED": 1,
        "USAGE_OR_CONFIGURATION": 2,
        "LOG_IN_AGAIN": 3,
        "CANNOT_BE_KNOWN": 4,
        "HUNG_UP": 129,
        "INTERRUPTED": 130,
        "TERMINATED": 143,
    }
