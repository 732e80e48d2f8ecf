#!/usr/bin/env python3
"""Run DAGs from the command line.

The only place that parses arguments and chooses an exit status: 0 all DAGs
succeeded, 1 a DAG failed, 2 bad usage or configuration, 3 the Kite session is dead or was refused
and nothing else failed (log in again), 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from shared import __version__
from shared.config.config_loader import ConfigLoader
from shared.config.fields import LOG_LEVELS
from shared.config.logging_config import as_message, setup_console_logging, setup_file_logging
from shared.dag_discovery import DAG, discover_dags
from shared.exceptions import (
    AuthenticationError,
    ConfigurationError,
    DAGExecutionError,
    StockIngestionError,
)
from shared.signals import HungUp, Signals, Terminated
from shared.utils.operation import log_error_once, set_display

PROJECT_ROOT = Path(__file__).resolve().parent

# Those of sandbox/session.py, which is imported for a sandbox only; a test compares them.
SANDBOX_FAULTS = ("429", "502", "timeout", "truncated", "expired-token", "bad-rows")

logger = logging.getLogger("execute_dags")

_signals = Signals()


class ExitStatus(IntEnum):
    """What the caller (cron, systemd, CI) is told."""

    SUCCESS = 0
    DAG_FAILED = 1
    USAGE_OR_CONFIGURATION = 2
    LOG_IN_AGAIN = 3
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


def main() -> bool:
    """
    Execute selected DAGs based on command-line arguments.

    Returns:
        bool: True if all DAGs succeeded, False otherwise
    """
    return run(parse_arguments()) is ExitStatus.SUCCESS


class _Parser(argparse.ArgumentParser):
    """Its messages quote the arguments, which may hold a file's name, or a token."""

    def error(self, message: str) -> NoReturn:
        super().error(as_message(message))


def parse_arguments() -> argparse.Namespace:
    """Parse and validate command-line arguments. Bad usage ends the program with status 2."""
    parser = _Parser(
        prog="execute_dags.py",
        description="Run data pipelines (DAGs): all enabled ones in the order of their ids, or "
        "those named with --dag.",
        epilog="Exit status: 0 success, 1 a DAG failed, 2 bad usage or configuration, 3 log in "
        "to Kite again, 129 terminal closed, 130 interrupted, 143 terminated.",
    )
    parser.add_argument(
        "--dag",
        metavar="N",
        type=int,
        action="append",
        default=[],
        help="run the DAG with this id; may be given several times",
    )
    instead = parser.add_argument_group("instead of running DAGs").add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="list all DAGs")
    instead.add_argument(
        "--login",
        action="store_true",
        help="log in to Kite: shows the address to open, takes the address that the browser shows "
        "then from standard input, and puts today's access token into .env",
    )
    instead.add_argument(
        "--check",
        action="store_true",
        help="prove the Kite session and the database, import nothing",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="fetch, validate and transform, show the summary, write nothing to the database",
    )
    parser.add_argument(
        "--from-file",
        metavar="PATH",
        help="import a saved dump (CSV, plain or gzipped; -: from standard input) instead of "
        "asking the API",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="store a list even if it lost too many rows since the last good run, or too many of "
        "its rows are rejected",
    )
    parser.add_argument(
        "--log-level",
        metavar="LEVEL",
        type=str.upper,
        choices=LOG_LEVELS,
        help="log from this level on, to standard error and to the log file "
        f"({', '.join(LOG_LEVELS)}; default: WARNING and the configured level)",
    )
    instead.add_argument(
        "--status",
        action="store_true",
        help="show the last runs and whether the list is fresh; status 1 if it is stale",
    )
    instead.add_argument("--changes", action="store_true", help="show what the last run changed")
    parser.add_argument("--json", action="store_true", help="with --changes: all of them, as JSON")
    parser.add_argument(
        "--sandbox",
        action="store_true",
        help="run against a PostgreSQL and a Kite of its own in .sandbox/, without credentials; "
        "each run is the next trading day of a made-up market",
    )
    parser.add_argument(
        "--sandbox-fault",
        metavar="FAULT",
        choices=SANDBOX_FAULTS,
        help=f"let the sandbox's Kite misbehave: {', '.join(SANDBOX_FAULTS)}",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    arguments = parser.parse_args()
    fault = _find_bad_combination(arguments)
    if fault:
        parser.error(fault)
    return arguments


def _find_bad_combination(arguments: argparse.Namespace) -> str | None:
    """What is wrong with these arguments together, if anything."""
    runs_none = arguments.list or arguments.login or arguments.check
    for_runs = arguments.dry_run or arguments.from_file is not None or arguments.force
    if runs_none and (arguments.dag or for_runs):
        return "--list, --login and --check run no DAG: leave out the options for runs"
    if (arguments.status or arguments.changes) and for_runs:
        return "--status and --changes run no DAG: leave out the options for runs"
    if arguments.json and not arguments.changes:
        return "--json needs --changes"
    if arguments.sandbox_fault and not arguments.sandbox:
        return "--sandbox-fault needs --sandbox"
    if arguments.sandbox and (arguments.list or arguments.login):
        return "--list and --login have no sandbox"
    return None


def execute_dag_wrapper(
    dag_id: int,
    name: str,
    func: Callable[[], Any],
    errors: dict[int, BaseException] | None = None,
) -> tuple[int, bool, str]:
    """
    Execute a single DAG with logging and error handling.

    Args:
        dag_id: DAG identifier
        name: DAG name for logging
        func: DAG execution function
        errors: If given, receives the error of a DAG that failed, under its id

    Returns:
        Tuple of (dag_id, success, result_message)
    """
    context = f"DAG {dag_id} {name}"
    logger.info("%s: started", context)
    begin = time.perf_counter()
    try:
        result = func()
    except (Exception, SystemExit) as exc:  # a DAG that exits must not end the others
        log_error_once(f"{context} failed", exc)
        logger.info("%s: failed in %.3f s", context, time.perf_counter() - begin)
        if errors is not None:
            errors[dag_id] = exc
        expected = isinstance(exc, StockIngestionError)
        return dag_id, False, str(exc) if expected else f"{type(exc).__name__}: {exc}"
    logger.info("%s: succeeded in %.3f s", context, time.perf_counter() - begin)
    return dag_id, True, "" if result is None else str(result)


def run(arguments: argparse.Namespace) -> ExitStatus:
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
            return _dispatch(arguments)
    except StockIngestionError as exc:
        logger.error("%s", exc, exc_info=exc)
        return _exit_status([exc])
    except Exception as exc:
        logger.error("unexpected %s: %s", type(exc).__name__, exc, exc_info=exc)
        return ExitStatus.DAG_FAILED
    except KeyboardInterrupt:
        logger.error("Interrupted: what was not committed yet is rolled back.")
        return ExitStatus.INTERRUPTED
    except HungUp:
        logger.error("Hung up, its terminal was closed: what was not committed yet is rolled back.")
        return ExitStatus.HUNG_UP
    except Terminated:
        logger.error("Terminated: what was not committed yet is rolled back.")
        return ExitStatus.TERMINATED
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


def _dispatch(arguments: argparse.Namespace) -> ExitStatus:
    if arguments.list:
        return _list_dags(discover_dags(PROJECT_ROOT))
    if arguments.sandbox:
        return _run_in_sandbox(arguments)
    return _do_in_place(arguments)


def _run_in_sandbox(arguments: argparse.Namespace) -> ExitStatus:
    from sandbox.session import open_sandbox
    from shared.console import say

    if not arguments.json:
        say("Starting the sandbox in .sandbox/")
    folder = PROJECT_ROOT / ".sandbox"
    with open_sandbox(folder, arguments.sandbox_fault, arguments.dag) as sandbox:
        if not arguments.json:
            say(f"{sandbox.describe()}\n")
        status = _do_in_place(arguments)
        if status is ExitStatus.SUCCESS and sandbox.has_served_list and not arguments.dry_run:
            sandbox.complete()
            say(f"\nLook at the data with psql: {_python()} -m sandbox")
            say("One query: add -c 'SELECT * FROM kite_instrument_master LIMIT 5'")
    return status


def _python() -> str:
    """How to call this Python from the project's root."""
    executable = Path(sys.executable)
    inside = executable.is_relative_to(PROJECT_ROOT)
    return str(executable.relative_to(PROJECT_ROOT) if inside else executable)


def _do_in_place(arguments: argparse.Namespace) -> ExitStatus:
    log_file = _setup_log_file(arguments.log_level)
    if arguments.login:
        from shared.account import log_in

        log_in()
        return ExitStatus.SUCCESS
    if arguments.check:
        from shared.account import check

        return _exit_status(check())
    if arguments.status:
        from shared.run_status import show_status

        _refuse_unknown(discover_dags(PROJECT_ROOT), arguments.dag)
        return ExitStatus.SUCCESS if show_status(arguments.dag) else ExitStatus.DAG_FAILED
    if arguments.changes:
        return _show_changes(arguments)
    return _run_dags(arguments, log_file)


def _show_changes(arguments: argparse.Namespace) -> ExitStatus:
    """Let each DAG that keeps changes (it exports `describe_changes`) describe the last ones."""
    from shared.console import say_lines, write_data

    dags = _select(discover_dags(PROJECT_ROOT), arguments.dag)
    reports = []
    for dag in dags:
        try:
            report = dag.load_report("describe_changes")
        except StockIngestionError as exc:
            if arguments.dag:
                raise
            logger.warning("%s", exc)  # a broken folder does not hide the others
            continue
        if report:
            reports.append(report)
    if not reports:
        raise ConfigurationError("None of these DAGs keeps what it changes.")
    for report in reports:
        (write_data if arguments.json else say_lines)(report(as_json=arguments.json))
    return ExitStatus.SUCCESS


def _setup_log_file(level: str | None) -> Path | None:
    settings = ConfigLoader.load_logging_config()
    return setup_file_logging(
        settings["directory"],
        level or settings["level"],
        settings["format"],
        max_bytes=settings["max_bytes"],
        backup_count=settings["backup_count"],
    )


def _list_dags(dags: Sequence[DAG]) -> ExitStatus:
    from shared.console import say_table

    say_table(
        ("id", "name", "enabled", "schedule", "description"),
        [
            (
                str(dag.dag_id),
                dag.name,
                "?" if dag.fault else "yes" if dag.enabled else "no",
                dag.schedule,
                f"BROKEN: {dag.fault}" if dag.fault else dag.description,
            )
            for dag in dags
        ],
    )
    return ExitStatus.SUCCESS


def _run_dags(arguments: argparse.Namespace, log_file: Path | None) -> ExitStatus:
    from shared.console import make_display, say, say_lines, say_table

    dags = _select(discover_dags(PROJECT_ROOT), arguments.dag)
    errors: dict[int, BaseException] = {}
    rows = []
    for dag in dags:
        say(f"DAG {dag.dag_id} {dag.name}")
        begin = time.perf_counter()
        with make_display() as display:
            set_display(display)
            try:
                _, succeeded, message = execute_dag_wrapper(
                    dag.dag_id, dag.name, partial(_call, dag, _run_options(arguments)), errors
                )
            finally:
                set_display(None)
        seconds = time.perf_counter() - begin
        if succeeded:
            say_lines(f"\n{message}\n" if message else "")
        status = "succeeded" if succeeded else "failed"
        say(f"DAG {dag.dag_id} {dag.name} {status} in {seconds:.2f} s")
        rows.append((str(dag.dag_id), dag.name, status, f"{seconds:.2f}"))
    if len(rows) > 1:
        say()
        say_table(("id", "name", "status", "seconds"), rows)
    if errors and log_file is not None:
        say(f"Details: {log_file}")
    return _exit_status(errors.values())


def _select(dags: Sequence[DAG], wanted: Sequence[int]) -> list[DAG]:
    """The DAGs to run, by id. Raises ConfigurationError for an id that cannot be run."""
    if not wanted:
        selected = [dag for dag in dags if dag.enabled]
        if not selected:
            raise ConfigurationError(f"There is no enabled DAG in {PROJECT_ROOT}.")
        return selected
    _refuse_unknown(dags, wanted)
    selected = [dag for dag in dags if dag.dag_id in wanted]
    for dag in selected:
        if not dag.enabled:
            raise ConfigurationError(
                f'DAG {dag.dag_id} is disabled: set "enabled": true in '
                f"{dag.folder.name}/config.json to run it."
            )
    return selected


def _refuse_unknown(dags: Sequence[DAG], wanted: Sequence[int]) -> None:
    known = sorted({dag.dag_id for dag in dags})
    for dag_id in wanted:
        if dag_id not in known:
            raise ConfigurationError(
                f"There is no DAG {dag_id}. Known ids: {', '.join(map(str, known)) or 'none'} "
                "(see --list)."
            )


def _call(dag: DAG, options: Mapping[str, Any]) -> Any:
    """Run the DAG's function with the options that were given, if it knows them."""
    with _signals.as_sent():
        function = dag.load()
        known = inspect.signature(function).parameters
        for name in options:
            if name not in known:
                raise ConfigurationError(
                    f"DAG {dag.dag_id} has no --{name.replace('_', '-')}: its function {dag.name} "
                    f"takes no {name}."
                )
        return function(**options)


def _run_options(arguments: argparse.Namespace) -> dict[str, Any]:
    options = {
        "dry_run": arguments.dry_run,
        "from_file": arguments.from_file,
        "force": arguments.force,
    }
    return {name: value for name, value in options.items() if value not in (None, False)}


def _exit_status(errors: Iterable[BaseException]) -> ExitStatus:
    """The status for the errors of the DAGs that failed (ruling 10)."""
    causes = [
        error.__cause__ if isinstance(error, DAGExecutionError) and error.__cause__ else error
        for error in errors
    ]
    if not causes:
        return ExitStatus.SUCCESS
    if all(isinstance(cause, AuthenticationError) for cause in causes):
        return ExitStatus.LOG_IN_AGAIN
    if all(isinstance(cause, ConfigurationError) for cause in causes):
        return ExitStatus.USAGE_OR_CONFIGURATION
    return ExitStatus.DAG_FAILED


if __name__ == "__main__":
    sys.exit(run(parse_arguments()))
