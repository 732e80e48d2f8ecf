#!/usr/bin/env python3
"""Run DAGs from the command line.

The only place that parses arguments, handles signals, and chooses an exit status: 0 all DAGs
succeeded, 1 a DAG failed, 2 bad usage or configuration, 3 the Kite session is dead or was refused
and nothing else failed (log in again), 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

from shared import __version__
from shared.config.config_loader import ConfigLoader
from shared.config.fields import LOG_LEVELS
from shared.config.logging_config import setup_console_logging, setup_file_logging
from shared.dag_discovery import DAG, discover_dags
from shared.exceptions import AuthenticationError, ConfigurationError, StockIngestionError
from shared.utils.operation import log_error_once, set_display

PROJECT_ROOT = Path(__file__).resolve().parent

logger = logging.getLogger("execute_dags")


class ExitStatus(IntEnum):
    """What the caller (cron, systemd, CI) is told."""

    SUCCESS = 0
    DAG_FAILED = 1
    USAGE_OR_CONFIGURATION = 2
    LOG_IN_AGAIN = 3
    INTERRUPTED = 130
    TERMINATED = 143


class _Terminated(BaseException):
    """SIGTERM came; not an Exception, so that nothing on the way takes it for a failure."""


def main() -> bool:
    """
    Execute selected DAGs based on command-line arguments.

    Returns:
        bool: True if all DAGs succeeded, False otherwise
    """
    return run(parse_arguments()) is ExitStatus.SUCCESS


def parse_arguments() -> argparse.Namespace:
    """Parse and validate command-line arguments. Bad usage ends the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="execute_dags.py",
        description="Run data pipelines (DAGs): all enabled ones in the order of their ids, or "
        "those named with --dag.",
        epilog="Exit status: 0 success, 1 a DAG failed, 2 bad usage or configuration, 3 log in "
        "to Kite again, 130 interrupted, 143 terminated.",
    )
    parser.add_argument(
        "--dag",
        metavar="N",
        type=int,
        action="append",
        default=[],
        help="run the DAG with this id; may be given several times",
    )
    parser.add_argument("--list", action="store_true", help="list all DAGs and run none")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="fetch, validate and transform, show the summary, write nothing to the database",
    )
    parser.add_argument(
        "--log-level",
        metavar="LEVEL",
        type=str.upper,
        choices=LOG_LEVELS,
        help="log from this level on, to standard error and to the log file "
        f"({', '.join(LOG_LEVELS)}; default: WARNING and the configured level)",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    arguments = parser.parse_args()
    if arguments.list and (arguments.dag or arguments.dry_run):
        parser.error("--list runs nothing: leave out --dag and --dry-run")
    return arguments


def execute_dag_wrapper(
    dag_id: int,
    name: str,
    func: Callable[[], Any],
    errors: dict[int, Exception] | None = None,
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
    except Exception as exc:
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
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    setup_console_logging(arguments.log_level)
    previous = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        if arguments.list:
            return _list_dags(discover_dags(PROJECT_ROOT))
        return _run_dags(arguments)
    except ConfigurationError as exc:
        logger.error("%s", exc)
        return ExitStatus.USAGE_OR_CONFIGURATION
    except KeyboardInterrupt:
        logger.error("Interrupted: what was not committed yet is rolled back.")
        return ExitStatus.INTERRUPTED
    except _Terminated:
        logger.error("Terminated: what was not committed yet is rolled back.")
        return ExitStatus.TERMINATED
    finally:
        signal.signal(signal.SIGTERM, previous)


def _raise_terminated(signal_number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


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


def _run_dags(arguments: argparse.Namespace) -> ExitStatus:
    from shared.console import make_display, say, say_table

    dags = _select(discover_dags(PROJECT_ROOT), arguments.dag)
    settings = ConfigLoader.load_logging_config()
    log_file = setup_file_logging(
        settings["directory"],
        arguments.log_level or settings["level"],
        settings["format"],
        max_bytes=settings["max_bytes"],
        backup_count=settings["backup_count"],
    )
    errors: dict[int, Exception] = {}
    rows = []
    for dag in dags:
        say(f"DAG {dag.dag_id} {dag.name}")
        begin = time.perf_counter()
        with make_display() as display:
            set_display(display)
            try:
                _, succeeded, message = execute_dag_wrapper(
                    dag.dag_id, dag.name, partial(_call, dag, arguments.dry_run), errors
                )
            finally:
                set_display(None)
        seconds = time.perf_counter() - begin
        if succeeded:
            say(f"\n{message}\n" if message else "")
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
    known = sorted({dag.dag_id for dag in dags})
    for dag_id in wanted:
        if dag_id not in known:
            raise ConfigurationError(
                f"There is no DAG {dag_id}. Known ids: {', '.join(map(str, known)) or 'none'} "
                "(see --list)."
            )
    selected = [dag for dag in dags if dag.dag_id in wanted]
    for dag in selected:
        if not dag.enabled:
            raise ConfigurationError(
                f'DAG {dag.dag_id} is disabled: set "enabled": true in '
                f"{dag.folder.name}/config.json to run it."
            )
    return selected


def _call(dag: DAG, dry_run: bool) -> Any:
    function = dag.load()
    if not dry_run:
        return function()
    if "dry_run" not in inspect.signature(function).parameters:
        raise ConfigurationError(
            f"DAG {dag.dag_id} has no dry run: its function {dag.name} takes no dry_run."
        )
    return function(dry_run=True)


def _exit_status(errors: Iterable[Exception]) -> ExitStatus:
    """The status for the errors of the DAGs that failed (ruling 10)."""
    causes = [error.__cause__ or error for error in errors]
    if not causes:
        return ExitStatus.SUCCESS
    if all(isinstance(cause, AuthenticationError) for cause in causes):
        return ExitStatus.LOG_IN_AGAIN
    if all(isinstance(cause, ConfigurationError) for cause in causes):
        return ExitStatus.USAGE_OR_CONFIGURATION
    return ExitStatus.DAG_FAILED


if __name__ == "__main__":
    sys.exit(run(parse_arguments()))
