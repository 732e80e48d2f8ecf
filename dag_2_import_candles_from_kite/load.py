"""A run of DAG 2: what is missing is planned, asked for, and stored answer by answer."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial

from psycopg2.extensions import cursor as Cursor

from dag_2_import_candles_from_kite.answers import Answer, Candle, read_answer
from dag_2_import_candles_from_kite.asking import Asker
from dag_2_import_candles_from_kite.compare import Comparison
from dag_2_import_candles_from_kite.intervals import Interval, Request
from dag_2_import_candles_from_kite.jobs import History, Job
from dag_2_import_candles_from_kite.partitions import Partitions, ensure_next_partitions
from dag_2_import_candles_from_kite.plan import Span, readable_until
from dag_2_import_candles_from_kite.planning import Plan, Totals, make_plan
from dag_2_import_candles_from_kite.progress import Progress, counted
from dag_2_import_candles_from_kite.store import Adjustment, Series
from shared.calendar import IST
from shared.exceptions import (
    APIError,
    ConfigurationError,
    PermissionDeniedError,
    RefusedRequestError,
    TransientAPIError,
)
from shared.feed import RejectedRow, Run, Stage
from shared.run import retry_policy
from shared.utils.db_manager import DatabaseManager
from shared.utils.http_source import Pacer
from shared.utils.kite_client_wrapper import DEFAULT_ROOT, KiteClientWrapper
from shared.utils.operation import operation
from shared.utils.staged_merge import MergeResult
from shared.utils.strict_session import SERIES_BOUNDS

logger = logging.getLogger(__name__)

_THREADS = 8  # requests under way at once: enough for 3 a second where an answer takes 2 s
_KITES_LIMIT = 3  # requests a second
_MOST_FAILURES = 25  # in a row: then Kite is down, and the others are not asked
_SHOWN = 10  # of a kind, in the summary


def load(run: Run, manager: DatabaseManager) -> None:
    """Bring the candles that are missing; of a dry run, say what would be asked for.

    Raises APIError if some could not be asked, AuthenticationError if the session died. What is
    stored stays.
    """
    if not run.parameters["instruments"]:
        raise ConfigurationError(
            "parameters.instruments is empty: expected whose candles are wanted, such as "
            '["NSE:INFY", {"exchange": "NFO", "underlying": "NIFTY", "expiries": 1}], in '
            f"{run.feed.folder.name}/local.json."
        )
    _warn_of_rate(run)
    with operation("plan", run.durations):
        plan = manager.run_in_transaction(partial(make_plan, run))
        if plan.store.is_there and not run.options.dry_run:
            _forget_lost(plan, manager)
        totals = plan.count(manager)
    run.figures.rejected += plan.universe.rejected
    run.figures.notes += totals.describe(run.parameters["requests_per_second"], run.options.slice)
    if run.options.dry_run or not totals.requests:
        return
    load_plan(plan, manager, totals)


def _warn_of_rate(run: Run) -> None:
    rate = run.parameters["requests_per_second"]
    if run.config and run.config.api.root == DEFAULT_ROOT and rate > _KITES_LIMIT:
        logger.warning(
            "parameters.requests_per_second is %g, and Kite answers %d a second: who exceeds that "
            "often may be blocked for long.",
            rate,
            _KITES_LIMIT,
        )


def _forget_lost(plan: Plan, manager: DatabaseManager) -> None:
    part = plan.run.options.slice
    if lost := manager.run_in_transaction(partial(plan.store.forget_lost, part=part)):
        # Of a part it may be that nothing it has was ever traded: no reason to warn each day.
        logger.log(
            logging.INFO if part else logging.WARNING,
            "%s has no candle of %s%s, though some were asked for. All of these are asked for "
            "anew.",
            plan.store.table,
            ", ".join(lost),
            f" in part {part}" if part else "",
        )


def load_plan(plan: Plan, manager: DatabaseManager, totals: Totals) -> None:
    """Ask for what the plan lacks, and store it. Raises as `load` does."""
    durations = plan.run.durations
    for interval, _ in plan.series:
        ahead = partial(ensure_next_partitions, interval=interval, now=plan.run.key.started_at)
        manager.run_in_transaction(ahead)
    loader = Loader(plan.run, manager, plan)
    with operation("authenticate", durations):
        loader.kite.authenticate()
    with operation("load candles", durations):
        loader.load(plan.jobs(manager), totals.lacking, totals.requests)


@dataclass
class Loader:
    """Asks for what jobs want, in several threads, and stores the answers one after the other."""

    run: Run
    manager: DatabaseManager
    plan: Plan
    kite: KiteClientWrapper = field(init=False)
    _partitions: Partitions = field(init=False)
    _asker: Asker[Job, Answer] = field(init=False)
    _failed: list[str] = field(default_factory=list)
    _failures_in_a_row: int = 0
    _rejected: set[tuple[str, ...]] = field(default_factory=set)
    _adjusted: list[str] = field(default_factory=list)
    _corrected: list[str] = field(default_factory=list)
    _closed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.run.config is not None
        self.kite = KiteClientWrapper.from_config(
            asdict(self.run.config.api),
            retry=retry_policy(self.run),
            pacer=Pacer(self.run.parameters["requests_per_second"], part=self.run.options.slice),
        )
        self._partitions = Partitions(self.plan.store.table)
        self._asker = Asker(self._ask, _THREADS)

    def load(self, jobs: Iterator[Job], total: int, requests: int) -> None:
        """Do the jobs. Raises APIError in the end if some could not be done."""
        progress = Progress(total, requests)
        asker = self._asker
        waiting: deque[Job] = deque()
        try:
            while True:
                while asker.under_way < _THREADS and (job := self._next(waiting, jobs)):
                    asker.put(job)
                if not asker.under_way:
                    break
                job, answer = asker.take()
                progress.asked()
                is_over = self._take(job, answer)
                if not is_over:
                    waiting.append(job)
                progress.finished(is_over)
        finally:
            asker.close()
            self.run.figures.notes += self._describe(progress)
        self._raise_failures()

    def _next(self, waiting: deque[Job], jobs: Iterator[Job]) -> Job | None:
        """The job whose request is to be sent next; None if there is none."""
        if self._failures_in_a_row >= _MOST_FAILURES:
            return None
        if waiting:
            return waiting.popleft()
        for job in jobs:
            if job.series.target.is_reachable:
                return job
            self._close(job)  # its token is another one's now
        return None

    def _ask(self, job: Job) -> Answer:
        request = job.request
        params = {
            "from": f"{request.begin:%Y-%m-%d %H:%M:%S}",
            "to": f"{request.end - timedelta(seconds=1):%Y-%m-%d %H:%M:%S}",
            "continuous": 0,
            "oi": int(request.has_oi),
        }
        route = f"/instruments/historical/{request.token}/{request.interval.name}"

        def read(body: bytes) -> Answer:
            return _refuse_rejects(self._read(body, job, request))

        return self.kite.ask(route, params, bounds=SERIES_BOUNDS, read=read)

    def _read(self, body: bytes, job: Job, request: Request) -> Answer:
        now, exchange = self.run.key.started_at, job.series.target.exchange
        until = readable_until(request.interval, exchange, now)
        with self._asker.turn():
            return read_answer(body, request, complete_until=until)

    def _take(self, job: Job, answer: Answer | BaseException) -> bool:
        """Store an answer; returns whether nothing more is to be asked for its series."""
        try:
            if isinstance(answer, BaseException):
                raise answer
            self._note_rejects(job, answer)
            job.take(answer.candles, self, _find_unreadable(job.series, answer))
        except PermissionDeniedError as exc:
            raise PermissionDeniedError(
                f"Kite gives this app no historical data, for which an app needs a plan. {exc}"
            ) from exc
        except RefusedRequestError as exc:
            if job.series.target.is_listed:
                why = str(exc).removesuffix(".")
                self.run.figures.rejected.append(RejectedRow(None, why, [job.series.name]))
            else:
                self._close(job)
            self._failures_in_a_row = 0  # Kite has answered
            return True
        except APIError as exc:
            self._failed.append(f"{job.series.name}: {exc}")
            self._failures_in_a_row += 1
            return True
        self._failures_in_a_row = 0
        return job.is_done

    def _note_rejects(self, job: Job, answer: Answer) -> None:
        figures = self.run.figures
        figures.fetched += len(answer.candles) + len(answer.rejected)
        for row in answer.rejected:
            key = (job.series.name, *row.row)
            if key not in self._rejected:  # it may be asked for again
                self._rejected.add(key)
                figures.rejected.append(RejectedRow(row.line_number, row.reason, key))

    # --- what jobs put away, each call a transaction ---------------------------------------------

    def merge(
        self,
        series: Series,
        span: Span,
        candles: Sequence[Candle],
        is_accepted: Callable[[Comparison], bool],
    ) -> tuple[Comparison, bool]:
        """Store the answer to `span` unless what is off is not accepted; whether it did."""
        if candles:
            self._prepare(series.interval, Span(candles[0][0], span.end))
        now = self.run.key.started_at

        def work(cursor: Cursor) -> tuple[Comparison, MergeResult | None]:
            return self.plan.store.merge(cursor, series, span, candles, now, is_accepted)

        def was_stored(cursor: Cursor, ended: tuple[Comparison, MergeResult | None]) -> bool:
            return ended[1] is not None and self.plan.store.holds(
                cursor, series, span, candles, now
            )

        comparison, result = self.manager.run_in_transaction(work, was_stored=was_stored)
        if result is not None:
            self._note(result)
            if comparison.off:
                self._corrected.append(_describe_off(series, comparison))
        return comparison, result is not None

    def replace(self, history: History, adjustment: Adjustment | None) -> None:
        """Put a whole history in place of what is stored."""
        assert history.first is not None
        self._prepare(history.series.interval, Span(history.first, history.span.end))
        now = self.run.key.started_at

        def work(cursor: Cursor) -> tuple[MergeResult, Adjustment | None]:
            return self.plan.store.replace(
                cursor,
                history.series,
                history.span,
                history.file,
                history.count,
                now,
                adjustment,
            )

        def was_stored(cursor: Cursor, ended: tuple[MergeResult, Adjustment | None]) -> bool:
            return self.plan.store.was_adjusted(cursor, history.series, now)

        result, found = self.manager.run_in_transaction(work, was_stored=was_stored)
        self._note(result)
        told = f"{history.series.name}: {counted(history.count, 'candle')} asked anew"
        if found is not None:
            self._adjusted.append(f"{told}, factor {found.factor.normalize():f}")
        elif result.inserted or result.changed:  # not so where another run was quicker
            self._corrected.append(told)

    def _close(self, job: Job) -> None:
        """Note that Kite answers no more for one that has left the list: it is told once."""
        span, now = Span(job.missing[0].begin, job.missing[-1].end), self.run.key.started_at

        def work(cursor: Cursor) -> None:
            self.plan.store.close(cursor, job.series, span, now)

        self.manager.run_in_transaction(work)
        self._closed.append(job.series.name)

    def _prepare(self, interval: Interval, span: Span) -> None:
        """Make the partitions of a span that are not there."""
        ensure = self._partitions.ensure
        work = partial(ensure, interval=interval, begin=span.begin, end=span.end)
        if not self._partitions.knows(interval, span.begin, span.end):
            self.manager.run_in_transaction(work)

    def _note(self, result: MergeResult) -> None:
        figures = self.run.figures
        figures.merge = (figures.merge or MergeResult()) + result
        figures.stored = figures.merge.given
        self.run.stage = Stage.STORED

    # --- what is said of it -----------------------------------------------------------------------

    def _describe(self, progress: Progress) -> list[str]:
        kinds = {
            "adjusted by Kite": self._adjusted,
            "corrected by Kite": self._corrected,
            "no longer answered, told once": self._closed,
            "could not be asked": self._failed,
        }
        lines = [progress.describe()]
        for kind, told in kinds.items():
            if told:
                lines += [f"{kind}: {len(told):,}", *(f"  {each}" for each in told[:_SHOWN])]
            if len(told) > _SHOWN:
                lines.append(f"  and {len(told) - _SHOWN:,} more")
        return lines

    def _raise_failures(self) -> None:
        if not self._failed:
            return
        more = f" and {len(self._failed) - 1:,} more" if len(self._failed) > 1 else ""
        rest = ""
        if self._failures_in_a_row >= _MOST_FAILURES:
            rest = f" After {_MOST_FAILURES} in a row the others were not asked."
        raise APIError(
            f"Could not be asked: {self._failed[0].removesuffix('.')}{more}.{rest} Run again: it "
            "goes on where this run has ended."
        )


def _refuse_rejects(answer: Answer) -> Answer:
    """Raises TransientAPIError if most of it is bad: it must not count as answered (ruling 19)."""
    bad, count = len(answer.rejected), len(answer.rejected) + len(answer.candles)
    if bad * 2 > count:
        first = answer.rejected[0]
        raise TransientAPIError(
            f"{bad:,} of the {count:,} candles that Kite answered are bad, the first for this: "
            f"{first.reason}."
        )
    return answer


def _find_unreadable(series: Series, answer: Answer) -> list[Span]:
    begins = [datetime.fromisoformat(row.row[0]) for row in answer.rejected]
    return [Span(begin, begin + series.interval.length) for begin in begins]


def _describe_off(series: Series, comparison: Comparison) -> str:
    form = "%Y-%m-%d" if series.interval.is_day else "%Y-%m-%d %H:%M"
    first, *others = (old.ts.astimezone(IST).strftime(form) for old, _ in comparison.off)
    span = f"{first} to {others[-1]}" if others else first
    return f"{series.name}: {counted(len(comparison.off), 'candle')}, {span}"
