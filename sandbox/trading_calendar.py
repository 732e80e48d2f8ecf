"""Trading days and expiry dates of the made-up market."""

from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

# Weekday holidays of the National Stock Exchange in 2026. Elsewhere only weekends are free.
HOLIDAYS = frozenset(
    date(2026, month, day)
    for month, day in (
        (1, 26),
        (3, 3),
        (3, 26),
        (3, 31),
        (4, 3),
        (4, 14),
        (5, 1),
        (5, 28),
        (6, 26),
        (9, 14),
        (10, 2),
        (10, 20),
        (11, 10),
        (11, 24),
        (12, 25),
    )
)

_DAY = timedelta(days=1)
_SATURDAY = 5


def is_trading_day(moment: date) -> bool:
    """Whether the exchanges are open."""
    return moment.weekday() < _SATURDAY and moment not in HOLIDAYS


def trading_day(day: int, start: date) -> date:
    """Return the `day`-th trading day; the 0th is `start`, or the first trading day after it."""
    moment = start
    while not is_trading_day(moment):
        moment += _DAY
    for _ in range(day):
        moment += _DAY
        while not is_trading_day(moment):
            moment += _DAY
    return moment


@dataclass(frozen=True)
class Expiry:
    """When a series of contracts ends; `rank` is its place among those of its kind, from 0."""

    on: date
    is_weekly: bool
    rank: int


@dataclass(frozen=True)
class Schedule:
    """Which series of contracts an underlying has at any time.

    Monthly ones end on the month's last `weekday`, or on `day_of_month` if that is given; where
    this is a holiday, on the trading day before. `quarters` and `halves` say how many more there
    are in the months of March, June, September and December, and of June and December.
    """

    weekday: int
    weeklies: int = 0
    monthlies: int = 3
    quarters: int = 0
    halves: int = 0
    day_of_month: int | None = None

    @lru_cache(maxsize=1024)  # noqa: B019 - there is a handful of schedules, made once
    def list_expiries(self, today: date) -> tuple[Expiry, ...]:
        """Return the series that are listed on a day, each kind's nearest first."""
        months = self._list_months(today)
        weeks = self._list_weeks(today, frozenset(months))
        return (
            *(Expiry(on, True, rank) for rank, on in enumerate(weeks)),
            *(Expiry(on, False, rank) for rank, on in enumerate(months)),
        )

    def _list_months(self, today: date) -> list[date]:
        year, month = today.year, today.month
        chosen: list[date] = []
        wanted = [self.monthlies, self.quarters, self.halves]
        while any(wanted):
            on = self._end_month(year, month)
            if on >= today:
                for kind, interval in enumerate((1, 3, 6)):
                    if wanted[kind] and month % interval == 0:
                        wanted[kind] -= 1
                        chosen.append(on)
                        break
            year, month = (year + month // 12, month % 12 + 1)
        return chosen

    def _list_weeks(self, today: date, months: frozenset[date]) -> list[date]:
        chosen: list[date] = []
        on = today + timedelta(days=(self.weekday - today.weekday()) % 7)
        while len(chosen) < self.weeklies:
            last = _find_open_day(on)
            if last >= today and last not in months:
                chosen.append(last)
            on += timedelta(days=7)
        return chosen

    def _end_month(self, year: int, month: int) -> date:
        if self.day_of_month is not None:
            return _find_open_day(date(year, month, self.day_of_month))
        last = date(year + month // 12, month % 12 + 1, 1) - _DAY
        return _find_open_day(last - timedelta(days=(last.weekday() - self.weekday) % 7))


def _find_open_day(moment: date) -> date:
    """Return this day or, on a holiday, the last trading day before it."""
    while not is_trading_day(moment):
        moment -= _DAY
    return moment
