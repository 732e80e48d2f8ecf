"""Which list counts as today's."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.calendar import FRESHNESS, IST, SCHEDULE, Freshness, is_trading_day

# A Friday that is a holiday, and the Monday after it.
HOLIDAYS = [date(2026, 10, 2), date(2026, 10, 5)]


def ist(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=IST)


@pytest.mark.parametrize(
    ("now", "since"),
    [
        pytest.param("2026-11-24 08:00:00", "2026-11-23", id="Tuesday at eight"),
        pytest.param("2026-11-24 08:30:00", "2026-11-23", id="Tuesday, as the run starts"),
        pytest.param("2026-11-24 09:29:59", "2026-11-23", id="Tuesday just before half past nine"),
        pytest.param("2026-11-24 09:30:00", "2026-11-24", id="Tuesday at half past nine"),
        pytest.param("2026-11-24 23:59:59", "2026-11-24", id="Tuesday at midnight"),
        pytest.param("2026-11-25 00:00:00", "2026-11-24", id="Wednesday at midnight"),
        pytest.param("2026-11-27 12:00:00", "2026-11-27", id="Friday"),
        pytest.param("2026-11-28 12:00:00", "2026-11-27", id="Saturday"),
        pytest.param("2026-11-29 12:00:00", "2026-11-27", id="Sunday"),
        pytest.param("2026-11-30 09:29:59", "2026-11-27", id="Monday morning"),
        pytest.param("2026-11-30 09:30:00", "2026-11-30", id="Monday at half past nine"),
        pytest.param("2026-10-02 12:00:00", "2026-10-01", id="a holiday"),
        pytest.param("2026-10-05 12:00:00", "2026-10-01", id="two, and a weekend"),
        pytest.param("2026-10-06 09:00:00", "2026-10-01", id="early after holidays"),
        pytest.param("2026-10-06 09:30:00", "2026-10-06", id="after holidays"),
        pytest.param("2027-01-01 07:00:00", "2026-12-31", id="over the year's end"),
    ],
)
def test_list_is_fresh_since_eight_on_the_last_trading_day_whose_run_must_be_over(
    now: str, since: str
) -> None:
    assert FRESHNESS[1].fresh_since(ist(now), HOLIDAYS) == ist(f"{since} 08:00:00")


@pytest.mark.parametrize(
    ("moment", "since"),
    [
        pytest.param("2026-11-24T04:00:00+00:00", "2026-11-24", id="UTC, half past nine in India"),
        pytest.param("2026-11-24T03:59:59+00:00", "2026-11-23", id="UTC, not yet"),
        pytest.param("2026-11-23T23:00:00-05:00", "2026-11-24", id="New York's Monday"),
        pytest.param("2026-11-30T03:00:00+13:00", "2026-11-27", id="Auckland's Monday"),
    ],
)
def test_clock_is_that_of_india_whatever_the_zone(moment: str, since: str) -> None:
    now = datetime.fromisoformat(moment)
    assert FRESHNESS[1].fresh_since(now, []) == ist(f"{since} 08:00:00")


def test_what_a_dag_promises_decides_since_when_a_load_counts() -> None:
    hasty = Freshness(due_from=time(7, 15), grace_minutes=0)
    assert hasty.fresh_since(ist("2026-11-24 08:29:59"), []) == ist("2026-11-23 07:15:00")
    assert hasty.fresh_since(ist("2026-11-24 08:30:00"), []) == ist("2026-11-24 07:15:00")
    patient = Freshness(grace_minutes=36 * 60)
    assert patient.fresh_since(ist("2026-11-25 20:29:59"), []) == ist("2026-11-23 08:30:00")
    assert patient.fresh_since(ist("2026-11-25 20:30:00"), []) == ist("2026-11-24 08:30:00")


@pytest.mark.parametrize(
    ("loaded", "day"),
    [
        pytest.param("2026-11-24 08:00:00", date(2026, 11, 24), id="Tuesday from eight on"),
        pytest.param("2026-11-24 07:59:59", date(2026, 11, 23), id="too early on Tuesday"),
        pytest.param("2026-11-25 00:01:00", date(2026, 11, 24), id="after midnight"),
        pytest.param("2026-11-29 20:00:00", date(2026, 11, 27), id="Sunday"),
        pytest.param("2026-10-05 12:00:00", date(2026, 10, 1), id="a holiday"),
    ],
)
def test_day_whose_list_a_load_brings(loaded: str, day: date) -> None:
    assert FRESHNESS[1].day_of(ist(loaded), HOLIDAYS) == day


def test_year_of_holidays_ends_the_search() -> None:
    day = date(2026, 11, 24)
    always = [day - timedelta(days=number) for number in range(500)]
    since = FRESHNESS[1].fresh_since(ist("2026-11-24 12:00:00"), always)
    assert since < ist("2025-11-25 08:00:01")


moments = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(timezone.utc))
holidays = st.sets(st.dates(date(2024, 1, 1), date(2030, 1, 1)), max_size=400)
promises = st.builds(
    Freshness,
    due_from=st.sampled_from([time(0, 0), time(8, 0), SCHEDULE]),
    grace_minutes=st.integers(0, 3 * 24 * 60),
)


@given(freshness=promises, now=moments, holidays=holidays)
def test_it_is_the_last_trading_day_whose_schedule_and_grace_are_over(
    freshness: Freshness, now: datetime, holidays: set[date]
) -> None:
    def is_over(day: date) -> bool:
        grace = timedelta(minutes=freshness.grace_minutes)
        return datetime.combine(day, SCHEDULE, IST) + grace <= now

    since = freshness.fresh_since(now, holidays)
    assert since.time() == freshness.due_from
    assert is_over(since.date())
    assert is_trading_day(since.date(), holidays)
    assert freshness.day_of(since, holidays) == since.date()
    assert freshness.day_of(since - timedelta(seconds=1), holidays) < since.date()
    day = since.date() + timedelta(days=1)
    while is_over(day):
        assert day.isoweekday() > 5 or day in holidays
        day += timedelta(days=1)
