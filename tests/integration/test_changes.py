"""What changed: every kind, with examples as real lists have them, and real lists in sequence.

The expected changes stand beside each example; tests/change_model.py is a second opinion on them,
and the only one on whole lists.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from dag_1_import_instruments_from_kite.changes import Absent, find_unclear
from sandbox.dump_generator import describe_day, generate_dump
from sandbox.kite_server import KiteServer
from shared.calendar import IST
from shared.exceptions import DatabaseError, ValidationError
from shared.feed import RejectedRow
from shared.utils.db_manager import DatabaseManager
from shared.utils.kite_csv import WrittenKey, parse_dump
from tests.change_model import Change, Days, Row, classify
from tests.conftest import AddDAG, Project, Server
from tests.instruments import instrument, to_csv
from tests.table_model import read_table

pytestmark = pytest.mark.usefixtures("trading_today")

PAST = date(2025, 7, 31)
FUTURE = date(2199, 8, 26)


def today() -> date:
    return datetime.now(IST).date()


def share(token: int, symbol: str, exchange: str = "NSE", **fields: Any) -> dict[str, Any]:
    """A share, or another instrument that does not expire."""
    return instrument(
        token,
        symbol,
        exchange,
        **{
            "name": f"{symbol.split('-')[0]} LTD",
            "instrument_type": "EQ",
            "segment": exchange,
            "expiry": None,
            "strike": Decimal(0),
            "lot_size": 1,
            **fields,
        },
    )


def option(
    token: int, symbol: str, strike: str, expiry: date = FUTURE, **fields: Any
) -> dict[str, Any]:
    """An option on HINDPETRO, a call unless its symbol says otherwise."""
    kind = symbol[-2:]
    values = {"strike": Decimal(strike), "expiry": expiry, "instrument_type": kind, **fields}
    return instrument(token, symbol, **values)


# Something that is on both lists, so that neither is empty.
STAYS = share(3_001 << 8 | 1, "INFY")


@pytest.fixture
def days(emptied_manager: DatabaseManager, module_connection: Any) -> Days:
    days = Days(emptied_manager, module_connection)
    assert days.prepare()
    emptied_manager.execute_query("TRUNCATE ingestion_run CASCADE")
    return days


SYMBOL = ("tradingsymbol",)
bond = partial(share, name=None)


@dataclass(frozen=True)
class Example:
    before: list[dict[str, Any]]
    after: list[dict[str, Any]]
    changes: list[Change]


EXAMPLES = {
    "listed": Example(
        [],
        [share(186_628_609, "LGEINDIA")],
        [Change("listed", "NSE", 186_628_609, "LGEINDIA")],
    ),
    "expired": Example(
        [option(12_345_858, "HINDPETRO25JUL400CE", "400", PAST)],
        [],
        [Change("expired", "NFO", 12_345_858, "HINDPETRO25JUL400CE")],
    ),
    "expired, and later ones are listed": Example(
        [option(512, "HINDPETRO25JUL400CE", "400", PAST), option(768, "HINDPETRO99AUG400CE", "4")],
        [option(768, "HINDPETRO99AUG400CE", "4")],
        [Change("expired", "NFO", 512, "HINDPETRO25JUL400CE")],
    ),
    "gone: a share": Example(
        [share(4_545_537, "GALLISPAT-BZ")],
        [],
        [Change("gone", "NSE", 4_545_537, "GALLISPAT-BZ")],
    ),
    "gone: a bond that has no expiry": Example(
        [share(195_330_305, "91D070825-TB")],
        [],
        [Change("gone", "NSE", 195_330_305, "91D070825-TB")],
    ),
    "gone: a contract before its expiry": Example(
        [option(512, "HINDPETRO99AUG400CE", "400")],
        [],
        [Change("gone", "NFO", 512, "HINDPETRO99AUG400CE")],
    ),
    "expired: past by the clock, whatever the list still has": Example(
        [
            option(512, "HINDPETRO25JUL400CE", "400", PAST),
            option(768, "HINDPETRO25JUL410CE", "410", PAST - timedelta(days=7)),
        ],
        [option(768, "HINDPETRO25JUL410CE", "410", PAST - timedelta(days=7))],
        [Change("expired", "NFO", 512, "HINDPETRO25JUL400CE")],
    ),
    "expired where another exchange has earlier expiries": Example(
        [
            option(512, "HINDPETRO25JUL400CE", "400", PAST),
            instrument(3, "GOLD25JUNFUT", "MCX", expiry=PAST - timedelta(days=30)),
        ],
        [instrument(3, "GOLD25JUNFUT", "MCX", expiry=PAST - timedelta(days=30))],
        [Change("expired", "NFO", 512, "HINDPETRO25JUL400CE")],
    ),
    "renamed: a company": Example(
        [share(4_385_281, "ITDCEM", name="ITD CEMENTATION INDIA")],
        [share(4_385_281, "CEMPRO", name="CEMINDIA PROJECTS")],
        [
            Change("renamed", "NSE", 4_385_281, "CEMPRO", "tradingsymbol", "ITDCEM", "CEMPRO"),
            Change(
                *("terms changed", "NSE", 4_385_281, "CEMPRO", "name"),
                *("ITD CEMENTATION INDIA", "CEMINDIA PROJECTS"),
            ),
        ],
    ),
    "renamed: the symbol alone": Example(
        [share(256, "GEPIL", name="GE POWER INDIA")],
        [share(256, "GVPIL", name="GE POWER INDIA")],
        [Change("renamed", "NSE", 256, "GVPIL", "tradingsymbol", "GEPIL", "GVPIL")],
    ),
    "renamed: a share that stays in its series": Example(
        [share(256, "AARVEEDEN-BE", name="N")],
        [share(256, "VGL-BE", name="N")],
        [Change("renamed", "NSE", 256, "VGL-BE", "tradingsymbol", "AARVEEDEN-BE", "VGL-BE")],
    ),
    "renamed: another series under the same token": Example(
        [share(256, "SHRENIK-BE")],
        [share(256, "SHRENIK")],
        [Change("renamed", "NSE", 256, "SHRENIK", "tradingsymbol", "SHRENIK-BE", "SHRENIK")],
    ),
    "renamed: a share whose symbol begins with a number": Example(
        [share(256, "IIFLWAM", name="IIFL WEALTH")],
        [share(256, "360ONE", name="IIFL WEALTH")],
        [Change("renamed", "NSE", 256, "360ONE", "tradingsymbol", "IIFLWAM", "360ONE")],
    ),
    "renamed: the contracts of a renamed company": Example(
        [option(512, "ZOMATO99AUG250CE", "250", name="ZOMATO")],
        [option(512, "ETERNAL99AUG250CE", "250", name="ETERNAL")],
        [
            Change(
                *("renamed", "NFO", 512, "ETERNAL99AUG250CE", "tradingsymbol"),
                *("ZOMATO99AUG250CE", "ETERNAL99AUG250CE"),
            ),
            Change(
                *("terms changed", "NFO", 512, "ETERNAL99AUG250CE", "name"), "ZOMATO", "ETERNAL"
            ),
        ],
    ),
    "renamed: a contract whose strike a dividend has moved": Example(
        [option(512, "HINDPETRO99AUG390CE", "390")],
        [option(512, "HINDPETRO99AUG370.75CE", "370.75")],
        [
            Change(
                *("renamed", "NFO", 512, "HINDPETRO99AUG370.75CE", "tradingsymbol"),
                *("HINDPETRO99AUG390CE", "HINDPETRO99AUG370.75CE"),
            ),
            Change(
                *("terms changed", "NFO", 512, "HINDPETRO99AUG370.75CE"), "strike", "390", "370.75"
            ),
        ],
    ),
    "series moved: out of surveillance": Example(
        [share(256, "SHRENIK-BE")],
        [share(512, "SHRENIK")],
        [Change("series moved", "NSE", 512, "SHRENIK", "tradingsymbol", "SHRENIK-BE", "SHRENIK")],
    ),
    "series moved: into surveillance": Example(
        [share(256, "ABAN")],
        [share(512, "ABAN-BE")],
        [Change("series moved", "NSE", 512, "ABAN-BE", "tradingsymbol", "ABAN", "ABAN-BE")],
    ),
    "series moved: among small companies": Example(
        [share(256, "GOLDSTAR-ST", lot_size=11_250)],
        [share(512, "GOLDSTAR-SM", lot_size=11_250)],
        [
            Change(
                *("series moved", "NSE", 512, "GOLDSTAR-SM", "tradingsymbol"),
                *("GOLDSTAR-ST", "GOLDSTAR-SM"),
            )
        ],
    ),
    "series moved, with another lot": Example(
        [share(256, "EUROBOND-SM", lot_size=1_000)],
        [share(512, "EUROBOND", lot_size=1)],
        [
            Change(
                *("series moved", "NSE", 512, "EUROBOND", "tradingsymbol"),
                *("EUROBOND-SM", "EUROBOND"),
            ),
            Change("terms changed", "NSE", 512, "EUROBOND", "lot_size", "1000", "1"),
        ],
    ),
    "series moved, to a symbol with a hyphen of its own": Example(
        [share(256, "HCL-INSYS-BE")],
        [share(512, "HCL-INSYS")],
        [
            Change(
                *("series moved", "NSE", 512, "HCL-INSYS", "tradingsymbol"),
                *("HCL-INSYS-BE", "HCL-INSYS"),
            )
        ],
    ),
    "series moved: one of two that are gone": Example(
        [share(256, "X"), share(512, "X-BE")],
        [share(768, "X-BZ")],
        [
            Change("series moved", "NSE", 768, "X-BZ", "tradingsymbol", "X", "X-BZ"),
            Change("gone", "NSE", 512, "X-BE"),
        ],
    ),
    "series moved: one of two that are new": Example(
        [share(256, "X-BE")],
        [share(512, "X"), share(768, "X-BZ")],
        [
            Change("series moved", "NSE", 512, "X", "tradingsymbol", "X-BE", "X"),
            Change("listed", "NSE", 768, "X-BZ"),
        ],
    ),
    "series moved, to a token that another share had": Example(
        [share(256, "SHRENIK-BE"), share(512, "ABAN")],
        [share(512, "SHRENIK")],
        [
            Change("series moved", "NSE", 512, "SHRENIK", "tradingsymbol", "SHRENIK-BE", "SHRENIK"),
            Change("token reused", "NSE", 512, "SHRENIK", "tradingsymbol", "ABAN", "SHRENIK"),
        ],
    ),
    "series moved, and its token used again at once": Example(
        [share(256, "SHRENIK-BE")],
        [share(512, "SHRENIK"), share(256, "LGEINDIA")],
        [
            Change("series moved", "NSE", 512, "SHRENIK", "tradingsymbol", "SHRENIK-BE", "SHRENIK"),
            Change(
                "token reused", "NSE", 256, "LGEINDIA", "tradingsymbol", "SHRENIK-BE", "LGEINDIA"
            ),
        ],
    ),
    "no series moved: not the same exchange": Example(
        [share(256, "ABAN", "BSE")],
        [share(512, "ABAN-BE", "NSE")],
        [Change("gone", "BSE", 256, "ABAN"), Change("listed", "NSE", 512, "ABAN-BE")],
    ),
    "no series moved: a bond's ending is no series": Example(
        [share(256, "SGBAUG28-GB")],
        [share(512, "SGBAUG28")],
        [Change("gone", "NSE", 256, "SGBAUG28-GB"), Change("listed", "NSE", 512, "SGBAUG28")],
    ),
    "no series moved: what is new is no share": Example(
        [share(256, "ABAN")],
        [share(512, "ABAN-BE", instrument_type="FUT")],
        [Change("gone", "NSE", 256, "ABAN"), Change("listed", "NSE", 512, "ABAN-BE")],
    ),
    "no series moved: what is gone was no share": Example(
        [share(256, "ABAN-BE", instrument_type=None)],
        [share(512, "ABAN")],
        [Change("gone", "NSE", 256, "ABAN-BE"), Change("listed", "NSE", 512, "ABAN")],
    ),
    "no series moved: the old one is still listed": Example(
        [share(256, "ABAN")],
        [share(256, "ABAN"), share(512, "ABAN-BE")],
        [Change("listed", "NSE", 512, "ABAN-BE")],
    ),
    "token moved": Example(
        [option(13_683_714, "HINDPETRO99AUG400CE", "400")],
        [option(13_683_458, "HINDPETRO99AUG400CE", "400")],
        [
            Change(
                *("token moved", "NFO", 13_683_458, "HINDPETRO99AUG400CE", "instrument_token"),
                *("13683714", "13683458"),
            )
        ],
    ),
    "token moved, with another lot": Example(
        [option(512, "HINDPETRO99AUG400CE", "400", lot_size=2_025)],
        [option(768, "HINDPETRO99AUG400CE", "400", lot_size=2_100)],
        [
            Change(
                *("token moved", "NFO", 768, "HINDPETRO99AUG400CE"),
                *("instrument_token", "512", "768"),
            ),
            Change(
                *("terms changed", "NFO", 768, "HINDPETRO99AUG400CE"), "lot_size", "2025", "2100"
            ),
        ],
    ),
    "token reused after an expiry": Example(
        [option(13_683_458, "HINDPETRO25JUL400CE", "400", PAST)],
        [option(13_683_458, "HINDPETRO99AUG400CE", "400")],
        [
            Change(
                *("token reused", "NFO", 13_683_458, "HINDPETRO99AUG400CE", "tradingsymbol"),
                *("HINDPETRO25JUL400CE", "HINDPETRO99AUG400CE"),
            )
        ],
    ),
    "token reused: a put after a call": Example(
        [option(512, "HINDPETRO99AUG400CE", "400")],
        [option(512, "HINDPETRO99AUG400PE", "400")],
        [
            Change(
                *("token reused", "NFO", 512, "HINDPETRO99AUG400PE", "tradingsymbol"),
                *("HINDPETRO99AUG400CE", "HINDPETRO99AUG400PE"),
            )
        ],
    ),
    "token reused: another underlying and strike": Example(
        [option(512, "HINDPETRO99AUG400CE", "400")],
        [option(512, "BPCL99AUG285CE", "285", name="BPCL")],
        [
            Change(
                *("token reused", "NFO", 512, "BPCL99AUG285CE", "tradingsymbol"),
                *("HINDPETRO99AUG400CE", "BPCL99AUG285CE"),
            )
        ],
    ),
    "token reused: another bond": Example(
        [share(256, "642AS43-SG", name="SDL AS 6.42% 2043")],
        [share(256, "717KA41-SG", name="SDL KA 7.17% 2041")],
        [
            Change(
                "token reused",
                "NSE",
                256,
                "717KA41-SG",
                "tradingsymbol",
                "642AS43-SG",
                "717KA41-SG",
            )
        ],
    ),
    "renamed: a bond whose issuer has a new name, told by the same digits and series": Example(
        [bond(256, "9ISSU31A-NA"), bond(512, "ISSU230125-N0"), bond(768, "930PCHFL27-N0")],
        [bond(256, "9ISS31A-NA"), bond(512, "ISS230125A-N0"), bond(768, "930PFL27-N0")],
        [
            Change("renamed", "NSE", 256, "9ISS31A-NA", *SYMBOL, "9ISSU31A-NA", "9ISS31A-NA"),
            Change(
                "renamed", "NSE", 512, "ISS230125A-N0", *SYMBOL, "ISSU230125-N0", "ISS230125A-N0"
            ),
            Change("renamed", "NSE", 768, "930PFL27-N0", *SYMBOL, "930PCHFL27-N0", "930PFL27-N0"),
        ],
    ),
    "token reused: a bond with other digits, without any, or in another series": Example(
        [
            share(256, "HUDX-N2"),
            share(512, "CHOLAFIN-N6"),
            share(768, "OLD-N4"),
            share(1024, "9ISS31-NA"),
        ],
        [
            share(256, "82HUDX27-N2"),
            share(512, "925IHFL25D-N6"),
            share(768, "NEW-N4"),
            share(1024, "9ISX31-NB"),
        ],
        [
            Change("token reused", "NSE", 256, "82HUDX27-N2", *SYMBOL, "HUDX-N2", "82HUDX27-N2"),
            Change(
                "token reused", "NSE", 512, "925IHFL25D-N6", *SYMBOL, "CHOLAFIN-N6", "925IHFL25D-N6"
            ),
            Change("token reused", "NSE", 768, "NEW-N4", *SYMBOL, "OLD-N4", "NEW-N4"),
            Change("token reused", "NSE", 1024, "9ISX31-NB", *SYMBOL, "9ISS31-NA", "9ISX31-NB"),
        ],
    ),
    "renamed: a trust's series is no bond's": Example(
        [bond(256, "MINDSPACE-RR"), bond(512, "INDIGRID-IV")],
        [bond(256, "MINDSPC-RR"), bond(512, "INDIGRIDTR-IV")],
        [
            Change("renamed", "NSE", 256, "MINDSPC-RR", *SYMBOL, "MINDSPACE-RR", "MINDSPC-RR"),
            Change("renamed", "NSE", 512, "INDIGRIDTR-IV", *SYMBOL, "INDIGRID-IV", "INDIGRIDTR-IV"),
        ],
    ),
    "token reused: a bond after a share, and a share after a bond": Example(
        [share(256, "ABAN"), share(512, "642AS43-SG")],
        [share(256, "717KA41-SG"), share(512, "LGEINDIA")],
        [
            Change("token reused", "NSE", 256, "717KA41-SG", "tradingsymbol", "ABAN", "717KA41-SG"),
            Change(
                "token reused", "NSE", 512, "LGEINDIA", "tradingsymbol", "642AS43-SG", "LGEINDIA"
            ),
        ],
    ),
    "terms changed: one row for each field": Example(
        [share(256, "BARBEQUE", tick_size=Decimal("0.05"), lot_size=1, name="BARBEQUE NATION")],
        [share(256, "BARBEQUE", tick_size=Decimal("0.0100"), lot_size=5, name=None)],
        [
            Change("terms changed", "NSE", 256, "BARBEQUE", "tick_size", "0.05", "0.01"),
            Change("terms changed", "NSE", 256, "BARBEQUE", "lot_size", "1", "5"),
            Change("terms changed", "NSE", 256, "BARBEQUE", "name", "BARBEQUE NATION", None),
        ],
    ),
    "terms changed: every field": Example(
        [option(512, "X-CE", "90.875", date(2199, 1, 1), exchange_token="2", segment="NFO-OPT")],
        [
            {
                **option(
                    512, "X-CE", "91", date(2199, 1, 2), exchange_token="3", segment="NFO-FUT"
                ),
                "instrument_type": "FUT",
            }
        ],
        [
            Change("terms changed", "NFO", 512, "X-CE", "strike", "90.875", "91"),
            Change("terms changed", "NFO", 512, "X-CE", "expiry", "2199-01-01", "2199-01-02"),
            Change("terms changed", "NFO", 512, "X-CE", "segment", "NFO-OPT", "NFO-FUT"),
            Change("terms changed", "NFO", 512, "X-CE", "exchange_token", "2", "3"),
            Change("terms changed", "NFO", 512, "X-CE", "instrument_type", "CE", "FUT"),
        ],
    ),
    "no change: the same number, written otherwise": Example(
        [share(256, "ABAN", tick_size=Decimal("0.05"))],
        [share(256, "ABAN", tick_size=Decimal("0.0500"))],
        [],
    ),
    "the same token on two exchanges is two instruments": Example(
        [share(256, "ABAN", "NSE"), share(256, "OTHER", "BSE")],
        [share(256, "ABAN", "NSE", lot_size=2)],
        [
            Change("gone", "BSE", 256, "OTHER"),
            Change("terms changed", "NSE", 256, "ABAN", "lot_size", "1", "2"),
        ],
    ),
    "the same symbol on two exchanges is two instruments": Example(
        [share(256, "ABAN", "NSE")],
        [share(512, "ABAN", "BSE")],
        [Change("gone", "NSE", 256, "ABAN"), Change("listed", "BSE", 512, "ABAN")],
    ),
    "two symbols that swap": Example(
        [share(256, "A"), share(512, "B")],
        [share(256, "B"), share(512, "A")],
        [
            Change("token moved", "NSE", 512, "A", "instrument_token", "256", "512"),
            Change("token moved", "NSE", 256, "B", "instrument_token", "512", "256"),
            Change("token reused", "NSE", 512, "A", "tradingsymbol", "B", "A"),
            Change("token reused", "NSE", 256, "B", "tradingsymbol", "A", "B"),
        ],
    ),
    "a corporate action: strikes move among tokens": Example(
        [
            option(26_052_610, "HINDPETRO99AUG390CE", "390"),
            option(13_683_458, "HINDPETRO99AUG450CE", "450"),
        ],
        [
            option(26_052_610, "HINDPETRO99AUG370.75CE", "370.75"),
            option(13_683_458, "HINDPETRO99AUG390CE", "390"),
        ],
        [
            Change(
                *("renamed", "NFO", 26_052_610, "HINDPETRO99AUG370.75CE", "tradingsymbol"),
                *("HINDPETRO99AUG390CE", "HINDPETRO99AUG370.75CE"),
            ),
            Change(
                *("terms changed", "NFO", 26_052_610, "HINDPETRO99AUG370.75CE"),
                *("strike", "390", "370.75"),
            ),
            Change(
                *("token moved", "NFO", 13_683_458, "HINDPETRO99AUG390CE", "instrument_token"),
                *("26052610", "13683458"),
            ),
            Change(
                *("token reused", "NFO", 13_683_458, "HINDPETRO99AUG390CE", "tradingsymbol"),
                *("HINDPETRO99AUG450CE", "HINDPETRO99AUG390CE"),
            ),
        ],
    ),
}


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_change_is_recorded_as_its_kind(days: Days, example: Example) -> None:
    days.load([STAYS, *example.before])
    summary = days.load([STAYS, *example.after], force=True)
    assert days.changes() == Counter(example.changes)
    assert summary.changes == Counter(change.kind for change in example.changes)
    second_opinion = classify([STAYS, *example.before], [STAYS, *example.after], today=today())
    assert second_opinion == Counter(example.changes)


def test_all_examples_at_once_are_told_apart(days: Days) -> None:
    """Each example has exchanges of its own, named by a number: they do not disturb each other."""
    before: list[dict[str, Any]] = []
    after: list[dict[str, Any]] = []
    expected: Counter[Change] = Counter()
    for number, example in enumerate(EXAMPLES.values()):
        before += [{**row, "exchange": f"{row['exchange']}{number}"} for row in example.before]
        after += [{**row, "exchange": f"{row['exchange']}{number}"} for row in example.after]
        expected.update(c._replace(exchange=f"{c.exchange}{number}") for c in example.changes)
    days.load(before)
    days.load(after)
    assert days.changes() == expected


# From run to run


def test_first_list_records_no_change(days: Days) -> None:
    summary = days.load([STAYS, share(256, "ABAN")])
    assert summary.changes is None
    assert days.count_changes() == 0


def test_same_list_again_records_no_change(days: Days) -> None:
    days.load([STAYS])
    assert days.load([STAYS]).changes == Counter()
    assert days.count_changes() == 0


def test_disappearance_is_told_once(days: Days) -> None:
    both = [STAYS, share(256, "ABAN")]
    days.load(both)
    days.load([STAYS])
    assert days.changes() == Counter([Change("gone", "NSE", 256, "ABAN")])
    for _ in range(2):
        days.load([STAYS])
        assert days.changes() == Counter()
    assert days.count_changes() == 1


def test_instrument_that_comes_back_is_listed_again(days: Days) -> None:
    both = [STAYS, share(256, "ABAN")]
    days.load(both)
    days.load([STAYS])
    days.load(both)
    assert days.changes() == Counter([Change("listed", "NSE", 256, "ABAN")])
    days.load(both)
    assert days.changes() == Counter()


def test_instrument_that_comes_back_changed_is_compared_with_nothing(days: Days) -> None:
    """What the table still holds of it is of an older list."""
    days.load([STAYS, share(256, "ABAN", lot_size=1)])
    days.load([STAYS])
    days.load([STAYS, share(256, "ABAN-BE", lot_size=5)])
    assert days.changes() == Counter([Change("listed", "NSE", 256, "ABAN-BE")])


def test_symbol_that_was_gone_before_is_not_said_to_have_moved(days: Days) -> None:
    """Its old token is back with another one."""
    days.load([STAYS, share(256, "ABAN")])
    days.load([STAYS])
    days.load([STAYS, share(256, "LGEINDIA"), share(512, "ABAN"), share(768, "ABAN-BE")])
    assert days.changes() == Counter(
        [
            Change("listed", "NSE", 256, "LGEINDIA"),
            Change("listed", "NSE", 512, "ABAN"),
            Change("listed", "NSE", 768, "ABAN-BE"),
        ]
    )


def test_symbol_of_a_row_that_was_gone_before_is_listed(days: Days) -> None:
    """The stale holder is superseded; that its symbol moved is no news of today's."""
    days.load([STAYS, share(256, "ABAN")])
    days.load([STAYS])
    summary = days.load([STAYS, share(512, "ABAN")])
    assert summary.merge is not None
    assert summary.merge.superseded == 1
    assert days.changes() == Counter([Change("listed", "NSE", 512, "ABAN")])


def test_run_after_a_failed_one_is_compared_with_the_last_good_one(days: Days) -> None:
    many = [share(number << 8, f"S{number}") for number in range(1, 151)]
    days.load(many)
    with pytest.raises(ValidationError, match="NSE fell from 150 rows to 10"):
        days.load(many[:10])
    assert days.count_changes() == 0
    days.load(many[1:])
    assert days.changes() == Counter([Change("gone", "NSE", 256, "S1")])


@pytest.fixture
def refusing_inserts(days: Days) -> Iterator[Callable[[], None]]:
    """The table refuses new rows, after all changes were worked out, until this is called."""
    days.manager.execute_query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF NEW.tradingsymbol = 'LGEINDIA' THEN RAISE EXCEPTION 'not today'; END IF;"
        " RETURN NEW; END$$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON kite_instrument_master"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    end = partial(days.manager.execute_query, "DROP FUNCTION IF EXISTS refuse CASCADE")
    yield end
    end()


def test_changes_are_rolled_back_with_the_data(
    days: Days, module_connection: Any, refusing_inserts: Callable[[], None]
) -> None:
    days.load([STAYS, share(256, "ABAN")])
    stored, run = read_table(module_connection), days.last_run()
    after = [STAYS, share(512, "LGEINDIA")]
    with pytest.raises(DatabaseError, match="not today"):
        days.load(after)
    assert read_table(module_connection) == stored
    assert (days.last_run(), days.count_changes()) == (run, 0)
    refusing_inserts()
    days.load(after)
    assert days.changes() == Counter(
        [Change("gone", "NSE", 256, "ABAN"), Change("listed", "NSE", 512, "LGEINDIA")]
    )


def test_dry_run_counts_the_changes_and_keeps_none(days: Days) -> None:
    before, after = [STAYS, share(256, "ABAN")], [share(512, "ABAN"), {**STAYS, "lot_size": 2}]
    days.load(before)
    tried = days.load(after, dry_run=True)
    assert days.count_changes() == 0
    done = days.load(after)
    assert tried.changes == done.changes == Counter({"token moved": 1, "terms changed": 1})
    assert tried.merge is not None
    assert done.merge is not None
    assert (tried.merge.inserted, tried.merge.updated, tried.merge.superseded) == (
        done.merge.inserted,
        done.merge.updated,
        done.merge.superseded,
    )


PAST_BUT_LISTED_LATER = option(512, "HINDPETRO25AUG400CE", "400", PAST)
NO_EXPIRY = {**option(768, "H", "4", FUTURE), "expiry": None}
NEXT_TO_EXPIRE = option(768, "HINDPETRO25JUL410CE", "410", PAST - timedelta(days=7))


@pytest.mark.parametrize(
    ("source", "left", "kind"),
    [
        pytest.param("api", [NEXT_TO_EXPIRE], "expired", id="by the clock"),
        pytest.param("/old.csv", [NEXT_TO_EXPIRE], "gone", id="a replay, before its expiry"),
        pytest.param("/old.csv", [NO_EXPIRY], "expired", id="a replay that has no expiry at all"),
        pytest.param(
            "/old.csv", [option(768, "H", "4", PAST)], "expired", id="a replay of the day itself"
        ),
        pytest.param(
            "/old.csv", [option(768, "H", "4", FUTURE)], "expired", id="a replay after the expiry"
        ),
    ],
)
def test_expiry_is_past_by_the_clock_and_in_a_replay_by_its_own_expiries(
    days: Days, source: str, left: list[dict[str, Any]], kind: str
) -> None:
    before, after = [STAYS, PAST_BUT_LISTED_LATER, *left], [STAYS, *left]
    days.load(before)
    days.load(after, source=source)
    expected = Counter([Change(kind, "NFO", 512, "HINDPETRO25AUG400CE")])
    assert days.changes() == expected
    assert classify(before, after, today=today(), is_replay=source != "api") == expected


def test_row_that_was_rejected_is_not_gone(days: Days) -> None:
    """Kite lists it, if in a way that cannot be stored. What the next list says of it is told."""
    days.load([STAYS, share(256, "ABAN"), share(256, "ABAN", "BSE")])
    broken = share(256, "ABAN", tick_size=Decimal("0.00001"))
    unclear = Change("unclear", "NSE", 256, "ABAN")
    summary = days.load([STAYS, broken])
    assert len(summary.rejected) == 1
    assert days.changes() == Counter([Change("gone", "BSE", 256, "ABAN"), unclear])
    days.load([STAYS, broken])
    assert days.changes() == Counter([unclear])
    days.load([STAYS, share(256, "ABAN", lot_size=5)])
    assert days.changes() == Counter(
        [Change("terms changed", "NSE", 256, "ABAN", "lot_size", "1", "5")]
    )
    days.load([STAYS, broken])
    days.load([STAYS])
    assert days.changes() == Counter([Change("gone", "NSE", 256, "ABAN")])
    days.load([STAYS, share(256, "ABAN")])
    assert days.changes() == Counter([Change("listed", "NSE", 256, "ABAN")])


NOT_TOLD = "are not told as gone: line 2 and 1 more were rejected"


def test_absences_where_rejected_rows_cannot_be_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those of their exchange are unclear, with one warning however many rows there are."""
    absent = [Absent(exchange, str(n), f"S{n}") for n in (1, 2) for exchange in ("BSE", "NSE")]

    def reject(line: int, token: str, symbol: str, exchange: str) -> RejectedRow:
        key = WrittenKey(token, exchange, symbol)
        return RejectedRow(line, "a reason", [token, "", symbol, exchange], key)

    nameless = [reject(line, "", " ", "NSE") for line in (2, 3)]
    assert find_unclear(absent, nameless) == [each for each in absent if each.exchange == "NSE"]
    assert [f"2 absences of NSE {NOT_TOLD}" in message for message in caplog.messages] == [True]
    assert find_unclear(absent, [reject(2, "1", "", ""), reject(3, "", "S2", "BSE")]) == [
        absent[0],
        absent[2],
        absent[1],
    ]
    assert find_unclear(absent, [reject(2, "9", "S9", "NSE")]) == []
    assert find_unclear(absent[:1], nameless) == []
    assert len(caplog.messages) == 1


def test_list_of_which_much_is_rejected_and_absent_is_soon_told() -> None:
    """Each row was looked for among all the others: 220 s at 47,000 of each."""
    absent = [Absent("NSE", str(n), f"S{n}") for n in range(50_000)]
    rejected = [
        RejectedRow(n, "a reason", [str(n)], WrittenKey(str(n), "NSE", f"S{n}"))
        for n in range(50_000)
    ]
    assert len(find_unclear(absent, rejected)) == 50_000


def test_table_that_no_run_has_filled_is_compared_with_nothing(days: Days) -> None:
    days.manager.upsert_instruments([share(256, "ABAN"), STAYS])
    assert days.load([STAYS]).changes is None
    assert days.count_changes() == 0
    days.load([STAYS, share(512, "LGEINDIA")])
    assert days.changes() == Counter([Change("listed", "NSE", 512, "LGEINDIA")])


def test_exchanges_that_the_configuration_leaves_out_are_not_gone(days: Days) -> None:
    everything = [STAYS, share(256, "ABAN", "BSE"), option(512, "HINDPETRO99AUG400CE", "400")]
    days.load(everything)
    days.load([*everything[1:], share(768, "LGEINDIA")], exchanges=["NSE"])
    assert days.changes() == Counter(
        [
            Change("gone", "NSE", STAYS["instrument_token"], "INFY"),
            Change("listed", "NSE", 768, "LGEINDIA"),
        ]
    )


def test_change_table_refers_to_its_run_and_goes_with_it(days: Days) -> None:
    days.load([STAYS, share(256, "ABAN")])
    days.load([STAYS])
    run = days.last_run()
    assert days.query("SELECT DISTINCT run_id FROM kite_instrument_change") == [(run,)]
    days.manager.execute_query("DELETE FROM ingestion_run WHERE run_id = %s", (run,))
    assert days.count_changes() == 0


# Whole lists


def read_rows(dump: bytes) -> list[dict[str, Any]]:
    """A list as the standard library reads it; nothing of the project's parser."""
    rows: list[dict[str, Any]] = []
    for line in csv.DictReader(io.StringIO(dump.decode("utf-8"))):
        row: dict[str, Any] = {key: value if value.strip() else None for key, value in line.items()}
        row["instrument_token"] = int(line["instrument_token"])
        row["lot_size"] = int(line["lot_size"])
        row["expiry"] = date.fromisoformat(line["expiry"]) if line["expiry"] else None
        for name in ("strike", "tick_size"):
            row[name] = Decimal(line[name]) if line[name] else None
        rows.append(row)
    return rows


def test_nse_of_august_then_of_october(
    real_dump: Callable[[str], bytes],
    configured_project: Project,
    kite: KiteServer,
    server: Server,
    database: str,
    db_manager: DatabaseManager,
) -> None:
    august, october = real_dump("dumps/nse_2025-08.csv.gz"), real_dump("dumps/nse_2025-10.csv.gz")
    for kite.dump in (august, october):
        result = configured_project.run("--dag", "1")
        assert (result.returncode, result.stderr) == (0, "")
    connection = server.connect(database)
    recorded = Days(db_manager, connection).changes()
    connection.close()
    before, after = read_rows(august), read_rows(october)
    assert recorded == classify(before, after, today=today())
    by_kind = Counter(change.kind for change in recorded.elements())
    assert by_kind["renamed"] == 13
    assert by_kind["series moved"] == 408
    assert by_kind["gone"] == 582 - 408
    assert by_kind.keys() == {"renamed", "series moved", "gone", "listed", "terms changed"}
    renames = {(c.old, c.new) for c in recorded if c.kind == "renamed"}
    assert {("ITDCEM", "CEMPRO"), ("SWANENERGY", "SWANCORP")} < renames
    moves = {(c.old, c.new) for c in recorded if c.kind == "series moved"}
    assert {("SHRENIK-BE", "SHRENIK"), ("ABAN", "ABAN-BE")} < moves
    assert read_summary(result.stdout) == by_kind
    # Each list is what the other one, and the changes, make it: nothing is told twice or not.
    tokens = {row["instrument_token"] for row in before}
    assert len(tokens) - 582 + by_kind["listed"] + by_kind["series moved"] == len(after)


def read_summary(output: str) -> dict[str, int]:
    """The changes that a run's summary counts."""
    section = output[output.index("changes since the last list:\n") :].split("\n\n")[0]
    found = re.findall(r"^ +([\d,]+)  (.+)$", section, re.M)
    return {kind: int(count.replace(",", "")) for count, kind in found}


SANDBOX_ROWS = 6_000


def sandbox_list(day: int) -> list[dict[str, Any]]:
    return read_rows(generate_dump(day, rows=SANDBOX_ROWS))


@pytest.mark.parametrize(
    "day",
    [
        pytest.param(1, id="with corporate actions"),
        pytest.param(2, id="after an expiry"),
        pytest.param(12, id="in the second week"),
    ],
)
def test_day_of_the_sandbox(days: Days, day: int) -> None:
    before, after = sandbox_list(day - 1), sandbox_list(day)
    days.load(before)
    days.load(after)
    recorded = days.changes()
    assert recorded == classify(before, after, today=today())
    assert set(recorded.values()) == {1}
    told = describe_day(day, rows=SANDBOX_ROWS)
    shares = {row["tradingsymbol"] for row in [*before, *after] if row["instrument_type"] == "EQ"}
    assert {
        (c.exchange, c.old, c.new) for c in recorded if c.kind == "renamed" and c.old in shares
    } == set(told.renamed)
    assert {(c.exchange, c.old, c.new) for c in recorded if c.kind == "series moved"} == set(
        told.moved_series
    )
    by_kind = Counter(change.kind for change in recorded)
    by_term = Counter(change.field for change in recorded if change.kind == "terms changed")
    assert by_term["tick_size"] == told.changed_ticks
    assert by_kind["token reused"] > 0
    if told.adjusted:
        assert {"HINDPETRO", "BPCL"} <= set(told.adjusted) or day > 1
        assert by_kind["renamed"] > len(told.renamed)  # contracts with other strikes
        assert by_term["strike"] == by_kind["renamed"] - len(told.renamed)
        assert by_kind["token moved"] > told.relisted
    else:
        assert by_kind["renamed"] == len(told.renamed)
        assert 0 < by_kind["token moved"] <= told.relisted  # some of them are new today
    assert_each_coming_and_going_is_told_once(recorded, before, after)


def assert_each_coming_and_going_is_told_once(
    recorded: Counter[Change], before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    """Under a kind of its own, or else as the old or new contract of a token."""
    old = {(row["exchange"], row["tradingsymbol"]) for row in before}
    new = {(row["exchange"], row["tradingsymbol"]) for row in after}
    changed = [c for c in recorded.elements() if c.kind in ("renamed", "series moved")]
    reused = [c for c in recorded.elements() if c.kind == "token reused"]
    went = [(c.exchange, c.symbol) for c in recorded if c.kind in ("gone", "expired")]
    came = [(c.exchange, c.symbol) for c in recorded if c.kind == "listed"]
    went += [(c.exchange, c.old) for c in changed]
    came += [(c.exchange, c.symbol) for c in changed]
    assert len(went) == len(set(went))
    assert len(came) == len(set(came))
    moved = {(c.exchange, c.symbol) for c in recorded if c.kind == "token moved"}
    assert set(went) - moved <= old - new <= {*went, *((c.exchange, c.old) for c in reused)}
    assert set(came) <= new - old <= {*came, *((c.exchange, c.symbol) for c in reused)}


def test_change_table_of_an_ordinary_day_has_a_row_for_each_thing_that_changed(days: Days) -> None:
    """Nothing expires, no corporate action: the generator itself counts all but the lots."""
    before, after = sandbox_list(2), sandbox_list(3)
    told = describe_day(3, rows=SANDBOX_ROWS)
    assert not told.adjusted
    days.load(before)
    days.load(after)
    recorded = days.changes()
    by_kind = Counter(change.kind for change in recorded.elements())
    lots = {(row["instrument_token"], row["exchange"]): row["lot_size"] for row in before}
    changed_lots = sum(
        lots.get((row["instrument_token"], row["exchange"]), row["lot_size"]) != row["lot_size"]
        for row in after
        if (row["instrument_token"], row["exchange"])
        not in {(c.token, c.exchange) for c in recorded if c.kind == "token reused"}
    )
    changed_names = sum(change.field == "name" for change in recorded)
    assert changed_names == len(told.renamed)
    assert by_kind["terms changed"] == changed_lots + told.changed_ticks + changed_names
    assert by_kind["renamed"] == len(told.renamed)
    assert by_kind["series moved"] == len(told.moved_series)
    assert 0 < by_kind["token moved"] <= told.relisted  # some of those are new today
    reused = {(c.old, c.symbol) for c in recorded if c.kind == "token reused"}
    moves = [(old, new) for _, old, new in told.moved_series]
    to_reused = sum(any(new == symbol for _, symbol in reused) for _, new in moves)
    from_reused = sum(any(old == symbol for symbol, _ in reused) for old, _ in moves)
    assert by_kind["listed"] + len(reused) - to_reused == told.listed
    assert by_kind["gone"] + by_kind["expired"] + len(reused) - from_reused == told.gone
    assert days.count_changes() == by_kind.total() < len(after) / 10
    assert_each_coming_and_going_is_told_once(recorded, before, after)


# What a user is shown


@pytest.fixture
def two_days(configured_project: Project, kite: KiteServer) -> Project:
    """Two lists were imported; the second has ABAN in another series and no GALLISPAT-BZ."""
    for rows in (
        [STAYS, share(256, "ABAN", name="ABAN"), share(512, "GALLISPAT-BZ"), share(768, "ZEN")],
        [{**STAYS, "name": "N" * 90}, share(1024, "ABAN-BE", name="ABAN"), share(1280, "LGEINDIA")],
    ):
        kite.dump = to_csv(rows)
        assert configured_project.run("--dag", "1").returncode == 0
    return configured_project


def test_changes_option_shows_each_kind_by_exchange_with_its_first(two_days: Project) -> None:
    result = two_days.run("changes")
    assert (result.returncode, result.stderr) == (0, "")
    title, blank, header, *lines = result.stdout.splitlines()
    assert re.fullmatch(r"Run 2, \w{3} \d\d \w{3} \d{4} \d\d:\d\d IST: 5 changes", title)
    assert blank == ""
    assert header.split() == ["kind", "exchange", "rows", "the", "first", "of", "them"]
    assert [re.split(" {2,}", line) for line in lines[:3]] == [
        ["gone", "NSE", "2", "GALLISPAT-BZ"],
        ["listed", "NSE", "1", "LGEINDIA"],
        ["series moved", "NSE", "1", "ABAN -> ABAN-BE"],
    ]
    assert re.split(" +", lines[3])[:6] == ["terms", "changed", "NSE", "1", "INFY", "name:"]
    assert lines[3].endswith("...")
    assert max(map(len, lines)) == 79


def test_changes_option_as_json_has_all_of_them(two_days: Project) -> None:
    result = two_days.run("changes", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    [report] = json.loads(result.stdout)["dags"]
    assert (report["dag_id"], report["name"]) == (1, "import_instruments_from_kite")
    assert report["run"]["run_id"] == 2
    age = datetime.now(IST) - datetime.fromisoformat(report["run"]["started_at"])
    assert timedelta(0) < age < timedelta(minutes=5)
    assert [(c["kind"], c["tradingsymbol"]) for c in report["changes"]] == [
        ("gone", "GALLISPAT-BZ"),
        ("gone", "ZEN"),
        ("listed", "LGEINDIA"),
        ("series moved", "ABAN-BE"),
        ("terms changed", "INFY"),
    ]
    assert report["changes"][4] == {
        "run_id": 2,
        "exchange": "NSE",
        "instrument_token": STAYS["instrument_token"],
        "tradingsymbol": "INFY",
        "kind": "terms changed",
        "field": "name",
        "old": "INFY LTD",
        "new": "N" * 90,
    }


def test_changes_option_before_and_after_the_first_run(
    configured_project: Project, kite: KiteServer
) -> None:
    result = configured_project.run("changes")
    assert (result.returncode, result.stdout) == (0, "No run has been recorded yet.\n")
    empty = configured_project.run("changes", "--json")
    name = "import_instruments_from_kite"
    report = {"dag_id": 1, "name": name, "run": None, "changes": []}
    assert json.loads(empty.stdout) == {"dags": [report]}
    kite.dump = to_csv([STAYS])
    assert "changes since" not in configured_project.run("--dag", "1").stdout
    result = configured_project.run("changes")
    assert re.search(r"IST: the first list, which the next one is compared with\n$", result.stdout)
    assert "nothing changed since the last list" in configured_project.run("--dag", "1").stdout
    assert configured_project.run("changes").stdout == result.stdout  # the list is the same
    assert configured_project.run("changes", "--run", "2").stdout.endswith(": 0 changes\n")


def test_changes_option_beside_a_dag_that_is_broken(two_days: Project, add_dag: AddDAG) -> None:
    add_dag(9, "broken", "def broken(:\n")
    result = two_days.run("changes")
    assert result.returncode == 0
    assert result.stdout.startswith("Run 2, ")
    assert re.fullmatch("WARNING: DAG 9: dag_9_broken cannot be loaded: .*\n", result.stderr)
    named = two_days.run("changes", "--dag", "9")
    assert (named.returncode, named.stdout) == (1, "")


def test_changes_option_after_a_failed_run_shows_the_last_good_one(
    two_days: Project, kite: KiteServer
) -> None:
    kite.dump = to_csv([])
    assert two_days.run("--dag", "1").returncode == 1
    assert two_days.run("changes").stdout.startswith("Run 2, ")


def test_model_reads_a_list_as_the_project_does(real_dump: Callable[[str], bytes]) -> None:
    """So that the comparison above is not of two readings."""
    dump = real_dump("dumps/nse_2025-10.csv.gz")
    parsed: list[Row] = parse_dump(dump).rows
    names = [name for name in parsed[0] if name != "line_number"]
    assert [{n: row[n] for n in names} for row in parsed] == [
        {n: row[n] for n in names} for row in read_rows(dump)
    ]
