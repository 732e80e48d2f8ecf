"""The futures and options of the made-up market."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date

from sandbox.market_names import MONTHS, STOCKS
from sandbox.market_parts import Ledger, Row, Segment, format_price
from sandbox.trading_calendar import Expiry, Schedule

_CODES = {"NFO": 2, "CDS": 3, "BFO": 5, "BCD": 6, "MCX": 7, "NCO": 11, "NSEIX": 12}
_WEEKLY_MONTHS = "123456789OND"
_ACTION_INTERVAL_DAYS = 5  # a corporate action on days 1, 6, 11, ...
_RELISTED_PER_DAY = 3
_MOVED_PER_DAY = 25  # underlyings whose price moves enough for new strikes
_BFO_STOCKS = 100

_MONDAY, _TUESDAY, _WEDNESDAY, _THURSDAY, _FRIDAY = range(5)
# The nearest, second, and further monthly expiries, and the weekly ones: numbers of strikes.
_Widths = tuple[int, int, int, int]
_NO_OPTIONS: _Widths = (0, 0, 0, 0)
# A corporate action needs this many, however small the market is.
_LEAST_STOCK_WIDTHS: _Widths = (9, 5, 3, 0)


@dataclass(frozen=True)
class Underlying:
    """What contracts are made on; prices are in thousandths of a rupee."""

    exchange: str
    name: str
    price: int
    step: int
    lot: int
    tick: str
    schedule: Schedule
    widths: _Widths = _NO_OPTIONS
    is_stock: bool = False

    def get_width(self, expiry: Expiry) -> int:
        """Return how many strikes an expiry has."""
        return self.widths[3 if expiry.is_weekly else min(expiry.rank, 2)]

    def count_contracts(self, today: date) -> int:
        """Return how many contracts a new listing has."""
        expiries = self.schedule.list_expiries(today)
        return sum(2 * self.get_width(each) + _has_future(each) for each in expiries)


@dataclass
class Series:
    """The contracts of one underlying and expiry."""

    underlying: Underlying
    expiry: Expiry
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Work out how the symbols begin: NIFTY26AUG, or NIFTY26804 for a weekly expiry."""
        on = self.expiry.on
        if self.expiry.is_weekly:
            period = f"{_WEEKLY_MONTHS[on.month - 1]}{on.day:02d}"
        else:
            period = MONTHS[on.month - 1]
        self._stem = f"{self.underlying.name}{on.year % 100:02d}{period}"

    def make_symbol(self, strike: int, kind: str) -> str:
        """Return a contract's symbol, such as NIFTY26AUG24500CE."""
        price = "" if kind == "FUT" else format_price(strike).removesuffix(".0")
        return f"{self._stem}{price}{kind}"

    def move(self, row: Row, strike: int) -> None:
        """Give a contract's token another strike, and with it another symbol."""
        row.strike = strike
        row.symbol = self.make_symbol(strike, row.kind)

    def list_options(self, kind: str) -> list[Row]:
        """Return the calls or puts, lowest strike first."""
        return sorted((row for row in self.rows if row.kind == kind), key=lambda row: row.strike)

    def pay_dividend(self, kind: str, amount: int) -> None:
        """Lower the strikes, and list the middle ones anew under the topmost ones' tokens."""
        rows = self.list_options(kind)
        third = len(rows) // 3
        kept, donors = rows[: len(rows) - third], rows[len(rows) - third :]
        renewed = [row.strike for row in rows[third : 2 * third]]
        if amount >= kept[0].strike or set(renewed) & {row.strike - amount for row in kept}:
            return
        for row in kept:
            self.move(row, row.strike - amount)
        for row, strike in zip(donors, renewed, strict=True):
            self.move(row, strike)

    def shuffle(self, kind: str) -> None:
        """Pass strikes among tokens: a swap, a rotation of three, and a chain of three.

        The chain ends with a new strike, and the strike that it began with is gone.
        """
        rows = self.list_options(kind)
        strikes = [row.strike for row in rows[:8]]
        top = rows[-1].strike + self.underlying.step
        order = [strikes[i] for i in (1, 0, 3, 4, 2, 6, 7)] + [top] if len(rows) > 8 else []
        for row, strike in zip(rows, order, strict=False):
            self.move(row, strike)


class Contracts:
    """All contracts of a day, and how they change by the next."""

    def __init__(self, today: date, limit: int, ledger: Ledger) -> None:
        """List about `limit` contracts, or fewer."""
        self._ledger = ledger
        self._underlyings = _choose_underlyings(today, limit)
        self._prices = [underlying.price for underlying in self._underlyings]
        self._books: list[dict[date, Series]] = [{} for _ in self._underlyings]
        self._stocks = [i for i, each in enumerate(self._underlyings) if each.is_stock]
        for index in range(len(self._underlyings)):
            self._roll(index, today)

    def list_rows(self) -> Iterator[Row]:
        """Yield every contract."""
        for book in self._books:
            for series in book.values():
                yield from series.rows

    def advance(self, day: int, today: date) -> None:
        """Let the next trading day begin."""
        self._expire(today)
        if day % _ACTION_INTERVAL_DAYS == 1:
            self._act(day // _ACTION_INTERVAL_DAYS)
        self._list_new(today)
        self._change_lots()
        self._relist(day)

    def _expire(self, today: date) -> None:
        """Take out what expired before today; its tokens are free."""
        for book in self._books:
            for expired in [on for on in book if on < today]:
                for row in book.pop(expired).rows:
                    self._ledger.free_token(row)
                    self._ledger.gone += 1

    def _list_new(self, today: date) -> None:
        """List new expiries, and new strikes where the price has moved."""
        dice = self._ledger.dice
        moved = sorted({dice.below(len(self._books)) for _ in range(_MOVED_PER_DAY)})
        for index in moved:
            self._prices[index] = self._prices[index] * (9_850 + dice.below(301)) // 10_000
        for index, book in enumerate(self._books):
            expiries = self._underlyings[index].schedule.list_expiries(today)
            if index in moved or any(expiry.on not in book for expiry in expiries):
                self._roll(index, today)

    def _roll(self, index: int, today: date) -> None:
        """Give an underlying all the contracts that it should have today."""
        underlying, book = self._underlyings[index], self._books[index]
        for expiry in underlying.schedule.list_expiries(today):
            if expiry.on not in book:
                book[expiry.on] = Series(underlying, expiry)
            series = book[expiry.on]
            present = {row.strike for row in series.rows}
            if _has_future(expiry) and 0 not in present:
                self._add(series, 0, "FUT")
            width = underlying.get_width(expiry)
            for strike in _list_strikes(self._prices[index], underlying.step, width):
                if strike not in present:
                    self._add(series, strike, "CE")
                    self._add(series, strike, "PE")

    def _add(self, series: Series, strike: int, kind: str) -> None:
        underlying = series.underlying
        segment = _SEGMENTS[underlying.exchange, kind == "FUT"]
        row = Row(
            token=self._ledger.take_token(segment),
            symbol=series.make_symbol(strike, kind),
            name=underlying.name,
            segment=segment,
            tick=underlying.tick,
            lot=series.rows[0].lot if series.rows else underlying.lot,
            kind=kind,
            expiry=series.expiry.on.isoformat(),
            strike=strike,
        )
        series.rows.append(row)
        self._ledger.listed += 1

    def _act(self, number: int) -> None:
        """Adjust the contracts of one stock for a dividend, and shuffle those of another."""
        payer, other = (self._stocks[(2 * number + i) % len(self._stocks)] for i in (0, 1))
        # 5% in quarters of a rupee, as HINDPETRO's 19.25; never a whole number of strike steps
        amount = max(250, self._underlyings[payer].price // 20 // 250 * 250)
        if amount % self._underlyings[payer].step == 0:
            amount += 250
        for kind in ("CE", "PE"):
            for series in self._list_near_months(payer):
                series.pay_dividend(kind, amount)
            for series in self._list_near_months(other):
                series.shuffle(kind)
        self._ledger.adjusted += [self._underlyings[index].name for index in (payer, other)]

    def _list_near_months(self, index: int) -> list[Series]:
        """Return the two nearest monthly series of an underlying."""
        monthly = [each for each in self._books[index].values() if not each.expiry.is_weekly]
        return sorted(monthly, key=lambda each: each.expiry.on)[:2]

    def _relist(self, day: int) -> None:
        """Move the outermost contracts of one stock to new tokens, their symbols unchanged."""
        for series in self._list_near_months(self._stocks[(5 * day + 2) % len(self._stocks)])[-1:]:
            for row in series.rows[-_RELISTED_PER_DAY:]:
                self._ledger.relist(row)

    def _change_lots(self) -> None:
        """Give the contracts on two stocks another lot size."""
        for index in sorted({self._ledger.dice.pick(self._stocks) for _ in range(2)}):
            lot = self._underlyings[index].lot + 25
            self._underlyings[index] = replace(self._underlyings[index], lot=lot)
            for series in self._books[index].values():
                self._ledger.changed_lots += len(series.rows)
                for row in series.rows:
                    row.lot = lot


_SEGMENTS = {
    (exchange, is_future): Segment(code, f"{exchange}-{'FUT' if is_future else 'OPT'}", exchange)
    for exchange, code in _CODES.items()
    for is_future in (True, False)
}


def _has_future(expiry: Expiry) -> bool:
    return not expiry.is_weekly and expiry.rank < 3


def _list_strikes(price: int, step: int, width: int) -> range:
    """Return `width` strikes around a price, all above 0."""
    first = max(step, round(price / step) * step - width // 2 * step)
    return range(first, first + width * step, step)


# --- which underlyings there are ---


def _choose_underlyings(today: date, limit: int) -> list[Underlying]:
    """Return the underlyings, with as many strikes as make the most of a number of contracts."""
    scale = 2.0
    while True:
        underlyings = list(_list_underlyings(scale))
        count = sum(each.count_contracts(today) for each in underlyings)
        if count <= limit or scale < 0.02:
            return underlyings
        scale *= 0.98


def _list_underlyings(scale: float) -> Iterator[Underlying]:
    """Yield every underlying, with the numbers of strikes and stocks scaled."""
    for table in (_EQUITY_INDICES, _CURRENCIES, _COMMODITIES):
        for each in table:
            widths = _scale_widths(each.widths, scale, _NO_OPTIONS)
            yield replace(each, widths=widths)
    least = _LEAST_STOCK_WIDTHS
    stock_count = max(4, round(len(STOCKS) * min(scale, 1)))
    for number, (name, rupees) in enumerate(STOCKS[:stock_count]):
        price, step = rupees * 1000, _get_stock_step(rupees)
        lot = max(25, round(24_000 / rupees) * 25)
        widths = _scale_widths((34, 28, 15, 0), scale, least)
        tick = "0.05" if rupees < 10_000 else "0.5"
        stock = Underlying("NFO", name, price, step, lot, tick, _MONTHLY_TUE, widths, True)
        yield stock
        if number < _BFO_STOCKS:
            widths = _scale_widths((12, 9, 4, 0), scale, _NO_OPTIONS)
            yield replace(
                stock, exchange="BFO", schedule=_MONTHLY_THU, widths=widths, is_stock=False
            )


def _scale_widths(widths: _Widths, scale: float, least: _Widths) -> _Widths:
    near, second, far, weekly = (
        max(low, round(width * scale), min(width, 1))
        for width, low in zip(widths, least, strict=True)
    )
    return near, second, far, weekly


def _get_stock_step(rupees: int) -> int:
    for limit, step in ((100, 1000), (250, 2500), (500, 5000), (1000, 10_000), (2500, 20_000)):
        if rupees < limit:
            return step
    return 50_000 if rupees < 5000 else 100_000 if rupees < 20_000 else 250_000


_MONTHLY_TUE = Schedule(_TUESDAY)
_MONTHLY_THU = Schedule(_THURSDAY)
_NIFTY_SCHEDULE = Schedule(_TUESDAY, weeklies=5, quarters=4, halves=7)
_BANKNIFTY_SCHEDULE = Schedule(_TUESDAY, quarters=3)
_SENSEX_SCHEDULE = Schedule(_THURSDAY, weeklies=4, quarters=2, halves=2)
_NSE_CURRENCY_SCHEDULE = Schedule(_WEDNESDAY, monthlies=12)
_USDINR_SCHEDULE = Schedule(_FRIDAY, weeklies=11, monthlies=12)
_BCD_SCHEDULE = Schedule(_WEDNESDAY, monthlies=6)
_BCD_USDINR_SCHEDULE = Schedule(_FRIDAY, weeklies=8, monthlies=6)

_EQUITY_INDICES = (
    Underlying("NFO", "NIFTY", 24_480_000, 50_000, 65, "0.05", _NIFTY_SCHEDULE, (104, 93, 17, 84)),
    Underlying(
        "NFO", "BANKNIFTY", 55_210_000, 100_000, 30, "0.05", _BANKNIFTY_SCHEDULE, (151, 131, 50, 0)
    ),
    Underlying("NFO", "FINNIFTY", 26_130_000, 50_000, 60, "0.05", _MONTHLY_TUE, (90, 70, 50, 0)),
    Underlying(
        "NFO", "MIDCPNIFTY", 13_050_000, 25_000, 120, "0.05", _MONTHLY_TUE, (140, 120, 80, 0)
    ),
    Underlying(
        "NFO", "NIFTYNXT50", 67_800_000, 100_000, 25, "0.05", _MONTHLY_TUE, (160, 150, 120, 0)
    ),
    Underlying(
        "BFO", "SENSEX", 80_650_000, 100_000, 20, "0.05", _SENSEX_SCHEDULE, (150, 120, 20, 110)
    ),
    Underlying("BFO", "BANKEX", 61_900_000, 100_000, 30, "0.05", _MONTHLY_THU, (100, 80, 60, 0)),
    Underlying("BFO", "SENSEX50", 25_800_000, 50_000, 75, "0.05", _MONTHLY_THU, (40, 30, 20, 0)),
    Underlying(
        "NSEIX",
        "NIFTY",
        24_480_000,
        100_000,
        1,
        "0.5",
        Schedule(_MONDAY, weeklies=2),
        (30, 20, 10, 20),
    ),
)

_CURRENCIES = (
    Underlying("CDS", "USDINR", 90_500, 125, 1, "0.0025", _USDINR_SCHEDULE, (110, 100, 90, 95)),
    Underlying("CDS", "EURINR", 105_250, 250, 1, "0.0025", _NSE_CURRENCY_SCHEDULE, (40, 30, 28, 0)),
    Underlying("CDS", "GBPINR", 121_500, 250, 1, "0.0025", _NSE_CURRENCY_SCHEDULE, (40, 30, 28, 0)),
    Underlying("CDS", "JPYINR", 58_750, 250, 1, "0.0025", _NSE_CURRENCY_SCHEDULE, (40, 30, 28, 0)),
    Underlying("BCD", "USDINR", 90_500, 125, 1, "0.0025", _BCD_USDINR_SCHEDULE, (90, 80, 75, 60)),
    Underlying("BCD", "EURINR", 105_250, 250, 1, "0.0025", _BCD_SCHEDULE, (34, 30, 28, 0)),
    Underlying("BCD", "GBPINR", 121_500, 250, 1, "0.0025", _BCD_SCHEDULE, (34, 30, 28, 0)),
    Underlying("BCD", "JPYINR", 58_750, 250, 1, "0.0025", _BCD_SCHEDULE, (34, 30, 28, 0)),
)

# Name, price and step in rupees, tick, day of expiry, lot at NCO.
_COMMODITY_TABLE = (
    ("GOLD", 118_000, 500, "1.0", 5, 100),
    ("GOLDM", 117_900, 500, "1.0", 5, 10),
    ("GOLDGUINEA", 95_200, 500, "1.0", 28, 1),
    ("GOLDTEN", 118_100, 500, "1.0", 28, 1),
    ("SILVER", 142_500, 500, "1.0", 5, 30),
    ("SILVERM", 142_800, 500, "1.0", 26, 5),
    ("SILVERMIC", 142_900, 500, "1.0", 26, 1),
    ("CRUDEOIL", 5_950, 50, "1.0", 19, 100),
    ("CRUDEOILM", 5_950, 50, "1.0", 19, 10),
    ("BRENTCRUDE", 6_220, 50, "1.0", 24, 100),
    ("NATURALGAS", 281, 1, "0.1", 25, 1250),
    ("NATGASMINI", 281, 1, "0.1", 25, 250),
    ("COPPER", 962, 5, "0.05", 28, 2500),
    ("ZINC", 288, 1, "0.05", 28, 5000),
    ("ALUMINIUM", 256, 1, "0.05", 28, 5000),
    ("LEAD", 183, 1, "0.05", 28, 5000),
    ("NICKEL", 1_372, 10, "0.1", 28, 250),
    ("MENTHAOIL", 955, 0, "0.1", 28, 360),
    ("COTTON", 26_400, 0, "10.0", 28, 48),
    ("ELECMBL", 4_120, 0, "1.0", 28, 50),
    ("KAPAS", 1_590, 0, "0.5", 28, 200),
)


def _list_commodities() -> Iterator[Underlying]:
    for name, rupees, step, tick, day, lot in _COMMODITY_TABLE:
        mcx = Schedule(_FRIDAY, monthlies=4, day_of_month=max(day, 10))
        nco = Schedule(_FRIDAY, monthlies=6, day_of_month=max(day - 2, 10))
        price = rupees * 1000
        widths: _Widths = (62, 50, 36, 0) if step else _NO_OPTIONS
        yield Underlying("MCX", name, price, step * 1000 or 1000, 1, tick, mcx, widths)
        widths = (176, 176, 171, 0) if step else _NO_OPTIONS
        yield Underlying("NCO", name, price, step * 1000 or 1000, lot, tick, nco, widths)


_COMMODITIES = tuple(_list_commodities())
