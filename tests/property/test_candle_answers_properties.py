"""Candles in any way JSON allows are read, and stored, exactly; whatever else an answer may be."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from math import gcd
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from dag_2_import_candles_from_kite import answers
from dag_2_import_candles_from_kite.answers import Answer, Candle, read_answer, render
from dag_2_import_candles_from_kite.intervals import INTERVALS, Interval, Request
from shared.calendar import IST
from shared.exceptions import TransientAPIError
from tests.conftest import Server

BODIES = 4_000
FUZZED_DAYS = 7
# Numbers of bodies that found a fault once, tried first.
KEPT_SEEDS: tuple[int, ...] = ()

MAX_COUNT = 2**63 - 1
FIRST_DAY = datetime(2015, 2, 2, tzinfo=IST)
COLUMNS = "instrument_id, interval, ts, open, high, low, close, volume, oi"
TABLE = """
CREATE TABLE candle (instrument_id BIGINT, interval VARCHAR(10), ts TIMESTAMPTZ,
    open NUMERIC(15, 4), high NUMERIC(15, 4), low NUMERIC(15, 4), close NUMERIC(15, 4),
    volume BIGINT, oi BIGINT, PRIMARY KEY (instrument_id, interval, ts))
"""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers that are drawn here are short."""
    monkeypatch.setattr(answers, "_ROWS_AT_ONCE", 3)


# --- good candles --------------------------------------------------------------------------------

prices = st.one_of(
    st.integers(1, 10**9).map(lambda ticks: Decimal(5 * ticks).scaleb(-2)),
    st.integers(1, 10**15 - 1).map(lambda number: Decimal(number).scaleb(-4)),
    st.sampled_from([Decimal(text) for text in ("0.0001", "1", "100", "99999999999.9999")]),
)
counts = st.one_of(
    st.integers(0, 10**6), st.integers(0, MAX_COUNT), st.sampled_from([0, MAX_COUNT])
)


@st.composite
def answers_of_candles(
    draw: Callable[[SearchStrategy[Any]], Any],
) -> tuple[Request, list[Candle]]:
    """A request, and good candles within its span."""
    interval = draw(st.sampled_from([*INTERVALS.values()]))
    step = step_of(interval)
    longest = interval.longest_days * 1440 // step
    steps = sorted(draw(st.sets(st.integers(0, longest - 1), max_size=9)))
    has_oi = draw(st.booleans())
    candles = []
    for number in steps:
        low, *between, high = sorted(draw(st.lists(prices, min_size=4, max_size=4)))
        opened, closed = draw(st.permutations(between))
        oi = draw(counts) if has_oi else None
        at = FIRST_DAY + timedelta(minutes=number * step)
        candles.append(Candle(at, opened, high, low, closed, draw(counts), oi))
    zone = draw(st.sampled_from([IST, UTC, timezone(timedelta(hours=-8))]))
    begin = FIRST_DAY.astimezone(zone)
    end = begin + timedelta(days=interval.longest_days)
    return Request(1, interval, begin, end, has_oi), candles


class Writing:
    """Ways to write JSON that mean the same, drawn from a number."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def body(self, candles: Sequence[Candle]) -> bytes:
        members = [
            (self.text("status"), self.text("success")),
            (self.text("data"), self.object([(self.text("candles"), self.candles(candles))])),
            (self.text("more"), self._rng.choice(["1.5", "null", "[[], {}]", "NaN"])),
        ]
        self._rng.shuffle(members)
        return (self.blank() + self.object(members) + self.blank()).encode()

    def candles(self, candles: Sequence[Candle]) -> str:
        return self.array([self.array(self.values(candle)) for candle in candles])

    def values(self, candle: Candle) -> list[str]:
        zone = self._rng.choice(["+0530", "+05:30"])
        stamp = f"{candle.ts:%Y-%m-%dT%H:%M:%S}{zone}"
        numbers = [*candle[1:6], *([] if candle.oi is None else [candle.oi])]
        return [self.text(stamp), *(self.number(Decimal(str(number))) for number in numbers)]

    def number(self, number: Decimal) -> str:
        """The number with more zeros, with an exponent, as an int where it is one."""
        ways = [f"{number:f}", f"{number:f}{'' if '.' in f'{number:f}' else '.'}" + "000"]
        if number == number.to_integral_value():
            ways.append(str(int(number)))
        power = self._rng.randint(-9, 9)
        digits = f"{number.scaleb(power):f}"
        ways.append(f"{digits}{self._rng.choice('eE')}{-power:{self._rng.choice(['+', ''])}}")
        return self._rng.choice(ways)

    def text(self, text: str) -> str:
        escaped = [f"\\u{ord(c):04x}" if self._rng.random() < 0.1 else c for c in text]
        return f'"{"".join(escaped)}"'

    def array(self, items: Sequence[str]) -> str:
        return f"[{','.join(self.blank() + item + self.blank() for item in items)}]"

    def object(self, members: Sequence[tuple[str, str]]) -> str:
        return f"{{{','.join(f'{self.blank()}{name} : {value}' for name, value in members)}}}"

    def blank(self) -> str:
        return self._rng.choice(["", "", " ", "\n\t", "\r\n"])


seeds = st.integers(0, 2**32)
LATER = FIRST_DAY + timedelta(days=9999)


@given(given_answer=answers_of_candles(), seed=seeds)
def test_candles_are_read_exactly_however_they_are_written(
    given_answer: tuple[Request, list[Candle]], seed: int
) -> None:
    request, candles = given_answer
    answer = read_answer(Writing(seed).body(candles), request, complete_until=LATER)
    assert answer == Answer(candles, [])
    assert all(candle.ts.tzinfo is IST for candle in answer.candles)


@given(given_answer=answers_of_candles(), seed=seeds, place=st.integers(0, 9))
def test_candles_from_the_moment_on_are_left_out_and_no_others(
    given_answer: tuple[Request, list[Candle]], seed: int, place: int
) -> None:
    request, candles = given_answer
    until = candles[place].ts if place < len(candles) else LATER
    # Those from the moment on may lie beyond the end.
    shorter = request._replace(end=min(until, request.end))
    answer = read_answer(Writing(seed).body(candles), shorter, complete_until=until)
    assert answer == Answer(candles[:place], [])


@pytest.fixture(scope="module")
def connection(server: Server, module_database: str) -> Iterator[Any]:
    connection = server.connect(module_database)
    with connection.cursor() as cursor:
        cursor.execute(TABLE)
        cursor.execute("SET TimeZone = 'America/New_York'")  # the stamps say their own
    yield connection
    connection.close()


@given(given_answer=answers_of_candles(), seed=seeds, instrument_id=st.integers(1, MAX_COUNT))
def test_what_is_read_rendered_and_copied_is_what_is_stored(
    connection: Any, given_answer: tuple[Request, list[Candle]], seed: int, instrument_id: int
) -> None:
    request, candles = given_answer
    interval = request.interval.name
    answer = read_answer(Writing(seed).body(candles), request, complete_until=LATER)
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE candle")
        cursor.copy_expert(
            f"COPY candle ({COLUMNS}) FROM STDIN (FORMAT text, NULL '')",
            io.BytesIO(render(answer.candles, instrument_id, interval)),
        )
        cursor.execute(f"SELECT {COLUMNS} FROM candle ORDER BY ts")
        assert cursor.fetchall() == [(instrument_id, interval, *candle) for candle in candles]


# --- a fuzzer ------------------------------------------------------------------------------------

TOKENS = (
    *("null", "true", "[]", "{}", '""', '"1"', "NaN", "-Infinity", "-0", "0", "0.0", "1e3", "-1.5"),
    *(
        "1e400",
        "1e-400",
        "1e99999999999999999999",
        "1.00001",
        "2499.0",
        "2.5",
        "9" * 20,
        "9" * 5000,
    ),
    *('"2015-02-30T09:15:00+0530"', '"2015-02-02T09:15:01+0530"', '"2099-01-01T09:15:00+0530"'),
    *('"\\ud800"', "[" * 2000, "[[[[]]]]", '{"a": [1]}', "1, 2", "99999999999.99999"),
)
BYTES = (*(bytes([byte]) for byte in b'"[]{},:.-+eE019T\\ \n\0'), b"\xff", b"\xc3", b"\\u")


def step_of(interval: Interval) -> int:
    """The minutes that starts of candles are multiples of."""
    return 1440 if interval.is_day else gcd(interval.minutes, 15)


def make_rows(rng: random.Random, interval: Interval, *, has_oi: bool) -> list[list[str]]:
    """The values of a few good candles, as texts of JSON."""
    steps = range(0, FUZZED_DAYS * 1440, step_of(interval))
    rows = []
    for minutes in sorted(rng.sample(steps, rng.randint(1, FUZZED_DAYS))):
        low, a, b, high = sorted(rng.randrange(1, 10**6) for _ in range(4))
        start = FIRST_DAY + timedelta(minutes=minutes)
        numbers = [f"{Decimal(price).scaleb(-2)}" for price in (a, high, low, b)]
        numbers += [str(rng.randrange(10**6)) for _ in range(1 + has_oi)]
        rows.append([f'"{start:%Y-%m-%dT%H:%M:%S}+0530"', *numbers])
    return rows


def mutate(rng: random.Random, rows: list[list[str]]) -> None:
    kind = rng.choice(["value", "value", "value", "swap", "repeat", "lose", "values"])
    at = rng.randrange(len(rows))
    place = rng.randrange(len(rows[at]))
    if kind == "value":
        rows[at] = [*rows[at][:place], rng.choice(TOKENS), *rows[at][place + 1 :]]
    elif kind == "swap":
        other = rng.randrange(len(rows))
        rows[at], rows[other] = rows[other], rows[at]
    elif kind == "repeat":
        rows.insert(at, rows[at])
    elif kind == "lose":
        rows[at] = rows[at][:place] + rows[at][place + 1 :]
    else:
        rows[at] = [rows[at][0], *rng.sample(rows[at][1:], len(rows[at]) - 1)]


def write(rng: random.Random, rows: Sequence[Sequence[str]]) -> bytes:
    text = ", ".join(f"[{', '.join(row)}]" for row in rows)
    body = f'{{"status": "success", "data": {{"candles": [{text}]}}}}'.encode()
    if rng.random() < 0.6:
        return body
    for _ in range(rng.choice([1, 1, 2])):
        start = rng.randrange(len(body))
        end = rng.choice([start, start, start + 1, start + rng.randrange(40)])
        body = body[:start] + rng.choice([b"", *BYTES]) + body[end:]
    return body


def is_good(values: Sequence[Any]) -> bool:
    """Whether these prices, volume and perhaps oi, Decimals where they are numbers, are right."""
    if not all(isinstance(value, Decimal) for value in values):
        return False
    opened, high, low, closed, *counts = values
    return (
        all(0 < price < 10**11 and price == round(price, 4) for price in values[:4])
        and low <= min(opened, closed)
        and high >= max(opened, closed)
        and all(0 <= count <= MAX_COUNT and count == int(count) for count in counts)
    )


def check_stamp(ts: datetime, request: Request, until: datetime) -> None:
    assert ts.tzinfo is IST
    assert request.begin <= ts < min(request.end, until)
    midnight = ts.replace(hour=0, minute=0, second=0)
    assert (ts - midnight) % timedelta(minutes=step_of(request.interval)) == timedelta(0)


def to_decimal(text: str) -> Any:
    try:
        return Decimal(text)
    except InvalidOperation:
        return text


def check(seed: int) -> str:
    """Read the body of this number; return how it went. Fails if it should have gone otherwise."""
    rng = random.Random(seed)
    interval = rng.choice([*INTERVALS.values()])
    has_oi = rng.random() < 0.5
    rows = make_rows(rng, interval, has_oi=has_oi)
    for _ in range(rng.choice([0, 1, 1, 2])):
        mutate(rng, rows)
    body = write(rng, rows)
    request = Request(1, interval, FIRST_DAY, FIRST_DAY + timedelta(days=FUZZED_DAYS), has_oi)
    until = FIRST_DAY + timedelta(minutes=rng.choice([600, 1440 * 4, 1440 * 30]))
    try:
        answer = read_answer(body, request, complete_until=until)
    except TransientAPIError:
        return "refused"
    check_answer(answer, body, request, until)
    return "rejects" if answer.rejected else "candles alone"


def check_answer(answer: Answer, body: bytes, request: Request, until: datetime) -> None:
    """Each candle of the body before `until` is read or rejected, and keeps the rules."""
    came = json.loads(body, parse_float=to_decimal, parse_int=to_decimal)["data"]["candles"]
    stamps = [datetime.fromisoformat(stamp) for stamp, *_ in came]
    wanted = [number for number, stamp in enumerate(stamps, 1) if stamp < until]
    good = [number for number in wanted if is_good(came[number - 1][1:])]
    no_oi = () if request.has_oi else (None,)
    assert answer.candles == [(stamps[n - 1], *came[n - 1][1:], *no_oi) for n in good]
    assert [row.line_number for row in answer.rejected] == sorted({*wanted} - {*good})
    assert all(a.ts < b.ts for a, b in pairwise(answer.candles))
    for candle in answer.candles:
        check_stamp(candle.ts, request, until)
        assert [type(value) for value in candle[1:6]] == [*[Decimal] * 4, int]
        assert type(candle.oi) is (int if request.has_oi else type(None))
    for row in answer.rejected:
        assert ": expected " in row.reason
        "".join([row.reason, *row.row]).encode()


def test_a_mutated_answer_is_refused_or_its_candles_keep_every_rule(
    pytestconfig: pytest.Config,
) -> None:
    outcomes: Counter[str] = Counter()
    first = int(pytestconfig.getoption("--hypothesis-seed") or 0)  # `make chaos` gives one
    for seed in (*KEPT_SEEDS, *range(first, first + BODIES)):
        try:
            outcomes[check(seed)] += 1
        except BaseException as exc:
            exc.args = (f"body {seed}: {exc}", *exc.args[1:])
            raise
    assert outcomes["candles alone"] > 0.1 * BODIES
    assert outcomes["rejects"] > 0.1 * BODIES
    assert outcomes["refused"] > 0.2 * BODIES
