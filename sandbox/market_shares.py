"""The indices, shares and bonds of the made-up market."""

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from sandbox.market_ledger import DATA, Ledger, Row

_CODES = {"NSE": 1, "BSE": 4}
_NSE_SHARE = 0.4  # of the shares and bonds; the others are BSE's
_PLACES, _TRADES = (" ".join(DATA[words]).split() for words in ("places", "trades"))
_STOCKS = [stock.partition(":")[0] for stock in " ".join(DATA["stocks"]).split()]
# Symbols that contracts, or a rename, are known by.
_FIXED = {*_STOCKS, *DATA["first_rename"]}
# By the end of the symbol: share of NSE's rows, lot, symbol and name. Those of companies are made.
_KINDS: dict[str, tuple[float, int, str, str]] = DATA["kinds"]


class Shares:
    """All that is listed for no other instrument's sake, and how it changes by the next day."""

    def __init__(self, count: int, index_count: int, ledger: Ledger) -> None:
        """List `count` instruments, with up to `index_count` indices of each exchange."""
        self._ledger = ledger
        self._used: set[tuple[str, str]] = set()
        self._invented: Counter[str] = Counter()
        self._rows: dict[str, list[Row]] = {"INDICES": [], "NSE": [], "BSE": []}
        for exchange, symbols in DATA["indices"].items():
            for symbol in symbols[:index_count]:
                terms = (symbol, symbol, "INDICES", exchange, "0.0", 0)
                self._rows["INDICES"].append(Row(ledger.take_token(9), 9, *terms))
        ledger.changes.listed += len(self._rows["INDICES"])
        of_nse = int((count - len(self._rows["INDICES"])) * _NSE_SHARE)
        self._list_known("NSE", max(of_nse // 5, len(DATA["companies"])))
        for kind, (share, *_) in _KINDS.items():
            for _ in range(max(3, int(of_nse * share)) if share else 0):
                self._add_new("NSE", kind)
        while len(self._rows["NSE"]) < of_nse:
            self._add_new("NSE", "")
        of_bse = count - len(self._rows["INDICES"]) - of_nse
        self._list_known("BSE", of_bse // 10)
        while len(self._rows["BSE"]) < of_bse:
            self._add_new("BSE", "" if len(self._rows["BSE"]) < of_bse * 0.4 else "BSE")

    def list_rows(self) -> Iterator[Row]:
        """Yield every row."""
        for rows in self._rows.values():
            yield from rows

    def advance(self) -> None:
        """Do what the day has changed."""
        nse, bse = self._rows["NSE"], self._rows["BSE"]
        if self._ledger.day == 1:
            old, *new = DATA["first_rename"]
            self._rename(next(row for row in nse if row.symbol == old), *new)
        leaving = self._pick(nse, 2, "-BE")
        chosen = self._pick(list(filter(_is_ordinary, nse)), 14)
        others = self._pick(list(filter(_is_ordinary, bse)), 6)
        for row in (*chosen[:2], others[0]):
            self._rename(row, *self._invent(row.exchange))
        for row in (*chosen[4:], *others[1:]):
            row.tick = "0.1" if row.tick == "0.05" else "0.05"
            self._ledger.changes.changed_ticks += 1
        for row in (*leaving, *chosen[2:4]):
            self._move_series(row)
        for row in self._pick(nse, 1, "-SM"):
            row.lot += 100
            self._ledger.changes.changed_lots += 1
        matured = self._pick(nse, 5, ("-SG", "-TB"))
        for row in (*matured, *self._pick([row for row in bse if row.tick == "0.01"], 5)):
            self._rows[row.exchange].remove(row)
            self._used.discard((row.exchange, row.symbol))
            self._ledger.end(row)
        for kind in ("-SG", "-SG", "-SG", "-SG", "-TB", "-SM", ""):
            self._add_new("NSE", kind)
        for kind in ("BSE", "BSE", "BSE", "BSE", "BSE", ""):
            self._add_new("BSE", kind)

    def _list_known(self, exchange: str, limit: int) -> None:
        stocks = {name: f"{name} LTD" for name in _STOCKS}
        known = DATA["companies"] | stocks | DATA["companies"]
        for symbol in list(known)[:limit]:
            of_bse = symbol.removesuffix("-BE")  # which has no such series
            self._add(
                exchange, of_bse if exchange == "BSE" else symbol, "", known[symbol], 1, "0.05"
            )

    def _rename(self, row: Row, symbol: str, name: str) -> None:
        """Give a company another symbol and name; its token stays."""
        self._used.add((row.exchange, symbol))
        self._ledger.changes.renamed.append((row.exchange, row.symbol, symbol))
        row.symbol, row.name = symbol, name

    def _move_series(self, row: Row) -> None:
        """Let a share be traded in the series BE, or no longer; its token changes."""
        stem = row.symbol.removesuffix("-BE")
        symbol = stem if row.symbol != stem else f"{stem}-BE"
        self._ledger.changes.moved_series.append((row.exchange, row.symbol, symbol))
        token = self._ledger.take_token(row.code)
        self._ledger.free[row.code].append(row.token)
        row.symbol, row.token = symbol, token

    def _pick(self, rows: list[Row], count: int, ending: str | tuple[str, ...] = "") -> list[Row]:
        rest = [row for row in rows if row.symbol.endswith(ending)]
        return [rest.pop(self._ledger.below(len(rest))) for _ in range(min(count, len(rest)))]

    def _invent(self, exchange: str) -> tuple[str, str]:
        self._invented[exchange] += 1
        return spell_company(self._invented[exchange])

    def _add_new(self, exchange: str, kind: str) -> None:
        _, lot, symbol, name = _KINDS[kind]
        below, pick, today = self._ledger.below, self._ledger.pick, self._ledger.changes.on
        if symbol:
            terms = {
                "rate": (rate := 600 + below(550)),
                "percent": rate / 100,
                "year": today.year % 100 + 1 + below(25),
                "on": today + timedelta(2 + below(362)),
                "state": pick(DATA["states"].split()),
                "issuer": pick(DATA["issuers"].split()),
            }
            symbol, name, tick = symbol.format(**terms), name.format(**terms), "0.01"
        else:
            (symbol, name), tick = self._invent(exchange), pick(("0.05", "0.05", "0.1"))
        self._add(exchange, symbol, kind.removeprefix("BSE"), name, lot, tick)

    def _add(self, exchange: str, stem: str, ending: str, name: str, lot: int, tick: str) -> None:
        number = 0  # put into the symbol where there is one of this symbol
        while (exchange, symbol := f"{stem}{number or ''}{ending}") in self._used:
            number += 1
        self._used.add((exchange, symbol))
        code = _CODES[exchange]
        terms = (symbol, name, exchange, exchange, tick, lot)
        self._rows[exchange].append(Row(self._ledger.take_token(code), code, *terms))
        self._ledger.changes.listed += 1


def spell_company(number: int) -> tuple[str, str]:
    """The symbol and name of an invented company: a new one for every number."""
    round_, rest = divmod(number, len(_PLACES) * len(_TRADES))
    # Both words differ between neighbours, and no pair comes twice in a round.
    turn, position = divmod(rest, len(_PLACES))
    place, trade = _PLACES[position], _TRADES[(position + turn) % len(_TRADES)]
    end = DATA["name_ends"][(number * 7 + round_) % len(DATA["name_ends"])]
    return f"{place[:5]}{trade[:5]}{round_ or ''}", f"{place} {trade}{end}"


def _is_ordinary(row: Row) -> bool:
    """Whether it is in no special series, and nothing knows it by its symbol."""
    return row.symbol.isalpha() and row.symbol not in _FIXED
