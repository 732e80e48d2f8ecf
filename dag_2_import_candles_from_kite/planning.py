"""The plan of a run: which spans of the wanted series are missing, and how much that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from dag_2_import_candles_from_kite.intervals import INTERVALS, Interval
from dag_2_import_candles_from_kite.jobs import Job
from dag_2_import_candles_from_kite.plan import (
    Covered,
    Span,
    complete_until,
    count_requests,
    estimate_candles,
    find_missing,
    midnight,
)
from dag_2_import_candles_from_kite.progress import counted, in_words
from dag_2_import_candles_from_kite.store import Overlap, Series, Store
from dag_2_import_candles_from_kite.universe import Moves, Target, Universe, find_ended, resolve
from shared.calendar import IST
from shared.feed import Run, Slice
from shared.utils.db_manager import DatabaseManager

_BATCH = 500  # instruments that are planned at a time
_DAYS_BETWEEN_LOOKS = 28


class Totals(NamedTuple):
    """What is to be asked for; all but the requests and candles are series."""

    wanted: int
    lacking: int  # of the wanted series those of which something is missing
    requests: int
    candles: int

    def describe(self, requests_per_second: float, part: Slice | None = None) -> list[str]:
        """The lines of the summary. The rate is that of all parts, of which this is one."""
        of_part = f" of part {part}" if part else ""
        if part and not self.wanted:
            return [f"Nothing to ask for: part {part} has no series"]
        if not self.requests:
            wanted = f"all that is wanted of {self.wanted:,} series{of_part}"
            return [f"Nothing to ask for: {wanted} was answered"]
        rate = requests_per_second / (part.count if part else 1)
        time = in_words(self.requests / rate)
        requests = counted(self.requests, "request")
        series = f"{self.lacking:,} of {self.wanted:,} series{of_part}"
        together = f" ({requests_per_second:g} for all parts together)" if part else ""
        return [
            f"missing: about {counted(self.candles, 'candle')}, in {series}",
            f"to ask: {requests}, {time} at {rate:.4g} a second{together}",
        ]


@dataclass(frozen=True)
class Plan:
    """The series of the run's part that are wanted, and which spans of them are missing.

    All series of an instrument are in one part: the one that holds its id.
    """

    run: Run
    store: Store
    universe: Universe
    moves: Moves
    series: Sequence[tuple[Interval, Sequence[Target]]]
    is_anew: bool = False
    since: datetime | None = None

    def anew(self, since: datetime | None) -> Plan:
        """The plan to ask for the wanted ones anew, whatever was answered: from `since` on."""
        series = [
            (interval, [target for target in targets if target in self.universe.targets])
            for interval, targets in self.series
        ]
        return replace(self, series=series, is_anew=True, since=since)

    def count(self, manager: DatabaseManager) -> Totals:
        """How much is missing."""
        wanted = lacking = requests = candles = 0
        for interval, batch in self.missing(manager):
            wanted += len(batch)
            for _, spans, _ in batch:
                lacking += bool(spans)
                requests += count_requests(spans, interval)
                candles += estimate_candles(spans, interval)
        return Totals(wanted, lacking, requests, candles)

    def missing(self, manager: DatabaseManager) -> Iterator[tuple[Interval, list[_Missing]]]:
        """What is missing, a batch of instruments at a time."""
        for interval, targets in self.series:
            for number in range(0, len(targets), _BATCH):
                batch = targets[number : number + _BATCH]
                ids = [target.instrument_id for target in batch]
                read = partial(self.store.read_coverage, instrument_ids=ids, interval=interval)
                covered = manager.run_in_transaction(read) if self.store.is_there else {}
                yield (
                    interval,
                    [
                        self._find(target, interval, covered.get(target.instrument_id, []))
                        for target in batch
                    ],
                )

    def jobs(self, manager: DatabaseManager) -> Iterator[Job]:
        """What is to be asked for each series of which something is missing."""
        for interval, batch in self.missing(manager):
            lacking = [each for each in batch if each.spans]
            begins = self._find_overlaps(manager, interval, lacking)
            for target, spans, covered in lacking:
                yield Job(
                    Series(target, interval, self.moves.find_elsewhere(target)),
                    spans,
                    self.run.key.started_at,
                    overlap=self.run.parameters["overlap_candles"],
                    overlaps={span.begin: next(begins) for span in spans},
                    covered_from=min((row.begin for row in covered), default=None),
                )

    def _find_overlaps(
        self, manager: DatabaseManager, interval: Interval, lacking: Sequence[_Missing]
    ) -> Iterator[datetime | None]:
        """Where the last candles before each missing span begin; None: nothing is stored before."""
        asked = [(each, span) for each in lacking for span in each.spans]
        wanted = [
            Overlap(each.target.instrument_id, span.begin, self._count_overlap(each, interval))
            for each, span in asked
        ]
        read = partial(self.store.read_overlaps, interval=interval)
        begins = manager.run_in_transaction(partial(read, wanted=wanted))
        # A share that was suspended, or a contract that is hardly traded, has older ones.
        far = [
            number
            for number, (each, span) in enumerate(asked)
            if begins[number] is None and any(row.begin < span.begin for row in each.covered)
        ]
        farther = partial(read, wanted=[wanted[number] for number in far], is_far=True)
        for number, begin in zip(far, manager.run_in_transaction(farther) if far else ()):
            begins[number] = begin
        return iter(begins)

    def _count_overlap(self, missing: _Missing, interval: Interval) -> int:
        """How many stored candles the next request is to begin with.

        For a demerger Kite adjusts weeks later, and only what is older than the usual few. So once
        in 28 days a series of days is compared as far back as a request reaches: it costs none.
        """
        turn = missing.target.instrument_id + self.run.key.started_at.astimezone(IST).toordinal()
        if interval.is_day and turn % _DAYS_BETWEEN_LOOKS == 0:
            return interval.longest_days
        return int(self.run.parameters["overlap_candles"])

    def _find(self, target: Target, interval: Interval, covered: list[Covered]) -> _Missing:
        parameters, now = self.run.parameters, self.run.key.started_at
        begin = midnight(max(filter(None, (parameters["start"], target.listed_on))))
        days = [day for day in (parameters["end"], target.last_day) if day is not None]
        ends = [midnight(day + timedelta(days=1)) for day in days]
        end = min([complete_until(interval, target.exchange, now), *ends])
        if not self.is_anew:
            return _Missing(target, find_missing(Span(begin, end), covered, now), covered)
        begin = self.since or min([begin, *(row.begin for row in covered)])
        return _Missing(target, find_missing(Span(begin, end), (), now), covered)


class _Missing(NamedTuple):
    target: Target
    spans: list[Span]
    covered: list[Covered]


def make_plan(run: Run, cursor: Cursor) -> Plan:
    """The plan of a run, or of its part.

    Raises DatabaseError if there is no list, or the tables are unusable.
    """
    store = Store.open(cursor)
    universe = resolve(cursor, run.parameters["instruments"])
    part, series = run.options.slice, []
    for name in dict.fromkeys(("day", *run.parameters["intervals"])):
        targets = [*universe.targets] if name in run.parameters["intervals"] else []
        if name == "day" and universe.calendar is not None:
            targets = [universe.calendar, *(t for t in targets if t != universe.calendar)]
        targets += find_ended(cursor, name) if store.is_there else []
        own = [each for each in targets if part is None or part.holds(each.instrument_id)]
        series.append((INTERVALS[name], own))
    return Plan(run, store, universe, Moves(cursor), series)
