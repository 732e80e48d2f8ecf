"""The indices, shares and bonds of the made-up market."""

from collections.abc import Iterator
from datetime import date

from sandbox import market_names as names
from sandbox.market_parts import INDEX_CODE, Ledger, Row, Segment

NSE = Segment(1, "NSE", "NSE")
BSE = Segment(4, "BSE", "BSE")

_NSE_SHARE = 0.405  # of the shares and bonds; the others are BSE's
_BSE_NAME_LENGTH = 30
_FIRST_BSE_BOND_TOKEN = 935_000
_LOTS = (500, 800, 1000, 1200, 1600, 2000)
# Symbols that contracts, or a rename, are known by.
_FIXED = frozenset(name for name, _ in names.STOCKS) | {*names.FIRST_RENAME[:2]}


class Shares:
    """All that is listed for no other instrument's sake, and how it changes by the next day."""

    def __init__(self, today: date, count: int, index_count: int, ledger: Ledger) -> None:
        """List `count` instruments, with up to `index_count` indices of each exchange."""
        self._today = today
        self._ledger = ledger
        self._used: set[tuple[str, str]] = set()
        self._invented = 0
        self._indices = list(self._list_indices(index_count))
        nse_count = int((count - len(self._indices)) * _NSE_SHARE)
        self._nse = self._list_nse(nse_count)
        self._bse = self._list_bse(count - len(self._indices) - nse_count)
        ledger.listed += count

    def list_rows(self) -> Iterator[Row]:
        """Yield every row."""
        yield from self._indices
        yield from self._nse
        yield from self._bse

    def advance(self, day: int, today: date) -> None:
        """Let the next trading day begin."""
        self._today = today
        self._change_nse(day)
        self._change_bse()

    # --- the first day ---

    def _list_indices(self, limit: int) -> Iterator[Row]:
        for exchange, symbols in names.list_indices():
            segment = Segment(INDEX_CODE, "INDICES", exchange)
            for symbol in symbols[:limit]:
                yield Row(self._ledger.take_token(segment), symbol, symbol, segment, "0.0", 0)

    def _list_nse(self, count: int) -> list[Row]:
        def part(share: float) -> range:
            return range(max(3, int(count * share)))

        rows = self._list_known(NSE, max(count // 5, len(names.KNOWN_COMPANIES)))
        rows += [self._make_company(NSE, "-BE") for _ in part(0.017)]
        rows += [self._make_small_company("-SM") for _ in part(0.050)]
        rows += [self._make_small_company("-ST") for _ in part(0.010)]
        rows += [self._make_company(NSE, "-BZ") for _ in part(0.004)]
        rows += [self._make_nse_debenture() for _ in part(0.160)]
        rows += [self._make_government_loan() for _ in part(0.018)]
        rows += [self._make_gold_bond() for _ in part(0.007)]
        rows += [self._make_treasury_bill() for _ in part(0.010)]
        rows += [self._make_state_loan() for _ in part(0.440)]
        rows += [self._make_company(NSE) for _ in range(count - len(rows))]
        return rows

    def _list_bse(self, count: int) -> list[Row]:
        share_count = int(count * 0.4)
        rows = self._list_known(BSE, share_count // 4)
        self._invented = 0  # the same companies as on the other exchange
        rows += [self._make_company(BSE) for _ in range(share_count - len(rows))]
        self._ledger.skip_tokens(BSE, _FIRST_BSE_BOND_TOKEN)
        rows += [self._make_bse_debenture() for _ in range(count - share_count)]
        return rows

    def _list_known(self, segment: Segment, limit: int) -> list[Row]:
        known = dict(names.KNOWN_COMPANIES)
        known.update((name, f"{name} LTD") for name, _ in names.STOCKS if name not in known)
        if segment is BSE:  # which has no such series
            known = {symbol.removesuffix("-BE"): name for symbol, name in known.items()}
        return [self._make_share(segment, *each) for each in list(known.items())[:limit]]

    # --- the next day ---

    def _change_nse(self, day: int) -> None:
        if day == 1:
            old, symbol, name = names.FIRST_RENAME
            self._rename(next(row for row in self._nse if row.symbol == old), symbol, name)
        leaving = self._pick([row for row in self._nse if row.symbol.endswith("-BE")], 2)
        chosen = self._pick_companies(self._nse, 14)
        for row in chosen[:2]:
            self._rename(row, *self._invent_company(NSE))
        for row in leaving:
            self._move_series(row, row.symbol.removesuffix("-BE"))
        for row in chosen[2:4]:
            self._move_series(row, f"{row.symbol}-BE")
        self._change_ticks(chosen[4:])
        for row in self._pick([row for row in self._nse if row.symbol.endswith("-SM")], 1):
            row.lot += 100
            self._ledger.changed_lots += 1
        bonds = [row for row in self._nse if row.symbol.endswith(("-SG", "-TB"))]
        self._remove(self._nse, self._pick(bonds, 5))
        self._list(self._nse, *(self._make_state_loan() for _ in range(4)))
        self._list(self._nse, self._make_treasury_bill())
        self._list(self._nse, self._make_small_company("-SM"), self._make_company(NSE))

    def _change_bse(self) -> None:
        chosen = self._pick_companies(self._bse, 6)
        for row in chosen[:1]:
            self._rename(row, *self._invent_company(BSE))
        self._change_ticks(chosen[1:])
        bonds = [row for row in self._bse if row.token >= _FIRST_BSE_BOND_TOKEN]
        self._remove(self._bse, self._pick(bonds, 5))
        self._list(self._bse, *(self._make_bse_debenture() for _ in range(5)))
        self._list(self._bse, self._make_company(BSE))

    def _list(self, rows: list[Row], *new: Row) -> None:
        rows += new
        self._ledger.listed += len(new)

    def _remove(self, rows: list[Row], gone: list[Row]) -> None:
        for row in gone:
            rows.remove(row)
            self._used.discard((row.segment.exchange, row.symbol))
            self._ledger.free_token(row)
        self._ledger.gone += len(gone)

    def _change_ticks(self, rows: list[Row]) -> None:
        for row in rows:
            row.tick = "0.1" if row.tick == "0.05" else "0.05"
        self._ledger.changed_ticks += len(rows)

    def _rename(self, row: Row, symbol: str, name: str) -> None:
        """Give a company another symbol and name; its token stays."""
        self._used.add((row.segment.exchange, symbol))
        self._ledger.renamed.append((row.segment.exchange, row.symbol, symbol))
        row.symbol, row.name = symbol, _cut_name(row.segment, name)

    def _move_series(self, row: Row, symbol: str) -> None:
        """Let a share be traded in another series; its token changes."""
        self._ledger.moved_series.append((row.segment.exchange, row.symbol, symbol))
        token = self._ledger.take_token(row.segment)
        self._ledger.free_token(row)
        row.symbol, row.token = symbol, token

    def _pick(self, rows: list[Row], count: int) -> list[Row]:
        """Return some of the rows, each once."""
        rest = list(rows)
        return [rest.pop(self._ledger.dice.below(len(rest))) for _ in range(min(count, len(rows)))]

    def _pick_companies(self, rows: list[Row], count: int) -> list[Row]:
        """Return invented companies that are in no special series."""
        return self._pick(
            [row for row in rows if row.symbol.isalpha() and row.symbol not in _FIXED], count
        )

    # --- the makers of rows ---

    def _make_share(self, segment: Segment, symbol: str, name: str, lot: int = 1) -> Row:
        self._used.add((segment.exchange, symbol))
        tick = self._ledger.dice.pick(("0.01", "0.05", "0.05", "0.1"))
        token = self._ledger.take_token(segment)
        return Row(token, symbol, _cut_name(segment, name), segment, tick, lot)

    def _make_company(self, segment: Segment, ending: str = "", lot: int = 1) -> Row:
        symbol, name = self._invent_company(segment)
        return self._make_share(segment, symbol + ending, name, lot)

    def _make_small_company(self, ending: str) -> Row:
        return self._make_company(NSE, ending, self._ledger.dice.pick(_LOTS))

    def _invent_company(self, segment: Segment) -> tuple[str, str]:
        """Return the symbol and name of a company that the exchange does not have yet."""
        while True:
            symbol, name = names.spell_company(self._invented)
            self._invented += 1
            if (segment.exchange, symbol) not in self._used:
                self._used.add((segment.exchange, symbol))
                return symbol, name

    def _make_bond(self, segment: Segment, stem: str, ending: str, name: str, lot: int = 1) -> Row:
        """Return a bond; a letter, or more, is put into its symbol where that is needed."""
        number = 0
        while (segment.exchange, symbol := stem + _get_letters(number) + ending) in self._used:
            number += 1
        self._used.add((segment.exchange, symbol))
        token = self._ledger.take_token(segment)
        return Row(token, symbol, _cut_name(segment, name), segment, "0.01", lot)

    def _make_state_loan(self) -> Row:
        rate, year = self._choose_terms()
        state = self._ledger.dice.pick(names.STATES)
        name = f"SDL {state} {rate / 100:.2f}% {year}"
        return self._make_bond(NSE, f"{rate}{state}{year % 100}", "-SG", name, lot=100)

    def _make_government_loan(self) -> Row:
        rate, year = self._choose_terms()
        return self._make_bond(NSE, f"{rate}GS{year}", "-GS", f"GOI LOAN {rate / 100:.2f}% {year}")

    def _choose_terms(self) -> tuple[int, int]:
        """Return a loan's interest, in hundredths of a percent, and its year."""
        dice = self._ledger.dice
        return 600 + dice.below(250), self._today.year + 1 + dice.below(25)

    def _make_treasury_bill(self) -> Row:
        days = self._ledger.dice.pick((91, 182, 364))
        on = date.fromordinal(self._today.toordinal() + 2 + self._ledger.dice.below(days))
        name = f"GOI TBILL {days}D-{on:%d/%m/%y}"
        return self._make_bond(NSE, f"{days}D{on:%d%m%y}", "-TB", name, lot=100)

    def _make_gold_bond(self) -> Row:
        month = self._ledger.dice.pick(names.MONTHS)
        year = self._today.year + self._ledger.dice.below(9)
        return self._make_bond(NSE, f"SGB{month}{year % 100}", "-GB", f"2.50%GOLDBONDS{year}")

    def _make_nse_debenture(self) -> Row:
        stem, _ = self._invent_debenture()
        series = (
            "N0" if self._ledger.dice.below(2) else self._ledger.dice.pick(names.DEBENTURE_SERIES)
        )
        return self._make_bond(NSE, stem, f"-{series}", "")

    def _make_bse_debenture(self) -> Row:
        stem, name = self._invent_debenture()
        return self._make_bond(BSE, stem, "", name)

    def _invent_debenture(self) -> tuple[str, str]:
        dice = self._ledger.dice
        issuer, rate = dice.pick(names.ISSUERS), 700 + dice.below(500)
        year = self._today.year % 100 + 1 + dice.below(12)
        on = f"{1 + dice.below(28)}-{1 + dice.below(12)}-{year}"
        return f"{rate}{issuer}{year}", f"{issuer}-{rate / 100:.2f}%-{on} SECURED NCD"


def _cut_name(segment: Segment, name: str) -> str:
    """Return the name as the exchange shows it: BSE's are cut, often after a blank."""
    return name[:_BSE_NAME_LENGTH] if segment is BSE else name


def _get_letters(number: int) -> str:
    """Return "", A, B, ..., Z, AA, AB, ..."""
    letters = ""
    while number > 0:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return letters
