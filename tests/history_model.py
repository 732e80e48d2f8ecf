"""Which instrument a row of a list is, through time, as plain Python written from the rules alone.

Nothing of it is taken from SQL. Lists are dictionaries, identities are handed on row by row. Where
a rule is unclear, or two rows would get one identity, the row is a new instrument: to join two
different ones is the error that must never happen.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple

from shared.calendar import IST
from shared.models.instrument import INSTRUMENT_TABLE
from tests.change_model import SERIES, Row, _is_another, _is_bond, _pair_series, _split_series

COLUMNS = INSTRUMENT_TABLE.column_names
SYMBOL_CHANGES_OF = "NSE"
SHARE_SERIES = ("", *SERIES)

Symbol = str
SymbolChange = tuple[Symbol, Symbol, date]


@dataclass
class Version:
    """What an instrument was like from one list on, until another (None: it still is)."""

    instrument_id: int
    row: dict[str, Any]  # the eleven columns
    valid_from: datetime
    valid_to: datetime | None
    why: str  # it has this identity: the rule that gave it

    @property
    def key(self) -> tuple[str, int]:
        return self.row["exchange"], self.row["instrument_token"]


class Join(NamedTuple):
    """One instrument under a symbol of the list before and a symbol of the new one."""

    old: Symbol
    new: Symbol
    why: str


class Path(NamedTuple):
    """Official changes, one after the other, from a base symbol to another."""

    end: Symbol
    changed_on: date  # of the last step
    between: tuple[Symbol, ...]


@dataclass
class Official:
    """The exchange's list of symbol changes, as far as it counts on the day of a list."""

    changes: Mapping[Symbol, Sequence[tuple[Symbol, date]]]
    last_seen: Mapping[Symbol, date]  # the day of the last list before with this share
    in_both: frozenset[Symbol]  # shares of the list before that are in the new one, too

    def ends(self, start: Symbol) -> set[Symbol]:
        """Where changes lead, no matter whether they have counted already."""
        return {path.end for path in self._walk(start)}

    def counts(self, start: Symbol, end: Symbol) -> bool:
        """Whether changes lead there for the first time, past no share that both lists have."""
        return any(
            path.end == end
            and self.last_seen.get(end, date.min) < path.changed_on
            and not self.in_both & set(path.between)
            for path in self._walk(start)
        )

    def _walk(
        self, start: Symbol, since: date = date.min, between: tuple[Symbol, ...] = ()
    ) -> Iterator[Path]:
        for end, changed_on in self.changes.get(start, ()):
            if changed_on >= since and end not in between:
                yield Path(end, changed_on, between)
                yield from self._walk(end, changed_on, (*between, end))


class History:
    """The versions of all instruments; ids are 1, 2, ... in the order in which they are given."""

    def __init__(self) -> None:
        self.versions: list[Version] = []
        self._open: dict[tuple[str, int], Version] = {}
        self._last_id = 0
        self._last_seen: dict[Symbol, date] = {}

    def open(self) -> list[Version]:
        """The versions of the last list."""
        return list(self._open.values())

    def as_of(self, moment: datetime) -> list[Version]:
        """The versions of the list that stood at this moment."""
        return [
            version
            for version in self.versions
            if version.valid_from <= moment
            and (version.valid_to is None or moment < version.valid_to)
        ]

    def load(
        self, rows: Sequence[Row], at: datetime, official: Sequence[SymbolChange] = ()
    ) -> None:
        """Take the next list. `official` are (old symbol, new symbol, changed on) of NSE."""
        before = [version.row for version in self.open()]
        after = [{name: row[name] for name in COLUMNS} for row in rows]
        day = at.astimezone(IST).date()
        known = self._read_official(official, day, before, after)
        identities: dict[tuple[str, Symbol], tuple[int, str]] = {}
        ids = {_symbol_key(version.row): version.instrument_id for version in self.open()}
        for exchange in {row["exchange"] for row in after}:
            joins = identify(
                [row for row in before if row["exchange"] == exchange],
                [row for row in after if row["exchange"] == exchange],
                known if exchange == SYMBOL_CHANGES_OF else None,
            )
            for old, new, why in joins:
                assert (exchange, new) not in identities
                identities[exchange, new] = ids[exchange, old], why
        identities |= self._find_returned(before, after, identities)
        identities |= self._find_renamed_meanwhile(before, after, identities, known)
        given = Counter(identity for identity, _ in identities.values())
        assert all(count == 1 for count in given.values())
        self._write(after, at, identities)
        self._last_seen |= dict.fromkeys(_shares(after), day)

    def _read_official(
        self, official: Sequence[SymbolChange], day: date, before: list[Row], after: list[Row]
    ) -> Official:
        changes = defaultdict(list)
        for old, new, changed_on in official:
            if old != new and changed_on <= day:
                changes[old].append((new, changed_on))
        in_both = frozenset(_shares(before).keys() & _shares(after).keys())
        return Official(changes, self._last_seen, in_both)

    def _find_returned(
        self, before: list[Row], after: list[Row], identities: Mapping[Any, tuple[int, str]]
    ) -> dict[tuple[str, Symbol], tuple[int, str]]:
        """Rule f: what is listed again as it left."""
        last_of_token: dict[Any, Version] = {}
        last_of_symbol: dict[Any, Version] = {}
        last_of_id: dict[int, Version] = {}
        for version in self.versions:  # in the order in which they began
            last_of_id[version.instrument_id] = version
            if version.valid_to is not None:
                last_of_token[version.key] = version
                last_of_symbol[_symbol_key(version.row)] = version
        taken = {identity for identity, _ in identities.values()}
        found = {}
        for row in _listed(before, after, identities):
            version = last_of_token.get((row["exchange"], row["instrument_token"]))
            if (
                version is not None
                and _equal(version.row, row, "tradingsymbol", "instrument_type", "expiry")
                and version is last_of_symbol[_symbol_key(row)]
                and version is last_of_id[version.instrument_id]
                and version.instrument_id not in taken
            ):
                found[_symbol_key(row)] = version.instrument_id, "returned"
        return found

    def _find_renamed_meanwhile(
        self,
        before: list[Row],
        after: list[Row],
        identities: Mapping[Any, tuple[int, str]],
        official: Official,
    ) -> dict[tuple[str, Symbol], tuple[int, str]]:
        """Rule g: a share that left under one symbol and is listed under the next."""
        last_of_id = {version.instrument_id: version for version in self.versions}
        taken = {identity for identity, _ in identities.values()}
        ended: dict[Symbol, list[Version]] = defaultdict(list)
        for version in last_of_id.values():
            symbol = share_symbol(version.row)
            if symbol is not None and version.valid_to and version.instrument_id not in taken:
                ended[symbol].append(version)
        listed = {_symbol_key(row) for row in _listed(before, after, identities)}
        old_shares, new_shares = _shares(before), _shares(after)
        claims: dict[int, list[Any]] = defaultdict(list)
        for symbol, rows in new_shares.items():
            if len(rows) > 1 or symbol in old_shares or _symbol_key(rows[0]) not in listed:
                continue
            versions = [
                version
                for start in ended
                if start not in {*old_shares, *new_shares} and official.counts(start, symbol)
                for version in ended[start]
            ]
            newest = _newest(versions)
            if newest is not None:
                claims[newest.instrument_id].append(_symbol_key(rows[0]))
        return {
            keys[0]: (identity, "officially renamed while it was away")
            for identity, keys in claims.items()
            if len(keys) == 1
        }

    def _write(
        self,
        after: list[dict[str, Any]],
        at: datetime,
        identities: Mapping[Any, tuple[int, str]],
    ) -> None:
        before, self._open = self._open, {}
        for row in after:
            identity, why = identities.get(_symbol_key(row), (0, "new"))
            if not identity:
                self._last_id = identity = self._last_id + 1
            version = Version(identity, row, at, None, why)
            same = before.get(version.key)
            if same is not None and same.instrument_id == identity and same.row == row:
                version = same
            else:
                self.versions.append(version)
            self._open[version.key] = version
        for key, version in before.items():
            if self._open.get(key) is not version:
                version.valid_to = at


def identify(
    before: Sequence[Row], after: Sequence[Row], official: Official | None = None
) -> list[Join]:
    """The instruments that two lists of one exchange share: rules a to e.

    `official` is None for an exchange without a list of symbol changes.
    """
    old_by_symbol = {row["tradingsymbol"]: row for row in before}
    new_by_symbol = {row["tradingsymbol"]: row for row in after}
    old_by_token = {row["instrument_token"]: row for row in before}
    new_by_token = {row["instrument_token"]: row for row in after}
    moved = {
        symbol
        for symbol in old_by_symbol.keys() & new_by_symbol.keys()
        if not _equal(old_by_symbol[symbol], new_by_symbol[symbol], "instrument_token")
    }
    vanished = [row for symbol, row in old_by_symbol.items() if symbol not in new_by_symbol]
    appeared = [row for symbol, row in new_by_symbol.items() if symbol not in old_by_symbol]
    renamed = _pair_official(before, after, official) if official else []
    taken = {symbol for pair in renamed for symbol in pair}
    series = _pair_series(
        [row for row in vanished if row["tradingsymbol"] not in taken],
        [row for row in appeared if row["tradingsymbol"] not in taken],
    )
    taken |= {symbol for pair in series for symbol in pair}
    joins = [Join(*pair, "officially renamed") for pair in renamed]
    joins += [Join(*pair, "series moved") for pair in series]

    reused = set()
    for token in old_by_token.keys() & new_by_token.keys():
        old, new = old_by_token[token], new_by_token[token]
        pair = old["tradingsymbol"], new["tradingsymbol"]
        if pair[0] == pair[1]:
            joins.append(Join(*pair, "same"))
        elif pair in renamed:
            continue
        elif pair[1] in moved or taken & set(pair) or _is_other(old, new, official):
            reused.add(token)
        else:
            joins.append(Join(*pair, "renamed"))
    for symbol in moved:
        old, new = old_by_symbol[symbol], new_by_symbol[symbol]
        is_free = old["instrument_token"] not in new_by_token.keys() - reused
        if is_free and _equal(old, new, "instrument_type", "expiry", "strike"):
            joins.append(Join(symbol, symbol, "token moved"))
    return joins


def _pair_official(
    before: Sequence[Row], after: Sequence[Row], official: Official
) -> list[tuple[Symbol, Symbol]]:
    """Rule e: shares whose base symbol vanished, and that under which they appeared."""
    old_shares, new_shares = _shares(before), _shares(after)
    kept = {row["tradingsymbol"] for row in before} & {row["tradingsymbol"] for row in after}
    pairs = [
        (start, end)
        for start in old_shares.keys() - new_shares.keys()
        for end in official.ends(start) & (new_shares.keys() - old_shares.keys())
    ]
    starts, ends = (Counter(pair[side] for pair in pairs) for side in (0, 1))
    found = []
    for start, end in pairs:
        # Two shares cannot become one, nor one two.
        if starts[start] == ends[end] == 1 and official.counts(start, end):
            old, new = (
                sorted(
                    (row for row in rows if row["tradingsymbol"] not in kept),
                    key=lambda row: str(row["tradingsymbol"]),
                )
                for rows in (old_shares[start], new_shares[end])
            )
            found += _pair_rows(old, new)
    return found


def _pair_rows(old: list[Row], new: list[Row]) -> list[tuple[Symbol, Symbol]]:
    """The rows with one token, then the first of what is left with the first, and so on."""
    by_token = {row["instrument_token"]: row for row in new}
    pairs = [
        (row, by_token[row["instrument_token"]])
        for row in old
        if row["instrument_token"] in by_token
    ]
    tokens = {row["instrument_token"] for row, _ in pairs}
    rest = ([row for row in rows if row["instrument_token"] not in tokens] for rows in (old, new))
    pairs += zip(*rest)
    return [(first["tradingsymbol"], second["tradingsymbol"]) for first, second in pairs]


def _is_other(old: Row, new: Row, official: Official | None) -> bool:
    """Whether a token with another symbol is of another instrument (rule b)."""
    if official is None or not _equal(old, new, "expiry", "instrument_type", "segment"):
        return _is_another(old, new)
    (old_base, old_series), (new_base, new_series) = (
        _split_series(row["tradingsymbol"]) for row in (old, new)
    )
    are_alike = old_series == new_series or {old_series, new_series} <= set(SHARE_SERIES)
    if new["instrument_type"] == "EQ" and are_alike and new_base in official.ends(old_base):
        return False
    return _is_another(old, new)


def _listed(
    before: Sequence[Row], after: Sequence[Row], identities: Mapping[Any, Any]
) -> list[Row]:
    """The rows whose symbol and token are new, and that are not another row that went on."""
    tokens = {(row["exchange"], row["instrument_token"]) for row in before}
    symbols = {_symbol_key(row) for row in before}
    return [
        row
        for row in after
        if (row["exchange"], row["instrument_token"]) not in tokens
        and _symbol_key(row) not in symbols
        and _symbol_key(row) not in identities
    ]


def _shares(rows: Sequence[Row]) -> dict[Symbol, list[Row]]:
    """NSE's shares (no bonds such as 642AS43) by their symbol without the series."""
    shares: dict[Symbol, list[Row]] = defaultdict(list)
    for row in rows:
        symbol = share_symbol(row)
        if symbol is not None:
            shares[symbol].append(row)
    return dict(shares)


def share_symbol(row: Row) -> Symbol | None:
    if row["exchange"] != SYMBOL_CHANGES_OF or row["instrument_type"] != "EQ":
        return None
    base, series = _split_series(row["tradingsymbol"])
    return base if series in SHARE_SERIES and not _is_bond(row["tradingsymbol"]) else None


def _newest(versions: list[Version]) -> Version | None:
    """The one that ended last; None if there is none, or two did."""
    ends = sorted((version.valid_to for version in versions if version.valid_to), reverse=True)
    if not ends or ends[:2].count(ends[0]) > 1:
        return None
    return next(version for version in versions if version.valid_to == ends[0])


def _symbol_key(row: Row) -> tuple[str, Symbol]:
    return row["exchange"], row["tradingsymbol"]


def _equal(one: Row, other: Row, *names: str) -> bool:
    return all(one[name] == other[name] for name in names)
