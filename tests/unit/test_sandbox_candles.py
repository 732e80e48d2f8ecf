"""The sandbox's candles: Kite's rules for a request, what a test can change, the made-up market."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import pytest
import requests
from kiteconnect import KiteConnect
from kiteconnect import exceptions as kite_exceptions

from dag_2_import_candles_from_kite.intervals import INTERVALS
from dag_2_import_candles_from_kite.sandbox import (
    PATH,
    CandleRoute,
    ListedCandles,
    make_route,
    open_part,
)
from dag_2_import_candles_from_kite.sandbox_mischief import GARBAGE
from sandbox.dump_generator import generate_dump
from sandbox.kite_faults import Answer, CutShort, HttpError, Trickle
from sandbox.kite_server import KiteServer
from sandbox.market_candles import LENGTHS, Candle, MarketCandles, list_days, list_minutes
from sandbox.market_ledger import trading_day

TOKEN, OTHER, EMPTY = 408065, 256265, 738561
MONDAY = datetime(2026, 8, 3)
DAYS = [MONDAY + timedelta(number) for number in range(5)]


def make_candle(ts: datetime, close: str = "102.50", volume: int = 1000, oi: int = 7) -> Candle:
    prices = (Decimal(price) for price in ("100.00", "104.00", "99.35", close))
    return Candle._make((ts, *prices, volume, oi))


def make_truth() -> dict[tuple[int, str], list[Candle]]:
    minutes = [MONDAY + timedelta(hours=9, minutes=15 + number) for number in range(375)]
    return {
        (TOKEN, "day"): [make_candle(day) for day in DAYS],
        (TOKEN, "minute"): [make_candle(minute) for minute in minutes],
        (TOKEN, "60minute"): [make_candle(minute) for minute in minutes[::60]],
        (OTHER, "day"): [make_candle(day, "103.00") for day in DAYS],
        (EMPTY, "day"): [],
    }


@pytest.fixture
def route() -> CandleRoute:
    return CandleRoute(ListedCandles(make_truth()))


def ask(
    route: CandleRoute,
    token: object = TOKEN,
    interval: str = "day",
    begin: object = MONDAY,
    end: object = DAYS[-1],
    **more: str,
) -> Answer:
    query = {"from": str(begin), "to": str(end), **more}
    return route(f"{PATH}{token}/{interval}", {name: [value] for name, value in query.items()})


def read(answer: Answer) -> list[list[Any]]:
    assert answer.status == 200, answer.body
    body = json.loads(answer.body)
    assert body["status"] == "success"
    candles: list[list[Any]] = body["data"]["candles"]
    return candles


def read_error(answer: Answer) -> tuple[int, str]:
    body = json.loads(answer.body)
    assert (body["status"], body["data"]) == ("error", None)
    return answer.status, body["error_type"]


def stamps(answer: Answer) -> list[str]:
    return [row[0] for row in read(answer)]


# --- Kite's rules ---


def test_rows_are_as_kite_writes_them(route: CandleRoute) -> None:
    answer = ask(route, end=MONDAY)
    row = b'["2026-08-03T00:00:00+0530",100,104,99.35,102.5,1000]'
    assert answer.body == b'{"status":"success","data":{"candles":[%s]}}' % row
    assert ("Content-Type", "application/json") in answer.headers


def test_open_interest_is_the_seventh_value(route: CandleRoute) -> None:
    assert [row[5:] for row in read(ask(route, end=MONDAY, oi="1"))] == [[1000, 7]]
    assert [row[5:] for row in read(ask(route, end=MONDAY, oi="0"))] == [[1000]]


@pytest.mark.parametrize(
    ("begin", "end", "days"),
    [
        pytest.param(DAYS[1], DAYS[3], [4, 5, 6], id="both ends count"),
        pytest.param(DAYS[1], DAYS[1], [4], id="one moment"),
        pytest.param(DAYS[1] + timedelta(seconds=1), DAYS[2], [5], id="a second later"),
        pytest.param(DAYS[1], DAYS[2] - timedelta(seconds=1), [4], id="a second earlier"),
        pytest.param(DAYS[-1] + timedelta(1), DAYS[-1] + timedelta(2), [], id="nothing there"),
    ],
)
def test_span(route: CandleRoute, begin: datetime, end: datetime, days: list[int]) -> None:
    found = stamps(ask(route, begin=begin, end=end))
    assert found == [f"2026-08-{day:02d}T00:00:00+0530" for day in days]


def test_known_token_without_candles_has_an_empty_list(route: CandleRoute) -> None:
    assert read(ask(route, EMPTY)) == []
    assert read(ask(route, OTHER, "minute")) == []


@pytest.mark.parametrize("interval", INTERVALS)
def test_longest_span(route: CandleRoute, interval: str) -> None:
    longest = MONDAY + timedelta(INTERVALS[interval].longest_days)
    assert ask(route, interval=interval, end=longest).status == 200
    answer = ask(route, interval=interval, end=longest + timedelta(seconds=1))
    assert read_error(answer) == (400, "InputException")


def test_intervals_are_those_of_the_dag() -> None:
    assert dict(LENGTHS) == {each.name: each.minutes for each in INTERVALS.values()}


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"interval": "2minute"}, id="interval"),
        pytest.param({"interval": "Day"}, id="capital letter"),
        pytest.param({"begin": DAYS[1], "end": MONDAY}, id="from after to"),
        pytest.param({"begin": "2026-08-03"}, id="no hour"),
        pytest.param({"begin": "2026-08-03T00:00:00"}, id="T"),
        pytest.param({"begin": "2026-02-30 00:00:00"}, id="no such day"),
        pytest.param({"end": ""}, id="no end"),
        pytest.param({"end": "2026-08-03 00:00:00+05:30"}, id="zone"),
        pytest.param({"token": 1}, id="unknown token"),
        pytest.param({"token": "INFY"}, id="symbol"),
        pytest.param({"oi": "yes"}, id="oi"),
        pytest.param({"interval": "minute", "continuous": "1"}, id="continuous minutes"),
    ],
)
def test_wrong_request_is_an_input_error(route: CandleRoute, wrong: dict[str, Any]) -> None:
    assert read_error(ask(route, **wrong)) == (400, "InputException")


def test_continuous_days_are_answered(route: CandleRoute) -> None:
    assert len(read(ask(route, continuous="1"))) == 5


def test_other_path_is_not_found(route: CandleRoute) -> None:
    assert read_error(ask(route, interval="day/more")) == (404, "GeneralException")


# --- what tests change ---


def test_limit_is_of_any_second(route: CandleRoute) -> None:
    moment = [100.0]
    route = CandleRoute(ListedCandles(make_truth()), limit_per_second=2, clock=lambda: moment[0])
    seen = []
    for at in (100.0, 100.6, 100.9, 101.0, 101.5, 101.6):
        moment[0] = at
        seen.append(ask(route).status)
    assert seen == [200, 200, 429, 200, 429, 200]
    assert [each.status for each in route.requests] == seen
    assert read_error(ask(route)) == (429, "NetworkException")
    route.limit_per_second = None
    assert ask(route).status == 200


def test_limit_holds_for_many_threads() -> None:
    route = CandleRoute(ListedCandles(make_truth()), limit_per_second=20, clock=lambda: 0.0)
    with ThreadPoolExecutor(8) as pool:
        found = Counter(pool.map(lambda _: ask(route).status, range(60)))
    assert found == {200: 20, 429: 40}
    assert Counter(each.status for each in route.requests) == found


def test_forbidden_plan(route: CandleRoute) -> None:
    route.forbid()
    assert read_error(ask(route)) == (403, "PermissionException")
    route.forbid(forbidden=False)
    assert ask(route).status == 200


def test_forgotten_token_is_refused(route: CandleRoute) -> None:
    route.forget(TOKEN)
    assert read_error(ask(route)) == (400, "InputException")
    assert ask(route, OTHER).status == 200


def test_requests_are_recorded(route: CandleRoute) -> None:
    ask(route, begin=DAYS[3], oi="1")
    ask(route, "x", "week", begin="soon", end="later")
    assert route.requests == [
        (TOKEN, "day", DAYS[3], DAYS[4], True, 200, 2),
        (None, "week", None, None, False, 400, 0),
    ]


def test_adjustments_multiply_the_truth_and_are_rounded_once(route: CandleRoute) -> None:
    assert len(read(ask(route))) == 5  # rendered once already
    route.adjust(TOKEN, "0.1", DAYS[2].date())
    route.adjust(TOKEN, "0.5", DAYS[1].date())
    rows = read(ask(route, oi="1"))
    # 99.35 by 0.05 is 4.9675; rounded after each of both it would be 9.94 and 4.97
    assert rows[0][1:] == [5, 5.2, 4.97, 5.13, 1000, 7]
    assert rows[1][1:] == [10, 10.4, 9.94, 10.25, 1000, 7]
    assert rows[2][1:] == [100, 104, 99.35, 102.5, 1000, 7]
    assert read(ask(route, OTHER))[0][4] == 103


def test_adjustment_rounds_half_up_and_once() -> None:
    candle = Candle._make((MONDAY, *map(Decimal, ("0.45", "0.45", "0.25", "0.35")), 1, 0))
    route = CandleRoute(ListedCandles({(TOKEN, "day"): [candle]}))
    route.adjust(TOKEN, "0.1", DAYS[1].date())
    assert read(ask(route))[0][1:5] == [0.05, 0.05, 0.03, 0.04]
    route.adjust(TOKEN, "10", DAYS[1].date())
    assert read(ask(route))[0][1:5] == [0.45, 0.45, 0.25, 0.35]


def test_adjustment_is_of_every_interval(route: CandleRoute) -> None:
    route.adjust(TOKEN, "0.5", DAYS[1].date())
    assert read(ask(route, interval="minute"))[0][1] == 50


def test_correction_changes_and_adds_candles(route: CandleRoute) -> None:
    assert len(read(ask(route))) == 5
    route.correct(TOKEN, "day", DAYS[1], open=Decimal("101.05"))
    route.correct(TOKEN, "day", DAYS[1], volume=2)
    sunday = MONDAY - timedelta(1)
    values = make_candle(sunday)._asdict()
    route.correct(TOKEN, "day", sunday, **{k: v for k, v in values.items() if k != "ts"})
    rows = read(ask(route, begin=sunday))
    assert [row[1] for row in rows] == [100, 100, 101.05, 100, 100, 100]
    assert [row[5] for row in rows] == [1000, 1000, 2, 1000, 1000, 1000]
    route.adjust(TOKEN, "0.5", DAYS[2].date())
    assert read(ask(route))[1][1] == 50.53


def test_truth_that_grows_is_served() -> None:
    truth = make_truth()
    route = CandleRoute(ListedCandles(truth))
    end = DAYS[-1] + timedelta(3)
    assert len(read(ask(route, end=end))) == 5
    truth[TOKEN, "day"].append(make_candle(end))
    assert len(read(ask(route, end=end))) == 6
    truth[TOKEN, "day"] = []
    assert read(ask(route, end=end)) == []


def at(hour: int, minute: int = 0, day: int = 2) -> datetime:
    return DAYS[day] + timedelta(hours=hour, minutes=minute)


@pytest.mark.parametrize(
    ("now", "rows"),
    [
        pytest.param(at(9, 14), [1000, 1000], id="before the session"),
        pytest.param(at(9, 15), [1000, 1000, 0], id="first moment"),
        pytest.param(at(12, 22), [1000, 1000, 498], id="noon"),
        pytest.param(at(15, 30), [1000, 1000, 1000], id="closed"),
    ],
)
def test_running_day(route: CandleRoute, now: datetime, rows: list[int]) -> None:
    route.now = now
    found = read(ask(route))
    assert [row[5] for row in found] == rows
    served = route.served(TOKEN, "day")
    assert [candle.volume for candle in served] == rows
    finished = route.served(TOKEN, "day", finished=True)
    assert [candle.volume for candle in finished] == [each for each in rows if each == 1000]


def test_running_candle_is_not_done_yet(route: CandleRoute) -> None:
    route.now = at(12, 22)
    assert read(ask(route, oi="1"))[-1] == [
        "2026-08-05T00:00:00+0530",
        *(100, 101.25, 100, 101.25, 498, 7),
    ]
    assert read(ask(route, end=DAYS[1]))[-1][5] == 1000  # it was not asked for


@pytest.mark.parametrize(
    ("interval", "now", "count", "last"),
    [
        pytest.param("minute", at(9, 15, 0), 1, 0, id="first minute"),
        pytest.param("minute", at(9, 16, 0), 2, 0, id="second minute"),
        pytest.param("minute", at(15, 29, 0) + timedelta(seconds=30), 375, 500, id="last minute"),
        pytest.param("60minute", at(15, 20, 0), 7, 333, id="last hour, of a quarter"),
        pytest.param("60minute", at(15, 30, 0), 7, 1000, id="closed"),
    ],
)
def test_running_minutes(
    route: CandleRoute, interval: str, now: datetime, count: int, last: int
) -> None:
    route.now = now
    rows = read(ask(route, interval=interval))
    assert (len(rows), rows[-1][5]) == (count, last)


def test_session_of_another_exchange(route: CandleRoute) -> None:
    route.now = at(18)
    assert read(ask(route))[-1][5] == 1000
    route.set_session(TOKEN, time(9), time(23, 55))
    assert read(ask(route))[-1][5] < 1000
    assert read(ask(route, OTHER))[-1][5] == 1000


def test_served_is_what_a_perfect_answer_has(route: CandleRoute) -> None:
    route.adjust(TOKEN, "0.1", DAYS[2].date())
    served = route.served(TOKEN, "day", DAYS[1], DAYS[2])
    assert served == [
        (DAYS[1], *map(Decimal, ("10.00", "10.40", "9.94", "10.25")), 1000, 7),
        make_candle(DAYS[2]),
    ]
    with pytest.raises(KeyError):
        route.served(1, "day")


# --- mischief ---


@pytest.mark.parametrize(
    ("kind", "days"),
    [
        pytest.param("empty", [], id="empty"),
        pytest.param("cut list", [3, 4, 5], id="cut list"),
        pytest.param("unordered", [7, 6, 5, 4, 3], id="unordered"),
        pytest.param("twice", [3, 3, 4, 4, 5, 5, 6, 6, 7, 7], id="twice"),
    ],
)
def test_mischief_ends_after_so_many_times(route: CandleRoute, kind: str, days: list[int]) -> None:
    route.misbehave(kind, 2, token=TOKEN, interval="day")
    assert len(read(ask(route, OTHER))) == 5
    assert len(read(ask(route, interval="60minute"))) == 7
    for expected in (days, days, [3, 4, 5, 6, 7]):
        assert [int(stamp[8:10]) for stamp in stamps(ask(route))] == expected


def test_mischief_is_for_good_requests_alone(route: CandleRoute) -> None:
    route.misbehave("empty")
    assert ask(route, interval="week").status == 400
    assert read(ask(route)) == []


def test_candles_of_another_token(route: CandleRoute) -> None:
    route.misbehave("other token", other=OTHER)
    assert {row[4] for row in read(ask(route))} == {103}


def test_candles_of_another_month() -> None:
    days = [MONDAY + timedelta(number) for number in range(0, 90, 10)]
    route = CandleRoute(ListedCandles({(TOKEN, "day"): [make_candle(day) for day in days]}))
    for begin, moved in ((days[4], "2026-08-13"), (days[0], "2026-09-02")):
        route.misbehave("other span")
        assert [stamp[:10] for stamp in stamps(ask(route, begin=begin, end=begin))] == [moved]


def test_garbage_is_one_row_in_one_way_after_the_other(route: CandleRoute) -> None:
    good = ask(route).body
    route.misbehave("garbage values", len(GARBAGE))
    bodies = [ask(route).body for _ in GARBAGE]
    assert len({*bodies, good}) == len(GARBAGE) + 1
    for body in bodies:
        rows = json.loads(body)["data"]["candles"]
        assert [
            position for position in range(5) if rows[position] != read(ask(route))[position]
        ] == [2]


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_of_one_way(route: CandleRoute, kind: str) -> None:
    good = ask(route).body
    route.misbehave(kind)
    assert ask(route).body != good
    assert ask(route).body == good


@pytest.mark.parametrize("wrong", [{"kind": "nonsense"}, {"kind": "other token"}])
def test_unknown_mischief_is_refused(route: CandleRoute, wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected"):
        route.misbehave(**wrong)  # type: ignore[arg-type]


# --- through the server ---


@pytest.fixture
def server(route: CandleRoute) -> Iterator[KiteServer]:
    with KiteServer(b"") as kite:
        kite.add_route(PATH, route)
        yield kite


def make_client(server: KiteServer) -> KiteConnect:
    client = KiteConnect(api_key=server.api_key, root=server.root)
    client.set_access_token(server.access_token)
    return client


def fetch(server: KiteServer, token: int = TOKEN, *, is_whole: bool = True) -> requests.Response:
    authorization = f"token {server.api_key}:{server.access_token}"
    return requests.get(
        f"{server.root}{PATH}{token}/day?from=2026-08-03+00:00:00&to=2026-08-07+00:00:00",
        headers={"X-Kite-Version": "3", "Authorization": authorization},
        timeout=10,
        stream=not is_whole,
    )


def test_candles_for_the_real_client(server: KiteServer) -> None:
    rows = make_client(server).historical_data(TOKEN, MONDAY, DAYS[1], "day", oi=True)
    assert [row["date"].replace(tzinfo=None) for row in rows] == DAYS[:2]
    assert {row["date"].utcoffset() for row in rows} == {timedelta(hours=5, minutes=30)}
    del rows[0]["date"]
    values = {"open": 100, "high": 104, "low": 99.35, "close": 102.5, "volume": 1000, "oi": 7}
    assert rows[0] == values


def test_errors_for_the_real_client(server: KiteServer, route: CandleRoute) -> None:
    client = make_client(server)
    with pytest.raises(kite_exceptions.InputException, match="invalid token"):
        client.historical_data(1, MONDAY, DAYS[1], "day")
    route.forbid()
    with pytest.raises(kite_exceptions.PermissionException):
        client.historical_data(TOKEN, MONDAY, DAYS[1], "day")
    server.expire_token()
    with pytest.raises(kite_exceptions.TokenException):
        client.historical_data(TOKEN, MONDAY, DAYS[1], "day")


def test_faults_hit_any_path_below(server: KiteServer, route: CandleRoute) -> None:
    server.fail_next(PATH, HttpError(503), times=2)
    assert [fetch(server, token).status_code for token in (TOKEN, OTHER, TOKEN)] == [503, 503, 200]
    assert len(route.requests) == 1


def test_fault_of_a_path_is_not_of_its_neighbours(server: KiteServer) -> None:
    server.fail_next(f"{PATH}{OTHER}/", HttpError(503), times=None)
    assert [fetch(server, token).status_code for token in (TOKEN, OTHER)] == [200, 503]


@pytest.mark.parametrize("how", ["length", "chunked", "gzip"])
def test_cut_body_has_a_first_half(server: KiteServer, how: Any) -> None:
    whole = fetch(server).content
    server.fail_next(PATH, CutShort(how))
    if how == "gzip":  # which requests takes for the whole
        assert fetch(server).content == whole[: len(whole) // 2]
    else:
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            fetch(server)


def test_trickle_has_the_type_and_the_beginning_of_the_answer(server: KiteServer) -> None:
    server.fail_next(PATH, Trickle(interval_seconds=0.001))
    with fetch(server, is_whole=False) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.raw.read(10) == b'{"status":'


# --- the made-up market ---


@cache
def make_market(day: int, rows: int = 8_000) -> MarketCandles:
    return MarketCandles(generate_dump(day, rows=rows), trading_day(day))


def get_candles(day: int, key: str) -> list[Candle]:
    """A share's days, as Kite has them on the evening of a trading day."""
    market = make_market(day)
    return make_route(market).served(market.tokens[key], "day")


def test_universe() -> None:
    keys = make_market(0).keys
    assert len(keys) == 30
    assert keys[:2] == ["NSE:NIFTY 50", "NSE:NIFTY BANK"]
    assert keys[-2:] == ["NFO:NIFTY26AUGFUT", "NFO:BANKNIFTY26AUGFUT"]
    assert {"NSE:INFY", "NSE:RELIANCE", "NSE:HDFCBANK", "NSE:ITDCEM"} < {*keys}
    assert "NSE:CEMPRO" in make_market(1).keys
    assert make_market(0).tokens["NSE:ITDCEM"] == make_market(1).tokens["NSE:CEMPRO"]


def test_line_that_is_lacking_or_broken_is_left_out() -> None:
    dump = generate_dump(0, rows=8_000).replace(b",INFY,INFOSYS,0.0,", b",INFY,INFOSYS,soon,")
    market = MarketCandles(dump, trading_day(0))
    assert len(market.keys) == 29
    assert "NSE:INFY" not in market.keys


def test_same_day_gives_same_candles_on_every_python() -> None:
    market = make_market(4)
    route = make_route(market)
    bodies = [
        ask(route, token, begin="2025-08-03 00:00:00").body for token in market.tokens.values()
    ]
    bodies.append(ask(route, market.tokens["NSE:INFY"], "15minute", MONDAY - timedelta(190)).body)
    assert hashlib.sha256(b"".join(bodies)).hexdigest() == (
        "48a34b1619010f75e65586467102d4fe08462730023ea78f15e03c6e9a618b3c"
    )


def test_next_day_adds_one_candle_and_changes_none() -> None:
    for key in ("NSE:NIFTY 50", "NSE:INFY", "NFO:NIFTY26AUGFUT"):
        assert get_candles(4, key)[:-1] == get_candles(3, key)
        assert get_candles(4, key)[-1].ts.date() == trading_day(4)


def test_year_of_days_leads_to_the_price_of_the_market() -> None:
    days = get_candles(0, "NSE:INFY")
    assert [candle.ts.date() for candle in days] == list(list_days(trading_day(0)))
    assert days[-1].close == 1530
    assert 240 < len(days) < 260
    for candle, before in zip(days[1:], days, strict=False):
        assert abs(candle.close / before.close - 1) < Decimal("0.021")


def test_sessions() -> None:
    days = list_days(date(2026, 8, 3))
    assert [day for day in days if day.weekday() > 4] == [date(2026, 3, 7)]
    assert date(2026, 1, 26) not in days
    usual, evening, halves = (
        list_minutes(day) for day in (date(2026, 8, 3), date(2025, 10, 21), date(2026, 3, 7))
    )
    assert (usual[0].time(), usual[-1].time(), len(usual)) == (time(9, 15), time(15, 29), 375)
    assert (evening[0].time(), evening[-1].time(), len(evening)) == (time(18, 15), time(19, 14), 60)
    assert (halves[44].time(), halves[45].time(), len(halves)) == (time(9, 59), time(11, 30), 105)


def test_candles_are_sound_and_on_ticks() -> None:
    market = make_market(6)
    for key, token in market.tokens.items():
        for candle in market.candles(token, "day"):
            assert 0 < candle.low <= min(candle.open, candle.close)
            assert max(candle.open, candle.close) <= candle.high
            assert all(price % Decimal("0.05") == 0 for price in candle[1:5])
            assert (candle.volume > 0) == (key not in ("NSE:NIFTY 50", "NSE:NIFTY BANK"))
            assert (candle.oi > 0) == key.startswith("NFO:")


@pytest.mark.parametrize("interval", ["minute", "15minute", "60minute"])
def test_minutes_make_the_day(interval: str) -> None:
    market = make_market(0)
    token = market.tokens["NSE:INFY"]
    parts: dict[date, list[Candle]] = {}
    for candle in market.candles(token, interval):
        parts.setdefault(candle.ts.date(), []).append(candle)
    made = [
        (
            datetime.combine(day, time()),
            candles[0].open,
            max(candle.high for candle in candles),
            min(candle.low for candle in candles),
            candles[-1].close,
            sum(candle.volume for candle in candles),
            candles[-1].oi,
        )
        for day, candles in parts.items()
    ]
    assert made == market.candles(token, "day")


def test_steps_of_a_session_begin_at_its_opening() -> None:
    market = make_market(0)
    starts = [candle.ts.time() for candle in market.candles(market.tokens["NSE:TCS"], "60minute")]
    assert starts[:8] == [*(time(hour, 15) for hour in range(9, 16)), time(9, 15)]


@pytest.mark.parametrize(
    ("day", "key", "factor"),
    [
        pytest.param(1, "NSE:GVT&D", "0.1", id="split"),
        pytest.param(1, "NSE:HINDPETRO", "0.95", id="dividend that moved strikes"),
        pytest.param(3, "NSE:J&KBANK", "0.98", id="dividend"),
    ],
)
def test_adjustment_of_the_market(day: int, key: str, factor: str) -> None:
    before, after = get_candles(day - 1, key), get_candles(day, key)
    for old, new in zip(before, after, strict=False):
        for price, adjusted in zip(old[1:5], new[1:5], strict=True):
            assert abs(price * Decimal(factor) - adjusted) <= Decimal("0.005")
        assert (new.ts, new.volume) == (old.ts, old.volume)
    assert abs(after[-1].close / after[-2].close - 1) < Decimal("0.03")
    assert get_candles(day + 1, key)[:-1] == after


def test_market_adjusts_nothing_else_in_its_first_days() -> None:
    keys = [key for key in make_market(1).keys if key not in ("NSE:GVT&D", "NSE:HINDPETRO")]
    for key in set(keys) - {"NSE:CEMPRO"}:
        assert get_candles(1, key)[:-1] == get_candles(0, key)


def test_open_is_corrected_on_the_third_day() -> None:
    before, after = get_candles(1, "NSE:TCS"), get_candles(2, "NSE:TCS")
    assert before[:-1] == after[:-2]
    assert before[-1].open != after[-2].open
    assert before[-1]._replace(open=after[-2].open) == after[-2]
    assert get_candles(3, "NSE:TCS")[:-1] == after


def test_future_begins_three_months_before_its_end() -> None:
    days = get_candles(0, "NFO:NIFTY26AUGFUT")
    assert (days[0].ts, len(days)) == (datetime(2026, 5, 25), 49)
    index = get_candles(0, "NSE:NIFTY 50")[-1]
    assert index.close < days[-1].close < index.close * Decimal("1.01")


def test_part_of_the_sandbox_has_its_route_and_settings() -> None:
    with KiteServer(lambda: generate_dump(1, rows=8_000)) as kite:
        with open_part(kite, trading_day(1)) as values:
            parameters: Mapping[str, Any] = values["parameters"]
        client = make_client(kite)
        token = make_market(1).tokens["NSE:GVT&D"]
        rows = client.historical_data(
            token, parameters["start"] + " 00:00:00", "2026-08-04 00:00:00", "day"
        )
    assert (parameters["start"], parameters["end"]) == ("2025-08-03", "2026-08-04")
    assert (len(parameters["instruments"]), parameters["intervals"]) == (30, ["day"])
    assert len(rows) == len(list_days(trading_day(1)))
    assert [row["close"] for row in rows[-2:]] == [318.5, 321.9]
