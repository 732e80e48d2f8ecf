"""`--due`: which DAGs have to run now, and what of it is news.

A call every few minutes is all that a machine needs: what is fresh (ruling 31) is left alone, the
rest is run again until it is. A failure that was told already since the schedule came round is not
told again, and Kite is not asked again with credentials that it has refused.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from shared import clock, run_lock
from shared.calendar import Schedule
from shared.config.config_loader import ConfigLoader
from shared.config.logging_config import redact
from shared.console import hold_back
from shared.dag_discovery import DAG
from shared.exceptions import (
    AuthenticationError,
    ConfigurationError,
    DAGExecutionError,
    StockIngestionError,
    cause_of,
)
from shared.freshness import STALE, UNKNOWN, Now, Verdict, judge, read_clocks
from shared.private_files import write_state
from shared.run_plan import Plan, fail
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.extras import LOCK_TIMEOUT, ensure_extra_table
from shared.utils.retry import ONCE
from shared.utils.sql import settings

logger = logging.getLogger(__name__)

_LATE = "late"

# Runs one, shows how it ends, and adds its error.
RunDAG = Callable[[DAG, Callable[[], Any], dict[int, BaseException]], Any]


class Outcome(NamedTuple):
    """What a call has come to: the names of the DAGs that are fresh or have failed, by id, the
    errors of the latter, when the schedule of each came round, which did not have to run, and whose
    failure is news.
    """

    names: dict[int, str]
    errors: dict[int, BaseException]
    slots: dict[int, datetime]
    idle: set[int]
    news: set[int]


def run_due(plan: Plan, directory: Path, run_dag: RunDAG) -> Outcome | None:
    """Run those DAGs of the plan that are due. None if another such call is under way.

    What `run_dag` writes to the console is shown if it is news. `directory` is that of the log.
    """
    # Where there can be no lock, the runs themselves still end well, one after the other.
    with run_lock.hold_alone(directory / "due.lock") as is_alone:
        if is_alone:
            return _run_due(plan, directory, run_dag)
    logger.info("another call of --due is under way")
    return None


def _run_due(plan: Plan, directory: Path, run_dag: RunDAG) -> Outcome:
    due = DueDAGs(directory)
    outcome = Outcome({}, {}, {}, set(), due.news)
    waiting: set[int] = set()  # their rows are not there yet, though nothing has failed
    for dag, call in plan:
        name, reason = dag.label, None
        outcome.slots[dag.dag_id] = due.slot(dag)
        try:
            reason = due.why(dag)
            if reason is not None:
                is_running = run_lock.is_held(directory, dag.dag_id)
                if is_running or waiting.intersection(dag.after):
                    logger.info("%s is due, and %s", name, "runs" if is_running else "waits")
                    waiting.add(dag.dag_id)
                    continue
                due.refuse_to_ask(dag)
        except StockIngestionError as exc:
            call, reason = partial(fail, exc), str(exc)
        if reason is None:
            outcome.names[dag.dag_id] = name
            outcome.idle.add(dag.dag_id)
            continue
        logger.info("%s is due: %s", name, reason)
        with hold_back(is_held=due.is_told(dag)) as show:
            run_dag(dag, call, outcome.errors)
        error = outcome.errors.get(dag.dag_id)
        if error is None and (late := due.why_still(dag)):
            waiting.add(dag.dag_id)
            if not due.is_overdue(dag):
                if due.note(dag, _LATE):
                    show()
                    logger.warning("%s\nThe next call of --due asks again.", late)
                continue
            error = outcome.errors[dag.dag_id] = DAGExecutionError(late)
            with hold_back(is_held=True) as show:
                logger.error("%s", late)
        outcome.names[dag.dag_id] = name
        if error is None or due.note_failure(dag, error):
            show()
    return outcome


class DueDAGs:
    """What has to run, and what was told of it: the latter in a file, as the database may be away.

    `directory` is that of the log. The file has, for each DAG, its slot and the kinds of failures
    that were told since; and what Kite said to credentials that it has refused, by their hash.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "due.json"
        self._calendar = ConfigLoader.load_calendar()
        self.news: set[int] = set()  # the DAGs of which a failure is news
        self._told: dict[str, Any] = {}
        self._refused: dict[str, str] = {}
        with contextlib.suppress(Exception):  # whatever is in it
            read = json.loads(self._path.read_text(encoding="utf-8"))
            self._refused = {str(mark): str(said) for mark, said in read["refused"].items()}
            for dag_id, told in read["told"].items():
                self._told[dag_id] = {"slot": told["slot"], "kinds": [*map(str, told["kinds"])]}
        self._has_history = False
        self._unknown: StockIngestionError | None = None  # why nothing can be known

    def why(self, dag: DAG) -> str | None:
        """Why the DAG has to run now; None if it need not.

        Raises StockIngestionError if that cannot be known.
        """
        dag.load_feed()  # a broken one fails with its own error
        verdict = self._judge(dag)
        if verdict.verdict == UNKNOWN:
            raise DAGExecutionError(verdict.reason)
        if verdict.verdict == STALE:
            return verdict.reason
        if self._told.pop(str(dag.dag_id), None):  # what fails from now on is another failure
            self._save()
        return None

    def refuse_to_ask(self, dag: DAG) -> None:
        """Raise AuthenticationError if the DAG would ask Kite with credentials it has refused."""
        if (mark := self._credentials(dag)) and (said := self._refused.get(mark)):
            raise AuthenticationError(said)

    def is_told(self, dag: DAG) -> bool:
        """Whether something was told of the DAG since its schedule came round."""
        return bool(self._kinds(dag))

    def note_failure(self, dag: DAG, error: BaseException) -> bool:
        """Keep in mind that the DAG has failed. Returns whether that is news."""
        cause = cause_of(error)
        kind = type(cause).__name__
        if isinstance(cause, AuthenticationError) and (mark := self._credentials(dag)):
            kind = f"{kind} {mark}"  # a new token that is dead as well is news
            others = [each for each in self._refused.items() if each[0] != mark]
            self._refused = dict([*others[-8:], (mark, redact(str(cause)))])
        if is_news := self.note(dag, kind):
            self.news.add(dag.dag_id)
        return is_news

    def why_still(self, dag: DAG) -> str | None:
        """Why a DAG that has just run would have to run again: its source is late, say."""
        try:
            return self.why(dag)
        except StockIngestionError as exc:
            logger.info("whether DAG %d is fresh now cannot be known: %s", dag.dag_id, exc)
            return None

    def is_overdue(self, dag: DAG) -> bool:
        """Whether the rows of the time before are good enough no more (ruling 31)."""
        return clock.now() >= self.slot(dag) + timedelta(minutes=dag.grace_minutes)

    def _judge(self, dag: DAG) -> Verdict:
        if self._unknown is not None:
            raise self._unknown
        config = asdict(ConfigLoader.load_database_config())
        try:
            with DatabaseManager(config, retry=ONCE) as manager:  # the next call comes soon
                if not self._has_history and (
                    lacking := manager.run_in_transaction(_ensure_history)
                ):
                    raise ConfigurationError(
                        f"Without a history of runs --due cannot know what is due: {lacking}. Let "
                        "the role make it (see docs/production.md), or run DAGs at a fixed time, "
                        "with --dag."
                    )
                self._has_history = True  # looked up once a call
                now = Now(*read_clocks(manager), self._calendar)
                return judge(manager, replace(dag, grace_minutes=0), now, has_history=True)
        except StockIngestionError as exc:
            self._unknown = exc  # for the others as well: they need not wait for it
            raise

    def _credentials(self, dag: DAG) -> str | None:
        """A mark of what the DAG would show to Kite; None if it asks it for nothing."""
        with contextlib.suppress(StockIngestionError):
            feed = dag.load_feed()
            if feed is not None and feed.needs_kite:
                root, _ = ConfigLoader.load_merged_config(dag.folder, feed.settings)
                shown = (root.api.root, root.api.kite_api_key, root.api.kite_access_token)
                return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]
        return None

    def slot(self, dag: DAG) -> datetime:
        """When the DAG's schedule came round last; "daily" stands for that of a broken DAG."""
        schedule = Schedule() if dag.fault else Schedule(dag.schedule)
        return schedule.last_slot(clock.now(), self._calendar)

    def _kinds(self, dag: DAG) -> list[str]:
        told = self._told.get(str(dag.dag_id), {})
        return list(told["kinds"]) if told.get("slot") == f"{self.slot(dag)}" else []

    def note(self, dag: DAG, kind: str) -> bool:
        """Keep in mind that this is told of the DAG. Returns whether it is news."""
        kinds = self._kinds(dag)
        if kind in kinds:
            return False
        self._told[str(dag.dag_id)] = {"slot": f"{self.slot(dag)}", "kinds": [*kinds, kind]}
        self._save()
        return True

    def _save(self) -> None:
        try:
            write_state(self._path, {"told": self._told, "refused": self._refused})
        except OSError as exc:
            logger.warning("What was told cannot be kept, and may be told again: %s", exc)


def _ensure_history(cursor: Any) -> str | None:
    """Make the history of runs where it is not there. Returns why there is none; None if it is."""
    with settings(cursor, lock_timeout=LOCK_TIMEOUT):
        return ensure_extra_table(cursor, run_history.TABLE)
