"""Whose candles are wanted, by the lists that DAG 1 has kept: today's, and those before it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from dag_1_import_instruments_from_kite.history import HISTORY
from dag_2_import_candles_from_kite.plan import Span, midnight
from dag_2_import_candles_from_kite.tables import COVERAGE
from dag_2_import_candles_from_kite.universe import (
    Moves,
    Target,
    Universe,
    find_ended,
    read_universe,
    resolve,
)
from shared.exceptions import DatabaseError
from shared.utils.db_manager import DatabaseManager
from shared.utils.extras import ensure_extra_table
from tests.change_model import Days, Row
from tests.conftest import NO_WAIT, Server
from tests.instruments import instrument

pytestmark = pytest.mark.usefixtures("trading_today")

FIRST = date(2026, 11, 2)  # of the lists; the later ones are of the days after it
COVER = """
INSERT INTO kite_candle_coverage VALUES (%s, 'day', %s, %s, %s, %s)
ON CONFLICT (instrument_id, interval, "from") DO UPDATE SET "to" = excluded."to"
"""


def share(token: int, symbol: str, exchange: str = "NSE", **fields: Any) -> Row:
    values: dict[str, Any] = {"name": f"{symbol} LTD", "instrument_type": "EQ", "lot_size": 1}
    values |= {"segment": exchange, "expiry": None, "strike": Decimal(0)}
    return instrument(token, symbol, exchange, **values | fields)


def future(token: int, name: str, month: int, **fields: Any) -> Row:
    values: dict[str, Any] = {
        "name": name,
        "instrument_type": "FUT",
        "segment": "NFO-FUT",
        "strike": Decimal(0),
    }
    values |= {"expiry": date(2027, month, 26)}
    return instrument(token, f"{name}27{month:02d}FUT", **values | fields)


def option(token: int, name: str, month: int, kind: str = "CE") -> Row:
    expiry = date(2027, month, 26)
    return instrument(
        token, f"{name}27{month:02d}{kind}", name=name, instrument_type=kind, expiry=expiry
    )


NIFTY = share(256265, "NIFTY 50", segment="INDICES", name="NIFTY 50")
INFY, TCS = share(512, "INFY"), share(768, "TCS")
LISTED = [
    NIFTY,
    INFY,
    TCS,
    share(513, "INFY", "BSE"),
    *(future(2000 + month, "NIFTY", month) for month in (1, 2, 3)),
    *(future(3000 + month, "INFY", month) for month in (1, 2)),
    option(4001, "NIFTY", 1),
    option(4002, "NIFTY", 2, "PE"),
]


class Lists:
    """DAG 1's lists, one a day, and the universe that they make."""

    def __init__(self, manager: DatabaseManager, connection: Any) -> None:
        self.manager = manager
        self.days = Days(manager, connection)
        assert self.days.prepare().versions
        self._day = FIRST

    def load(self, *rows: Row, after_days: int = 1) -> date:
        """A list of the next day, or of a later one; returns its day."""
        day = self._day
        self.days.load([NIFTY, *rows], source="a.csv", dated=day, force=True)
        self._day += timedelta(days=after_days)
        return day

    def resolve(self, *items: Any) -> Universe:
        selections = read_universe([*items])
        return self.manager.run_in_transaction(lambda cursor: resolve(cursor, selections))

    def targets(self, *items: Any) -> dict[str, Target]:
        return {target.name: target for target in self.resolve(*items).targets}

    def cover(self, target: Target, last: date, *, is_final: bool = True) -> None:
        """As if all up to the end of a day had been answered."""
        moments = (midnight(FIRST), midnight(last + timedelta(days=1)))
        fetched_at = midnight(last) + timedelta(hours=42 if is_final else 18)
        params = (target.instrument_id, *moments, fetched_at, is_final)
        self.manager.execute_query(COVER, params)

    def ended(self) -> Sequence[Target]:
        return self.manager.run_in_transaction(lambda cursor: find_ended(cursor, "day"))

    def elsewhere(self, target: Target) -> tuple[Span, ...]:
        return self.manager.run_in_transaction(lambda cursor: Moves(cursor).find_elsewhere(target))


@pytest.fixture
def lists(emptied_manager: DatabaseManager, module_connection: Any) -> Lists:
    lists = Lists(emptied_manager, module_connection)
    emptied_manager.run_in_transaction(lambda cursor: ensure_extra_table(cursor, COVERAGE))
    emptied_manager.execute_query(f"TRUNCATE ingestion_run, {HISTORY.name} CASCADE")
    emptied_manager.execute_query("TRUNCATE kite_candle_coverage")
    return lists


# --- selections ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "names"),
    [
        (["NSE:INFY"], ["NSE:INFY"]),
        (["nse:INFY", "BSE:INFY", "NSE:INFY"], ["NSE:INFY", "BSE:INFY"]),
        ([{"exchange": "NSE", "segment": "NSE"}], ["NSE:INFY", "NSE:TCS"]),
        ([{"exchange": "nse"}], ["NSE:INFY", "NSE:NIFTY 50", "NSE:TCS"]),
        (
            [{"underlying": "NIFTY", "instrument_type": "fut"}],
            ["NFO:NIFTY2701FUT", "NFO:NIFTY2702FUT", "NFO:NIFTY2703FUT"],
        ),
        (
            [{"underlying": "NIFTY", "expiries": 1}],
            ["NFO:NIFTY2701CE", "NFO:NIFTY2701FUT"],
        ),
        (
            [{"underlying": "NIFTY", "instrument_type": "FUT", "expiries": 2}, "NSE:TCS"],
            ["NFO:NIFTY2701FUT", "NFO:NIFTY2702FUT", "NSE:TCS"],
        ),
        ([{"underlying": "INFY", "expiries": 9}], ["NFO:INFY2701FUT", "NFO:INFY2702FUT"]),
        ([], []),
    ],
    ids=repr,
)
def test_selections(lists: Lists, items: list[Any], names: list[str]) -> None:
    lists.load(*LISTED)
    universe = lists.resolve(*items)
    assert [target.name for target in universe.targets] == names
    assert universe.rejected == []
    assert universe.calendar is not None
    assert universe.calendar.name == "NSE:NIFTY 50"


def test_what_is_known_of_a_target(lists: Lists) -> None:
    lists.load(*LISTED)
    infy = lists.targets("NSE:INFY")["NSE:INFY"]
    expected = Target(infy.instrument_id, 512, "NSE", "INFY", has_oi=False)
    assert infy == expected
    contract = lists.targets("NFO:NIFTY2701FUT")["NFO:NIFTY2701FUT"]
    assert contract.has_oi
    assert (contract.token, contract.last_day) == (2001, date(2027, 1, 26))
    assert contract.is_listed
    assert contract.is_reachable


@pytest.mark.parametrize(
    "item",
    ["NSE:INFI", "NSE:infy", {"exchange": "MCX"}, {"exchange": "NSE", "expiries": 1}],
    ids=repr,
)
def test_selection_that_names_nothing(lists: Lists, item: Any) -> None:
    lists.load(*LISTED)
    universe = lists.resolve(item, "NSE:TCS")
    assert [target.name for target in universe.targets] == ["NSE:TCS"]
    [reject] = universe.rejected
    assert reject.reason == "it names nothing in today's list"
    assert reject.row == [str(item)]


def test_list_without_the_index_has_no_calendar(lists: Lists) -> None:
    lists.days.load([INFY], source="a.csv", dated=FIRST, force=True)
    universe = lists.resolve("NSE:INFY")
    assert universe.calendar is None
    assert len(universe.targets) == 1


def test_there_is_no_list_yet(server: Server, empty_database: str) -> None:
    expected = pytest.raises(DatabaseError, match="DAG 1, which brings the list, has to run first")
    with DatabaseManager(server.config(empty_database), retry=NO_WAIT) as manager, expected:
        manager.run_in_transaction(lambda cursor: resolve(cursor, []))


# --- since when ----------------------------------------------------------------------------------


def test_what_the_first_list_has_is_of_unknown_age(lists: Lists) -> None:
    lists.load(INFY)
    lists.load(INFY)
    assert lists.targets("NSE:INFY")["NSE:INFY"].listed_on is None


def test_new_one_can_have_traded_since_the_day_after_the_list_without_it(lists: Lists) -> None:
    lists.load(INFY)
    without = lists.load(INFY, after_days=5)
    lists.load(INFY, TCS)
    lists.load(INFY, TCS)
    targets = lists.targets("NSE:TCS", "NSE:INFY")
    assert targets["NSE:TCS"].listed_on == without + timedelta(days=1)
    assert targets["NSE:INFY"].listed_on is None


def test_exchange_that_the_lists_had_not_at_first_is_of_unknown_age(lists: Lists) -> None:
    lists.load(INFY)
    elsewhere = share(513, "INFY", "BSE")
    without = lists.load(INFY, elsewhere)
    lists.load(INFY, elsewhere, share(769, "TCS", "BSE"))
    targets = lists.targets("BSE:INFY", "BSE:TCS")
    assert targets["BSE:INFY"].listed_on is None
    assert targets["BSE:TCS"].listed_on == without + timedelta(days=1)


def test_changed_terms_do_not_make_it_younger(lists: Lists) -> None:
    lists.load(INFY)
    lists.load({**INFY, "tick_size": Decimal("0.10")})
    lists.load(share(512, "INFOSYS", name="INFY LTD"))
    assert lists.targets("NSE:INFOSYS")["NSE:INFOSYS"].listed_on is None


def test_reused_token_is_a_new_instrument(lists: Lists) -> None:
    lists.load(future(2001, "NIFTY", 1))
    old = lists.targets({"underlying": "NIFTY"})["NFO:NIFTY2701FUT"]
    last = lists.load()
    lists.load(future(2001, "NIFTY", 3))
    new = lists.targets({"underlying": "NIFTY"})["NFO:NIFTY2703FUT"]
    assert new.instrument_id != old.instrument_id
    assert new.listed_on == last + timedelta(days=1)


# --- those that have ended -----------------------------------------------------------------------


def test_share_that_has_left_the_list_is_asked_for_up_to_its_last_day(lists: Lists) -> None:
    lists.load(INFY, TCS)
    last = lists.load(INFY, TCS)
    tcs = lists.targets("NSE:TCS")["NSE:TCS"]
    lists.cover(tcs, last - timedelta(days=1))
    assert lists.ended() == []
    lists.load(INFY)
    assert lists.ended() == [tcs._replace(last_day=last, is_listed=False)]
    lists.cover(tcs, last)
    assert lists.ended() == []


def test_contract_is_asked_for_up_to_its_expiry(lists: Lists) -> None:
    contract = future(2001, "NIFTY", 1)
    lists.load(contract)
    target = lists.targets("NFO:NIFTY2701FUT")["NFO:NIFTY2701FUT"]
    lists.cover(target, date(2027, 1, 26), is_final=False)
    lists.load()
    [ended] = lists.ended()
    assert (ended.name, ended.last_day) == ("NFO:NIFTY2701FUT", date(2027, 1, 26))
    assert ended.has_oi
    assert not ended.is_listed
    assert ended.is_reachable


def test_ended_one_whose_token_is_anothers_cannot_be_asked_for(lists: Lists) -> None:
    lists.load(future(2001, "NIFTY", 1))
    target = lists.targets("NFO:NIFTY2701FUT")["NFO:NIFTY2701FUT"]
    lists.cover(target, FIRST)
    lists.load(future(2001, "NIFTY", 3))
    [ended] = lists.ended()
    assert ended.instrument_id == target.instrument_id
    assert not ended.is_reachable


def test_what_was_never_asked_for_has_not_ended(lists: Lists) -> None:
    lists.load(INFY, TCS)
    lists.load(INFY)
    assert lists.ended() == []


# --- those that had other tokens -----------------------------------------------------------------


def test_share_that_moved_to_another_token_was_elsewhere_before(lists: Lists) -> None:
    first = lists.load(share(512, "A-BE"), TCS)
    second = lists.load(share(900, "A", name="A-BE LTD"), TCS)
    target = lists.targets("NSE:A", "NSE:TCS")
    assert lists.elsewhere(target["NSE:A"]) == (Span(midnight(first), midnight(second)),)
    assert lists.elsewhere(target["NSE:TCS"]) == ()
