"""Is the list of today's? Trading days, and the moment from which a load counts as today's."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime, time, timedelta

from shared.kite_login import IST

# Kite publishes the day's list from 08:00 IST on; fetched earlier, it is yesterday's.
LIST_FROM = time(8, 0)
_SATURDAY = 5


def is_trading_day(day: date, holidays: Collection[date]) -> bool:
    """Whether the exchanges are open: no weekend, and none of `holidays`."""
    return day.weekday() < _SATURDAY and day not in holidays


def fresh_since(now: datetime, holidays: Collection[date]) -> datetime:
    """08:00 IST of the last trading day that has come so far: a list loaded since is fresh."""
    local = now.astimezone(IST)
    day = local.date() if local.time() >= LIST_FROM else local.date() - timedelta(days=1)
    for _ in range(366):
        if is_trading_day(day, holidays):
            break
        day -= timedelta(days=1)
    return datetime.combine(day, LIST_FROM, IST)
