"""The futures and options of the made-up market. Prices are in thousandths of a rupee."""

import operator
from bisect import bisect_left
from collections.abc import Iterator
from datetime import date, timedelta
from functools import cache
from itertools import accumulate, chain, repeat

from sandbox.market_ledger import DATA, Ledger, Row, last_open_day

_CODES = {"NFO": 2, "CDS": 3, "BFO": 5, "BCD": 6, "MCX": 7, "NCO": 11, "NSEIX": 12}
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_STOCK_STEPS = ((100, 1), (250, 2.5), (500, 5), (1000, 10), (2500, 20), (5000, 50), (20_000, 100))
_STOCKS = dict(stock.split(":") for stock in " ".join(DATA["stocks"]).split())
_OPTIONS = ("CE", "PE")
_MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC"


@cache
def format_price(thousandths: int) -> str:
    """A price as Kite writes it: 0.0, 90.875, 24500.0."""
    rupees, rest = divmod(thousandths, 1000)
    return f"{rupees}.{f'{rest:03d}'.rstrip('0') or '0'}"


@cache
def list_expiries(today: date, when: str, weeks: int, months: int) -> tuple[tuple[date, int], ...]:
    """The expiries that are listed on a day, each with its place among the widths (3: weekly).

    Monthly ones are on the month's last `when`, or on that day; before a holiday if it is one.
    """
    weekly, monthly, on = list[date](), list[date](), today
    while len(weekly) < weeks or len(monthly) < months:
        if when in (str(on.day), _WEEKDAYS[on.weekday()]) and last_open_day(on) >= today:
            is_monthly = when.isdecimal() or (on + timedelta(7)).month != on.month
            (monthly if is_monthly else weekly).append(last_open_day(on))
        on += timedelta(1)
    return (*((on, 3) for on in weekly[:weeks]), *zip(monthly[:months], chain((0, 1), repeat(2))))


class Underlying:
    """What contracts are made on, and those that are listed now, by their expiry."""

    def __init__(self, line: str, scale: float) -> None:
        """Read a line of the data, and scale its numbers of strikes."""
        self.exchange, self.name, price, step, lot, self.tick, when, *numbers = line.split()
        self.price, self.step, self.lot = *(round(float(x) * 1000) for x in (price, step)), int(lot)
        weeks, months, *widths = map(int, numbers)
        self.schedule = (when, weeks, months)
        self.is_stock = self.exchange == "NFO" and self.name in _STOCKS
        # A corporate action needs so many strikes, however small the market is.
        least = (9, 5, 3, 0) if self.is_stock else [min(width, 1) for width in widths]
        self.widths = [max(low, round(width * scale)) for width, low in zip(widths, least)]
        self.series: dict[date, list[Row]] = {}

    def list_near_options(self) -> Iterator[list[Row]]:
        """Yield the calls and the puts of the two nearest months, lowest strike first."""
        for kind in _OPTIONS:
            for on in sorted(self.series)[:2]:
                yield sorted((r for r in self.series[on] if r.kind == kind), key=lambda r: r.strike)

    def pay_dividend(self) -> None:
        """Lower the strikes, and list the middle ones anew under the topmost ones' tokens."""
        # 5% in quarters of a rupee, as HINDPETRO's 19.25; never a whole number of strike steps
        amount = max(250, self.price // 20 // 250 * 250)
        amount += 250 * (amount % self.step == 0)
        for rows in self.list_near_options():
            third = len(rows) // 3
            lowered = [row.strike - amount for row in rows[: len(rows) - third]]
            strikes = lowered + [row.strike for row in rows[third : 2 * third]]
            if min(strikes) > 0 and len(set(strikes)) == len(rows):
                _move(rows, strikes)

    def shuffle(self) -> None:
        """Pass strikes among tokens: a swap, a rotation of three, and a chain to a new strike."""
        for rows in self.list_near_options():
            if len(rows) > 8:
                order = [rows[i].strike for i in (1, 0, 3, 4, 2, 6, 7)]
                _move(rows, [*order, rows[-1].strike + self.step])


class Contracts:
    """All contracts of a day, and how they change by the next."""

    def __init__(self, limit: int, ledger: Ledger) -> None:
        """List about `limit` contracts, or fewer."""
        self._ledger = ledger
        self._underlyings = _choose_underlyings(ledger.changes.on, limit)
        self._stocks = [each for each in self._underlyings if each.is_stock]
        for underlying in self._underlyings:
            self._list_missing(underlying)

    def list_rows(self) -> Iterator[Row]:
        """Yield every contract."""
        for underlying in self._underlyings:
            yield from chain(*underlying.series.values())

    def advance(self) -> None:
        """Do what the day has changed."""
        day, today = self._ledger.day, self._ledger.changes.on
        for underlying in self._underlyings:
            for on in [each for each in underlying.series if each < today]:
                for row in underlying.series.pop(on):
                    self._ledger.end(row)
        if day % 5 == 1:  # corporate actions
            payer, other = (self._stocks[(2 * (day // 5) + i) % len(self._stocks)] for i in (0, 1))
            payer.pay_dividend()
            other.shuffle()
            self._ledger.changes.adjusted += [payer.name, other.name]
        moved = {self._ledger.below(len(self._underlyings)) for _ in range(25)}
        for index, underlying in enumerate(self._underlyings):
            if index in moved:
                underlying.price = underlying.price * (9_850 + self._ledger.below(301)) // 10_000
            expiries = dict(list_expiries(today, *underlying.schedule))
            if index in moved or expiries.keys() - underlying.series:
                self._list_missing(underlying)
        self._change_terms()

    def _list_missing(self, of: Underlying) -> None:
        for on, place in list_expiries(self._ledger.changes.on, *of.schedule):
            rows, step, width = of.series.setdefault(on, []), of.step, of.widths[place]
            present = {row.strike for row in rows}
            first = max(step, round(of.price / step) * step - width // 2 * step)
            wanted = [(0, "FUT")] if place < 3 else []
            wanted += [(first + i * step, kind) for i in range(width) for kind in _OPTIONS]
            missing = [each for each in wanted if each[0] not in present]
            month = _MONTHS[4 * on.month - 4 : 4 * on.month - 1]
            period = f"{'123456789OND'[on.month - 1]}{on.day:02d}" if place == 3 else month
            stem, code = f"{of.name}{on.year % 100}{period}", _CODES[of.exchange]
            for strike, kind in missing:
                symbol, token = _make_symbol(stem, strike, kind), self._ledger.take_token(code)
                segment = of.exchange + ("-OPT" if strike else "-FUT")
                terms = (of.tick, of.lot, kind, on.isoformat(), strike, stem)
                rows.append(Row(token, code, symbol, of.name, segment, of.exchange, *terms))
            self._ledger.changes.listed += len(missing)

    def _change_terms(self) -> None:
        """Two stocks' contracts get another lot; three of another's new tokens, not symbols."""
        for _ in range(2):
            underlying = self._ledger.pick(self._stocks)
            underlying.lot += 25
            for row in chain(*underlying.series.values()):
                row.lot = underlying.lot
                self._ledger.changes.changed_lots += 1
        series = self._stocks[(5 * self._ledger.day + 2) % len(self._stocks)].series
        for row in series[sorted(series)[1]][-3:]:
            row.token = self._ledger.take_token(row.code, fresh=True)
            self._ledger.changes.relisted += 1


def _move(rows: list[Row], strikes: list[int]) -> None:
    """Give contracts other strikes, and with them other symbols."""
    for row, strike in zip(rows, strikes, strict=False):
        row.strike, row.symbol = strike, _make_symbol(row.stem, strike, row.kind)


def _make_symbol(stem: str, strike: int, kind: str) -> str:
    """A symbol such as NIFTY26AUG24500CE."""
    return f"{stem}{format_price(strike).removesuffix('.0') if strike else ''}{kind}"


def _choose_underlyings(today: date, limit: int) -> list[Underlying]:
    """The underlyings, with as many strikes as make the most of a number of contracts."""

    def choose(scale: float) -> list[Underlying]:
        return [Underlying(line, scale) for line in _list_lines(max(4, int(250 * scale)))]

    def fits(scale: float) -> bool:
        return limit >= sum(
            2 * each.widths[place] + (place < 3)
            for each in choose(scale)
            for _, place in list_expiries(today, *each.schedule)
        )

    scales = list(accumulate(repeat(0.98, 300), operator.mul, initial=2.0))
    return choose(scales[bisect_left(scales, True, key=fits)])


def _list_lines(stock_count: int) -> Iterator[str]:
    yield from DATA["underlyings"]
    for name, price in list(_STOCKS.items())[:stock_count]:
        wide = next((wide for limit, wide in _STOCK_STEPS if int(price) < limit), 250)
        terms = f"{price} {wide} {max(25, round(24_000 / int(price)) * 25)} 0.05"
        yield f"NFO {name} {terms} TUE 0 3 34 28 15 0"
        yield f"BFO {name} {terms} THU 0 3 7 4 3 0"
