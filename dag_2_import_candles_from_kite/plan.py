"""Which spans of an instrument's candles have to be asked for, going by what was answered.

Moments are aware, spans half-open. Pure functions.
"""

from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta
from typing import NamedTuple

from dag_2_import_candles_from_kite.intervals import CLOSES, Interval
from shared.calendar import IST

_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_SESSION_MINUTES = 375
_SESSIONS_PER_DAY = 248 / 365


class Span(NamedTuple):
    """[begin, end)."""

    begin: datetime
    end: datetime


class Covered(NamedTuple):
    """A row of kite_candle_coverage: what was answered, when, and whether it was over by then."""

    begin: datetime
    end: datetime
    fetched_at: datetime
    is_final: bool


def midnight(day: date) -> datetime:
    """The moment at which a day begins in India."""
    return datetime.combine(day, time.min, IST)


def day_of(moment: datetime) -> date:
    """The day in India."""
    return moment.astimezone(IST).date()


def complete_until(interval: Interval, exchange: str, now: datetime) -> datetime:
    """The moment before which a candle must begin to be over at `now`.

    A day's candle is over when its exchange has closed, where that is known; so are the others.
    """
    local = now.astimezone(IST)
    today = midnight(local.date())
    close = CLOSES.get(exchange)
    if close is not None and local.time() >= close:
        return today + _DAY
    return today if interval.is_day else max(today, _running_from(interval, local))


def readable_until(interval: Interval, exchange: str, now: datetime) -> datetime:
    """The moment before which a candle of an answer must begin to be over at `now`.

    Unlike `complete_until` it knows that there may be a session after the close: an evening of
    Muhurat. What it leaves out is asked for again on the next day, as all that is not final.
    """
    until, local = complete_until(interval, exchange, now), now.astimezone(IST)
    close = CLOSES.get(exchange)
    if interval.is_day or close is None or local.time() < close:
        return until
    return max(datetime.combine(local.date(), close, IST), _running_from(interval, local))


def _running_from(interval: Interval, local: datetime) -> datetime:
    return (local - interval.length).replace(second=0, microsecond=0) + _MINUTE


def find_missing(wanted: Span, covered: Iterable[Covered], now: datetime) -> list[Span]:
    """The parts of `wanted` that have to be asked for, oldest first.

    What was fetched before its day was over counts until the day ends: Kite may still change it.
    What a clock that was ahead says was fetched on a later day counts for nothing.
    """
    today = day_of(now)
    missing, begin = [], wanted.begin
    for row in sorted(_without_later(covered, today)):
        if not (row.is_final or day_of(row.fetched_at) == today):
            continue
        if row.begin > begin:
            missing.append(Span(begin, min(row.begin, wanted.end)))
        begin = max(begin, row.end)
        if begin >= wanted.end:
            break
    if begin < wanted.end:
        missing.append(Span(begin, wanted.end))
    return [span for span in missing if span.begin < span.end]


def add_covered(covered: Iterable[Covered], span: Span, fetched_at: datetime) -> list[Covered]:
    """The rows with `span` among them: what meets and is of one kind is one row.

    The part of the span before the day of `fetched_at` is final. Rows of a later day are dropped.
    """
    today = midnight(day_of(fetched_at))
    believed = _without_later(covered, today.date())
    rows = [part for row in believed for part in _without(row, span)]
    if span.begin < today:
        rows.append(Covered(span.begin, min(span.end, today), fetched_at, is_final=True))
    if span.end > today:
        rows.append(Covered(max(span.begin, today), span.end, fetched_at, is_final=False))
    return _joined(rows)


def _without_later(covered: Iterable[Covered], today: date) -> list[Covered]:
    return [row for row in covered if day_of(row.fetched_at) <= today]


def _without(row: Covered, span: Span) -> list[Covered]:
    before = row._replace(end=min(row.end, span.begin))
    after = row._replace(begin=max(row.begin, span.end))
    return [part for part in (before, after) if part.begin < part.end]


def _joined(rows: Iterable[Covered]) -> list[Covered]:
    joined: list[Covered] = []
    for row in sorted(rows):
        if joined and _is_one(joined[-1], row):
            at = max(joined[-1].fetched_at, row.fetched_at)
            joined[-1] = joined[-1]._replace(end=row.end, fetched_at=at)
        else:
            joined.append(row)
    return joined


def _is_one(row: Covered, following: Covered) -> bool:
    """Whether the two meet and are of one kind: what is not final, fetched on one day."""
    if row.end != following.begin or row.is_final != following.is_final:
        return False
    return row.is_final or day_of(row.fetched_at) == day_of(following.fetched_at)


def is_final(covered: Iterable[Covered], moment: datetime) -> bool:
    """Whether the candle that begins at `moment` was fetched on a later day."""
    return any(row.is_final and row.begin <= moment < row.end for row in covered)


def first_request(span: Span, interval: Interval, overlap_begin: datetime | None = None) -> Span:
    """The longest span that one request may ask for, from the overlap before `span` on."""
    begin = span.begin if overlap_begin is None else min(overlap_begin, span.begin)
    return Span(begin, min(span.end, begin + timedelta(days=interval.longest_days)))


def count_requests(missing: Sequence[Span], interval: Interval) -> int:
    """How many requests these spans take, without what the overlaps may add."""
    longest = timedelta(days=interval.longest_days)
    return sum(-((span.begin - span.end) // longest) for span in missing)


def estimate_candles(missing: Sequence[Span], interval: Interval) -> int:
    """About how many candles these spans have, on an exchange with sessions of 6 h 15 min."""
    days = sum((span.end - span.begin) / _DAY for span in missing) * _SESSIONS_PER_DAY
    return round(days * (1 if interval.is_day else -(-_SESSION_MINUTES // interval.minutes)))
