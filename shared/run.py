"""A run of a feed: its steps, which are the same for every DAG.

Each payload is a transaction of its own. What happens in it is in shared/store.py.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from typing import Any, TypeVar

from shared import archive, clock, run_lock
from shared.calendar import IST
from shared.config.config_loader import ConfigLoader, DatabaseConfig
from shared.config.logging_config import ON_SCREEN, redact
from shared.exceptions import (
    ConfigurationError,
    DAGExecutionError,
    DatabaseError,
    StockIngestionError,
    TransientDatabaseError,
    ValidationError,
)
from shared.feed import (
    Batch,
    Feed,
    Figures,
    Payload,
    Run,
    RunKey,
    RunOptions,
    Slice,
    Stage,
    Summary,
    name_api_source,
)
from shared.foreign_text import escape
from shared.gate import refuse_rejects, select
from shared.preparation import History, Lacking, ensure_tables, prepare_extras
from shared.store import Rows, look_up, predict, store
from shared.summary import describe, is_unchanged, summarize, write_rejected_rows
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.extras import LOCK_TIMEOUT, ensure_extra_table
from shared.utils.interruptible import DeadlineExceededError, call_interruptibly
from shared.utils.operation import advance, operation
from shared.utils.retry import ONCE, RetryPolicy
from shared.utils.sql import settings
from shared.utils.staged_merge import last_of_each_key
from shared.utils.table_setup import refuse_unsuited

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Load = Callable[[Run, DatabaseManager], None]

# How long recording a failed run may take, in seconds: the run itself has ended already.
_RECORD_SECONDS = 2
_RECORD_DEADLINE_SECONDS = 3


def run_feed(
    feed: Feed,
    *,
    dry_run: bool = False,
    from_file: str | None = None,
    force: bool = False,
    dated: date | None = None,
    slice: Slice | None = None,  # noqa: A002 - as the option is called
    require: Callable[[DatabaseManager], None] | None = None,
) -> Summary:
    """Run a feed once: fetch, check and store what its source gives. Returns the summary, in lines.

    The options are those of RunOptions. `require` is called before the source is asked, and raises
    where the run may not go on. Raises DAGExecutionError if any step fails; the step's own
    error is its `__cause__`.
    """
    source = name_api_source(slice) if from_file is None else archive.name_source(from_file)
    key = RunKey(feed.dag_id, feed.name, source, clock.now())
    run = Run(feed, key, RunOptions(dry_run, from_file, force, dated, slice), require=require)
    with ExitStack() as until_the_end:
        try:
            _execute(run, until_the_end)
        except BaseException as exc:
            _end_in_failure(run, exc)
            if not isinstance(exc, Exception):  # a signal
                raise
            is_foreseen = isinstance(exc, StockIngestionError)
            context = "" if is_foreseen else f"unexpected {type(exc).__name__}: "
            raise DAGExecutionError(f"{context}{exc}") from exc
    logger.info("%s completed: %s", key.label, describe(run), extra=ON_SCREEN)
    return summarize(run)


def _execute(run: Run, until_the_end: ExitStack) -> None:
    feed = run.feed
    with operation("load configuration", run.durations):
        run.config, dag = ConfigLoader.load_merged_config(
            feed.folder, feed.settings, needs_api=feed.needs_kite and run.key.is_from_api
        )
    run.parameters = dag.parameters
    try:
        _load(run, asdict(run.config.database), until_the_end)
    except ValidationError:
        if run.day_off is None:
            raise
        if run.run_id is not None:
            _record_quickly(run.config.database, lambda c: _record_end(c, run, "skipped"))


def _load(run: Run, database: dict[str, Any], until_the_end: ExitStack) -> None:
    feed = run.feed
    if run.options.dry_run:
        if feed.load is not None:
            _try(partial(_look_and_load, run, feed.load), database)
            return
        if run.require is not None:
            _try(run.require, database)
        for payload in _payloads(run):
            _try_store(run, database, _prepare(run, payload))
        return
    assert run.config is not None
    with DatabaseManager(database, retry=retry_policy(run)) as manager:
        directory = run.config.logging["directory"]
        held = run_lock.hold(directory, feed.dag_id, run.options.slice)
        lock = until_the_end.enter_context(held)
        with operation("check table", run.durations):  # before the source is asked
            _begin(run, manager, lock)
            if run.require is not None:
                run.require(manager)
        if feed.load is not None:
            _load_by_itself(run, manager, feed.load)
            return
        manager.close()  # an idle connection may be cut while the source is asked
        if feed.table.is_snapshot:
            [payload] = list(_payloads(run))
            _load_snapshot(run, manager, payload)
        else:
            _load_all(run, manager, _payloads(run))


def retry_policy(run: Run) -> RetryPolicy:
    """How often the run tries what may pass by itself."""
    return RetryPolicy(run.parameters["retry_attempts"], run.parameters["retry_delay_seconds"])


def _begin(run: Run, manager: DatabaseManager, lock: run_lock.RunLock | None) -> None:
    """Refuse a table that cannot take the rows, and record that the run begins, if that is soon."""

    def start(cursor: Any) -> int | None:
        with settings(cursor, lock_timeout=LOCK_TIMEOUT):
            lacking = ensure_extra_table(cursor, run_history.TABLE)
            return None if lacking else _start(cursor, run.key, lock)

    try:
        run.run_id = manager.run_in_transaction(start)
    except TransientDatabaseError:
        raise
    except DatabaseError as exc:
        logger.info("that the run begins could not be recorded: %s", exc)
    manager.run_in_transaction(lambda cursor: refuse_unsuited(cursor, run.feed.table))
    run.stage = Stage.RECORDED


def _prepare_tables(run: Run, manager: DatabaseManager) -> History:
    """Make what the run writes to, where that is not there yet."""

    def prepare(cursor: Any) -> tuple[History, Lacking]:
        ensure_tables(cursor, run.feed)
        return prepare_extras(cursor, run.feed)

    with operation("prepare table", run.durations):
        history, lacking = manager.run_in_transaction(prepare)
    if lacking.words:
        logger.warning("%s", lacking.words)
    return history


def _start(cursor: Any, key: RunKey, lock: run_lock.RunLock | None) -> int:
    run_id = run_history.start_run(cursor, key)
    if lock is not None:
        # Asked here, where no other run can have just recorded that it begins.
        run_history.set_host(cursor, run_id, key, lock.host, is_alone=lock.is_alone())
    return run_id


def _payloads(run: Run) -> Iterator[Payload]:
    if run.options.from_file is not None:
        with operation("read saved file", run.durations):
            payload = archive.read_saved(run.feed, run.options.from_file)
        yield payload
        return
    given = 0
    for payload in run.feed.fetch(run):
        given += 1
        yield payload
    if run.feed.table.is_snapshot and given != 1:
        raise DAGExecutionError(f"expected a snapshot as one payload of fetch, got {given}")


def _load_snapshot(run: Run, manager: DatabaseManager, payload: Payload) -> None:
    rows = _prepare(run, payload)
    history = _prepare_tables(run, manager)
    with operation("store", run.durations):
        store(run, manager, rows, history, is_last=True)
    if run.key.is_from_api:
        archive.keep(run, payload)
        archive.delete_old(run)
        archive.warn_of_missing(run)
        if is_unchanged(run):
            run.day_off = _name_day_off(run)


def _name_day_off(run: Run) -> str | None:
    """Why there was no trading on the day on which the run asked; None if there was."""
    if not run.key.is_from_api:
        return None
    return ConfigLoader.load_calendar().name_day_off(run.key.started_at.astimezone(IST).date())


def _load_all(run: Run, manager: DatabaseManager, payloads: Iterator[Payload]) -> None:
    """Store each payload as it comes; one that fails leaves the ones before it stored."""
    history = _prepare_tables(run, manager)
    payload = next(payloads, None)  # the steps up to it are shown by themselves
    with operation("load", run.durations):
        number = 0
        while payload is not None:
            store(run, manager, _prepare(run, payload), history, is_last=False)
            if run.key.is_from_api:
                archive.keep(run, payload)
            number += 1
            advance(number, unit="payloads")
            payload = next(payloads, None)
    archive.delete_old(run)
    _record_success(run, manager, history)


def _load_by_itself(run: Run, manager: DatabaseManager, load: _Load) -> None:
    """Let the feed ask and store; where it fails, what it has stored stays."""
    history = _prepare_tables(run, manager)
    manager.run_in_transaction(lambda cursor: look_up(cursor, run, history))
    try:
        load(run, manager)
    finally:
        _write_rejects(run, 0)
    _record_success(run, manager, history)


def _look_and_load(run: Run, load: _Load, manager: DatabaseManager) -> None:
    """Let the feed work out what it would ask and store. It writes nothing."""

    def look(cursor: Any) -> None:
        refuse_unsuited(cursor, run.feed.table)
        look_up(cursor, run, History(runs=False, changes=False))

    if run.require is not None:
        run.require(manager)
    manager.run_in_transaction(look)
    try:
        load(run, manager)
    finally:
        _write_rejects(run, 0)


def _record_success(run: Run, manager: DatabaseManager, history: History) -> None:
    """Record that a run has succeeded whose data are committed already."""
    if history.runs and run.run_id is None:  # nothing came, and the start could not be recorded
        run.run_id = manager.run_in_transaction(lambda c: run_history.start_run(c, run.key))
    if run.run_id is not None:
        manager.run_in_transaction(lambda cursor: _record_end(cursor, run, "succeeded"))


def _prepare(run: Run, payload: Payload) -> Rows:
    """The rows of a payload that are to be stored, each key once (ruling 28).

    Fills in figures, and writes the rejects.
    """
    feed, figures = run.feed, run.figures
    batch = payload.batch or feed.parse(payload.body)
    fetched = len(batch.rows) + len(batch.rejected)
    figures.fetched += fetched
    if feed.table.is_snapshot and not fetched:
        run.day_off = _name_day_off(run)  # on which this is no failure
        raise ValidationError(
            f"{feed.source}'s list is empty (a header and no rows){feed.empty_note}. The table "
            "stays as it is; run again later."
        )
    figures.sha256 = _hash_all(figures.sha256, payload)
    figures.payload_bytes = (figures.payload_bytes or 0) + len(payload.body)
    before, left_out = len(figures.rejected), figures.left_out.total()
    figures.rejected += batch.rejected
    with operation("validate", run.durations) if feed.table.is_snapshot else nullcontext():
        try:
            rows = _choose_rows(run, batch)
        finally:
            _write_rejects(run, before)
        rejected = len(figures.rejected) - before
        refuse_rejects(run, fetched=fetched, rejected=rejected, valid=len(rows))
    left_out = figures.left_out.total() - left_out
    figures.repeated += max(0, fetched - left_out - rejected - len(rows))  # prepare may add some
    figures.stored += len(rows)
    for column in feed.count_by:
        figures.counts.setdefault(column, Counter()).update(row[column] for row in rows)
    return rows


def _choose_rows(run: Run, batch: Batch) -> Rows:
    selected = select(run, batch.rows)
    if selected is not batch.rows:
        batch.rows.clear()  # they are many
    rows = run.feed.prepare(run, replace(batch, rows=selected))
    return rows if run.feed.are_distinct else last_of_each_key(run.feed.table, rows)[0]


def _write_rejects(run: Run, before: int) -> None:
    """Put the rejects of a payload, which follow those `before`, in order, and in the file."""
    assert run.config is not None
    directory, is_more = run.config.logging["directory"], run.rejects_file is not None
    if new := sorted(run.figures.rejected[before:], key=lambda row: row.line_number or 0):
        run.figures.rejected[before:] = new
        run.rejects_file = write_rejected_rows(new, directory, run.key.started_at, is_more=is_more)


def _hash_all(before: str | None, payload: Payload) -> str:
    """The hash of a run's payloads: of a single one its own, else of theirs, one after another."""
    if before is None:
        return payload.sha256
    return hashlib.sha256(f"{before} {payload.sha256}".encode()).hexdigest()


def _try_store(run: Run, database: dict[str, Any], rows: Rows) -> None:
    _try(lambda manager: predict(run, manager, rows), database)


def _try(work: Callable[[DatabaseManager], None], database: dict[str, Any]) -> None:
    """Work out what would be stored; without a database the dry run ends here, and says so."""
    try:
        with DatabaseManager(database, retry=ONCE) as manager:
            work(manager)
    except DatabaseError as exc:
        logger.warning("What would change in the table could not be worked out: %s", exc)


def _end_in_failure(run: Run, error: BaseException) -> None:
    """Log how far the run came (Property 14), and record it as failed where it can be."""
    logger.info("%s did not complete: %s", run.key.label, describe(run))
    if run.options.dry_run or run.config is None:
        return
    # What is away at the start is not waited for once more; what was lost later may be back.
    is_away = isinstance(error, TransientDatabaseError) and run.stage < Stage.RECORDED
    stored = run.figures.merge if run.stage is Stage.STORED else None
    is_whole = stored is not None and run.feed.table.is_snapshot
    if is_whole or (not is_away and _record_failure(run, error)):
        logger.warning("The list is stored: the run ended only after its commit.")
    elif stored is not None:
        logger.warning("What it stored before stays: %d %s.", stored.given, run.feed.title)


def _record_failure(run: Run, error: BaseException) -> bool:
    """Record a failed run, if the database lets us, and soon.

    Returns True, and records nothing, if its data turn out to be stored: the answer to COMMIT was
    lost, or a signal came before it. False also where that cannot be found out.
    """
    assert run.config is not None

    def work(cursor: Any) -> bool:
        if run_history.has_succeeded(cursor, run.key):
            return True
        if run.run_id is None:
            run.run_id = run_history.start_run(cursor, run.key)
        # Its record may know of a payload that the run does not: COMMIT went unanswered.
        if run_history.is_at_payload(cursor, run.run_id, run.figures.sha256):
            run_history.give_up(cursor, run.run_id, _reason(error))
        else:
            _record_end(cursor, run, "failed", _reason(error))
        return False

    return bool(_record_quickly(run.config.database, work))


def _record_end(cursor: Any, run: Run, status: str, error: str | None = None) -> None:
    assert run.run_id is not None
    figures = run.figures
    run_history.update_run(
        cursor, run.run_id, figures, figures.merge, run.durations, status=status, error=error
    )


def _reason(error: BaseException) -> str:
    """What the history says of an error: PostgreSQL stores neither NUL nor what is not UTF-8."""
    said = escape(redact(str(error)))
    return said or f"ended from outside: {type(error).__name__.strip('_')}"


def _record_quickly(config: DatabaseConfig, work: Callable[[Any], T]) -> T | None:
    """`work` in a transaction, where the history may be written; None where that does not go.

    All of it within a deadline: after SIGTERM the run has to end soon (ruling 26).
    """
    limits = (f"{name}_timeout_seconds" for name in ("connect", "lock", "statement"))
    quick = asdict(config) | dict.fromkeys(limits, _RECORD_SECONDS)
    make_table = partial(ensure_extra_table, table=run_history.TABLE)

    def record() -> T | None:
        with DatabaseManager(quick, retry=ONCE) as manager:
            lacking = manager.run_in_transaction(make_table)
            return None if lacking else manager.run_in_transaction(work)

    try:
        return call_interruptibly(record, deadline_seconds=_RECORD_DEADLINE_SECONDS)
    except (DatabaseError, DeadlineExceededError) as exc:
        logger.info("the run could not be recorded: %s", exc or "the database is slow")
        return None


def run_function(dag_id: int, name: str, function: Callable[[], T], part: Slice | None = None) -> T:
    """Run a DAG that is a plain function, or a part, and record that where there is a database."""
    key = RunKey(dag_id, name, name_api_source(part), clock.now())
    try:
        config = ConfigLoader.load_database_config()
        directory = ConfigLoader.load_logging_config()["directory"]
    except ConfigurationError:  # the function may need no database
        return function()
    with run_lock.hold(directory, dag_id, part) as lock:
        run_id = _record_quickly(config, lambda cursor: _start(cursor, key, lock))
        outcome: dict[str, Any] = {"status": "succeeded"}
        try:
            return function()
        except BaseException as exc:
            outcome = {"status": "failed", "error": _reason(exc)}
            raise
        finally:
            if run_id is not None:
                outcome |= {"figures": Figures(), "merge": None, "durations": {}}
                _record_quickly(config, partial(run_history.update_run, run_id=run_id, **outcome))
