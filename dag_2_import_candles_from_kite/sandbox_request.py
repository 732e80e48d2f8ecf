"""A request for historical candles, read and checked as Kite does."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sandbox.market_candles import LENGTHS

PATH = "/instruments/historical/"

_LONGEST_DAYS = {"minute": 60, "15minute": 200, "30minute": 200, "60minute": 400, "day": 2000}
_OTHER_DAYS = 100  # of 3, 5 and 10 minutes
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)
_SWITCH = ("0", "1")


class Asked(NamedTuple):
    """A request and the status of its answer; what could not be read of it is None."""

    token: int | None
    interval: str
    begin: datetime | None
    end: datetime | None
    oi: bool
    status: int
    candles: int = 0  # in the answer


class RefusalError(Exception):
    """Kite's error in place of candles."""

    def __init__(self, message: str, status: int = 400, error_type: str = "InputException") -> None:
        """Take the message, the status, and Kite's name for such errors."""
        super().__init__(message)
        self.status = status
        self.error_type = error_type


class Wanted(NamedTuple):
    """A good request; both ends count."""

    token: int
    interval: str
    begin: datetime
    end: datetime
    oi: bool

    def move(self, by: timedelta) -> "Wanted":
        """The same request for another time."""
        return self._replace(begin=self.begin + by, end=self.end + by)


def read(path: str, query: Mapping[str, Sequence[str]]) -> Asked:
    """What was asked, as far as it can be read."""
    token, _, interval = path.removeprefix(PATH).partition("/")
    is_number = token.isascii() and token.isdecimal()
    begin, end = (_read_moment(query.get(name, ("",))[0]) for name in ("from", "to"))
    has_oi = query.get("oi", ("0",))[0] == "1"
    return Asked(int(token) if is_number else None, interval, begin, end, has_oi, 200)


def _read_moment(text: str) -> datetime | None:
    if not _MOMENT.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def check(asked: Asked, path: str, query: Mapping[str, Sequence[str]]) -> Wanted:
    """The request, if it is one that Kite answers. Raises RefusalError if not."""
    if "/" in asked.interval or not path.startswith(PATH):
        raise RefusalError("Route not found", 404, "GeneralException")
    if asked.token is None:
        raise RefusalError("invalid token")
    if asked.interval not in LENGTHS:
        raise RefusalError("invalid interval")
    switches = [query.get(name, ("0",))[0] for name in ("continuous", "oi")]
    if not {*switches} <= {*_SWITCH} or (switches[0] == "1" and asked.interval != "day"):
        raise RefusalError("invalid continuous or oi")
    return Wanted(asked.token, asked.interval, *_check_span(asked), asked.oi)


def _check_span(asked: Asked) -> tuple[datetime, datetime]:
    if asked.begin is None or asked.end is None:
        raise RefusalError(f"invalid {'from' if asked.begin is None else 'to'} date")
    if asked.begin > asked.end:
        raise RefusalError("from date should be before to date")
    days = _LONGEST_DAYS.get(asked.interval, _OTHER_DAYS)
    if asked.end - asked.begin > timedelta(days):
        raise RefusalError(f"interval exceeds max limit: {days} days")
    return asked.begin, asked.end
