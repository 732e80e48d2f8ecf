"""When a DAG's rows are due, and which day's rows a load has brought (ruling 31).

Days are the trading days of the exchanges. Hours are those of India.
"""

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from functools import cache
from typing import Any

from cronsim import CronSim, CronSimError

# India has no daylight saving time.
IST = timezone(timedelta(hours=5, minutes=30), "IST")

DAILY = "daily"
GRACE_MINUTES = 60
_SATURDAY = 5
_YEAR = timedelta(days=366)
_EXCHANGES = ("XNSE", "XBOM")  # NSE and BSE, as ISO 10383 and the package `holidays` call them


@dataclass(frozen=True)
class Calendar:
    """The trading days of NSE and BSE: Monday to Friday without the holidays that both have.

    The holidays are those of the package `holidays`. It follows the exchanges' circulars by a
    release or so, knows no closing that is declared at short notice, and no weekend session:
    `closings` and `sessions` (calendar.holidays and calendar.sessions) have those. A day that is in
    both is a trading day.
    """

    closings: frozenset[date] = frozenset()
    sessions: frozenset[date] = frozenset()

    def is_trading_day(self, day: date) -> bool:
        """Whether the exchanges are open on this day."""
        return self.name_day_off(day) is None

    def name_day_off(self, day: date) -> str | None:
        """Why the exchanges are closed on this day ("Republic Day"); None on a trading day."""
        if day in self.sessions:
            return None
        if day in self.closings:
            return "calendar.holidays"
        if day.weekday() >= _SATURDAY:
            return f"{day:%A}"
        names = [holidays.get(day) for holidays in _official_holidays()]
        return str(names[0]) if all(names) else None


@cache
def _official_holidays() -> list[Any]:
    """Each exchange's holidays by day, of whatever year is asked for."""
    import holidays  # 0.1 s, for those alone who ask for a day

    return [holidays.financial_holidays(exchange) for exchange in _EXCHANGES]


@dataclass(frozen=True)
class Schedule:
    """When a DAG is due: "daily" (at 08:30), or a cron expression of five fields.

    A slot is a moment at which it comes round. Slots on days without trading do not count, whatever
    the expression says. Where none has fallen on a trading day for a year (a DAG of Saturdays),
    the last slot counts.

    Raises ValueError if `text` is neither, or never comes round.
    """

    text: str = DAILY

    def __post_init__(self) -> None:
        try:
            if self.text != DAILY and len(self.text.split()) != 5:  # a sixth would be seconds
                raise CronSimError
            self._last_before(datetime(2000, 1, 1))
        except (CronSimError, ValueError, StopIteration) as exc:
            raise ValueError(
                f'expected "{DAILY}" or a cron expression in Indian time such as "0 18 * * 1-5"'
            ) from exc

    def last_slot(self, now: datetime, calendar: Calendar) -> datetime:
        """The latest slot at or before `now`, in IST."""
        local = now.astimezone(IST).replace(tzinfo=None)
        latest = slot = self._last_before(local + timedelta(microseconds=1))
        while latest - slot <= _YEAR:
            if calendar.is_trading_day(slot.date()):
                return slot.replace(tzinfo=IST)
            slot = self._last_before(datetime.combine(slot.date(), time.min))
        return latest.replace(tzinfo=IST)

    @property
    def cron(self) -> str:
        """The schedule as a cron expression, in Indian time."""
        return "30 8 * * *" if self.text == DAILY else self.text

    def _last_before(self, local: datetime) -> datetime:
        return next(CronSim(self.cron, local, reverse=True))


@dataclass(frozen=True)
class Freshness:
    """What a DAG's source promises. Hours are those of India.

    A load from `due_from` (by default the schedule's hour) on a trading day brings that day's rows,
    an earlier one those of the trading day before. With `changes_daily` each day's rows differ from
    those of the days before. Until `grace_minutes` after a slot the rows before are good enough.
    """

    schedule: str = DAILY
    due_from: time | None = None
    changes_daily: bool = False
    grace_minutes: int = GRACE_MINUTES

    def fresh_since(self, now: datetime, calendar: Calendar) -> datetime:
        """The moment since which the newest rows that must be there by `now` could be loaded."""
        is_over = now - timedelta(minutes=self.grace_minutes)
        slot = Schedule(self.schedule).last_slot(is_over, calendar)
        if self.due_from is None:
            return slot
        return datetime.combine(slot.date(), self.due_from, IST)

    def day_of(self, loaded_at: datetime, calendar: Calendar) -> date:
        """The trading day whose rows a load at this moment brings, if the source is on time."""
        due = self.due_from
        schedule = self.schedule if due is None else f"{due.minute} {due.hour} * * *"
        return Schedule(schedule).last_slot(loaded_at, calendar).date()
