"""Is the list of today's? When a DAG's next list is due, and which day's list a load has brought.

Ruling 31. Days are the exchanges' trading days, in India.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone

# India has no daylight saving time.
IST = timezone(timedelta(hours=5, minutes=30), "IST")

SCHEDULE = time(8, 30)  # when a "daily" DAG runs, on trading days
_SATURDAY = 5
_LONGEST_CLOSED_DAYS = 366


@dataclass(frozen=True)
class Freshness:
    """What a DAG's source promises. Hours are those of India.

    A load from `due_from` on a trading day brings that day's list, an earlier one the list of the
    trading day before. With `changes_daily` each list differs from those of the days before. Until
    `grace_minutes` after the schedule the list of the trading day before is good enough.
    """

    due_from: time = SCHEDULE
    changes_daily: bool = False
    grace_minutes: int = 60

    def fresh_since(self, now: datetime, holidays: Collection[date]) -> datetime:
        """The moment since which the newest list that must be there by `now` could be loaded."""
        grace = timedelta(minutes=self.grace_minutes)
        day = _last_trading_day(now - grace, SCHEDULE, holidays)
        return datetime.combine(day, self.due_from, IST)

    def day_of(self, loaded_at: datetime, holidays: Collection[date]) -> date:
        """The trading day whose list a load at this moment brings, if the source is on time."""
        return _last_trading_day(loaded_at, self.due_from, holidays)


# By DAG. Kite publishes the day's list from 08:00 IST on; fetched earlier, it is yesterday's.
FRESHNESS = {1: Freshness(due_from=time(8, 0), changes_daily=True)}
DEFAULT_FRESHNESS = Freshness()


def is_trading_day(day: date, holidays: Collection[date]) -> bool:
    """Whether the exchanges are open: no weekend, and none of `holidays`."""
    return day.weekday() < _SATURDAY and day not in holidays


def _last_trading_day(moment: datetime, hour: time, holidays: Collection[date]) -> date:
    """The last trading day on which this hour has come by the moment."""
    local = moment.astimezone(IST)
    day = local.date() if local.time() >= hour else local.date() - timedelta(days=1)
    for _ in range(_LONGEST_CLOSED_DAYS):
        if is_trading_day(day, holidays):
            break
        day -= timedelta(days=1)
    return day
