"""Which list counts as today's."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.freshness import fresh_since, is_trading_day
from shared.kite_login import IST

# A Friday that is a holiday, and the Monday after it.
HOLIDAYS = [date(2026, 10, 2), date(2026, 10, 5)]


def ist(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=IST)


@pytest.mark.parametrize(
    ("now", "since"),
    [
        pytest.param("2026-11-24 08:00:00", "2026-11-24 08:00:00", id="Tuesday at eight"),
        pytest.param("2026-11-24 07:59:59", "2026-11-23 08:00:00", id="Tuesday just before eight"),
        pytest.param("2026-11-24 23:59:59", "2026-11-24 08:00:00", id="Tuesday at midnight"),
        pytest.param("2026-11-25 00:00:00", "2026-11-24 08:00:00", id="Wednesday at midnight"),
        pytest.param("2026-11-27 12:00:00", "2026-11-27 08:00:00", id="Friday"),
        pytest.param("2026-11-28 12:00:00", "2026-11-27 08:00:00", id="Saturday"),
        pytest.param("2026-11-29 12:00:00", "2026-11-27 08:00:00", id="Sunday"),
        pytest.param("2026-11-30 07:59:59", "2026-11-27 08:00:00", id="Monday before eight"),
        pytest.param("2026-11-30 08:00:00", "2026-11-30 08:00:00", id="Monday at eight"),
        pytest.param("2026-10-02 12:00:00", "2026-10-01 08:00:00", id="a holiday"),
        pytest.param("2026-10-05 12:00:00", "2026-10-01 08:00:00", id="two, and a weekend"),
        pytest.param("2026-10-06 07:00:00", "2026-10-01 08:00:00", id="early after holidays"),
        pytest.param("2026-10-06 08:00:00", "2026-10-06 08:00:00", id="after holidays"),
        pytest.param("2027-01-01 07:00:00", "2026-12-31 08:00:00", id="over the year's end"),
    ],
)
def test_list_is_fresh_since_eight_on_the_last_trading_day(now: str, since: str) -> None:
    assert fresh_since(ist(now), HOLIDAYS) == ist(since)


@pytest.mark.parametrize(
    ("moment", "since"),
    [
        pytest.param("2026-11-24T02:30:00+00:00", "2026-11-24 08:00:00", id="UTC, eight in India"),
        pytest.param("2026-11-24T02:29:59+00:00", "2026-11-23 08:00:00", id="UTC, not yet eight"),
        pytest.param("2026-11-23T21:30:00-05:00", "2026-11-24 08:00:00", id="New York's Monday"),
        pytest.param("2026-11-30T03:00:00+13:00", "2026-11-27 08:00:00", id="Auckland's Monday"),
    ],
)
def test_clock_is_that_of_india_whatever_the_zone(moment: str, since: str) -> None:
    assert fresh_since(datetime.fromisoformat(moment), []) == ist(since)


def test_year_of_holidays_ends_the_search() -> None:
    day = date(2026, 11, 24)
    always = [day - timedelta(days=number) for number in range(500)]
    assert fresh_since(ist("2026-11-24 12:00:00"), always) < ist("2025-11-25 08:00:01")


moments = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(timezone.utc))
holidays = st.sets(st.dates(date(2024, 1, 1), date(2030, 1, 1)), max_size=400)


@given(now=moments, holidays=holidays)
def test_it_is_the_last_trading_day_whose_eight_has_come(
    now: datetime, holidays: set[date]
) -> None:
    since = fresh_since(now, holidays)
    assert since <= now
    assert (since.hour, since.minute, since.second, since.microsecond) == (8, 0, 0, 0)
    assert is_trading_day(since.date(), holidays)
    day = since.date() + timedelta(days=1)
    while datetime(day.year, day.month, day.day, 8, tzinfo=IST) <= now:
        assert day.isoweekday() > 5 or day in holidays
        day += timedelta(days=1)
