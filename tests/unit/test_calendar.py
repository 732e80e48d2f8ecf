"""Which list counts as today's."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.calendar import IST, Calendar, Freshness, Schedule
from tests.conftest import PROJECT

# A source that publishes the day's rows from 08:00 IST on.
EARLY = Freshness(due_from=time(8, 0), changes_daily=True)

# A Friday that is a holiday, and the Monday after it.
HOLIDAYS = Calendar(frozenset([date(2026, 10, 2), date(2026, 10, 5)]))
NONE = Calendar()


def ist(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=IST)


@pytest.mark.parametrize(
    ("now", "since"),
    [
        pytest.param("2026-11-17 08:00:00", "2026-11-16", id="Tuesday at eight"),
        pytest.param("2026-11-17 08:30:00", "2026-11-16", id="Tuesday, as the run starts"),
        pytest.param("2026-11-17 09:29:59", "2026-11-16", id="Tuesday just before half past nine"),
        pytest.param("2026-11-17 09:30:00", "2026-11-17", id="Tuesday at half past nine"),
        pytest.param("2026-11-17 23:59:59", "2026-11-17", id="Tuesday at midnight"),
        pytest.param("2026-11-18 00:00:00", "2026-11-17", id="Wednesday at midnight"),
        pytest.param("2026-11-20 12:00:00", "2026-11-20", id="Friday"),
        pytest.param("2026-11-21 12:00:00", "2026-11-20", id="Saturday"),
        pytest.param("2026-11-22 12:00:00", "2026-11-20", id="Sunday"),
        pytest.param("2026-11-23 09:29:59", "2026-11-20", id="Monday morning"),
        pytest.param("2026-11-23 09:30:00", "2026-11-23", id="Monday at half past nine"),
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
    assert EARLY.fresh_since(ist(now), HOLIDAYS) == ist(f"{since} 08:00:00")


@pytest.mark.parametrize(
    ("moment", "since"),
    [
        pytest.param("2026-11-17T04:00:00+00:00", "2026-11-17", id="UTC, half past nine in India"),
        pytest.param("2026-11-17T03:59:59+00:00", "2026-11-16", id="UTC, not yet"),
        pytest.param("2026-11-16T23:00:00-05:00", "2026-11-17", id="New York's Monday"),
        pytest.param("2026-11-23T03:00:00+13:00", "2026-11-20", id="Auckland's Monday"),
    ],
)
def test_clock_is_that_of_india_whatever_the_zone(moment: str, since: str) -> None:
    now = datetime.fromisoformat(moment)
    assert EARLY.fresh_since(now, NONE) == ist(f"{since} 08:00:00")


def test_what_a_dag_promises_decides_since_when_a_load_counts() -> None:
    hasty = Freshness(due_from=time(7, 15), grace_minutes=0)
    assert hasty.fresh_since(ist("2026-11-17 08:29:59"), NONE) == ist("2026-11-16 07:15:00")
    assert hasty.fresh_since(ist("2026-11-17 08:30:00"), NONE) == ist("2026-11-17 07:15:00")
    patient = Freshness(grace_minutes=36 * 60)
    assert patient.fresh_since(ist("2026-11-18 20:29:59"), NONE) == ist("2026-11-16 08:30:00")
    assert patient.fresh_since(ist("2026-11-18 20:30:00"), NONE) == ist("2026-11-17 08:30:00")


@pytest.mark.parametrize(
    ("loaded", "day"),
    [
        pytest.param("2026-11-17 08:00:00", date(2026, 11, 17), id="Tuesday from eight on"),
        pytest.param("2026-11-17 07:59:59", date(2026, 11, 16), id="too early on Tuesday"),
        pytest.param("2026-11-18 00:01:00", date(2026, 11, 17), id="after midnight"),
        pytest.param("2026-11-22 20:00:00", date(2026, 11, 20), id="Sunday"),
        pytest.param("2026-10-05 12:00:00", date(2026, 10, 1), id="a holiday"),
    ],
)
def test_day_whose_list_a_load_brings(loaded: str, day: date) -> None:
    assert EARLY.day_of(ist(loaded), HOLIDAYS) == day


def test_schedule_without_a_trading_day_for_a_year_counts_by_its_last_slot() -> None:
    day = date(2026, 11, 17)
    always = [day - timedelta(days=number) for number in range(500)]
    closed, open_before = Calendar(frozenset(always)), Calendar(frozenset(always[:300]))
    now = ist("2026-11-17 12:00:00")
    assert Freshness().fresh_since(now, closed) == ist("2026-11-17 08:30:00")
    assert Freshness().fresh_since(now, open_before) == ist("2026-01-21 08:30:00")
    assert Schedule("0 10 * * SAT").last_slot(now, NONE) == ist("2026-11-14 10:00:00")


@pytest.mark.parametrize(
    ("schedule", "now", "slot"),
    [
        pytest.param("daily", "2026-11-17 08:30:00", "2026-11-17 08:30:00", id="daily, on time"),
        pytest.param("daily", "2026-11-17 08:29:59", "2026-11-16 08:30:00", id="daily, before"),
        pytest.param("0 18 * * *", "2026-11-23 17:59:59", "2026-11-20 18:00:00", id="a weekend"),
        pytest.param("0 18 * * *", "2026-10-05 23:00:00", "2026-10-01 18:00:00", id="holidays"),
        pytest.param("*/30 9-15 * * *", "2026-11-17 12:10:00", "2026-11-17 12:00:00", id="within"),
        pytest.param("*/30 9-15 * * *", "2026-11-17 08:10:00", "2026-11-16 15:30:00", id="night"),
        pytest.param("0 9 * * MON", "2026-11-22 12:00:00", "2026-11-16 09:00:00", id="weekly"),
        pytest.param("0 9 1 * *", "2026-11-17 12:00:00", "2026-10-01 09:00:00", id="monthly"),
        pytest.param("* * * * *", "2026-11-22 12:00:00", "2026-11-20 23:59:00", id="each minute"),
    ],
)
def test_last_slot_is_on_a_trading_day(schedule: str, now: str, slot: str) -> None:
    assert Schedule(schedule).last_slot(ist(now), HOLIDAYS) == ist(slot)


@pytest.mark.parametrize(
    "text",
    [
        *("", "weekly", "Daily", "@daily", "08:30", "30 8 * *", "0 30 8 * * *", "60 8 * * *"),
        *("30 24 * * *", "30 8 32 * *", "0 0 30 2 *", "*/0 * * * *", "5-1 * * * *", "9" * 5000),
        f"{'9' * 5000} 8 * * *",
    ],
    ids=lambda text: text[:12] or "empty",
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Schedule(text)
    assert str(caught.value) == (
        'expected "daily" or a cron expression in Indian time such as "0 18 * * 1-5"'
    )


@pytest.mark.parametrize(
    ("now", "since"),
    [
        pytest.param("2026-11-17 12:09:59", "2026-11-17 11:30:00", id="in the grace"),
        pytest.param("2026-11-17 12:10:00", "2026-11-17 12:00:00", id="after it"),
        pytest.param("2026-11-17 09:05:00", "2026-11-16 15:30:00", id="morning"),
        pytest.param("2026-11-21 09:05:00", "2026-11-20 15:30:00", id="Saturday"),
    ],
)
def test_rows_of_several_slots_a_day_are_fresh_since_the_last_whose_grace_is_over(
    now: str, since: str
) -> None:
    freshness = Freshness("*/30 9-15 * * *", grace_minutes=10)
    assert freshness.fresh_since(ist(now), NONE) == ist(since)


def test_day_of_a_load_is_the_day_of_its_slot_where_nothing_else_is_said() -> None:
    evening = Freshness("0 18 * * *")
    assert evening.day_of(ist("2026-11-17 17:59:59"), NONE) == date(2026, 11, 16)
    assert evening.day_of(ist("2026-11-17 18:00:00"), NONE) == date(2026, 11, 17)


moments = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
days = st.frozensets(st.dates(date(2024, 1, 1), date(2030, 1, 1)), max_size=400)
calendars = st.builds(Calendar, days, days)
SCHEDULE = time(8, 30)
promises = st.builds(
    Freshness,
    due_from=st.sampled_from([None, time(0, 0), time(8, 0), SCHEDULE]),
    grace_minutes=st.integers(0, 3 * 24 * 60),
)


@given(freshness=promises, now=moments, calendar=calendars)
def test_it_is_the_last_trading_day_whose_schedule_and_grace_are_over(
    freshness: Freshness, now: datetime, calendar: Calendar
) -> None:
    def is_over(day: date) -> bool:
        grace = timedelta(minutes=freshness.grace_minutes)
        return datetime.combine(day, SCHEDULE, IST) + grace <= now

    since = freshness.fresh_since(now, calendar)
    assert since.time() == (freshness.due_from or SCHEDULE)
    assert is_over(since.date())
    assert calendar.is_trading_day(since.date())
    assert freshness.day_of(since, calendar) == since.date()
    assert freshness.day_of(since - timedelta(seconds=1), calendar) < since.date()
    day = since.date() + timedelta(days=1)
    while is_over(day):
        assert not calendar.is_trading_day(day)
        day += timedelta(days=1)


TRADED = PROJECT.parent / "shared" / "nse" / "trading_days_2014_2024.txt"


@pytest.mark.skipif(not TRADED.exists(), reason="the real trading days are not on this machine")
def test_days_on_which_the_official_calendar_is_wrong_are_listed() -> None:
    """A later release of the package may well know better."""
    traded = set(map(date.fromisoformat, TRADED.read_text("ascii").split()))
    first, last = min(traded), max(traded)
    days = [first + timedelta(number) for number in range((last - first).days + 1)]
    calendar = Calendar()
    wrong = {f"{day}" for day in days if calendar.is_trading_day(day) != (day in traded)}
    page = (PROJECT / "tests" / "README.md").read_text(encoding="utf-8")
    section = page.split("### The exchanges' calendar")[1].split("\n### ")[0]
    listed = set(re.findall(r"20\d\d-\d\d-\d\d", section))
    assert len(wrong) > 10
    assert wrong <= listed


@pytest.mark.parametrize(
    ("day", "name"),
    [
        (date(2026, 11, 18), None),
        (date(2026, 1, 26), "Republic Day"),
        (date(2026, 11, 22), "Sunday"),
        (date(2026, 1, 15), "calendar.holidays"),
        (date(2026, 2, 1), None),
        (date(2026, 12, 25), None),
    ],
)
def test_day_off_has_a_name(day: date, name: str | None) -> None:
    closings = frozenset([date(2026, 1, 15), date(2026, 12, 25)])
    sessions = frozenset([date(2026, 2, 1), date(2026, 12, 25)])
    assert Calendar(closings, sessions).name_day_off(day) == name
