"""The model of identities, by the cases that are written down, and on real lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from shared.calendar import IST
from tests.history_model import History, SymbolChange
from tests.instruments import instrument

Row = dict[str, Any]

FIRST = datetime(2025, 6, 2, 8, 30, tzinfo=IST)
MAY, JUNE_3, JUNE_4 = date(2025, 5, 5), date(2025, 6, 3), date(2025, 6, 4)


def share(token: int, symbol: str, **fields: Any) -> Row:
    plain = {"instrument_type": "EQ", "segment": "NSE", "expiry": None, "strike": Decimal(0)}
    return instrument(token, symbol, "NSE", **{**plain, "name": None, "lot_size": 1, **fields})


def option(token: int, symbol: str, strike: str, **fields: Any) -> Row:
    return instrument(token, symbol, strike=Decimal(strike), **fields)


def load(*lists: Sequence[Row], official: Sequence[SymbolChange] = ()) -> History:
    """The lists of one day after the other."""
    history = History()
    for days, rows in enumerate(lists):
        history.load(rows, FIRST + timedelta(days=days), official)
    return history


def ids(history: History, day: int) -> dict[str, int]:
    """Symbol and id, as on the n-th day."""
    versions = history.as_of(FIRST + timedelta(days=day))
    return {version.row["tradingsymbol"]: version.instrument_id for version in versions}


def test_versions_of_terms_that_change() -> None:
    first, second = share(1, "INFY", lot_size=1), share(1, "INFY", lot_size=2)
    other = share(2, "WIPRO")
    history = load([first, other], [dict(first), dict(other)], [second, other], [second])
    days = [FIRST + timedelta(days=day) for day in range(4)]
    found = [
        (v.instrument_id, v.row["lot_size"], v.valid_from, v.valid_to) for v in history.versions
    ]
    assert found == [
        (1, 1, days[0], days[2]),
        (2, 1, days[0], days[3]),
        (1, 2, days[2], None),
    ]
    assert history.as_of(FIRST - timedelta(seconds=1)) == []
    assert [v.row["lot_size"] for v in history.as_of(days[2] - timedelta(seconds=1))] == [1, 1]
    assert [v.row for v in history.open()] == [second]


def test_swap_of_symbols_takes_the_ids_along() -> None:
    day_1 = [option(1, "X", "390"), option(2, "Y", "400")]
    day_2 = [option(1, "Y", "400"), option(2, "X", "390")]
    assert ids(load(day_1, day_2), 1) == {"X": 1, "Y": 2}


def test_swap_of_names_alone_is_two_new_instruments() -> None:
    day_1 = [option(1, "X", "390"), option(2, "Y", "400")]
    day_2 = [option(1, "Y", "390"), option(2, "X", "400")]
    assert ids(load(day_1, day_2), 1) == {"Y": 3, "X": 4}


def test_rotation_takes_the_ids_along() -> None:
    day_1 = [share(1, "A"), share(2, "B"), share(3, "C")]
    day_2 = [share(1, "C"), share(2, "A"), share(3, "B")]
    assert ids(load(day_1, day_2), 1) == {"A": 1, "B": 2, "C": 3}


def test_strikes_after_a_dividend_go_with_their_tokens() -> None:
    day_1 = [option(26052610, "HINDPETRO26AUG390CE", "390")]
    day_2 = [
        option(26052610, "HINDPETRO26AUG370.75CE", "370.75"),
        option(13683458, "HINDPETRO26AUG390CE", "390"),
    ]
    history = load(day_1, day_2)
    assert ids(history, 1) == {"HINDPETRO26AUG370.75CE": 1, "HINDPETRO26AUG390CE": 2}


@pytest.mark.parametrize(
    ("old_token", "fields", "is_same"),
    [
        pytest.param([], {}, True, id="its token is gone"),
        pytest.param([], {"lot_size": 5}, True, id="with another lot"),
        pytest.param([], {"strike": Decimal("391")}, False, id="with another strike"),
        pytest.param([], {"instrument_type": "PE"}, False, id="a put"),
        pytest.param([], {"expiry": date(2026, 9, 24)}, False, id="with another expiry"),
        pytest.param([option(1, "Y", "390")], {}, False, id="its token goes on"),
        pytest.param(
            [option(1, "Y", "390", expiry=date(2026, 9, 24))], {}, True, id="its token is reused"
        ),
    ],
)
def test_symbol_under_another_token(
    old_token: list[Row], fields: dict[str, Any], is_same: bool
) -> None:
    history = load([option(1, "X", "390")], [{**option(2, "X", "390"), **fields}, *old_token])
    assert (ids(history, 1)["X"] == 1) is is_same


def test_bonds_go_on_by_series_and_digits() -> None:
    day_1 = ["9ISSU31A-NA", "ISSU230125-N0", "INFY", "HUDX-N2", "930PCHFL27-N0", "CHOLAFIN-N6"]
    day_2 = ["9ISS31A-NA", "ISS230125A-N0", "INFY", "82HUDX27-N2", "930PFL27-N0", "925IHFL25D-N6"]
    history = load(*([share(n, symbol) for n, symbol in enumerate(day)] for day in (day_1, day_2)))
    found = ids(history, 1)
    assert [found[symbol] for symbol in day_2] == [1, 2, 3, 7, 5, 8]


def test_token_of_another_contract_is_a_new_id() -> None:
    later = date(2026, 9, 24)
    day_1 = [option(1, "X", "390"), option(2, "Y", "390")]
    history = load(day_1, [option(1, "Z", "390", expiry=later)], day_1)
    assert ids(history, 1) == {"Z": 3}
    # X is back, but its token was another's in the meantime; Y is back as it left.
    assert ids(history, 2) == {"X": 4, "Y": 2}


def test_series_move_and_exchanges() -> None:
    bse = instrument(9, "X", "BSE", instrument_type="EQ")
    day_1, day_2 = [share(1, "X"), bse], [share(2, "X-BE"), {**bse, "tradingsymbol": "Y"}]
    assert ids(load(day_1, day_2), 1) == {"X-BE": 1, "Y": 2}


# Back as it left


@pytest.mark.parametrize(
    ("between", "back", "is_same"),
    [
        pytest.param([], {}, True, id="as it left"),
        pytest.param([], {"name": "X LTD", "lot_size": 9}, True, id="with another name and lot"),
        pytest.param([], {"tradingsymbol": "Y"}, False, id="under another symbol"),
        pytest.param([], {"instrument_type": "PE"}, False, id="a put"),
        pytest.param([], {"expiry": date(2026, 9, 24)}, False, id="with another expiry"),
        pytest.param([], {"instrument_token": 2}, False, id="under another token"),
        pytest.param([(5, "X")], {}, False, id="its symbol was another's"),
        pytest.param([(1, "Z")], {}, False, id="its token was another's"),
    ],
)
def test_back_after_a_while(
    between: list[tuple[int, str]], back: dict[str, Any], is_same: bool
) -> None:
    stays, left = option(9, "S", "1"), option(1, "X", "390")
    meanwhile = [option(token, symbol, "1") for token, symbol in between]
    history = load([left, stays], [stays], [*meanwhile, stays], [stays], [{**left, **back}, stays])
    found = {v.instrument_id for v in history.open()} - {2}
    assert (found == {1}) is is_same


def test_back_after_it_went_on_under_another_token_is_new() -> None:
    stays = share(9, "S")
    lists = [[share(1, "X")], [share(2, "X")], [share(3, "X-BE")], []]
    history = load(*([*rows, stays] for rows in lists), [share(1, "X"), stays])
    assert ids(history, 2)["X-BE"] == 1
    assert ids(history, 4)["X"] == 3


# The official list


@pytest.mark.parametrize(
    ("official", "is_same"),
    [
        pytest.param([], False, id="none"),
        pytest.param([("SAH", "AEROX", JUNE_3)], True, id="since the day of the list"),
        pytest.param([("SAH", "AEROX", JUNE_4)], False, id="from tomorrow"),
        pytest.param([("SAH", "MID", MAY), ("MID", "AEROX", MAY)], True, id="chain on one day"),
        pytest.param([("MID", "AEROX", MAY), ("SAH", "MID", JUNE_3)], False, id="chain that falls"),
        pytest.param([("AEROX", "SAH", MAY)], False, id="the other way"),
        pytest.param([("SAH", "SAH", MAY), ("SAH", "AEROX", MAY)], True, id="also to itself"),
        pytest.param([("SAH", "AEROX", MAY), ("AEROX", "SAH", MAY)], True, id="there and back"),
    ],
)
def test_rename_with_a_move_of_series(official: list[SymbolChange], is_same: bool) -> None:
    stays = share(9, "INFY")
    day_1, day_2 = [stays, share(1, "SAH")], [stays, share(2, "AEROX-BE")]
    assert (ids(load(day_1, day_2, official=official), 1)["AEROX-BE"] == 2) is is_same


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(share(1, "SAH-N5"), share(2, "AEROX-N5"), id="debt"),
        pytest.param(share(1, "SAH-IV"), share(2, "AEROX"), id="a trust"),
        pytest.param(
            instrument(1, "SAH", "BSE", instrument_type="EQ"),
            instrument(2, "AEROX", "BSE", instrument_type="EQ"),
            id="another exchange",
        ),
        pytest.param(share(1, "SAH", instrument_type="FUT"), share(2, "AEROX"), id="a future"),
    ],
)
def test_official_list_is_of_shares_of_nse(old: Row, new: Row) -> None:
    history = load([old], [new], official=[("SAH", "AEROX", MAY)])
    assert [version.instrument_id for version in history.open()] == [2]


def test_official_pair_goes_before_the_token() -> None:
    day_1, day_2 = [share(1, "A"), share(2, "C")], [share(2, "B"), share(3, "D")]
    assert ids(load(day_1, day_2, official=[("A", "B", MAY)]), 1) == {"B": 1, "D": 3}


def test_official_pairs_of_several_series() -> None:
    day_1 = [share(1, "A"), share(2, "A-BE"), share(3, "A-BZ")]
    day_2 = [share(8, "B"), share(1, "B-BE"), share(9, "B-ST")]
    assert ids(load(day_1, day_2, official=[("A", "B", MAY)]), 1) == {"B-BE": 1, "B": 2, "B-ST": 3}


def test_official_change_of_a_base_that_stays_in_another_series() -> None:
    day_1, day_2 = [share(1, "A"), share(2, "A-BE")], [share(1, "A"), share(3, "B")]
    assert ids(load(day_1, day_2, official=[("A", "B", MAY)]), 1) == {"A": 1, "B": 3}


def test_debt_with_a_token_is_renamed_officially() -> None:
    day_1 = [share(1, "SRTRANSFIN-YI"), share(2, "SRTRANSFIN-YJ")]
    day_2 = [share(1, "SHRIRAMFIN-YI"), share(2, "SHRIRAMFIN-YK")]
    official = [("SRTRANSFIN", "SHRIRAMFIN", MAY)]
    expected = {"SHRIRAMFIN-YI": 1, "SHRIRAMFIN-YK": 3}
    assert ids(load(day_1, day_2, official=official), 1) == expected
    assert 1 not in ids(load(day_1, day_2), 1).values()


def test_unclear_official_changes_join_nothing() -> None:
    # Two lead to one, one leads to two.
    merge = [("A", "C", MAY), ("B", "C", MAY)]
    assert ids(load([share(1, "A"), share(2, "B")], [share(3, "C")], official=merge), 1) == {"C": 3}
    split = [("A", "B", MAY), ("A", "C", MAY)]
    found = load([share(1, "A")], [share(2, "B"), share(3, "C")], official=split)
    assert ids(found, 1) == {"B": 2, "C": 3}


def test_symbols_that_are_passed_on_officially_on_one_day() -> None:
    """X becomes B, and A becomes X: A leads to B, but is another share."""
    official = [("A", "X", MAY), ("X", "B", MAY)]
    day_1, day_2 = [share(1, "A"), share(2, "X")], [share(1, "X"), share(2, "B")]
    assert ids(load(day_1, day_2, official=official), 1) == {"B": 2, "X": 3}
    far = [share(3, "X"), share(4, "B")]
    assert ids(load(day_1, far, official=official), 1) == {"X": 2, "B": 3}


def test_official_change_counts_once() -> None:
    official = [("A", "B", MAY)]
    stays = share(9, "S")
    lists = [[share(1, "A")], [share(2, "B-BE")], [share(3, "A-BE")], [share(4, "B")]]
    history = load(*([*rows, stays] for rows in lists), official=official)
    found = [ids(history, day) for day in range(4)]
    assert found[1]["B-BE"] == 1
    assert found[2]["A-BE"] == 3
    assert found[3]["B"] == 4


@pytest.mark.parametrize(
    ("lists", "is_same"),
    [
        pytest.param([["1 A"], [], ["2 B-BE"]], True, id="away for a day"),
        pytest.param([["1 A"], [], ["1 B"]], True, id="under its token"),
        pytest.param(
            [["1 A", "2 A-BE"], ["1 A"], [], ["3 B"]], True, id="the series that was left"
        ),
        pytest.param([["1 A", "2 A-BE"], [], ["3 B"]], False, id="two that left at once"),
        pytest.param([["1 A"], [], ["2 B", "3 B-BE"]], False, id="two that come"),
        pytest.param([["1 A"], [], ["3 A-BE"], ["3 A-BE", "2 B"]], False, id="A is there"),
        pytest.param([["1 A"], [], ["3 A-BE", "2 B"]], False, id="A is back, too"),
        pytest.param([["1 A"], [], ["2 B"], ["2 B", "3 B-BE"]], False, id="B is there"),
        pytest.param([["1 A", "2 B"], [], ["3 B"]], False, id="it has counted"),
        pytest.param([["1 A-N5"], [], ["2 B"]], False, id="debt"),
    ],
)
def test_officially_renamed_while_it_was_away(lists: list[list[str]], is_same: bool) -> None:
    rows = [
        [share(int(text.split()[0]), text.split()[1]) for text in [*texts, "9 S"]]
        for texts in lists
    ]
    newest = load(*rows, official=[("A", "B", MAY)]).versions[-1]
    assert newest.why == ("officially renamed while it was away" if is_same else "new")
    assert not is_same or newest.instrument_id == 1
