#!/usr/bin/env python3
# What `uv run execute_dags.py` installs: the lines of requirements-run.txt.
# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "cronsim~=2.8",
#     "holidays>=0.88,<1",
#     "kiteconnect~=5.2.0",
#     "psycopg2-binary~=2.9.9",
#     "python-dotenv~=1.0",
#     "requests~=2.32",
#     "rich>=13.9,<16",
#     "tenacity~=9.0",
#     "urllib3~=2.2",
# ]
# ///
"""Run DAGs from the command line, and the commands around them.

The only place that parses arguments and chooses an exit status.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run`: no traceback from an import

import sys

from shared.program import PROGRAM, find_lack, module_command

if __name__ == "__main__" and (lack := find_lack()):  # before an import that fails for it
    sys.stderr.write(f"{lack}\n")
    sys.exit(2)

import argparse
import contextlib
import io
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

from shared import __version__
from shared.arguments import (
    Parser,
    add_changes,
    add_commands,
    add_dag,
    add_list,
    add_run,
    add_status,
    add_surroundings,
    find_misuse,
)
from shared.config.config_loader import ConfigLoader
from shared.config.logging_config import setup_console_logging, setup_file_logging
from shared.dag_discovery import DAG, discover_dags
from shared.exceptions import (
    AuthenticationError,
    ConfigurationError,
    StockIngestionError,
    cause_of,
)
from shared.feed import Command, RunOptions, Summary
from shared.run_plan import Plan, find_ids, only_one, plan_runs, select
from shared.signals import HungUp, Signals, Terminated
from shared.utils.operation import log_error_once, show_on

PROJECT_ROOT = Path(__file__).resolve().parent

DESCRIPTION = """\
Run data pipelines (DAGs): all enabled ones, or those named with --dag.
Or give a command, and its options after it."""
EPILOG = """\
examples:
  execute_dags.py                       run all enabled DAGs
  execute_dags.py --dag 1 --dry-run     show what a run would change
  execute_dags.py --from-folder lists   import lists of earlier days, in order
  execute_dags.py --sandbox --dag 1     try it, without any credentials
  execute_dags.py status --json         for a monitor
  execute_dags.py changes --help        the options of a command

Exit status: 0 success, 1 a DAG failed or its data are stale, 2 bad usage or
configuration, 3 log in to Kite again, 4 whether data are fresh cannot be
known, 129 terminal closed, 130 interrupted, 143 terminated.
"""

logger = logging.getLogger("execute_dags")

_signals = Signals()


class ExitStatus(IntEnum):
    """What the caller (cron, systemd, CI) is told.

    3 is for a dead session and nothing else; 4 is never a run's.
    """

    SUCCESS = 0
    DAG_FAILED = 1
    USAGE_OR_CONFIGURATION = 2
    LOG_IN_AGAIN = 3
    CANNOT_BE_KNOWN = 4
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


_SIGNALLED: dict[type[BaseException], tuple[str, ExitStatus]] = {
    KeyboardInterrupt: ("Interrupted", ExitStatus.INTERRUPTED),
    HungUp: ("Hung up, its terminal was closed", ExitStatus.HUNG_UP),
    Terminated: ("Terminated", ExitStatus.TERMINATED),
}


def main() -> bool:
    """Execute selected DAGs based on command-line arguments. Returns whether all succeeded."""
    return run(parse_arguments()) == ExitStatus.SUCCESS


def parse_arguments() -> argparse.Namespace:
    """Parse and validate command-line arguments. Bad usage ends the program with status 2.

    `function` does what they say; `command` is the name of the command, None for a run.
    """
    words = sys.argv[1:]
    if "--list" in words:
        words.remove("--list")
        words.insert(0, "list")
    word = words.pop(0) if words and not words[0].startswith("-") else None
    commands = {command.name: command for command in _built_in_commands()}
    faults: Sequence[StockIngestionError] = ()
    if {"-h", "--help"} & set(words) if word is None else word not in commands:
        try:
            faults = add_commands(discover_dags(PROJECT_ROOT), commands)
        except ConfigurationError as exc:
            _make_run_parser(commands).error(str(exc))
    parser = _make_run_parser(commands)
    if word is not None and word not in commands:
        parser.refuse(word, " ".join(map(str, faults)))
    try:
        parser = parser if word is None else _make_command_parser(commands[word])
        arguments = parser.read(words)
    except Exception as exc:  # what a DAG adds for its command is its own
        parser.error(f"the command {word} is broken: {type(exc).__name__}: {exc}")
    if misuse := find_misuse(arguments):
        parser.error(misuse)
    return arguments


def _make_run_parser(commands: Mapping[str, Command]) -> Parser:
    parser = Parser(PROGRAM, DESCRIPTION, commands)
    parser.epilog = EPILOG
    parser.set_defaults(function=_run_dags, command=None)
    width = max(map(len, commands))
    described = [f"{command.name:<{width}}  {command.help}"[:76] for command in commands.values()]
    parser.add_argument_group("commands", "\n".join(described))
    add_run(parser)
    add_surroundings(parser)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def _make_command_parser(command: Command) -> Parser:
    parser = Parser(f"{PROGRAM} {command.name}", f"{command.help[:1].upper()}{command.help[1:]}.")
    parser.set_defaults(function=command.function, command=command.name, dag=[])
    command.add_arguments(parser)
    has_sandbox = command.function not in (_list_dags, _log_in)
    # The others have nothing to be silent about, or are asked for what they print.
    has_quiet = command.function in (_check, _show_status)
    add_surroundings(parser, has_sandbox=has_sandbox, has_quiet=has_quiet)
    return parser


def _built_in_commands() -> tuple[Command, ...]:
    return (
        Command("login", "log in to Kite, and put today's access token into .env", _log_in),
        Command("check", "prove all that a run needs, import nothing", _check, add_dag),
        Command("status", "show the last runs, and which DAGs are fresh", _show_status, add_status),
        Command("changes", "show what runs have changed", _show_changes, add_changes),
        Command("list", "list all DAGs", _list_dags, add_list),
    )


def execute_dag_wrapper(
    dag_id: int, name: str, func: Callable[[], Any], errors: dict[int, BaseException] | None = None
) -> tuple[int, bool, str]:
    """Execute a single DAG with logging. Returns (dag_id, success, result_message).

    `errors`, if given, receives the error of a DAG that failed, under its id.
    """
    context = f"DAG {dag_id} {name}"
    logger.info("%s: started", context)
    begin = time.perf_counter()
    try:
        with _signals.as_sent():
            result = func()
            message = result if isinstance(result, str) else "" if result is None else str(result)
    except (Exception, SystemExit) as exc:  # a DAG that exits must not end the others
        log_error_once(f"{context} failed", exc)
        logger.info("%s: failed in %.3f s", context, time.perf_counter() - begin)
        if errors is not None:
            errors[dag_id] = exc
        expected = isinstance(exc, StockIngestionError)
        return dag_id, False, str(exc) if expected else f"{type(exc).__name__}: {exc}"
    logger.info("%s: succeeded in %.3f s", context, time.perf_counter() - begin)
    return dag_id, True, message


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments say. Every foreseeable fault ends in a message and a status."""
    # A stream that was closed before the start (`>&-`) is None.
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - open to the end
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    setup_console_logging(arguments.log_level)
    try:
        with _signals.as_sent():
            if any(isinstance(each, str) for each in arguments.dag):
                arguments.dag = find_ids(discover_dags(PROJECT_ROOT), arguments.dag)
            work = _run_in_sandbox if arguments.sandbox else _call
            return _call_quietly(work, arguments) if arguments.quiet else work(arguments)
    except Exception as exc:
        is_foreseen = isinstance(exc, StockIngestionError)
        context = "" if is_foreseen else f"unexpected {type(exc).__name__}: "
        logger.error("%s%s", context, exc, exc_info=exc)
        return _exit_status([exc])
    except (KeyboardInterrupt, Terminated) as exc:
        said, status = _SIGNALLED[type(exc)]
        logger.error("%s: what was not committed yet is rolled back.", said)
        return status
    finally:
        _flush_or_drop(sys.stdout)
        _flush_or_drop(sys.stderr)


def _flush_or_drop(stream: Any) -> None:
    """Write what is left, or drop it: else Python, at its end, makes status 120 of a full disk."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _call_quietly(work: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Do it without a word, but for what it logs. What a command has found wrong is told, too."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = work(arguments)
    if status and arguments.function is not _run_dags:  # whose errors are logged
        sys.stderr.write(said.getvalue().lstrip("\n"))
    return status


def _call(arguments: argparse.Namespace) -> int:
    if arguments.function is not _list_dags:  # the list needs no configuration
        try:
            _log_to_file(arguments)
        except ConfigurationError:
            if arguments.function is not _check:  # which names this fault, beside all others
                raise
    return arguments.function(arguments) or ExitStatus.SUCCESS


def _log_to_file(arguments: argparse.Namespace) -> None:
    settings = ConfigLoader.load_logging_config()
    level = arguments.log_level or settings["level"]
    sizes = {name: settings[name] for name in ("max_bytes", "backup_count")}
    arguments.log_file = setup_file_logging(
        settings["directory"], level, settings["format"], **sizes
    )


def _run_in_sandbox(arguments: argparse.Namespace) -> int:
    from sandbox.session import open_sandbox
    from shared.console import say

    is_run = arguments.function is _run_dags  # what a command prints may be data for a program
    if is_run:
        say("Starting the sandbox in .sandbox/")
    folder = PROJECT_ROOT / ".sandbox"
    with open_sandbox(folder, arguments.sandbox_fault, arguments.dag) as sandbox:
        if is_run:
            say(f"{sandbox.describe()}\n")
        status = _call(arguments)
        is_stored = is_run and status == ExitStatus.SUCCESS and not arguments.dry_run
        if is_stored and sandbox.has_served_list:
            sandbox.complete()
            say(f"\nLook at the data with psql:\n{module_command('sandbox')}")
            say("One query: add -c 'SELECT * FROM kite_instrument_master LIMIT 5'")
    return status


def _select(arguments: argparse.Namespace) -> list[DAG]:
    """The DAGs that a command is about; one that is named may be disabled."""
    return select(discover_dags(PROJECT_ROOT), arguments.dag, also_disabled=True)


def _run_dags(arguments: argparse.Namespace) -> ExitStatus:
    from shared import notify
    from shared.console import say, say_table

    known = discover_dags(PROJECT_ROOT)
    dags = select(known, arguments.dag, also_disabled=arguments.sandbox)
    options = RunOptions(
        arguments.dry_run, arguments.from_file, arguments.force, arguments.dated, arguments.slice
    )
    if arguments.from_folder is not None:
        return _import_folder(dags, options, arguments)
    plan = plan_runs(dags, options, known, in_sandbox=arguments.sandbox)
    if arguments.due:
        return _run_due(plan, arguments.log_file)
    part = f", part {options.slice}" if options.slice else ""
    if not options.dry_run:
        notify.ping_start()
    errors: dict[int, BaseException] = {}
    rows = []
    for dag, call in plan:
        begin = time.perf_counter()
        ending = _run_dag(dag, call, errors, part)
        rows.append((str(dag.dag_id), dag.name, ending, f"{time.perf_counter() - begin:.2f}"))
    if len(rows) > 1:
        say()
        say_table(("id", "name", "status", "seconds"), rows)
    if errors and arguments.log_file is not None:
        say(f"Details: {arguments.log_file}")
    status = _exit_status(errors.values())
    if not options.dry_run:
        names = {dag.dag_id: f"{dag.label}{part}" for dag, _ in plan}
        report = notify.Report(names, errors, status, arguments.log_file, part=options.slice)
        notify.tell(report)
    return status


def _import_folder(
    dags: Sequence[DAG], options: RunOptions, arguments: argparse.Namespace
) -> ExitStatus:
    from shared import notify
    from shared.console import say
    from shared.folder_import import hold_folder_lock, import_lists, plan_import, show_plan

    dag = only_one(dags, "--from-folder")
    source = (arguments.from_folder, arguments.days)
    if options.dry_run:
        show_plan(plan_import(dag, options, *source))
        return ExitStatus.SUCCESS
    with hold_folder_lock(dag.dag_id):
        plan = plan_import(dag, options, *source)
        notify.ping_start()
        is_verbose = arguments.log_level == "DEBUG"
        errors = import_lists(plan, execute_dag_wrapper, is_verbose=is_verbose)
    if errors and arguments.log_file is not None:
        say(f"Details: {arguments.log_file}")
    status = _exit_status(errors.values())
    names = {dag.dag_id: dag.label}
    idle = () if plan.waiting else names
    notify.tell(notify.Report(names, errors, status, arguments.log_file, idle))
    return status


def _run_due(plan: Plan, log_file: Path | None) -> ExitStatus:
    from shared import notify
    from shared.due import run_due

    outcome = run_due(plan, ConfigLoader.load_logging_config()["directory"], _run_dag)
    if outcome is None:  # another call is under way
        return ExitStatus.SUCCESS
    status = _exit_status(outcome.errors.values())
    names, errors, slots, idle, news = outcome
    notify.tell(notify.Report(names, errors, status, log_file, idle, news), since=slots)
    return status


def _run_dag(
    dag: DAG, call: Callable[[], Any], errors: dict[int, BaseException], part: str = ""
) -> str:
    """Run the DAG, unless one has failed that it comes after. Returns how that ended.

    `part` follows its name wherever that is told.
    """
    from shared.console import make_display, say, say_lines

    name = f"{dag.label}{part}"
    if error := next((errors[dag_id] for dag_id in dag.after if dag_id in errors), None):
        first = next(dag_id for dag_id in errors if errors[dag_id] is error)
        errors[dag.dag_id] = error
        logger.error("%s skipped: DAG %d failed", name, first)
        say(f"{name} skipped: DAG {first} failed")
        return "skipped"
    say(name)
    begin = time.perf_counter()
    with make_display() as display, show_on(display):
        own_name = f"{dag.name}{part}"
        _, succeeded, message = execute_dag_wrapper(dag.dag_id, own_name, call, errors)
    if succeeded:
        say_lines(f"\n{message}\n" if message else "")
    status = "succeeded" if succeeded else "failed"
    counts = f": {message.counts}" if isinstance(message, Summary) else ""
    say(f"{name} {status} in {time.perf_counter() - begin:.2f} s{counts}")
    return status


def _log_in(arguments: argparse.Namespace) -> None:
    from shared.kite_login import log_in

    log_in()


def _check(arguments: argparse.Namespace) -> ExitStatus:
    from shared.checks import check

    return _exit_status(check(_select(arguments)))


def _show_status(arguments: argparse.Namespace, **clocks: Any) -> ExitStatus:
    from shared.freshness import FRESH, STALE
    from shared.run_status import show_status

    form = {"as_json": arguments.json, "as_metrics": arguments.prometheus}
    verdict = show_status(_select(arguments), arguments.dag, **form, **clocks)
    statuses = {FRESH: ExitStatus.SUCCESS, STALE: ExitStatus.DAG_FAILED}
    return statuses.get(verdict, ExitStatus.CANNOT_BE_KNOWN)


def _show_changes(arguments: argparse.Namespace) -> None:
    from shared.show_changes import show_changes

    wanted = {"run_id": arguments.run, "since": arguments.since}
    wanted |= {"kind": arguments.kind, "group": arguments.exchange}
    show_changes(_select(arguments), wanted, as_json=arguments.json)


def _list_dags(arguments: argparse.Namespace) -> None:
    from shared.console import say_table, write_json

    dags, rows = discover_dags(PROJECT_ROOT), []
    if arguments.json:
        write_json({"time_zone": "Asia/Kolkata", "dags": [dag.as_dict() for dag in dags]})
        return
    for dag in dags:
        enabled = "?" if dag.fault else "yes" if dag.enabled else "no"
        description = f"BROKEN: {dag.fault}" if dag.fault else dag.description
        rows.append((dag.shown_id, dag.name, enabled, dag.schedule, description))
    say_table(("id", "name", "enabled", "schedule", "description"), rows)


def _exit_status(errors: Iterable[BaseException]) -> ExitStatus:
    """The status for the errors of the DAGs that failed (ruling 10)."""
    causes = [cause_of(error) for error in errors]
    if not causes:
        return ExitStatus.SUCCESS
    if all(isinstance(cause, AuthenticationError) for cause in causes):
        return ExitStatus.LOG_IN_AGAIN
    if all(isinstance(cause, ConfigurationError) for cause in causes):
        return ExitStatus.USAGE_OR_CONFIGURATION
    return ExitStatus.DAG_FAILED


if __name__ == "__main__":
    sys.exit(run(parse_arguments()))
