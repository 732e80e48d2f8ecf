"""What was answered is not asked for again, and all else is: beside a model that counts hours."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dag_2_import_candles_from_kite.intervals import INTERVALS
from dag_2_import_candles_from_kite.plan import (
    Covered,
    Span,
    add_covered,
    count_requests,
    day_of,
    find_missing,
    first_request,
    is_final,
)
from shared.calendar import IST

HOURS = 10 * 24
FIRST = datetime(2026, 11, 9, tzinfo=IST)

hours = st.integers(0, HOURS)
spans = st.tuples(hours, hours).map(sorted).filter(lambda pair: pair[0] < pair[1])
# Answers one after another: the span, and how many hours later the next one comes.
histories = st.lists(st.tuples(spans, st.integers(0, 30)), max_size=8)

# By hour that was answered: when.
Model = Mapping[int, datetime]


def at(hour: int) -> datetime:
    return FIRST + timedelta(hours=hour)


def replay(history: list[tuple[list[int], int]]) -> tuple[list[Covered], Model, int]:
    """The rows, the model, and the hour of the last answer; none is of the future."""
    rows: list[Covered] = []
    model: dict[int, datetime] = {}
    now = 0
    for (begin, end), later in history:
        now = max(now + later, end)
        rows = add_covered(rows, Span(at(begin), at(end)), at(now))
        model |= dict.fromkeys(range(begin, end), at(now))
    return rows, model, now


def is_over(hour: int, fetched_at: datetime) -> bool:
    return day_of(fetched_at) > day_of(at(hour))


@given(histories)
def test_rows_say_what_was_answered(history: list[tuple[list[int], int]]) -> None:
    rows, model, _ = replay(history)
    for hour in range(HOURS):
        holding = [row for row in rows if row.begin <= at(hour) < row.end]
        assert len(holding) == (hour in model)
        assert is_final(rows, at(hour)) == (hour in model and is_over(hour, model[hour]))
        for row in holding:
            assert row.is_final == is_over(hour, model[hour])
            assert row.fetched_at >= model[hour]
            assert row.is_final or day_of(row.fetched_at) == day_of(model[hour])
    assert {row.fetched_at for row in rows} <= {*model.values()}


@given(histories)
def test_rows_are_as_few_as_can_be(history: list[tuple[list[int], int]]) -> None:
    rows, _, _ = replay(history)
    assert all(row.begin < row.end for row in rows)
    for row, following in pairwise(rows):
        assert row.end <= following.begin
        if row.end == following.begin and row.is_final == following.is_final:
            assert not row.is_final
            assert day_of(row.fetched_at) != day_of(following.fetched_at)


@given(histories, spans, st.integers(0, 30))
def test_missing_is_what_was_not_answered(
    history: list[tuple[list[int], int]], wanted: list[int], later: int
) -> None:
    rows, model, now = replay(history)
    begin, end = wanted
    moment = at(now + later)
    missing = find_missing(Span(at(begin), at(end)), rows, moment)
    known = {
        hour
        for hour, fetched_at in model.items()
        if is_over(hour, fetched_at) or day_of(fetched_at) == day_of(moment)
    }
    found = [hour for span in missing for hour in range(HOURS) if span.begin <= at(hour) < span.end]
    assert found == [hour for hour in range(begin, end) if hour not in known]
    assert all(span.end < following.begin for span, following in pairwise(missing))


@given(spans, st.sampled_from(sorted(INTERVALS)), st.integers(1, 400))
def test_requests_bring_all_that_is_missing(wanted: list[int], name: str, times: int) -> None:
    interval = INTERVALS[name]
    begin, end = (FIRST + times * timedelta(hours=hour) for hour in wanted)
    requests, rest = 0, Span(begin, end)
    while rest.begin < rest.end:
        request = first_request(rest, interval)
        assert request.begin == rest.begin < request.end
        assert request.end - request.begin <= timedelta(days=interval.longest_days)
        rest = Span(request.end, end)
        requests += 1
    assert count_requests([Span(begin, end)], interval) == requests
