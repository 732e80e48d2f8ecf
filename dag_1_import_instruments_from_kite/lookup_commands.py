"""`find` and `chain`, the commands: what lookup.py finds, as tables, JSON and CSV."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from shared.arguments import read_day
from shared.config.config_loader import ConfigLoader
from shared.console import console_width, say, say_table, write_csv, write_json
from shared.exceptions import ConfigurationError, NotListedError
from shared.feed import Command

if TYPE_CHECKING:
    import argparse

    from shared.utils.db_manager import DatabaseManager

logger = logging.getLogger(__name__)

NOTHING_FOUND = 1  # the exit status, as grep's
SHOWN = 20  # rows of find, strikes of a chain
_LONGEST_NAME = 28
_GAP = 3  # columns between two cells of a table
_SOME = 6  # so many further expiries are told

# The columns of find, and which go first where a terminal is narrow: of contracts, of others.
_FIND_COLUMNS = ("instrument", "token", "type", "expiry", "strike", "lot", "name")
_DISPENSABLE = {True: ("type", "name", "strike", "lot"), False: ("type", "lot", "name")}


def find(arguments: argparse.Namespace) -> int:
    """Show the instruments that meet all words. Returns the exit status."""
    from dag_1_import_instruments_from_kite import lookup

    is_data = arguments.json or arguments.csv
    limit = None if is_data else SHOWN
    with _open_database() as db:
        try:
            found = _tell_unlisted(
                lambda: lookup.find(db, arguments.words, as_of=arguments.as_of, limit=limit),
                is_data,
            )
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from exc
    if found is None:
        return NOTHING_FOUND
    if arguments.json:
        write_json({"total": found.total, "unmatched": found.unmatched, "instruments": found})
    elif arguments.csv:
        write_csv(lookup.COLUMNS, [list(row.values()) for row in found])
    elif found:
        _say_found(found, found.total)
    else:
        say(_describe_nothing(found.unmatched))
    return 0 if found else NOTHING_FOUND


def chain(arguments: argparse.Namespace) -> int:
    """Show the options of an underlying on an expiry. Returns the exit status."""
    from dag_1_import_instruments_from_kite import lookup

    is_data = arguments.json or arguments.csv
    underlying = " ".join(arguments.underlying)
    with _open_database() as db:
        found = _tell_unlisted(
            lambda: lookup.chain(
                db,
                underlying,
                expiry=arguments.expiry,
                exchange=arguments.exchange,
                as_of=arguments.as_of,
            ),
            is_data,
        )
    if found is None:
        return NOTHING_FOUND
    if arguments.json:
        write_json(found)
    elif arguments.csv:
        write_csv(lookup.OPTION_COLUMNS, [list(row.values()) for row in found["strikes"]])
    else:
        _say_chain(found, arguments.around)
    return 0


def _open_database() -> DatabaseManager:
    from shared.utils.db_manager import DatabaseManager

    return DatabaseManager(asdict(ConfigLoader.load_database_config()))


def _tell_unlisted(work: Callable[[], Any], is_data: bool) -> Any:
    """What `work` gives; None, and said why, if what it looks for is not listed."""
    try:
        return work()
    except NotListedError as exc:
        if is_data:  # standard output is a program's
            logger.warning("%s", exc)
        else:
            say(str(exc))
        return None


def _say_found(rows: Sequence[dict[str, Any]], total: int) -> None:
    cells = [_describe_row(row) for row in rows]
    columns = [name for name in _FIND_COLUMNS if any(each[name] for each in cells)]
    for name in _DISPENSABLE["expiry" in columns]:
        if name in columns and not _fits([columns, *([e[c] for c in columns] for e in cells)]):
            columns.remove(name)
    say_table(columns, [[each[name] for name in columns] for each in cells])
    if total > len(rows):
        say(f"\n{total - len(rows):,} more: further words narrow it, --csv gives all.")


def _describe_row(row: dict[str, Any]) -> dict[str, str]:
    is_option = row["instrument_type"] in ("CE", "PE")
    name = row["name"] or ""
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 3]}..."
    return {
        "instrument": f"{row['exchange']}:{row['tradingsymbol']}",
        "token": str(row["instrument_token"]),
        "type": row["instrument_type"] or "",
        "expiry": str(row["expiry"] or ""),
        "strike": str(row["strike"]) if is_option else "",
        "lot": "" if row["lot_size"] is None else str(row["lot_size"]),
        "name": name,
    }


def _describe_nothing(unmatched: Sequence[str]) -> str:
    if not unmatched:
        return "Nothing has all of these words; each of them has matches by itself."
    return f"Nothing is found by {' or by '.join(map(repr, unmatched))}."


def _fits(rows: Sequence[Sequence[str]]) -> bool:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return sum(widths) + _GAP * (len(widths) - 1) + 2 <= console_width()


def _say_chain(found: dict[str, Any], around: Decimal | None) -> None:
    options = found["strikes"]
    first, last = _choose_part([option["strike"] for option in options], around)
    shown = options[first:last]
    lots = {option["lot_size"] for option in shown}
    lot = f", lot {lots.pop()}" if len(lots) == 1 else ""
    say(f"{found['underlying']} on {found['exchange']}, {found['expiry']:%a %d %b %Y}{lot}\n")
    header, rows = _lay_out(shown, has_lots=not lot)
    say_table(header, rows)
    say()
    if first or last < len(options):
        say(
            f"{first} strikes below, {len(options) - last} above: --around PRICE, or --csv for all."
        )
    days = [day for day in found["expiries"] if day != found["expiry"]]
    if days:
        more = f", {len(days) - _SOME} more" if len(days) > _SOME else ""
        say(f"Other expiries: {', '.join(map(str, days[:_SOME]))}{more} (--expiry).")
    if places := [place for place in found["exchanges"] if place != found["exchange"]]:
        say(f"Also on {', '.join(places)} (--exchange).")


def _choose_part(strikes: Sequence[Decimal], around: Decimal | None) -> tuple[int, int]:
    """Where the shown strikes begin and end: around the middle one, or that nearest to a price."""
    middle = len(strikes) // 2
    if around is not None:
        middle = min(range(len(strikes)), key=lambda index: abs(strikes[index] - around))
    first = max(0, min(middle - SHOWN // 2, len(strikes) - SHOWN))
    return first, min(len(strikes), first + SHOWN)


def _lay_out(
    options: Sequence[dict[str, Any]], *, has_lots: bool
) -> tuple[list[str], list[list[str]]]:
    """The table; in a narrow terminal a call and its put, whose symbols differ by CE, are one."""
    lot = ["lot"] if has_lots else []
    names = ["call_symbol", "call_token", "strike", "put_token", "put_symbol"]
    header = ["call", "token", "strike", "token", "put", *lot]
    rows = [_cells(option, names, has_lots) for option in options]
    if _fits([header, *rows]):
        return header, rows
    header = ["call", "strike", "put", "symbol", *lot]
    names = ["call_token", "strike", "put_token", "symbol"]
    merged = [{**option, "symbol": _merge_symbols(option)} for option in options]
    return header, [_cells(option, names, has_lots) for option in merged]


def _cells(option: dict[str, Any], names: Sequence[str], has_lots: bool) -> list[str]:
    values = [option[name] for name in (*names, *(["lot_size"] if has_lots else []))]
    return ["" if value is None else str(value) for value in values]


def _merge_symbols(option: dict[str, Any]) -> str:
    call, put = option["call_symbol"], option["put_symbol"]
    return f"{call}/PE" if call and put else call or put


def _word(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text


def _price(text: str) -> Decimal:
    try:
        price = Decimal(text.replace(",", ""))
    except InvalidOperation as exc:
        raise ValueError from exc
    if not price.is_finite():
        raise ValueError
    return price


_word.__name__, _price.__name__ = "word", "price"  # argparse tells what it expected


def _add_find(parser: argparse.ArgumentParser) -> None:
    parser.usage = "execute_dags.py find WORD ... [options]"
    parser.epilog = """\
Each word narrows, in any order and case; exact matches come first:
  find nifty 25000 ce        find banknifty sep fut     find reliance
  find 256265                find nse:infy              find "nifty 50"
  find tcs 24sep26 options   find sensex index          find 500325
A word is a symbol, a name or a part of one, a token, a strike, a BSE scrip
code, an exchange, EXCHANGE:SYMBOL, a type (ce, pe, fut, opt, eq, index), a
month or day of the expiry (sep, sep26, 24sep, 2026-09-24).

At most 20 rows are shown; --json and --csv give all. Exit status: 0 found,
1 nothing found, 2 bad usage."""
    parser.add_argument("words", nargs="+", metavar="WORD", type=_word, help="what to find")
    _add_as_of(parser)
    _add_forms(parser, "all matches")


def _add_chain(parser: argparse.ArgumentParser) -> None:
    parser.usage = "execute_dags.py chain UNDERLYING [options]"
    parser.epilog = """\
  chain nifty
  chain banknifty --expiry 2026-09-29 --around 52000

At most 20 strikes are shown; --json and --csv give all. Exit status: 0 found,
1 nothing found, 2 bad usage."""
    add = parser.add_argument
    add("underlying", nargs="+", metavar="UNDERLYING", type=_word, help="NIFTY, INFY, GOLD, ...")
    expiry = "of this expiry (YYYY-MM-DD; default: the nearest)"
    add("--expiry", metavar="DATE", type=read_day, help=expiry)
    add("--exchange", metavar="CODE", help="on this exchange (default: that with most options)")
    around = "the strikes around this price (default: around the middle one)"
    add("--around", metavar="PRICE", type=_price, help=around)
    _add_as_of(parser)
    _add_forms(parser, "all strikes")


def _add_as_of(parser: argparse.ArgumentParser) -> None:
    as_of = "in the list of this day (YYYY-MM-DD), as it was at its end; default: today's"
    parser.add_argument("--as-of", metavar="DAY", type=read_day, help=as_of)


def _add_forms(parser: argparse.ArgumentParser, what: str) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help=f"print {what} as one JSON document")
    form.add_argument("--csv", action="store_true", help=f"print {what} as CSV")


COMMANDS = (
    Command("find", "find instruments: find nifty 25000 ce", find, _add_find),
    Command("chain", "show an option chain: chain nifty", chain, _add_chain),
)
