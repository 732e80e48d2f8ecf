"""Whatever Kite has changed, and however often it errs: a job ends, and then the shelf is right.

A wrong answer can be told where it has candles that are stored and final; elsewhere only an empty
one can. So it is there that Kite errs here, each time in another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import accumulate, cycle, islice

from hypothesis import given
from hypothesis import strategies as st

from dag_2_import_candles_from_kite.answers import Candle
from dag_2_import_candles_from_kite.intervals import Interval
from dag_2_import_candles_from_kite.jobs import Job
from dag_2_import_candles_from_kite.plan import Span, add_covered, find_missing, is_final, midnight
from dag_2_import_candles_from_kite.store import Series
from dag_2_import_candles_from_kite.universe import Target
from shared.calendar import IST
from shared.exceptions import TransientAPIError
from tests.candles import MemoryShelf, make_candle, scale

LONGEST_DAYS = 40  # of a request here, so that few candles are several requests
MOST_REQUESTS = 60
NOW = datetime(2026, 11, 18, 18, 0, tzinfo=IST)
TODAY = midnight(NOW.date())
END = TODAY + timedelta(days=1)
SERIES = Series(Target(1, 408065, "NSE", "INFY", has_oi=False), Interval("day", 1440, LONGEST_DAYS))

LIES = ("empty", "late", "scaled", "other prices", "other volumes")
FACTORS = [Decimal(text) for text in ("0.5", "0.1", "0.75", "0.3333333333", "0.98", "2")]

# Answered before: how many days before the last one they begin, and how many they are.
blocks: st.SearchStrategy[list[tuple[int, int]]] = st.one_of(
    st.just([]),
    st.integers(1, 170).map(lambda days: [(days, days)]),
    st.lists(st.tuples(st.integers(1, 170), st.integers(1, 60)), min_size=1, max_size=4),
)


def days_before(count: int) -> datetime:
    return TODAY - timedelta(days=count)


class Case:
    """What was stored and answered before, and what Kite has now."""

    def __init__(self, truth: Sequence[Candle], shelf: MemoryShelf, overlap: int) -> None:
        self.truth, self.shelf, self.overlap = truth, shelf, overlap

    def __repr__(self) -> str:
        """All in days before today: what was answered, and which stored candles are off."""
        now = {candle.ts: candle for candle in self.truth}
        covered = [((TODAY - r.begin).days, (TODAY - r.end).days) for r in self.shelf.covered]
        off = [(TODAY - c.ts).days for c in self.shelf.list() if now.get(c.ts) != c]
        first = (TODAY - self.truth[0].ts).days
        return f"first {first}, overlap {self.overlap}, covered {covered}, off {off}"


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Candles up to today, of which those of some spans are stored; then Kite changes some."""
    steps = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    count = draw(st.integers(0, 80).map(lambda number: 80 - number))
    befores = [0, *accumulate(islice(cycle(steps), count))][::-1]
    prices = draw(st.lists(st.integers(100, 5000), min_size=1, max_size=9))
    truth = [make_candle(days_before(n), prices[n % len(prices)]) for n in befores]
    last = draw(st.integers(1, 20))  # days before today: nothing is stored of what is later
    shelf = MemoryShelf(NOW)
    for begin, length in draw(blocks):
        span = Span(days_before(begin + last), days_before(max(last, begin + last - length)))
        shelf.covered = add_covered(shelf.covered, span, days_before(last))
    stored = [candle for candle in truth if is_final(shelf.covered, candle.ts)]
    shelf.candles = {candle.ts: candle for candle in stored}
    overlap = draw(st.integers(1, 5))
    return Case(_change(draw, truth, stored, overlap), shelf, overlap)


def _change(
    draw: st.DrawFn, truth: list[Candle], stored: list[Candle], overlap: int
) -> list[Candle]:
    """What Kite has now: as a run can find out, all that is stored is changed, or the last."""
    kind = draw(st.sampled_from(["nothing", "adjusted", "volumes", "corrected", "gone"]))
    if kind == "nothing" or not stored:
        return truth
    last = stored[-1].ts
    if kind == "adjusted":
        factor = draw(st.sampled_from(FACTORS))
        return [scale(c, factor) if c.ts <= last else c for c in truth]
    if kind == "volumes":
        return [c._replace(volume=c.volume + 1) if c.ts <= last else c for c in truth]
    which, first = draw(st.sampled_from(stored[-overlap:])).ts, stored[-overlap:][0].ts
    if kind == "gone" and which > first > last - timedelta(days=9):
        return [c for c in truth if c.ts != which]
    return [c._replace(volume=7) if c.ts == which else c for c in truth]


class Kite:
    """Answers with the truth, or errs as often as there are `lies`, which are not repeated."""

    def __init__(self, case: Case, lies: Sequence[str]) -> None:
        self.case = case
        self.lies = list(lies)
        self.requests = 0
        self._shortened: set[Span] = set()

    def answer(self, span: Span) -> Sequence[Candle]:
        self.requests += 1
        assert self.requests <= MOST_REQUESTS, "it asks for ever"
        right = [c for c in self.case.truth if span.begin <= c.ts < span.end]
        if not self.lies or not right:
            return right
        if not self._can_be_told(self.lies[0], right, span):
            return right
        return self._spoil(self.lies.pop(0), right, span)

    def _can_be_told(self, kind: str, right: Sequence[Candle], span: Span) -> bool:
        shelf = self.case.shelf
        known = [c.ts in shelf.candles and is_final(shelf.covered, c.ts) for c in right]
        if kind in ("empty", "late") and span in self._shortened:
            return False  # twice it is believed
        is_at_overlap = known[0] and right[0].ts == span.begin != self.case.truth[0].ts
        return kind == "empty" or (is_at_overlap if kind == "late" else any(known))

    def _spoil(self, kind: str, right: Sequence[Candle], span: Span) -> Sequence[Candle]:
        if kind in ("empty", "late"):
            self._shortened.add(span)
            return right[1 + len(right) // 2 :] if kind == "late" else []
        number = 11 + len(self.lies)
        if kind == "scaled":
            return [scale(candle, Decimal(number) / 10) for candle in right]
        if kind == "other volumes":
            return [candle._replace(volume=number) for candle in right]
        return [make_candle(c.ts, 50 * number + n % 7) for n, c in enumerate(right)]


def plan(case: Case) -> Job | None:
    """The job of a run, as DAG 2 plans it."""
    shelf = case.shelf
    missing = find_missing(Span(case.truth[0].ts, END), shelf.covered, NOW)
    overlaps: dict[datetime, datetime | None] = {}
    for span in missing:
        reach = span.begin - timedelta(days=LONGEST_DAYS) / 2
        before = [ts for ts in sorted(shelf.candles) if reach <= ts < span.begin][-case.overlap :]
        overlaps[span.begin] = before[0] if before else None
    if not missing:
        return None
    return Job(
        SERIES,
        missing,
        NOW,
        overlap=case.overlap,
        overlaps=overlaps,
        covered_from=min((row.begin for row in shelf.covered), default=None),
    )


def run(case: Case, lies: Sequence[str] = ()) -> None:
    """Bring what is missing. Raises TransientAPIError if answers contradict each other."""
    job, kite = plan(case), Kite(case, lies)
    while job is not None and not job.is_done:
        request = job.request
        assert request.end - request.begin <= timedelta(days=LONGEST_DAYS)
        job.take(kite.answer(Span(request.begin, request.end)), case.shelf)


def assert_right(case: Case) -> None:
    assert case.shelf.list() == list(case.truth)
    assert find_missing(Span(case.truth[0].ts, END), case.shelf.covered, NOW) == []


@given(cases())
def test_right_answers_lead_to_what_kite_has(case: Case) -> None:
    run(case)
    assert_right(case)


@given(cases(), st.lists(st.sampled_from(LIES), min_size=1, max_size=5))
def test_wrong_answers_are_never_kept(case: Case, lies: list[str]) -> None:
    """What a run gives up is done by the next one."""
    try:
        run(case, lies)
    except TransientAPIError:
        now = {candle.ts: candle for candle in case.truth}
        new = [c for ts, c in case.shelf.candles.items() if not is_final(case.shelf.covered, ts)]
        assert all(now[candle.ts] == candle for candle in new)
        run(case)
    assert_right(case)
