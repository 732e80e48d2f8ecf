"""`--from-folder`: lists of earlier days, in their order, each as a run of its own.

What is imported already is left out, so that a call that was ended goes on where it was.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

from shared import archive, clock, run_lock
from shared.calendar import IST
from shared.config.config_loader import ConfigLoader, DatabaseConfig
from shared.console import make_display, say, say_lines
from shared.dag_discovery import DAG
from shared.exceptions import ConfigurationError, DAGExecutionError, DatabaseError, cause_of
from shared.feed import RunOptions, Summary
from shared.foreign_text import escape_line
from shared.run_plan import plan_runs
from shared.saved_lists import LIST_NAMES, SavedList, SavedLists, read_folder
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.extras import is_readable
from shared.utils.operation import advance, operation, show_on

logger = logging.getLogger(__name__)

_SHOWN_NAMES = 10

# Runs a DAG, adds its error, and returns its id, whether it was good, and what it says.
Execute = Callable[[int, str, Callable[[], Any], dict[int, BaseException]], tuple[int, bool, str]]


@dataclass(frozen=True)
class FolderImport:
    """The lists that a call imports, of those of a folder; `reasons` are why others are not."""

    dag: DAG
    options: RunOptions
    found: SavedLists
    reasons: dict[Path, str]

    @property
    def waiting(self) -> list[tuple[int, SavedList]]:
        """The lists that are to be imported, with their numbers among all."""
        numbered = enumerate(self.found.lists, 1)
        return [(number, each) for number, each in numbered if each.path not in self.reasons]

    def place(self, number: int) -> str:
        """The number of a list among all."""
        return f"list {number} of {len(self.found.lists)}"

    def describe(self) -> str:
        """What there is, and what is to be done, in lines."""
        lists, left_out = self.found.lists, self.found.left_out
        total, to_do = len(lists), len(self.waiting)
        where = escape_line(str(self.found.folder))
        lines = [f"{_count(total)} in {where}, of {lists[0].day} to {lists[-1].day}"]
        if left_out:
            names = ", ".join(_first_few([*map(escape_line, left_out)]))
            lines.append(f"left out, as not called {LIST_NAMES}: {names}")
        for reason, count in Counter(self.reasons.values()).items():
            lines.append(f"{count:>8,}  {reason}")
        return "\n".join([*lines, f"{to_do:>8,}  to be imported"])


def plan_import(dag: DAG, options: RunOptions, folder: str, days_file: str | None) -> FolderImport:
    """Which lists of the folder are to be imported. Imports nothing, and writes nothing.

    Raises ConfigurationError, before anything runs, if the DAG takes no dated lists, if a list has
    no day, or if lists that were not imported are of days before the last one's.
    """
    feed = dag.load_feed()
    if feed is None:
        raise ConfigurationError(f"DAG {dag.dag_id} has no --from-folder: it is no feed.")
    today = clock.now().astimezone(IST).date()
    days = None if days_file is None else Path(days_file)
    found = read_folder(Path(folder), days, today)
    plan_runs([dag], _options_of(options, found.lists[0]))  # refuses what the DAG does not take
    config, _ = ConfigLoader.load_merged_config(feed.folder, feed.settings, needs_api=False)
    try:
        recorded = _read_recorded(config.database, dag.dag_id)
    except DatabaseError as exc:
        if not options.dry_run:
            raise
        logger.warning("What is imported already could not be read: %s", exc)
        recorded = []
    reasons = _find_reasons(found.lists, recorded)
    plan = FolderImport(dag, options, found, reasons)
    _refuse_too_old([each for _, each in plan.waiting], recorded)
    return plan


def _read_recorded(config: DatabaseConfig, dag_id: int) -> list[tuple[date, str | None]]:
    def read(cursor: Any) -> list[tuple[date, str | None]]:
        if not is_readable(cursor, run_history.TABLE):
            return []
        return run_history.read_list_days(cursor, dag_id)

    with DatabaseManager(asdict(config)) as manager:
        return manager.run_in_transaction(read)


def _find_reasons(
    lists: Sequence[SavedList], recorded: Sequence[tuple[date, str | None]]
) -> dict[Path, str]:
    """Why lists need not be imported: a good run has had the same bytes for the same day."""
    reasons: dict[Path, str] = {}
    by_day = Counter(each.day for each in lists)
    known = {day for day, _ in recorded}
    looked_at = [each for each in lists if each.day in known or by_day[each.day] > 1]
    hashes = dict(_hash_all(looked_at))
    for before, each in pairwise(lists):
        digest = hashes.get(each.path)
        if before.day == each.day and digest and digest == hashes.get(before.path):
            reasons[each.path] = "the same as the list before, of the same day"
    left = Counter(recorded)
    for each in lists:
        key = (each.day, hashes.get(each.path))
        if each.path not in reasons and key[1] is not None and left[key]:
            left[key] -= 1
            reasons[each.path] = "imported already"
    return reasons


def _hash_all(lists: Sequence[SavedList]) -> Iterator[tuple[Path, str | None]]:
    if not lists:
        return
    with make_display(is_brief=True) as display, show_on(display), operation("look at lists"):
        for number, each in enumerate(lists, 1):
            yield each.path, archive.hash_saved(str(each.path))
            advance(number, len(lists), "lists")


def _refuse_too_old(
    lists: Sequence[SavedList], recorded: Sequence[tuple[date, str | None]]
) -> None:
    last_day = recorded[-1][0] if recorded else None
    too_old = [each for each in lists if last_day is not None and each.day < last_day]
    if too_old:
        raise ConfigurationError(
            f"{_count(len(too_old))} not imported yet, and of days before that of the last list in "
            f"the database, {last_day}:\n"
            + "\n".join(_first_few([each.label for each in too_old]))
            + "\nHistory is written forwards. Import the old lists into a new database first "
            "(DB_NAME), and then the later ones: all that are in one folder are one call. Nothing "
            "was imported."
        )


def show_plan(plan: FolderImport) -> None:
    """Say of each list whether it would be imported."""
    say(plan.dag.label)
    say_lines(plan.describe())
    for number, each in enumerate(plan.found.lists, 1):
        said = plan.reasons.get(each.path, "would be imported")
        say(f"{plan.place(number)}: {each.label}: {said}")


def import_lists(
    plan: FolderImport, execute: Execute, *, is_verbose: bool = False
) -> dict[int, BaseException]:
    """Import the lists in their order, up to one that fails. Returns that error by the DAG's id.

    A line is said for each list; all that a run says with `is_verbose`.
    """
    dag, errors = plan.dag, dict[int, BaseException]()
    say(dag.label)
    say_lines(plan.describe())
    begin, done = time.perf_counter(), 0
    try:
        for number, each in plan.waiting:
            _import_list(plan, number, each, execute, errors, is_verbose)
            if error := errors.get(dag.dag_id):
                said = f"{plan.place(number)} ({each.label}) failed. {_describe_rest(plan, done)}"
                logger.error("%s", said)
                errors[dag.dag_id] = DAGExecutionError(f"{said}\n{error}")
                errors[dag.dag_id].__cause__ = cause_of(error)
                break
            done += 1
    except BaseException:  # a signal
        logger.warning("%s", _describe_rest(plan, done))
        raise
    ending = "failed" if errors else "succeeded"
    seconds = time.perf_counter() - begin
    say(f"{dag.label} {ending} in {seconds:.2f} s: {_count(done)} imported")
    return errors


def _import_list(
    plan: FolderImport,
    number: int,
    each: SavedList,
    execute: Execute,
    errors: dict[int, BaseException],
    is_verbose: bool,
) -> None:
    dag, place = plan.dag, plan.place(number)
    [(_, call)] = plan_runs([dag], _options_of(plan.options, each))
    if is_verbose:
        say(f"{place}: {each.label}")
    logger.info("%s: %s", place, each.label)
    begin = time.perf_counter()
    with make_display(is_brief=not is_verbose) as display, show_on(display):
        if not is_verbose:
            display.started(place)
        _, succeeded, message = execute(dag.dag_id, dag.name, call, errors)
    if is_verbose and succeeded:
        say_lines(f"\n{message}\n")
    counts = message.counts if isinstance(message, Summary) else "failed"
    say(f"{place}: {each.label}: {counts}, {time.perf_counter() - begin:.2f} s")


def _describe_rest(plan: FolderImport, done: int) -> str:
    total = len(plan.found.lists)
    left = len(plan.waiting) - done
    return (
        f"{total - left} of {_count(total)} are imported, {done} of them by this call. The same "
        "call goes on from there."
    )


@contextmanager
def hold_folder_lock(dag_id: int) -> Iterator[None]:
    """Let no other call import a folder; `--due` waits as it does for a run.

    Raises ConfigurationError if one does.
    """
    directory = ConfigLoader.load_logging_config()["directory"]
    with run_lock.hold_alone(run_lock.series_path(directory, dag_id)) as is_alone:
        if not is_alone:
            raise ConfigurationError(
                f"Another call of --from-folder for DAG {dag_id} is under way: let it end first."
            )
        yield


def _options_of(options: RunOptions, each: SavedList) -> RunOptions:
    return replace(options, dry_run=False, from_file=str(each.path), dated=each.day)


def _count(lists: int) -> str:
    return f"{lists:,} list{'' if lists == 1 else 's'}"


def _first_few(names: Sequence[str]) -> Sequence[str]:
    rest = len(names) - _SHOWN_NAMES
    return names if rest <= 0 else [*names[:_SHOWN_NAMES], f"and {rest:,} more"]
