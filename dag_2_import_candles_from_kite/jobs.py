"""What is asked for one instrument and interval, and what is made of each answer.

Spans are asked for one after another, the oldest first; each request begins with the last candles
that are stored. What is off there decides what is asked next:

- by one factor: the whole history, which is replaced in one transaction;
- otherwise: the longest span that one request may have. If that says the same, it counts; if it is
  off from its oldest candle on, the whole history is asked for, too.

An answer without candles is believed when it comes twice. Before the first candle it is believed at
once, but asked for again if what follows begins with candles: then it had been listed before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from tempfile import TemporaryFile
from typing import IO, Protocol
from weakref import finalize

from dag_2_import_candles_from_kite.answers import Candle, render
from dag_2_import_candles_from_kite.compare import Comparison, compare
from dag_2_import_candles_from_kite.intervals import Request
from dag_2_import_candles_from_kite.plan import Span, day_of, first_request, midnight
from dag_2_import_candles_from_kite.store import Adjustment, Series
from shared.exceptions import DAGExecutionError, TransientAPIError

_AT_ONCE = timedelta(days=7)  # no exchange is closed for longer
_MOST_DOUBTS = 3  # answers that agree neither with what is stored nor with each other


class Shelf(Protocol):
    """Where a job puts what was answered: each call is a transaction."""

    def merge(
        self,
        series: Series,
        span: Span,
        candles: Sequence[Candle],
        is_accepted: Callable[[Comparison], bool],
    ) -> tuple[Comparison, bool]:
        """Store the answer to `span` unless what is off is not accepted; whether it did."""

    def replace(self, history: "History", adjustment: Adjustment | None) -> None:
        """Put a whole history in place of what is stored."""


class History:
    """A whole history that is asked for anew, in a file until it is complete.

    `recent` are its candles from `since` on. `tail` are those that the next answer begins with.
    """

    def __init__(self, series: Series, span: Span, since: datetime) -> None:
        self.series = series
        self.span = span
        with _needing_room():
            self.file: IO[bytes] = TemporaryFile()  # noqa: SIM115 - as long as the job has it
        finalize(self, self.file.close)
        self.first: datetime | None = None
        self.count = 0
        self.recent: list[Candle] = []
        self.tail: Sequence[Candle] = ()
        self._since = since

    def add(self, candles: Sequence[Candle], overlap: int) -> bool:
        """Take the next span's candles; returns False if they do not agree with the tail."""
        if self.tail:
            if not candles or candles[0][0] > self.tail[0][0] or compare(self.tail, candles).off:
                return False
            last = self.tail[-1][0]
            candles = [candle for candle in candles if candle[0] > last]
        if candles:
            interval, target = self.series.interval, self.series.target
            with _needing_room():
                self.file.write(render(candles, target.instrument_id, interval.name))
                self.file.flush()
            self.first = self.first or candles[0][0]
            self.count += len(candles)
            self.recent += [candle for candle in candles if candle[0] >= self._since]
        self.tail = (*self.tail, *candles[-overlap:])[-overlap:]
        return True


@contextmanager
def _needing_room() -> Iterator[None]:
    """Raises DAGExecutionError where a file cannot be written, which says what to do."""
    try:
        yield
    except OSError as exc:
        raise DAGExecutionError(
            "A history that is asked for anew is kept in a temporary file until it is whole, and "
            f"that cannot be written: {exc}. Make room where temporary files are, or let TMPDIR "
            "name another folder, and run again."
        ) from exc


class Job:
    """The spans of a series that are `missing`, and the request that is due: `span`.

    `overlaps` says for the beginnings of missing spans where the last candles before it begin.
    `covered_from` is the oldest moment that was answered before.
    """

    def __init__(
        self,
        series: Series,
        missing: Sequence[Span],
        now: datetime,
        *,
        overlap: int,
        overlaps: Mapping[datetime, datetime | None],
        covered_from: datetime | None = None,
    ) -> None:
        self.series = series
        self.missing = list(missing)
        self._end = self.missing[-1].end
        self._today = midnight(day_of(now))
        self._overlap = overlap
        self._overlaps = dict(overlaps)
        self._covered_from = covered_from
        self._shortened: Span | None = None  # answered with less than was expected, once
        self._compared: set[datetime] = set()  # where requests began whose answers are stored
        self._empty: list[Span] = []  # before the first candle, the newest last
        self._is_again = False  # one of them is asked for again
        self._doubt: Sequence[Candle] = ()
        self._comparison = Comparison((), ())
        self._doubts = 0
        self._history: History | None = None
        self.span = self._find_next()

    @property
    def request(self) -> Request:
        """What is to be asked now."""
        target = self.series.target
        return Request(target.token, self.series.interval, *self.span, has_oi=target.has_oi)

    @property
    def is_done(self) -> bool:
        """Whether nothing is missing any more."""
        return not self.missing

    def take(
        self, candles: Sequence[Candle], shelf: Shelf, unreadable: Sequence[Span] = ()
    ) -> None:
        """Store the answer to the request, or find what has to be asked first.

        What is stored of its `unreadable` candles stays, unless a whole history replaces it.
        Raises TransientAPIError if the answers contradict each other.
        """
        if self._is_short(candles) and self._shortened != self.span:
            self._shortened = self.span  # believed when it comes twice
        elif self._history is not None:
            self._take_part(self._history, candles, shelf)
        elif self._doubt and not candles:  # there were some
            self._count_doubt()
            self._shortened = None
        else:
            self._take_answer(candles, shelf, unreadable)

    def _is_short(self, candles: Sequence[Candle]) -> bool:
        """Whether the answer has nothing, or lacks the candle that it was to begin with."""
        if not candles:
            return not self._is_before_others
        if self._history is not None:
            return False
        first = self._overlaps.get(self.missing[0].begin)  # that is stored
        if self._doubt:
            first = self._doubt[0][0]
        return first is not None and self.span.begin <= first < candles[0][0]

    def _take_answer(
        self, candles: Sequence[Candle], shelf: Shelf, unreadable: Sequence[Span]
    ) -> None:
        is_confirmed = self._agrees(candles)
        series = self.series._replace(elsewhere=(*self.series.elsewhere, *unreadable))

        def is_accepted(comparison: Comparison) -> bool:
            return is_confirmed and not (comparison.is_oldest_off and self._has_older)

        comparison, is_stored = shelf.merge(series, self.span, candles, is_accepted)
        if is_stored:
            self._forward(candles)
        elif is_confirmed:
            self._comparison = comparison
            self._ask_whole()
        else:
            self._doubt, self._comparison = candles, comparison
            self._count_doubt()
            if comparison.factor is not None:
                self._ask_whole()
            else:
                self._look_back()

    def _take_part(self, history: History, candles: Sequence[Candle], shelf: Shelf) -> None:
        """Take a part of the whole history; when it is complete, replace what is stored."""
        if not history.add(candles, self._overlap):  # it has changed meanwhile
            self._count_doubt()
            self._ask_whole()
        elif self.span.end < history.span.end:
            rest = Span(self.span.end, history.span.end)
            begin = self._within_reach(history.tail, rest.begin)
            history.tail = history.tail if begin else ()
            self.span = first_request(rest, self.series.interval, begin)
        elif self._agrees(history.recent):
            shelf.replace(history, self._find_adjustment())
            self.missing.clear()
        else:
            self._count_doubt()
            self._history, self._doubt = None, ()
            self.span = self._find_next()

    def _find_adjustment(self) -> Adjustment | None:
        off, factor = self._comparison.off, self._comparison.factor
        if factor is None:
            return None
        first, last = off[0][0].ts, off[-1][0].ts
        return Adjustment(factor, Span(first, last + self.series.interval.length))

    def _forward(self, candles: Sequence[Candle]) -> None:
        """Go on behind the span that was stored."""
        end, self._doubt = self.span.end, ()
        self._covered_from = min(self._covered_from or self.span.begin, self.span.begin)
        overlap_begin = self._overlaps.get(self.missing[0].begin)
        self._compared.add(self.span.begin)
        if end > self.missing[0].begin:
            self._overlaps[end] = candles[-self._overlap :][0][0] if candles else overlap_begin
        self.missing = [Span(max(s.begin, end), s.end) for s in self.missing if s.end > end]
        if empty := self._find_empty(candles):
            self.missing.insert(0, empty)
        if self.missing:
            self.span = self._find_next()

    @property
    def _is_before_others(self) -> bool:
        """Whether the span has nothing stored before it, and its stretch goes on behind it.

        What comes there tells whether to believe that it is empty.
        """
        first = self.missing[0]
        return (
            self._history is None and self.span.begin == first.begin and self.span.end < first.end
        )

    def _find_empty(self, candles: Sequence[Candle]) -> Span | None:
        """The span before, if it was answered with nothing and this one has candles at once."""
        if not candles and not self._is_again:
            self._empty.append(self.span)
            return None
        empty = self._empty.pop() if candles and self._empty else None
        self._is_again = (
            empty is not None
            and empty.end == self.span.begin
            and candles[0].ts < self.span.begin + _AT_ONCE
        )
        if self._is_again:
            return empty
        self._empty.clear()
        return None

    def _find_next(self) -> Span:
        """The request for the oldest span that is missing, from the candles before it on.

        Where these are so old that it does not reach the span, it comes first, by itself.
        """
        first, longest = self.missing[0], timedelta(days=self.series.interval.longest_days)
        begin = self._overlaps.get(first.begin)
        if begin is not None and begin + longest <= first.begin and begin in self._compared:
            begin = None
        return first_request(first, self.series.interval, begin)

    def _look_back(self) -> None:
        """Ask for as much as one request may have, up to where this one ended."""
        longest = timedelta(days=self.series.interval.longest_days)
        begin = max(self._covered_from or self.span.begin, self.span.end - longest)
        self.span = Span(min(begin, self.span.begin), self.span.end)

    def _ask_whole(self) -> None:
        begin = min(self._covered_from or self.missing[0].begin, self.missing[0].begin)
        whole = Span(begin, self._end)
        self._history = History(self.series, whole, self._doubt[0][0])
        self.span = first_request(whole, self.series.interval)

    def _within_reach(self, tail: Sequence[Candle], before: datetime) -> datetime | None:
        """Where the tail of a history begins, unless that is too far back for a request."""
        reach = timedelta(days=self.series.interval.longest_days) / 2
        return tail[0].ts if tail and tail[0].ts >= before - reach else None

    @property
    def _has_older(self) -> bool:
        return self._covered_from is not None and self._covered_from < self.span.begin

    def _agrees(self, candles: Sequence[Candle]) -> bool:
        """Whether they say what the answer said that is in doubt, where both have candles."""
        doubt = self._doubt
        if not doubt or not candles:
            return False
        begin, end = max(doubt[0][0], candles[0][0]), min(doubt[-1][0], candles[-1][0])
        one, other = (
            [c for c in each if begin <= c[0] <= end and c[0] < self._today]
            for each in (doubt, candles)
        )
        return bool(one) and one == other

    def _count_doubt(self) -> None:
        self._doubts += 1
        if self._doubts > _MOST_DOUBTS:
            raise TransientAPIError(
                f"Kite's answers contradict each other, {self._doubts} times: expected the same "
                "candles of a span each time."
            )
