"""A market of many shares, each with a story of some days: what Kite does to its candles on each.

A story is drawn from a seed and the share's number alone. Prices are such that an adjustment shows
in them, and corrections are of candles that the next run looks at: of others it cannot know.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from itertools import product
from math import prod

from sandbox.kite_faults import CutShort, Fault, HtmlError, HttpError, Reset
from shared.calendar import IST
from tests.candle_desk import CandleDesk, describe_difference
from tests.candle_faults import EMPTY, OTHER_SPAN, OTHER_TOKEN, UNORDERED, Fine, plan_faults
from tests.candle_truth import (
    INDEX_SYMBOL,
    STARTS,
    Bar,
    Correction,
    Listing,
    Market,
    Share,
    make_bar,
    make_index,
    weekdays,
)

HISTORY = 40  # trading days before the first run
RUNS = 5  # trading days, each with one run
LEAST = Decimal("0.05")  # of all factors of a share: smaller ones leave too few paise
FACTORS = ("0.1", "0.2", "0.3333333333", "0.5", "0.75", "0.9", "0.98", "2", "10")
FAULTS: tuple[Fault, ...] = (
    HttpError(429),
    HttpError(500),
    HtmlError(502),
    Reset("answer"),
    Reset("body"),
    CutShort("length"),
    EMPTY,
    OTHER_SPAN,
    OTHER_TOKEN,
    UNORDERED,
)
NEVER = (HttpError(503),) * 3  # as often as it is tried


@dataclass
class Story:
    """A share, and what its requests meet on each day of a run, of each interval."""

    share: Share
    faults: dict[date, Sequence[Fault]] = field(default_factory=dict)
    is_adjusted_only: bool = True  # each adjustment can be told by its factor

    @property
    def token(self) -> int:
        return self.share.listings[-1].token

    def is_answered(self, day: date) -> bool:
        return self.faults.get(day) is not NEVER

    def lacking(self, days: Sequence[date], now: datetime) -> set[date]:
        """Days of trading without a candle, from its first candle on."""
        traded = {bar.ts.date() for bar in self.share.bars["day"]}
        return {day for day in days if min(traded) < day <= now.date()} - traded


def make_story(seed: int, number: int, days: Sequence[date], intervals: Sequence[str]) -> Story:
    """The story of a share over these trading days, of which the last RUNS have a run each."""
    rng = random.Random(f"{seed} {number}")
    runs = days[-RUNS:]
    first = 0 if rng.random() < 0.8 else rng.randrange(len(days) - RUNS)
    suspended = {day for day in days if rng.random() < rng.choice([0, 0, 0.1])}
    paise = rng.choice([rng.randint(10_000, 50_000), rng.randint(50_000, 3_000_000)])
    traded = [day for day in days[first:] if day not in suspended or day == days[first]]
    bars: dict[str, Sequence[Bar]] = {
        interval: [
            make_bar(
                datetime.combine(day, start), paise + rng.randint(-50, 50), rng.randint(1, 10**6)
            )
            for day in traded
            for start in STARTS[interval]
        ]
        for interval in intervals
    }
    story = Story(Share(f"S{number}", [Listing(256 * number, f"S{number}")], bars))
    for at, day in enumerate(runs):
        if at and rng.random() < 0.1:
            _adjust(rng, story, day)
        if at and rng.random() < 0.1:
            _correct(rng, story, day, rng.choice(intervals))
        if rng.random() < 0.2:
            is_known = (
                at > 1 and first < len(days) - 2 * RUNS and NEVER not in story.faults.values()
            )
            story.faults[day] = _draw_faults(rng, is_known=is_known)
    return story


def _adjust(rng: random.Random, story: Story, day: date) -> None:
    """One factor or two, which can be seen in the prices."""
    factors = [Decimal(rng.choice(FACTORS)) for _ in range(rng.choice([1, 1, 1, 2]))]
    before = prod(factor for _, factor in story.share.adjustments)
    if prod(factors) != 1 and LEAST <= before * prod(factors) <= 10:
        story.share.adjustments += [(day, factor) for factor in factors]


def _correct(rng: random.Random, story: Story, day: date, interval: str) -> None:
    """One of the last candles is another one from the morning of a day on."""
    before = [bar for bar in story.share.bars[interval] if bar.ts.date() < day]
    changed = {
        each.bar.ts: each.bar for each in story.share.corrections if each.interval == interval
    }
    if len(before) < 6:
        return
    bar = before[-rng.randint(1, 5)]
    bar = changed.get(bar.ts, bar)
    since = datetime.combine(day, time(8), IST)
    story.share.corrections.append(Correction(since, interval, _change(rng, bar)))
    story.is_adjusted_only = False


def _change(rng: random.Random, bar: Bar) -> Bar:
    kind = rng.choice(["volume", "close", "open", "all"])
    if kind == "volume":
        return bar._replace(volume=bar.volume + rng.randint(1, 1000))
    if kind == "close":
        return bar._replace(close=bar.low if bar.close != bar.low else bar.high)
    if kind == "open":
        return bar._replace(open=bar.high if bar.open != bar.high else bar.low)
    return make_bar(bar.ts, int(bar.open * 100) + 7, rng.randint(1, 10**6))


def _draw_faults(rng: random.Random, *, is_known: bool) -> Sequence[Fault]:
    """`is_known`: candles are stored with which another token's can be told."""
    if rng.random() < 0.15:
        return NEVER
    kinds = [fault for fault in FAULTS if is_known or fault is not OTHER_TOKEN]
    chosen = rng.sample(kinds, rng.choice([1, 1, 2]))
    return [fault for each in chosen for fault in (each, Fine())]


def make_stories(
    seed: int,
    count: int,
    last: date,
    *,
    history: int = HISTORY,
    intervals: Sequence[str] = ("day",),
) -> tuple[Market, list[Story]]:
    """The index and so many shares, on the morning of the first day of a run.

    `history`: trading days before that.
    """
    days = weekdays(last, history + RUNS)
    stories = [make_story(seed, number, days, intervals) for number in range(2, count + 2)]
    now = datetime.combine(days[-RUNS], time(8, 35), IST)
    return Market([make_index(days), *(story.share for story in stories)], now), stories


def play(desk: CandleDesk, stories: Sequence[Story]) -> None:
    """A run on each day, after which all that was answered is as Kite would serve it."""
    days = [bar.ts.date() for bar in desk.market.share(INDEX_SYMBOL).bars["day"]]
    desk.import_list()
    for day in days[-RUNS:]:
        desk.cli.kite.clear_faults()
        for story, interval in product(stories, desk.intervals):
            plan_faults(desk.cli.kite, story.token, interval, story.faults.get(day, ()))
        desk.go_to(datetime.combine(day, time(18), IST))
        answered = [story for story in stories if story.is_answered(day)]
        desk.fetch(status=0 if len(answered) == len(stories) else 1)
        for interval in desk.intervals:
            stored = desk.stored(interval)
            for name in (story.share.name for story in answered):
                expected = desk.market.rows(name, interval)
                difference = describe_difference(stored.get(name, []), expected)
                assert not difference, f"{name} {interval} {day}: {difference}"
    desk.cli.kite.clear_faults()
    desk.fetch()
    desk.assert_whole([story.share.name for story in stories])
    assert_adjustments(desk, stories)
    assert_gaps(desk, stories, days)


def assert_adjustments(desk: CandleDesk, stories: Sequence[Story]) -> None:
    """Each that could be told by its factor is on record, once; on its day, if Kite answered."""
    found = desk.adjustments()
    for story, interval in product(stories, desk.intervals):
        wanted: dict[date, Decimal] = {}
        for day, factor in story.share.adjustments:
            wanted[day] = wanted.get(day, Decimal(1)) * factor
        mine = [
            (factor, day)
            for name, of, factor, day in found
            if (name, of) == (story.share.name, interval)
        ]
        assert len(mine) <= len(wanted), story.share.name
        is_plain = story.is_adjusted_only and not any(
            faults is NEVER for faults in story.faults.values()
        )
        if is_plain:
            assert [day for _, day in mine] == list(wanted), story.share.name
            for (factor, _), expected in zip(mine, wanted.values()):
                assert abs(factor / expected - 1) < Decimal("0.001"), story.share.name


def assert_gaps(desk: CandleDesk, stories: Sequence[Story], days: Sequence[date]) -> None:
    """Each day without a candle is told, and no other."""
    told = {
        (symbol, day)
        for symbol, begin, end in desk.gaps()
        for day in days
        if begin <= day.isoformat() <= end
    }
    assert told == {
        (story.share.name, day) for story in stories for day in story.lacking(days, desk.market.now)
    }
