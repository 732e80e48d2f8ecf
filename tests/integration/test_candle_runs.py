"""Runs of DAG 2 through the command line: what is asked for, what is stored, and what is said."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import psycopg2
import pytest

from dag_2_import_candles_from_kite.sandbox import PATH, CandleRoute, ListedCandles
from sandbox.kite_faults import HttpError
from sandbox.market_candles import Candle
from shared import freshness
from shared.config.config_loader import override_config
from shared.utils import db_manager, interruptible
from tests.command_line import CommandLine, Result
from tests.instruments import instrument, to_csv
from tests.integration.test_relations import TRAPS, set_catalog_traps

INDEX, INFY, TCS, GOLD = 256265, 408065, 2953217, 111
ROUTE = PATH  # for faults
EVENING = datetime.fromisoformat("2026-11-18T18:00+05:30")  # a Wednesday
START = date(2026, 11, 2)


def share(token: int, symbol: str, exchange: str = "NSE", **fields: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"instrument_type": "EQ", "segment": exchange, "name": symbol}
    values |= {"expiry": None, "strike": Decimal(0), "lot_size": 1}
    return instrument(token, symbol, exchange, **values | fields)


LISTED = [
    share(INDEX, "NIFTY 50", segment="INDICES"),
    share(INFY, "INFY"),
    share(TCS, "TCS"),
]
GOLD_FUTURE = instrument(
    GOLD, "GOLD26DECFUT", "MCX", expiry=date(2026, 12, 4), instrument_type="FUT", name="GOLD"
)


def candle(ts: datetime, price: int = 100) -> Candle:
    prices = [Decimal(price) + Decimal(part) for part in ("0", "4.5", "-1.25", "2.05")]
    return Candle._make((ts, *prices, 1000, 7))


def weekdays(first: date, last: date) -> list[datetime]:
    days = [first + timedelta(n) for n in range((last - first).days + 1)]
    return [datetime.combine(day, time()) for day in days if day.weekday() < 5]


class Desk:
    """DAG 1 and DAG 2 on one database, Kite's candles, and a clock."""

    def __init__(self, cli: CommandLine) -> None:
        self.cli = cli
        self._is_listed = False
        days = weekdays(START, date(2026, 11, 30))
        self.truth: dict[tuple[int, str], list[Candle]] = {
            (token, "day"): [
                candle(day, 100 + number + token % 7) for number, day in enumerate(days)
            ]
            for token in (INDEX, INFY, TCS)
        }
        self.route = CandleRoute(ListedCandles(self.truth))
        cli.kite.add_route(PATH, self.route)
        cli.parameters |= {
            "instruments": ["NSE:INFY", "NSE:TCS"],
            "start": str(START),
            "requests_per_second": 1000,
            "retry_attempts": 2,
        }

    def load_list(self, *rows: dict[str, Any], at: datetime = EVENING) -> None:
        """DAG 1 loads this list."""
        self.cli.now = at
        self._is_listed = True
        result = self.cli.load(to_csv(rows or LISTED), "--force")
        assert result.status == 0, result.stderr

    def run(self, *options: str, at: datetime = EVENING) -> Result:
        if not self._is_listed:
            self.load_list()
        self.cli.now, self.route.now = at, at.replace(tzinfo=None)
        before = len(self.route.requests)
        with override_config("candles", {"enabled": True}):
            result = self.cli.run("--dag", "2", *options)
        self.asked = self.route.requests[before:]
        return result

    def stored(self, token: int = INFY, interval: str = "day") -> list[tuple[Any, ...]]:
        return self.cli.query(
            "SELECT ts AT TIME ZONE INTERVAL '5:30', open, high, low, close, volume"
            " FROM kite_candle JOIN kite_instrument_history USING (instrument_id)"
            " WHERE instrument_token = %s AND interval = %s AND valid_to IS NULL ORDER BY ts",
            token,
            interval,
        )

    def days(self, token: int = INFY) -> list[date]:
        return [row[0].date() for row in self.stored(token)]

    def covered(self, token: int = INFY, interval: str = "day") -> list[tuple[str, str, bool]]:
        rows = self.cli.query(
            "SELECT c.\"from\" AT TIME ZONE INTERVAL '5:30', c.\"to\" AT TIME ZONE INTERVAL '5:30',"
            " is_final FROM kite_candle_coverage AS c JOIN kite_instrument_history USING"
            " (instrument_id) WHERE instrument_token = %s AND interval = %s AND valid_to IS NULL"
            " ORDER BY 1",
            token,
            interval,
        )
        return [(f"{a:%d %H:%M}", f"{b:%d %H:%M}", is_final) for a, b, is_final in rows]

    def spans(self, token: int = INFY) -> list[tuple[str, str]]:
        """What the last run asked for this token."""
        return [
            (f"{each.begin:%m-%d %H:%M}", f"{each.end:%m-%d %H:%M}")
            for each in self.asked
            if each.token == token and each.begin and each.end
        ]

    def has_tables(self) -> bool:
        [(name,)] = self.cli.query("SELECT to_regclass('kite_candle_coverage')")
        return name is not None


@pytest.fixture
def desk(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The list is loaded once, whatever day it is then; test_after.py has stale ones."""
    monkeypatch.setattr(freshness, "require_fresh", lambda *given, **more: None)
    return Desk(cli)


def until(last: int) -> list[date]:
    """The weekdays of November up to a day."""
    return [day.date() for day in weekdays(START, date(2026, 11, last))]


# --- first, next, again --------------------------------------------------------------------------


def test_first_run_and_the_next_ones(desk: Desk) -> None:
    first = desk.run()
    assert (first.status, first.stderr) == (0, "")
    assert "missing: about 36 candles, in 3 of 3 series" in first.stdout
    assert "to ask: 3 requests, 0 s at 1000 a second" in first.stdout
    assert "asked: 3 requests" in first.stdout
    for token in (INDEX, INFY, TCS):
        assert [row[1:] for row in desk.stored(token)] == [
            each[1:6] for each in desk.truth[token, "day"][:13]
        ]
        assert desk.days(token) == until(18)
        assert desk.covered(token) == [
            ("02 00:00", "18 00:00", True),
            ("18 00:00", "19 00:00", False),
        ]
    assert desk.spans() == [("11-02 00:00", "11-18 23:59")]
    again = desk.run()
    assert again.status == 0
    assert "Nothing to ask for: all that is wanted of 3 series was answered" in again.stdout
    assert desk.asked == []
    next_day = desk.run(at=EVENING + timedelta(days=1))
    assert next_day.status == 0
    # Five candles before the one that was not final.
    assert desk.spans() == [("11-11 00:00", "11-19 23:59")]
    assert desk.days() == until(19)
    assert desk.covered() == [("02 00:00", "19 00:00", True), ("19 00:00", "20 00:00", False)]


def test_dry_run_writes_nothing(desk: Desk) -> None:
    result = desk.run("--dry-run")
    assert (result.status, desk.asked) == (0, [])
    assert "missing: about 36 candles, in 3 of 3 series" in result.stdout
    assert "nothing was stored" in result.stdout
    assert not desk.has_tables()
    assert desk.cli.query("SELECT to_regclass('kite_candle')") == [(None,)]


def test_dry_run_without_a_database(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PORT", "1")
    cli.parameters["instruments"] = ["NSE:INFY"]
    with override_config("candles", {"enabled": True}):
        result = cli.run("--dag", "2", "--dry-run")
    assert result.status == 0
    assert "Dry run: nothing was stored" in result.stdout
    assert result.stderr.count("could not be worked out") == 1


def test_dry_run_after_a_run(desk: Desk) -> None:
    desk.run()
    result = desk.run("--dry-run")
    assert "Nothing to ask for: all that is wanted of 3 series" in result.stdout
    result = desk.run("--dry-run", at=EVENING + timedelta(days=1))
    assert "missing: about 3 candles, in 3 of 3 series" in result.stdout
    assert desk.asked == []
    assert desk.days() == until(18)


def test_run_goes_on_where_one_has_failed(desk: Desk) -> None:
    desk.cli.kite.fail_next(f"{ROUTE}{INFY}/", HttpError(503), times=None)
    result = desk.run()
    assert result.status == 1
    assert "Could not be asked: NSE:INFY day: Kite answered HTTP 503" in result.stderr
    assert "(Service Unavailable). Run again: it goes on where this run has ended." in result.stderr
    assert (desk.days(INFY), desk.days(TCS)) == ([], until(18))
    desk.cli.kite.clear_faults()
    assert desk.run().status == 0
    assert {each.token for each in desk.asked} == {INFY}
    assert desk.days(INFY) == until(18)


# --- what is not there ---------------------------------------------------------------------------


def test_nothing_is_configured(desk: Desk) -> None:
    desk.cli.parameters["instruments"] = []
    result = desk.run()
    assert result.status == 2
    assert "parameters.instruments is empty" in result.stderr
    assert desk.asked == []


def test_unknown_symbol_is_a_reject(desk: Desk) -> None:
    desk.cli.parameters["instruments"] = ["NSE:INFY", "NSE:INFI", {"underlying": "NIFTY"}]
    result = desk.run()
    assert result.status == 0
    assert "rejected 2 rows" in result.stdout
    assert "NSE:INFI" in result.stdout
    assert desk.days() == until(18)


def test_refused_token_is_a_reject(desk: Desk) -> None:
    desk.route.forget(INFY)
    result = desk.run()
    assert result.status == 0
    assert "invalid token" in result.stdout
    assert "NSE:INFY day" in result.stdout
    assert (desk.stored(INFY), desk.days(TCS)) == ([], until(18))
    assert desk.covered(INFY) == []


def test_no_permission(desk: Desk) -> None:
    desk.route.forbid()
    result = desk.run()
    assert result.status == 1
    assert "Kite gives this app no historical data" in result.stderr
    assert desk.stored() == []


def test_session_that_dies_in_the_middle(desk: Desk) -> None:
    desk.cli.kite.fail_next(f"{ROUTE}{TCS}/", HttpError(403), times=None)
    result = desk.run()
    assert result.status == 3
    assert desk.stored(TCS) == []
    desk.cli.kite.clear_faults()
    assert desk.run().status == 0
    for token in (INDEX, INFY, TCS):
        assert desk.days(token) == until(18)


def test_many_failures_in_a_row_end_the_run(desk: Desk) -> None:
    tokens = range(1000, 1060)
    desk.load_list(*LISTED, *(share(token, f"S{token}") for token in tokens))
    desk.cli.parameters["instruments"] = [{"exchange": "NSE", "segment": "NSE"}]
    desk.cli.parameters["retry_attempts"] = 1
    desk.cli.kite.fail_next(ROUTE, HttpError(503), times=None)
    result = desk.run()
    assert result.status == 1
    assert "After 25 in a row the others were not asked." in result.stderr
    tried = [r for r in desk.cli.kite.requests if r.path.startswith(ROUTE)]
    assert 25 <= len(tried) <= 25 + 8


# --- which spans ---------------------------------------------------------------------------------


def test_end_is_the_last_day(desk: Desk) -> None:
    desk.cli.parameters["end"] = "2026-11-10"
    assert desk.run().status == 0
    assert desk.days() == until(10)
    assert desk.covered() == [("02 00:00", "11 00:00", True)]
    desk.cli.parameters["end"] = "2026-11-01"  # before the start
    assert desk.run().status == 0
    assert desk.asked == []


def test_start_that_is_moved_back(desk: Desk) -> None:
    desk.cli.parameters["start"] = "2026-11-09"
    desk.run()
    assert desk.days() == until(18)[5:]
    desk.cli.parameters["start"] = str(START)
    assert desk.run().status == 0
    assert desk.spans() == [("11-02 00:00", "11-08 23:59")]
    assert desk.days() == until(18)
    assert len(desk.covered()) == 2


def minutes(day: int, opens: str, closes: str, step: int = 1) -> list[Candle]:
    begin, end = (datetime.fromisoformat(f"2026-11-{day:02d}T{at}") for at in (opens, closes))
    count = (end - begin) // timedelta(minutes=step)
    return [candle(begin + timedelta(minutes=step * number)) for number in range(count)]


def test_interval_that_is_added_later(desk: Desk) -> None:
    desk.cli.parameters["instruments"] = ["NSE:INFY"]
    desk.run()
    desk.truth[INFY, "60minute"] = minutes(18, "09:15", "15:30", 60)
    desk.cli.parameters["intervals"] = ["60minute", "day"]
    assert desk.run().status == 0
    assert {(each.token, each.interval) for each in desk.asked} == {(INFY, "60minute")}
    assert len(desk.stored(INFY, "60minute")) == 6
    assert desk.days() == until(18)


def test_index_is_asked_for_days_whatever_is_wanted(desk: Desk) -> None:
    desk.truth[INFY, "30minute"] = minutes(18, "09:15", "15:15", 30)
    desk.cli.parameters |= {"instruments": ["NSE:INFY"], "intervals": ["30minute"]}
    assert desk.run().status == 0
    assert {(e.token, e.interval) for e in desk.asked} == {(INDEX, "day"), (INFY, "30minute")}


# --- candles that run ----------------------------------------------------------------------------


def test_todays_day_candle_comes_after_the_close(desk: Desk) -> None:
    desk.run(at=EVENING.replace(hour=15, minute=29))
    assert desk.days() == until(17)
    assert desk.covered() == [("02 00:00", "18 00:00", True)]
    desk.run(at=EVENING.replace(hour=15, minute=30))
    assert desk.days() == until(18)
    assert desk.covered()[-1] == ("18 00:00", "19 00:00", False)


def test_todays_candle_is_asked_for_again_tomorrow_and_replaced_without_a_word(desk: Desk) -> None:
    desk.run()
    desk.route.correct(INFY, "day", datetime(2026, 11, 18), volume=9)
    result = desk.run(at=EVENING + timedelta(days=1))
    assert desk.stored()[-2][-1] == 9
    assert "corrected" not in result.stdout
    assert desk.covered() == [("02 00:00", "19 00:00", True), ("19 00:00", "20 00:00", False)]


def test_running_minute_is_left_out(desk: Desk) -> None:
    desk.truth[INFY, "minute"] = minutes(18, "09:15", "15:30")
    desk.cli.parameters |= {
        "instruments": ["NSE:INFY"],
        "intervals": ["minute"],
        "start": "2026-11-18",
    }
    desk.run(at=EVENING.replace(hour=11, minute=0, second=30))
    assert len(desk.stored(INFY, "minute")) == 105
    assert desk.covered(INFY, "minute") == [("18 00:00", "18 11:00", False)]
    desk.run(at=EVENING.replace(hour=11, minute=1, second=1))
    assert len(desk.stored(INFY, "minute")) == 106
    assert desk.spans()[-1] == ("11-18 10:55", "11-18 11:00")
    desk.run(at=EVENING)
    assert len(desk.stored(INFY, "minute")) == 375
    desk.run(at=EVENING + timedelta(days=1))
    assert desk.covered(INFY, "minute") == [
        ("18 00:00", "19 00:00", True),
        ("19 00:00", "20 00:00", False),
    ]


def test_running_minute_of_an_evening_is_left_out(desk: Desk) -> None:
    """Of Muhurat: the day is covered as not final, and asked for again on the next one."""
    desk.truth[INFY, "minute"] = minutes(18, "18:15", "19:15")
    desk.route.set_session(INFY, time(18, 15), time(19, 15))
    desk.cli.parameters |= {"instruments": ["NSE:INFY"], "intervals": ["minute"]}
    desk.cli.parameters["start"] = "2026-11-18"
    desk.run(at=EVENING.replace(minute=30, second=30))
    assert len(desk.stored(INFY, "minute")) == 15
    assert desk.covered(INFY, "minute") == [("18 00:00", "19 00:00", False)]
    desk.run(at=EVENING + timedelta(days=1))
    assert len(desk.stored(INFY, "minute")) == 60


def test_hours_of_another_exchange(desk: Desk) -> None:
    desk.truth[GOLD, "60minute"] = minutes(18, "09:00", "23:00", 60)
    desk.truth[GOLD, "day"] = desk.truth[INFY, "day"]
    desk.route.set_session(GOLD, time(9), time(23, 55))
    desk.cli.parameters |= {"instruments": ["MCX:GOLD26DECFUT"], "intervals": ["day", "60minute"]}
    desk.load_list(*LISTED, GOLD_FUTURE)
    assert desk.run().status == 0
    assert desk.days(GOLD) == until(17)
    assert len(desk.stored(GOLD, "60minute")) == 9
    assert all(each.oi for each in desk.asked if each.token == GOLD)
    assert desk.cli.query("SELECT DISTINCT oi FROM kite_candle ORDER BY 1") == [(7,), (None,)]
    desk.run(at=EVENING.replace(hour=23, minute=55))
    assert desk.days(GOLD) == until(18)
    assert len(desk.stored(GOLD, "60minute")) == 14


# --- adjustments and corrections -----------------------------------------------------------------


def test_adjustment_and_correction_are_told(desk: Desk) -> None:
    desk.run()
    desk.route.adjust(INFY, "0.5", date(2026, 11, 19))
    opened = desk.truth[TCS, "day"][10].open + 1
    desk.route.correct(TCS, "day", datetime(2026, 11, 16), open=opened)
    result = desk.run(at=EVENING + timedelta(days=1))
    assert result.status == 0
    assert "adjusted by Kite: 1" in result.stdout
    assert "NSE:INFY day: 14 candles asked anew, factor 0.5" in result.stdout
    assert "corrected by Kite: 1" in result.stdout
    assert "NSE:TCS day: 1 candle, 2026-11-16" in result.stdout
    assert desk.stored(TCS)[10][1] == opened
    served = desk.route.served(INFY, "day", finished=True)
    assert [row[1:] for row in desk.stored()] == [each[1:6] for each in served]
    assert desk.cli.query(
        "SELECT factor, compared_from AT TIME ZONE INTERVAL '5:30', scaled_before"
        " FROM kite_candle_adjustment"
    ) == [(Decimal("0.5"), datetime(2026, 11, 11), None)]


def test_wrong_rows_are_rejects_and_the_others_are_stored(desk: Desk) -> None:
    desk.route.misbehave("negative price", token=INFY)
    result = desk.run()
    assert result.status == 0
    assert "rejected 1 row" in result.stdout
    assert desk.days() == [day for number, day in enumerate(until(18)) if number != 6]


def test_stored_candle_stays_whatever_kite_sends_for_it_that_is_none(desk: Desk) -> None:
    desk.run()
    desk.route.correct(INFY, "day", datetime(2026, 11, 16), open=Decimal(-5))
    result = desk.run(at=EVENING + timedelta(days=1))
    assert result.status == 0
    assert "rejected 1 row" in result.stdout
    assert "corrected" not in result.stdout
    assert desk.days() == until(19)
    assert desk.stored()[10][1] == desk.truth[INFY, "day"][10].open


def test_answer_of_which_most_is_bad_is_no_answer(desk: Desk) -> None:
    """As after a change of Kite's form: what is final would never be asked for again."""
    good = desk.truth[INFY, "day"]
    desk.truth[INFY, "day"] = [
        each if number < 6 else each._replace(low=Decimal(-1)) for number, each in enumerate(good)
    ]
    result = desk.run()
    assert result.status == 1
    said = "NSE:INFY day: 7 of the 13 candles that Kite answered are bad, the first for this: low:"
    assert said in " ".join(result.stderr.split())
    assert (desk.stored(), desk.covered(), desk.days(TCS)) == ([], [], until(18))
    desk.truth[INFY, "day"] = good
    assert desk.run().status == 0
    assert desk.days() == until(18)


# --- functions on the way ------------------------------------------------------------------------

TRIGGER = """
CREATE FUNCTION public.spoil() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN {body} END $$;
CREATE TRIGGER spoil BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION public.spoil();
"""
CHANGE = "NEW.close := NEW.low; RETURN NEW;"


@pytest.mark.parametrize("table", ["kite_candle", "kite_candle_day_2026"])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(CHANGE, id="changes a price"),
        pytest.param("RETURN NULL;", id="takes a row away"),
    ],
)
def test_trigger_that_keeps_candles_from_being_stored(desk: Desk, table: str, body: str) -> None:
    desk.run()
    desk.cli.query(TRIGGER.format(table=table, body=body))
    result = desk.run(at=EVENING + timedelta(days=1))
    assert result.status == 1
    assert "was stored: " in result.stderr
    assert "spoil" in result.stderr
    assert desk.days() == until(18)
    assert desk.covered()[-1] == ("18 00:00", "19 00:00", False)


DEFERRED = """
CREATE FUNCTION public.spoil() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM public.kite_candle WHERE (instrument_id, ts) = (NEW.instrument_id, NEW.ts);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER spoil AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION public.spoil();
"""


@pytest.mark.parametrize(
    ("table", "factor"),
    [
        pytest.param("kite_candle", "1", id="merged"),
        pytest.param("kite_candle_day_2026", "0.5", id="asked anew"),
    ],
)
def test_trigger_that_waits_for_the_commit(desk: Desk, table: str, factor: str) -> None:
    desk.run()
    desk.cli.query(DEFERRED.format(table=table))
    desk.route.adjust(INFY, factor, date(2026, 11, 19))
    desk.cli.parameters["instruments"] = ["NSE:INFY"]
    desk.truth[INDEX, "day"] = []  # of which nothing new is to be stored
    before = desk.stored()
    result = desk.run(at=EVENING + timedelta(days=1))
    assert result.status == 1
    assert "Nothing of NSE:INFY day was stored" in result.stderr
    assert "spoil" in result.stderr
    assert desk.stored() == before


AUDIT = """
CREATE TABLE audit (ts timestamptz);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO audit VALUES (NEW.ts); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT ON kite_candle FOR EACH ROW EXECUTE FUNCTION note();
CREATE CONSTRAINT TRIGGER note_later AFTER INSERT ON kite_candle DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION note();
"""


def test_trigger_that_changes_nothing_finds_what_it_names(desk: Desk) -> None:
    desk.run()
    desk.cli.query(AUDIT)
    result = desk.run(at=EVENING + timedelta(days=1))
    assert (result.status, result.stderr) == (0, "")
    assert desk.days() == until(19)
    # Twice for each of three series: today's, and the one that was not final.
    assert desk.cli.query("SELECT count(*) >= 6 FROM audit") == [(True,)]


def test_trigger_that_changes_a_history_that_is_asked_anew(desk: Desk) -> None:
    """All candles are replaced after an adjustment, and these are looked at, too."""
    desk.run()
    before = desk.stored()
    desk.cli.query(TRIGGER.format(table="kite_candle", body=CHANGE))
    desk.route.adjust(INFY, "0.5", date(2026, 11, 18))
    desk.cli.parameters["instruments"] = ["NSE:INFY"]
    desk.truth[INDEX, "day"] = []  # of which nothing new is to be stored
    result = desk.run(at=EVENING + timedelta(days=1))
    assert result.status == 1
    assert "Nothing of NSE:INFY day was stored" in result.stderr
    assert desk.stored() == before
    assert desk.cli.query("SELECT * FROM kite_candle_adjustment") == []


def lose_answer(desk: Desk, monkeypatch: pytest.MonkeyPatch, query: str) -> list[bool]:
    """To the COMMIT after which the query finds something; whether it was lost."""
    call, lost = interruptible.call_interruptibly, list[bool]()

    def lose(function: Callable[[], Any], **options: Any) -> Any:
        answer = call(function, **options)
        if not lost and desk.cli.query(query):
            lost.append(True)
            raise psycopg2.OperationalError("server closed the connection unexpectedly")
        return answer

    monkeypatch.setattr(db_manager, "call_interruptibly", lose)
    return lost


def test_commit_of_a_correction_whose_answer_is_lost(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told all the same, and what was new is."""
    desk.run()
    desk.route.correct(TCS, "day", datetime(2026, 11, 16), volume=9)
    lost = lose_answer(desk, monkeypatch, "SELECT * FROM kite_candle WHERE volume = 9")
    result = desk.run(at=EVENING + timedelta(days=1))
    assert (lost, result.status) == ([True], 0)
    assert "NSE:TCS day: 1 candle, 2026-11-16" in result.stdout
    assert re.search(r"inserted +3\n", result.stdout)
    assert desk.stored(TCS)[10][-1] == 9


@pytest.mark.parametrize("has_moved", [False, True], ids=["whole", "half of it is scaled"])
def test_commit_of_an_adjustment_whose_answer_is_lost(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, has_moved: bool
) -> None:
    """It is tried again: what was multiplied is not multiplied once more."""
    desk.run()
    before = desk.stored()
    desk.route.adjust(INFY, "0.5", date(2026, 11, 19))
    if has_moved:  # to another token, which has no older ones
        del desk.truth[INFY, "day"][:4]
    lost = lose_answer(desk, monkeypatch, "SELECT * FROM kite_candle_adjustment")
    result = desk.run(at=EVENING + timedelta(days=1))
    assert (lost, result.status) == ([True], 0)
    assert "adjusted by Kite: 1" in result.stdout
    halves = [(row[0], row[1] / 2) for row in before]
    assert [row[:2] for row in desk.stored()][:-2] == halves[:-1]
    assert len(desk.cli.query("SELECT * FROM kite_candle_adjustment")) == 1


@pytest.mark.parametrize("path", ["public", "public, pg_catalog"])
def test_functions_of_others_are_not_called(desk: Desk, path: str) -> None:
    desk.load_list()
    [(database,)] = desk.cli.query("SELECT current_database()")
    desk.cli.query(f"ALTER DATABASE {database} SET search_path = {path}")
    desk.cli.query(TRAPS)
    set_catalog_traps(desk.cli)
    for evening in (EVENING, EVENING + timedelta(days=1)):
        result = desk.run(at=evening)
        assert (result.status, result.stderr) == (0, "")
    for command in (["refetch", "NSE:INFY"], ["gaps"], ["check"], ["status"]):
        result = desk.cli.run(*command)
        assert "trapped" not in result.stdout + result.stderr


# --- refetch -------------------------------------------------------------------------------------


def test_refetch_asks_for_all_anew(desk: Desk) -> None:
    desk.run()
    desk.route.correct(INFY, "day", datetime(2026, 11, 4), volume=9)
    result = desk.cli.run("refetch", "NSE:INFY")
    assert result.status == 0, result.stderr
    assert "NSE:INFY: 13 candles: 0 new, 1 changed" in result.stdout
    assert desk.stored()[2][-1] == 9


def test_refetch_since_a_day(desk: Desk) -> None:
    desk.run()
    before = len(desk.route.requests)
    result = desk.cli.run("refetch", "NSE:INFY", "--since", "2026-11-16")
    assert result.status == 0, result.stderr
    [asked] = desk.route.requests[before:]
    assert (asked.token, asked.begin) == (INFY, datetime(2026, 11, 9))
    assert "0 new, 0 changed" in result.stdout


def test_refetch_of_a_token_that_kite_refuses(desk: Desk) -> None:
    desk.run()
    desk.route.forget(INFY)
    result = desk.cli.run("refetch", "NSE:INFY")
    assert (result.status, result.stderr) == (1, "")
    assert "asked: 1 request," in result.stdout
    assert "InputException: invalid token): 'NSE:INFY day'" in result.stdout
    assert desk.days() == until(18)


def test_refetch_where_nothing_is_stored_yet(desk: Desk) -> None:
    desk.load_list()
    result = desk.cli.run("refetch", "NSE:INFY")
    assert result.status == 1
    assert "run the DAG once" in result.stderr
    assert desk.route.requests == []


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("NSE:INFI", 1, "NSE:INFI: it names nothing in today's list."),
        ("INFY", 2, "expected an exchange and a symbol such as NSE:INFY, got INFY"),
    ],
)
def test_refetch_of_what_is_not_there(desk: Desk, name: str, status: int, said: str) -> None:
    desk.run()
    result = desk.cli.run("refetch", name)
    assert result.status == status
    assert said in result.stderr


# --- contracts that end --------------------------------------------------------------------------


def test_contract_that_expired_is_asked_for_up_to_its_last_day(desk: Desk) -> None:
    _list_contract(desk)
    desk.load_list()  # which has it no more
    result = desk.run(at=EVENING + timedelta(days=2))
    assert result.status == 0
    assert desk.spans(GOLD) == [("11-11 00:00", "11-19 23:59")]
    assert _contract_days(desk) == until(19)
    desk.run(at=EVENING + timedelta(days=3))
    assert desk.spans(GOLD) == []


def test_contract_that_kite_answers_for_no_more_is_told_once(desk: Desk) -> None:
    _list_contract(desk)
    desk.route.forget(GOLD)
    desk.load_list()
    result = desk.run(at=EVENING + timedelta(days=2))
    assert result.status == 0
    assert "no longer answered, told once: 1" in result.stdout
    assert "NFO:INFY26NOVFUT day" in result.stdout
    assert "invalid token" not in result.stdout
    assert _contract_days(desk) == until(18)
    later = desk.run(at=EVENING + timedelta(days=3))
    assert "no longer answered" not in later.stdout
    assert desk.spans(GOLD) == []


def test_contract_whose_token_is_anothers_is_not_asked_for(desk: Desk) -> None:
    _list_contract(desk)
    other = instrument(GOLD, "INFY27JANFUT", expiry=date(2027, 1, 28), instrument_type="FUT")
    desk.truth[GOLD, "day"] = [candle(day, 900) for day in weekdays(START, date(2026, 11, 30))]
    desk.load_list(*LISTED, other)
    result = desk.run(at=EVENING + timedelta(days=2))
    assert result.status == 0
    assert "no longer answered, told once: 1" in result.stdout
    assert "NFO:INFY26NOVFUT day" in result.stdout
    assert _contract_days(desk) == until(18)


def _list_contract(desk: Desk) -> None:
    """A run on the evening before its last day."""
    future = instrument(GOLD, "INFY26NOVFUT", expiry=date(2026, 11, 19), instrument_type="FUT")
    desk.truth[GOLD, "day"] = [each for each in desk.truth[INFY, "day"] if each.ts.day < 20]
    desk.cli.parameters["instruments"] = ["NSE:INFY", {"exchange": "NFO", "instrument_type": "FUT"}]
    desk.load_list(*LISTED, future)
    assert desk.run().status == 0
    assert desk.spans(GOLD) == [("11-02 00:00", "11-18 23:59")]


def _contract_days(desk: Desk) -> list[date]:
    rows = desk.cli.query(
        "SELECT DISTINCT (ts AT TIME ZONE INTERVAL '5:30')::date FROM kite_candle JOIN"
        " kite_instrument_history USING (instrument_id)"
        " WHERE tradingsymbol = 'INFY26NOVFUT' ORDER BY 1"
    )
    return [day for (day,) in rows]


# --- what the last few candles do not tell -------------------------------------------------------


def find_turn(desk: Desk, token: int) -> datetime:
    """The next evening on which a series of days is compared as far back as a request reaches."""
    [(instrument_id,)] = desk.cli.query(
        "SELECT instrument_id FROM kite_instrument_history WHERE instrument_token = %s", token
    )
    evenings = (EVENING + timedelta(days=n) for n in range(1, 29))
    return next(each for each in evenings if (instrument_id + each.toordinal()) % 28 == 0)


def test_adjustment_of_older_days_alone_is_found_within_28_days(desk: Desk) -> None:
    """As Kite adjusts for a demerger weeks later: the last few candles are as they were."""
    desk.run()
    desk.route.adjust(INFY, "0.5", before=date(2026, 11, 4))
    at = find_turn(desk, INFY)
    result = desk.run(at=at)
    assert "adjusted by Kite: 1" in result.stdout
    found = desk.cli.query(
        "SELECT factor, compared_to AT TIME ZONE INTERVAL '5:30' FROM kite_candle_adjustment"
    )
    assert found == [(Decimal("0.5"), datetime(2026, 11, 4))]
    served = desk.route.served(INFY, "day", last=at.replace(tzinfo=None))
    assert desk.stored() == [tuple(each[:6]) for each in served]
    assert len([each for each in desk.asked if each.token == TCS]) == 1


def test_correction_that_looks_like_an_adjustment_is_none(desk: Desk) -> None:
    desk.run()
    oldest = datetime(2026, 11, 11)  # of the last five that are final
    [wrong] = [each for each in desk.truth[INFY, "day"] if each.ts == oldest]
    names = ("open", "high", "low", "close")
    half = {name: getattr(wrong, name) / 2 for name in names}
    desk.route.correct(INFY, "day", oldest, **half)
    result = desk.run(at=EVENING + timedelta(days=1))
    assert "corrected by Kite: 1" in result.stdout
    assert desk.cli.query("SELECT * FROM kite_candle_adjustment") == []
    served = desk.route.served(INFY, "day", last=datetime(2026, 11, 19))
    assert desk.stored() == [tuple(each[:6]) for each in served]


def test_gaps_before_anything_is_stored(desk: Desk) -> None:
    result = desk.cli.run("gaps")
    assert (result.status, result.stdout) == (
        4,
        "No candle is stored yet, so gaps cannot be told.\n",
    )


def test_check_of_a_dag_that_has_nothing_to_ask_for(desk: Desk) -> None:
    desk.cli.parameters["instruments"] = []
    assert "parameters.instruments is empty" in desk.cli.run("check", "--dag", "2").stdout


# --- ahead ---------------------------------------------------------------------------------------


def test_partitions_of_the_next_year_are_made_ahead(desk: Desk) -> None:
    desk.run()
    [(name,)] = desk.cli.query("SELECT to_regclass('kite_candle_day_2027')::text")
    assert name == "kite_candle_day_2027"


def test_rate_beyond_kites_limit_is_warned_of_where_it_is_kites(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "requests_per_second" not in desk.run().stderr
    module = sys.modules["dag_2_import_candles_from_kite.load"]
    monkeypatch.setattr(module, "DEFAULT_ROOT", desk.cli.kite.root)
    assert "parameters.requests_per_second is 1000, and Kite answers 3" in desk.run().stderr
