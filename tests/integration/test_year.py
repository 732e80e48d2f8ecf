"""`--due` through a year: every call is compared with a model of what had to happen.

The year is that of a clock of the test's own, which the database server goes by as well.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta

import pytest
from kiteconnect import KiteConnect

from sandbox.kite_faults import HttpError
from sandbox.kite_server import KiteServer
from shared.calendar import IST, Calendar
from tests.clock import set_clocks
from tests.command_line import CommandLine
from tests.conftest import HEADER, Server
from tests.instruments import instrument, to_csv

CLOSED = date(2026, 1, 15)  # declared at short notice
SUNDAY = date(2026, 2, 1)  # the budget's session
CALENDAR = Calendar(frozenset([CLOSED]), frozenset([SUNDAY]))
YEAR = [date(2026, 1, 1) + timedelta(days) for days in range(365)]
TRADING_DAYS = [day for day in YEAR if CALENDAR.is_trading_day(day)]

TOKEN_DIES, LOGIN, PUBLISHED, SCHEDULE = time(6, 0), time(8, 5), time(7, 55), time(8, 30)
LATE_LIST = {date(2026, 3, 10): time(9, 5), date(2026, 8, 18): time(10, 30)}
LATE_LOGIN = {
    date(2026, 4, 7): time(9, 12),
    date(2026, 9, 23): time(10, 12),
    date(2026, 7, 11): time(9, 0),  # a Saturday, to catch up on Friday: the list is empty
    date(2026, 7, 12): LOGIN,
}
NO_LOGIN = {date(2026, 5, 19), date(2026, 5, 20), date(2026, 7, 10), date(2026, 7, 13)}
MISSED = NO_LOGIN - {date(2026, 7, 10)}  # which comes on Sunday
EMPTY_LIST = {date(2026, 1, 26), date(2026, 7, 11), date(2026, 10, 2), date(2026, 12, 27)}
KITE_AWAY = (datetime(2026, 6, 3, 8, 15, tzinfo=IST), datetime(2026, 6, 3, 9, 25, tzinfo=IST))
DATABASE_AWAY = [
    (datetime(2026, 6, 16, 8, 22, tzinfo=IST), datetime(2026, 6, 16, 9, 5, tzinfo=IST)),
    (datetime(2026, 11, 21, 9, 0, tzinfo=IST), datetime(2026, 11, 22, 9, 0, tzinfo=IST)),
]
OUT_OF_THE_ORDINARY = {
    *(CLOSED, SUNDAY, *LATE_LIST, *LATE_LOGIN, *NO_LOGIN, *EMPTY_LIST, KITE_AWAY[0].date()),
    *(moment.date() for outage in DATABASE_AWAY for moment in outage),
}


def at(day: date, hour: time) -> datetime:
    return datetime.combine(day, hour, IST)


def calls_of(day: date) -> Iterator[datetime]:
    """Every ten minutes, in the hours of the day that may bring something."""
    is_ordinary = day not in OUT_OF_THE_ORDINARY
    begin = at(day, SCHEDULE if is_ordinary else time(8, 20))
    count = 1 if is_ordinary and day.weekday() else 2 if is_ordinary else 15
    for number in range(count):
        yield begin + timedelta(minutes=10 * number)


def published(moment: datetime) -> date:
    """The trading day whose list Kite serves."""
    for day in reversed([day for day in TRADING_DAYS if day <= moment.date()]):
        if at(day, LATE_LIST.get(day, PUBLISHED)) <= moment:
            return day
    return date(2025, 12, 31)


def list_of(day: date) -> bytes:
    number = day.toordinal()
    return to_csv(instrument(256 * (n + 1), f"S{n}", lot_size=number + n) for n in range(30))


@dataclass
class Model:
    """What a person would do who looks every ten minutes, and has a good memory."""

    newest: date | None = None  # the day of the newest list that was stored
    came_at: datetime | None = None
    refused: int | None = None  # the login whose token Kite has refused
    told: set[tuple[date, str]] = field(default_factory=set)

    def expect(self, moment: datetime, login: int, *, is_alive: bool) -> tuple[int, bool, str]:
        """The exit status, whether anything is printed, and what happens."""
        slot = max(
            (day for day in TRADING_DAYS if at(day, SCHEDULE) <= moment), default=date(2025, 12, 31)
        )
        if any(begin <= moment < end for begin, end in DATABASE_AWAY):
            return 1, self.is_news(slot, "database"), "database"
        if self.came_at is not None and self.came_at >= at(slot, time(8, 0)):
            self.told.clear()
            return 0, False, "fresh"
        if self.refused == login:
            return 3, self.is_news(slot, "login"), "refused before"
        if not is_alive:
            self.refused = login
            return 3, self.is_news(slot, "login"), "refused"
        if KITE_AWAY[0] <= moment < KITE_AWAY[1]:
            return 1, self.is_news(slot, "Kite"), "Kite"
        is_empty = moment.date() in EMPTY_LIST
        if is_empty or published(moment) == self.newest:
            is_overdue = moment >= at(slot, SCHEDULE) + timedelta(minutes=60)
            news = self.is_news(slot, "overdue" if is_overdue else "late")
            return int(is_overdue), news, "empty" if is_empty else "late"
        self.newest, self.came_at = published(moment), moment
        return 0, True, "stored"

    def is_news(self, slot: date, kind: str) -> bool:
        before = len(self.told)
        self.told.add((slot, kind))
        return len(self.told) > before


@dataclass
class World:
    """Kite, the account's owner, and the clock."""

    cli: CommandLine
    kite: KiteServer
    set_variable: Callable[[str, str], None]
    port: str
    logins: int = 0
    token_of: date | None = None  # the day of the last login

    def go_on_to(self, moment: datetime) -> None:
        set_clocks(self.cli, moment)
        day = moment.date()
        if self.token_of != day:
            self.kite.expire_token()
        is_wanted = day in LATE_LOGIN or (CALENDAR.is_trading_day(day) and day not in NO_LOGIN)
        if is_wanted and self.token_of != day and moment >= at(day, LATE_LOGIN.get(day, LOGIN)):
            client = KiteConnect(self.kite.api_key, root=self.kite.root)
            token = self.kite.issue_request_token()
            session = client.generate_session(token, self.kite.api_secret)
            self.set_variable("KITE_ACCESS_TOKEN", session["access_token"])
            self.logins, self.token_of = self.logins + 1, day
        is_empty = day in EMPTY_LIST
        self.kite.dump = HEADER if is_empty else list_of(published(moment))
        self.kite.clear_faults()
        if KITE_AWAY[0] <= moment < KITE_AWAY[1]:
            self.kite.fail_next("/instruments", HttpError(503), times=None)
        is_away = any(begin <= moment < end for begin, end in DATABASE_AWAY)
        self.set_variable("DB_PORT", "1" if is_away else self.port)


@pytest.fixture
def database(clocked_database: str) -> str:
    return clocked_database


@pytest.fixture
def world(
    cli: CommandLine, kite: KiteServer, server: Server, monkeypatch: pytest.MonkeyPatch
) -> World:
    cli.parameters |= {"retry_attempts": 1, "archive_days": 0}
    cli.holidays.append(f"{CLOSED}")
    cli.sessions.append(f"{SUNDAY}")
    return World(cli, kite, monkeypatch.setenv, str(server.conninfo["port"]))


def test_year_of_calls(world: World) -> None:
    model, counts = Model(), Counter[str]()
    for moment in (moment for day in YEAR for moment in calls_of(day)):
        world.go_on_to(moment)
        asked = len(world.kite.requests)
        expected = model.expect(moment, world.logins, is_alive=world.token_of == moment.date())
        result = world.cli.run("--due")
        event = expected[-1]
        came = (result.status, bool(result.stdout or result.stderr), event)
        assert came == expected, (moment, result)
        asks = event in ("refused", "Kite", "empty", "late", "stored")
        assert (len(world.kite.requests) > asked) == asks, (moment, event)
        counts[event] += 1
        is_holiday = moment.weekday() < 5 and not CALENDAR.is_trading_day(moment.date())
        if event == "fresh" and is_holiday:
            assert world.cli.run("status").status == 0, moment
    assert counts.total() <= 1500
    assert set(counts) == {
        *("fresh", "stored", "late", "empty", "refused", "refused before", "Kite", "database"),
    }
    stored = [day for day in TRADING_DAYS if day not in MISSED]
    assert counts["stored"] == len(stored) > 240
    lists = "SELECT DISTINCT dump_sha256 FROM ingestion_run WHERE status = 'succeeded'"
    came_once = {hashlib.sha256(list_of(day)).hexdigest() for day in stored}
    assert {sha for (sha,) in world.cli.query(lists)} == came_once
    good = world.cli.query("SELECT count(*) FROM ingestion_run WHERE status = 'succeeded'")
    assert good == [(counts["stored"] + counts["late"],)]
    newest = world.cli.query(
        "SELECT DISTINCT lot_size - instrument_token / 256 + 1 FROM kite_instrument_master"
    )
    assert newest == [(stored[-1].toordinal(),)]
