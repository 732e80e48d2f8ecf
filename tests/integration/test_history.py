"""The versions of each instrument: what keeps its identity, any moment's list, what may be off.

tests/property/test_history_machine.py has random days, test_real_history.py the real lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import pytest

from dag_1_import_instruments_from_kite.history import DELTA, HISTORY, SQL, _Versions
from shared.calendar import IST
from shared.exceptions import ConfigurationError, DatabaseError
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils.db_manager import DatabaseManager
from shared.utils.sql import compose
from tests.change_model import Days, Row
from tests.command_line import CommandLine
from tests.instruments import instrument, to_csv
from tests.symbol_changes import SYMBOL_CHANGES, write_symbol_change

pytestmark = pytest.mark.usefixtures("trading_today")

COLUMNS = INSTRUMENT_TABLE.column_names


class Version(NamedTuple):
    """A version in short: its place among the instruments by age, token, symbol, its lists.

    `since` and `until` count lists from 1; `until` is None while it is open.
    """

    number: int
    token: int
    symbol: str
    since: int
    until: int | None = None


def share(token: int, symbol: str, exchange: str = "NSE", **fields: Any) -> dict[str, Any]:
    values = {"name": f"{symbol.split('-')[0]} LTD", "instrument_type": "EQ", "segment": exchange}
    values |= {"expiry": None, "strike": Decimal(0), "lot_size": 1}
    return instrument(token, symbol, exchange, **values | fields)


def option(token: int, symbol: str, strike: str, **fields: Any) -> dict[str, Any]:
    return instrument(token, symbol, strike=Decimal(strike), expiry=date(2199, 8, 26), **fields)


STAYS = share(256, "INFY")


class Kept:
    """Lists that are loaded one after the other, and what the history has of them."""

    def __init__(self, days: Days) -> None:
        self.days = days
        self.query = days.query

    def load(self, *rows: Row, **options: Any) -> datetime:
        """A run with these rows and one that stays. Returns since when its list counts."""
        self.days.load([STAYS, *rows], **options)
        return self.valid_from()[-1]

    def valid_from(self) -> list[datetime]:
        rows = self.query(
            "SELECT valid_from FROM ingestion_run WHERE status = 'succeeded' ORDER BY run_id"
        )
        return [moment for (moment,) in rows]

    def versions(self) -> list[Version]:
        """All but those of the one that stays."""
        moments = self.valid_from()
        rows = self.query(
            "SELECT dense_rank() OVER (ORDER BY instrument_id), instrument_token, tradingsymbol,"
            " valid_from, valid_to FROM kite_instrument_history WHERE tradingsymbol <> 'INFY'"
            " ORDER BY valid_from, instrument_id"
        )
        return [
            Version(
                number, token, symbol, moments.index(since) + 1, until and moments.index(until) + 1
            )
            for number, token, symbol, since, until in rows
        ]

    def as_of(self, moment: datetime) -> set[tuple[Any, ...]]:
        columns = ", ".join(COLUMNS)
        return set(self.query(f"SELECT {columns} FROM kite_instrument_as_of(%s)", moment))

    def add_official(self, *changes: tuple[str, str, str]) -> None:
        for old, new, day in changes:
            write_symbol_change(self.days.manager, old, new, date.fromisoformat(day))


def values_of(*rows: Row) -> set[tuple[Any, ...]]:
    return {tuple(row[name] for name in COLUMNS) for row in (STAYS, *rows)}


@pytest.fixture
def kept(emptied_manager: DatabaseManager, module_connection: Any) -> Iterator[Kept]:
    days = Days(emptied_manager, module_connection)
    assert days.prepare().versions
    emptied_manager.execute_query(
        f"TRUNCATE ingestion_run, {HISTORY.name} CASCADE; {SYMBOL_CHANGES}"
    )
    emptied_manager.execute_query("TRUNCATE nse_symbol_change")
    yield Kept(days)
    emptied_manager.execute_query("DROP TABLE nse_symbol_change")


# --- what keeps its identity -------------------------------------------------------------------

bond = partial(share, name=None)
A, B = share(512, "A"), share(768, "B")

EXAMPLES: dict[str, tuple[list[list[Row]], list[Version]]] = {
    "listed, and gone": ([[], [A], []], [Version(1, 512, "A", 2, 3)]),
    "unchanged: one version": ([[A], [A], [A]], [Version(1, 512, "A", 1)]),
    "terms changed": (
        [[A], [{**A, "lot_size": 50}]],
        [Version(1, 512, "A", 1, 2), Version(1, 512, "A", 2)],
    ),
    "renamed": (
        [[A], [share(512, "C", name="A LTD")]],
        [Version(1, 512, "A", 1, 2), Version(1, 512, "C", 2)],
    ),
    "series moved": (
        [[share(512, "A-BE")], [share(768, "A")]],
        [Version(1, 512, "A-BE", 1, 2), Version(1, 768, "A", 2)],
    ),
    "token moved, the old one is gone": (
        [[A], [share(768, "A")]],
        [Version(1, 512, "A", 1, 2), Version(1, 768, "A", 2)],
    ),
    "two swap their tokens": (
        [[A, B], [share(768, "A"), share(512, "B")]],
        [
            Version(1, 512, "A", 1, 2),
            Version(2, 768, "B", 1, 2),
            Version(1, 768, "A", 2),
            Version(2, 512, "B", 2),
        ],
    ),
    "a dividend: the contract goes with its token, the symbol is another contract's": (
        [
            [option(512, "X390CE", "390"), option(768, "X450CE", "450")],
            [option(512, "X370.75CE", "370.75"), option(768, "X390CE", "390")],
        ],
        [
            Version(1, 512, "X390CE", 1, 2),
            Version(2, 768, "X450CE", 1, 2),
            Version(1, 512, "X370.75CE", 2),
            Version(3, 768, "X390CE", 2),
        ],
    ),
    "token moved, but the terms are another contract's": (
        [[option(512, "X390CE", "390")], [option(768, "X390CE", "391")]],
        [Version(1, 512, "X390CE", 1, 2), Version(2, 768, "X390CE", 2)],
    ),
    "token reused": (
        [
            [instrument(512, "OLDCE", expiry=date(2025, 7, 31))],
            [instrument(512, "NEWCE", expiry=date(2199, 8, 26))],
        ],
        [Version(1, 512, "OLDCE", 1, 2), Version(2, 512, "NEWCE", 2)],
    ),
    "back as it left": (
        [[A], [], [{**A, "lot_size": 50, "name": "A LIMITED"}]],
        [Version(1, 512, "A", 1, 2), Version(1, 512, "A", 3)],
    ),
    "back under another token": (
        [[A], [], [share(768, "A")]],
        [Version(1, 512, "A", 1, 2), Version(2, 768, "A", 3)],
    ),
    "back as another type": (
        [[A], [], [share(512, "A", instrument_type="FUT")]],
        [Version(1, 512, "A", 1, 2), Version(2, 512, "A", 3)],
    ),
    "back, but the token was another's meanwhile": (
        [[A], [share(512, "C", expiry=date(2199, 1, 1))], [], [A]],
        [Version(1, 512, "A", 1, 2), Version(2, 512, "C", 2, 3), Version(3, 512, "A", 4)],
    ),
    "back, but the symbol was another's meanwhile": (
        [[A], [], [share(768, "A")], [], [A]],
        [Version(1, 512, "A", 1, 2), Version(2, 768, "A", 3, 4), Version(3, 512, "A", 5)],
    ),
    "bonds: a new issuer's name, a new bond": (
        [
            [bond(512, "9ISSU31A-NA"), bond(768, "ISSU230125-N0"), bond(1024, "HUDX-N2")],
            [bond(512, "9ISS31A-NA"), bond(768, "ISS230125A-N0"), bond(1024, "82HUDX27-N2")],
        ],
        [
            Version(1, 512, "9ISSU31A-NA", 1, 2),
            Version(2, 768, "ISSU230125-N0", 1, 2),
            Version(3, 1024, "HUDX-N2", 1, 2),
            Version(1, 512, "9ISS31A-NA", 2),
            Version(2, 768, "ISS230125A-N0", 2),
            Version(4, 1024, "82HUDX27-N2", 2),
        ],
    ),
}


@pytest.mark.parametrize(("lists", "expected"), EXAMPLES.values(), ids=EXAMPLES)
def test_identity(kept: Kept, lists: list[list[Row]], expected: list[Version]) -> None:
    moments = [kept.load(*rows) for rows in lists]
    assert kept.versions() == expected
    for rows, moment, later in zip(lists, moments, [*moments[1:], None]):
        assert kept.as_of(moment) == values_of(*rows)
        if later is not None:
            assert kept.as_of(later - timedelta(microseconds=1)) == values_of(*rows)
    assert kept.as_of(moments[0] - timedelta(microseconds=1)) == set()
    assert kept.query(
        "SELECT count(*), count(instrument_id), count(DISTINCT instrument_id)"
        " FROM kite_instrument_today"
    ) == [(len(lists[-1]) + 1,) * 3]


OFFICIAL_EXAMPLES: dict[str, tuple[list[tuple[str, str, str]], list[list[Row]], list[Version]]] = {
    "renamed, in another series": (
        [("OLD", "NEW", "2025-06-26")],
        [[share(512, "OLD-BE")], [share(768, "NEW")]],
        [Version(1, 512, "OLD-BE", 1, 2), Version(1, 768, "NEW", 2)],
    ),
    "a chain": (
        [("OLD", "MID", "2024-01-01"), ("MID", "NEW", "2025-01-01")],
        [[share(512, "OLD")], [share(768, "NEW-BE")]],
        [Version(1, 512, "OLD", 1, 2), Version(1, 768, "NEW-BE", 2)],
    ),
    "not before its date": (
        [("OLD", "NEW", "2199-01-01")],
        [[share(512, "OLD")], [share(768, "NEW")]],
        [Version(1, 512, "OLD", 1, 2), Version(2, 768, "NEW", 2)],
    ),
    "against its dates it is no chain": (
        [("OLD", "MID", "2025-01-01"), ("MID", "NEW", "2024-01-01")],
        [[share(512, "OLD")], [share(768, "NEW")]],
        [Version(1, 512, "OLD", 1, 2), Version(2, 768, "NEW", 2)],
    ),
    "symbols that are handed on, on one day": (
        [("B", "C", "2025-01-01"), ("A", "B", "2025-01-01")],
        [[A, B], [share(768, "C"), share(1024, "B")]],
        [
            Version(1, 512, "A", 1, 2),
            Version(2, 768, "B", 1, 2),
            Version(2, 768, "C", 2),
            Version(3, 1024, "B", 2),
        ],
    ),
    "two that lead to one are unclear": (
        [("A", "NEW", "2025-01-01"), ("B", "NEW", "2025-01-01")],
        [[A, B], [share(1024, "NEW")]],
        [Version(1, 512, "A", 1, 2), Version(2, 768, "B", 1, 2), Version(3, 1024, "NEW", 2)],
    ),
    "one that leads to two is unclear": (
        [("A", "C", "2025-01-01"), ("A", "D", "2025-01-01")],
        [[A], [share(768, "C"), share(1024, "D")]],
        [Version(1, 512, "A", 1, 2), Version(2, 768, "C", 2), Version(3, 1024, "D", 2)],
    ),
    "the old one had left before": (
        [("OLD", "NEW", "2025-06-26")],
        [[share(512, "OLD-BZ")], [], [share(768, "NEW")]],
        [Version(1, 512, "OLD-BZ", 1, 2), Version(1, 768, "NEW", 3)],
    ),
    "once: the new symbol was there already": (
        [("OLD", "NEW", "2025-06-26")],
        [[share(512, "NEW")], [share(768, "OLD")], [share(1024, "NEW")]],
        [
            Version(1, 512, "NEW", 1, 2),
            Version(2, 768, "OLD", 2, 3),
            Version(3, 1024, "NEW", 3),
        ],
    ),
    "the old one is still there": (
        [("OLD", "NEW", "2025-06-26")],
        [[share(512, "OLD")], [share(512, "OLD"), share(768, "NEW")]],
        [Version(1, 512, "OLD", 1), Version(2, 768, "NEW", 2)],
    ),
    "it goes on in another series": (
        [("OLD", "NEW", "2025-06-26")],
        [[share(512, "OLD"), share(1024, "OLD-BE")], [share(512, "OLD"), share(768, "NEW")]],
        [
            Version(1, 512, "OLD", 1),
            Version(2, 1024, "OLD-BE", 1, 2),
            Version(3, 768, "NEW", 2),
        ],
    ),
    "a bond whose issuer has another name": (
        [("SRTRANSFIN", "SHRIRAMFIN", "2022-12-15")],
        [[bond(512, "SRTRANSFIN-YI")], [bond(512, "SHRIRAMFIN-YI")]],
        [Version(1, 512, "SRTRANSFIN-YI", 1, 2), Version(1, 512, "SHRIRAMFIN-YI", 2)],
    ),
    "not on another exchange": (
        [("OLD", "NEW", "2025-06-26")],
        [[share(512, "OLD", "BSE")], [share(768, "NEW", "BSE")]],
        [Version(1, 512, "OLD", 1, 2), Version(2, 768, "NEW", 2)],
    ),
}


@pytest.mark.parametrize(
    ("official", "lists", "expected"), OFFICIAL_EXAMPLES.values(), ids=OFFICIAL_EXAMPLES
)
def test_identity_by_the_official_list(
    kept: Kept,
    official: list[tuple[str, str, str]],
    lists: list[list[Row]],
    expected: list[Version],
) -> None:
    kept.add_official(*official)
    for rows in lists:
        kept.load(*rows)
    assert kept.versions() == expected


def test_official_rename_under_another_token_is_told_as_renamed(kept: Kept) -> None:
    kept.add_official(("OLD", "NEW", "2025-06-26"))
    kept.load(share(512, "OLD-BE", lot_size=10))
    kept.load(share(768, "NEW", name="OLD LTD", lot_size=1))
    changes = [
        (each.kind, each.symbol, each.field, each.old, each.new) for each in kept.days.changes()
    ]
    assert sorted(changes) == [
        ("renamed", "NEW", "tradingsymbol", "OLD-BE", "NEW"),
        ("terms changed", "NEW", "lot_size", "10", "1"),
    ]


@pytest.mark.parametrize(
    "other",
    [
        "CREATE TABLE nse_symbol_change (symbol TEXT)",
        "CREATE VIEW nse_symbol_change AS SELECT 1 AS changed_on",
        "",
    ],
)
def test_what_is_no_official_list_is_not_used(kept: Kept, other: str) -> None:
    kept.days.manager.execute_query(f"DROP TABLE nse_symbol_change; {other}")
    kept.load(share(512, "OLD-BE"))
    kept.load(share(768, "NEW"))
    assert kept.versions() == [Version(1, 512, "OLD-BE", 1, 2), Version(2, 768, "NEW", 2)]
    kind = "VIEW" if "VIEW" in other else "TABLE"
    kept.days.manager.execute_query(f"DROP {kind} IF EXISTS nse_symbol_change; {SYMBOL_CHANGES}")


# --- lists of other days -----------------------------------------------------------------------


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=IST)


def test_dated_lists_count_from_midnight_of_their_day(kept: Kept) -> None:
    first, second = date(2025, 8, 18), date(2025, 8, 19)
    before = datetime.now(UTC)
    assert kept.load(A, dated=first) == midnight(first)
    assert kept.load(B, dated=second) == midnight(second)
    assert kept.as_of(midnight(second) - timedelta(microseconds=1)) == values_of(A)
    assert kept.as_of(midnight(second)) == values_of(B)
    # Another list of the same day counts from a microsecond later on.
    assert kept.load(A, B, dated=second) == midnight(second) + timedelta(microseconds=1)
    assert kept.as_of(midnight(date(2025, 8, 20))) == values_of(A, B)
    [(moment,)] = kept.query("SELECT DISTINCT last_updated::timestamptz FROM kite_instrument_today")
    assert moment > before
    assert kept.load(B) > moment
    assert kept.versions() == [
        Version(1, 512, "A", 1, 2),
        Version(2, 768, "B", 2),
        Version(1, 512, "A", 3, 4),
    ]


def test_list_of_a_day_before_the_last_is_refused(kept: Kept) -> None:
    kept.load(A, dated=date(2025, 8, 18))
    with pytest.raises(
        ConfigurationError, match="the last list is that of 2025-08-18, and history"
    ):
        kept.load(B, dated=date(2025, 8, 17))
    kept.load(A)
    with pytest.raises(
        ConfigurationError, match="Import lists of earlier days into a new database"
    ):
        kept.load(B, dated=date(2025, 8, 19))
    assert kept.versions() == [Version(1, 512, "A", 1)]


def test_dated_list_is_refused_where_rows_that_no_run_tells_of_are_newer(kept: Kept) -> None:
    kept.load(A)
    kept.days.manager.execute_query("TRUNCATE ingestion_run CASCADE")
    with pytest.raises(ConfigurationError, match="already, and history is written forwards"):
        kept.load(B, dated=date(2025, 8, 18))
    stored = kept.query("SELECT tradingsymbol FROM kite_instrument_history ORDER BY 1")
    assert stored == [("A",), ("INFY",)]


def test_list_whose_run_was_taken_off_the_record_is_imported_again(kept: Kept) -> None:
    first, second = date(2025, 8, 18), date(2025, 8, 19)
    kept.load(A, dated=first)
    kept.load(share(512, "WRONG"), dated=second)
    kept.days.manager.execute_query(
        "DELETE FROM ingestion_run WHERE run_id = (SELECT max(run_id) FROM ingestion_run)"
    )
    assert kept.load(share(512, "RIGHT"), dated=second) > midnight(second)
    assert kept.as_of(midnight(date(2025, 8, 20))) == values_of(share(512, "RIGHT"))
    assert kept.query("SELECT count(DISTINCT instrument_id) FROM kite_instrument_history") == [(2,)]


def test_expired_is_what_had_expired_on_the_day_of_the_list(kept: Kept) -> None:
    contract = instrument(512, "X", expiry=date(2025, 8, 28))
    later = instrument(768, "Y", expiry=date(2025, 9, 25))
    kept.load(contract, later, dated=date(2025, 8, 18))
    assert kept.days.load([STAYS], dated=date(2025, 8, 29)).changes == {"expired": 1, "gone": 1}


# --- where the history lagged ------------------------------------------------------------------


def test_first_run_after_an_upgrade_takes_the_table_as_it_stands(kept: Kept) -> None:
    left = share(1024, "LEFT")
    kept.load(left)
    first = kept.load(A, B)
    kept.days.manager.execute_query(
        f"TRUNCATE {HISTORY.name}; UPDATE ingestion_run SET valid_from = NULL"
    )
    third = kept.load({**A, "lot_size": 7}, share(1280, "C"))
    rows = kept.query(
        "SELECT tradingsymbol, valid_from = valid_to, valid_to = %s, valid_from < %s"
        " FROM kite_instrument_history ORDER BY tradingsymbol, valid_from",
        third,
        third,
    )
    assert rows == [
        ("A", False, True, True),
        ("A", None, None, False),
        ("B", False, True, True),
        ("C", None, None, False),
        ("INFY", None, None, True),
        ("LEFT", True, False, True),
    ]
    [(moment,)] = kept.query("SELECT min(list_moment)::timestamptz FROM ingestion_run")
    assert kept.as_of(moment) == set()
    assert kept.as_of(first) == values_of(A, B)
    # What had left before is known when it comes back.
    kept.load(A, left)
    assert kept.query(
        "SELECT count(DISTINCT instrument_id), count(*) FROM kite_instrument_history"
        " WHERE tradingsymbol = 'LEFT'"
    ) == [(1, 2)]


def test_run_that_could_not_write_the_history_is_made_up_for(kept: Kept) -> None:
    kept.load(A)
    versions = f"ALTER TABLE {HISTORY.name} RENAME TO away"
    kept.days.manager.execute_query(versions)
    unkept = Days(kept.days.manager, kept.days._cursor.connection)
    unkept.prepare = lambda: kept.days.prepare()._replace(versions=False)  # type: ignore[method-assign]
    unkept.load([STAYS, share(512, "C", name="A LTD")])
    kept.days.manager.execute_query(f"ALTER TABLE away RENAME TO {HISTORY.name}")
    [(second,)] = kept.query("SELECT max(list_moment)::timestamptz FROM ingestion_run")
    third = kept.load(share(512, "C", name="A LTD", lot_size=3))
    rows = kept.query(
        "SELECT tradingsymbol, valid_from, valid_to, dense_rank() OVER (ORDER BY instrument_id)"
        " FROM kite_instrument_history WHERE instrument_token = 512 ORDER BY valid_from"
    )
    assert [row[0] for row in rows] == ["A", "C", "C"]
    assert [row[2] for row in rows] == [second, third, None]
    assert {row[3] for row in rows} == {1}


MASTER = "kite_instrument_master"
SPOILT = {
    "a row changed by hand": f"UPDATE {MASTER} SET name = 'MINE' WHERE tradingsymbol = 'A'",
    "a row changed by hand to what the next list has":
        f"UPDATE {MASTER} SET lot_size = 7 WHERE tradingsymbol = 'A'",
    "a row deleted by hand": f"DELETE FROM {MASTER} WHERE tradingsymbol = 'B'",
    "versions deleted": f"DELETE FROM {HISTORY.name} WHERE tradingsymbol IN ('A', 'B')",
    "a version ended": f"UPDATE {HISTORY.name} SET valid_to = now() WHERE tradingsymbol = 'B'",
    "a version of nothing":
        f"INSERT INTO {HISTORY.name} (instrument_token, exchange, tradingsymbol, valid_from)"
        " VALUES (9999, 'NSE', 'C', '2025-01-01')",
    "one version in place of another":
        f"UPDATE {HISTORY.name} SET instrument_token = 1280, tradingsymbol = 'C'"
        " WHERE tradingsymbol = 'INFY'",
}  # fmt: skip


@pytest.mark.parametrize("statement", SPOILT.values(), ids=SPOILT)
def test_history_that_is_not_that_of_the_last_list_is_compared_as_a_whole(
    kept: Kept, statement: str
) -> None:
    first = kept.load(A, B)
    kept.days.manager.execute_query(statement)
    rows = [{**A, "lot_size": 7}, B, share(1280, "C")]
    second = kept.load(*rows)
    assert kept.as_of(second) == values_of(*rows)
    assert kept.query("SELECT count(instrument_id) FROM kite_instrument_today") == [(4,)]
    assert first < second
    third = kept.load(A, B)
    assert kept.as_of(third) == values_of(A, B)
    assert kept.as_of(second) == values_of(*rows)


def test_identity_is_never_used_again_where_the_sequence_is_behind(kept: Kept) -> None:
    kept.load(A, B)
    sequence = f"pg_get_serial_sequence('{HISTORY.name}', 'instrument_id')"
    kept.query(f"SELECT setval({sequence}, 1, false)")
    for number in range(3):
        kept.load(A, B, *(share(1024 + 256 * n, f"N{n}") for n in range(number + 1)))
    [(rows, ids)] = kept.query(
        f"SELECT count(*), count(DISTINCT instrument_id) FROM {HISTORY.name}"
    )
    assert rows == ids == 6


@pytest.mark.parametrize(
    "does",
    [
        "NEW.name := 'SPOILT'; RETURN NEW",
        "RETURN NULL",
        "NEW.valid_to := now() + interval '1 day'; RETURN NEW",
    ],
)
def test_trigger_that_spoils_versions_fails_the_run(kept: Kept, does: str) -> None:
    kept.load(A)
    kept.days.manager.execute_query(
        f"CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {does}; END$$;"
        f"CREATE TRIGGER spoil BEFORE INSERT ON {HISTORY.name}"
        " FOR EACH ROW EXECUTE FUNCTION spoil()"
    )
    try:
        with pytest.raises(DatabaseError, match=r"1 versions of instruments are not in public\."):
            kept.load(A, B)
    finally:
        kept.days.manager.execute_query("DROP FUNCTION spoil CASCADE")
    assert kept.query("SELECT tradingsymbol FROM kite_instrument_today ORDER BY 1") == [
        ("A",),
        ("INFY",),
    ]
    kept.load(A, B)


def test_row_that_something_else_has_changed_has_no_identity_in_the_views(kept: Kept) -> None:
    kept.load(A, B)
    kept.days.manager.execute_query(
        "UPDATE kite_instrument_master SET lot_size = 9 WHERE tradingsymbol = 'A'"
    )
    for view in ("kite_instrument_today", "kite_token_map"):
        rows = kept.query(f"SELECT tradingsymbol, instrument_id IS NULL FROM {view} ORDER BY 1")
        assert rows == [("A", True), ("B", False), ("INFY", False)]


def test_chain_has_the_identities_of_calls_and_puts(kept: Kept) -> None:
    call = option(512, "X390CE", "390")
    kept.load(call, option(768, "X390PE", "390", instrument_type="PE"))
    assert kept.query(
        "SELECT call_token, put_token FROM kite_option_chain AS c"
        " JOIN kite_instrument_history AS h ON h.instrument_id = call_instrument_id"
        " JOIN kite_instrument_history AS p ON p.instrument_id = put_instrument_id"
        " WHERE h.tradingsymbol = call_symbol AND p.tradingsymbol = put_symbol"
    ) == [(512, 768)]


# --- rows that no list has any more ------------------------------------------------------------


def test_rows_that_no_list_has_had_for_long_are_retired(kept: Kept) -> None:
    kept.load(A, B)
    kept.load(A)
    age = (
        "UPDATE kite_instrument_master SET last_updated = last_updated - interval '91 days' WHERE "
    )
    kept.days.manager.execute_query(age + "tradingsymbol = 'B'")
    symbols = "SELECT tradingsymbol FROM kite_instrument_master ORDER BY 1"
    assert kept.days.load([STAYS, A]).retired == 0
    assert kept.query(symbols) == [("A",), ("B",), ("INFY",)]
    assert kept.days.load([STAYS, A], retire_after_days=92).retired == 0
    assert kept.days.load([STAYS, A], retire_after_days=90, dry_run=True).retired == 0
    assert kept.query(symbols) == [("A",), ("B",), ("INFY",)]
    assert kept.days.load([STAYS, A], retire_after_days=90).retired == 1
    assert kept.query(symbols) == [("A",), ("INFY",)]
    assert kept.as_of(kept.valid_from()[0]) == values_of(A, B)
    kept.load(A, B)
    assert [v for v in kept.versions() if v.symbol == "B"] == [
        Version(2, 768, "B", 1, 2),
        Version(2, 768, "B", 6),
    ]


def test_row_of_which_there_is_no_version_is_retired_with_one(kept: Kept) -> None:
    kept.load(A)
    kept.days.manager.execute_query(
        "INSERT INTO kite_instrument_master (instrument_token, exchange, tradingsymbol,"
        " last_updated, created_at) VALUES (99, 'NSE', 'MINE', '2020-01-01', '2020-01-01')"
    )
    assert kept.days.load([STAYS, A], retire_after_days=90).retired == 1
    assert kept.query(
        f"SELECT valid_from = valid_to FROM {HISTORY.name} WHERE tradingsymbol = 'MINE'"
    ) == [(True,)]


# --- least privilege, and what is in the way ---------------------------------------------------


def test_role_without_rights_imports_without_a_history_with_one_warning(
    cli: CommandLine, as_role: Callable[..., str]
) -> None:
    rows = [STAYS, A]
    assert cli.load(to_csv(rows)).stderr == ""
    as_role(
        "GRANT SELECT, INSERT, UPDATE ON ingestion_run, kite_instrument_change TO {role}",
        "GRANT SELECT ON kite_instrument_history TO {role}",
    )
    result = cli.load(to_csv([*rows, B]))
    assert result.status == 0
    assert result.stderr.count("WARNING") == 1
    assert (
        "versions of rows are not kept: DB_USER may neither make nor write kite_instrument_history"
        in result.stderr
    )
    assert cli.query(
        "SELECT tradingsymbol, instrument_id IS NULL FROM kite_instrument_today ORDER BY 1"
    ) == [
        ("A", False),
        ("B", True),
        ("INFY", False),
    ]
    check = cli.run("check")
    assert check.status == 0
    assert "kite_instrument_history" in check.stdout
    assert cli.runs("valid_from IS NULL") == [(False,), (True,)]
    dated = cli.run(
        "--dag", "1", "--from-file", save(cli, [*rows, B]), "--dated", str(datetime.now(IST).date())
    )
    assert dated.status == 2
    assert "no versions of instruments are kept here" in dated.stderr


def save(cli: CommandLine, rows: list[Row]) -> str:
    path = cli.folder / "saved.csv"
    path.write_bytes(to_csv(rows))
    return str(path)


def test_table_of_something_else_under_its_name_costs_no_run(cli: CommandLine) -> None:
    cli.query("CREATE TABLE kite_instrument_history (mine TEXT)")
    result = cli.load(to_csv([STAYS, A]))
    assert result.status == 0
    assert result.stderr.count("WARNING") == 1
    assert "kite_instrument_history was made by something else, rename it" in result.stderr
    assert cli.query("SELECT count(*), count(instrument_id) FROM kite_instrument_today") == [(2, 0)]
    assert "kite_instrument_history" in cli.run("check").stdout
    cli.query("DROP TABLE kite_instrument_history")
    assert cli.load(to_csv([STAYS, A])).stderr == ""
    assert cli.query("SELECT count(*), count(instrument_id) FROM kite_instrument_today") == [(2, 2)]


def test_function_of_something_else_under_its_name_is_left_alone(cli: CommandLine) -> None:
    cli.query(
        "CREATE FUNCTION kite_instrument_as_of(timestamptz) RETURNS integer"
        " LANGUAGE sql IMMUTABLE AS 'SELECT 7'"
    )
    result = cli.load(to_csv([STAYS, A]))
    assert result.status == 0
    assert (
        "kite_instrument_as_of(TIMESTAMPTZ) (something else has its name, rename that)"
        in result.stderr
    )
    assert cli.query("SELECT kite_instrument_as_of(now())") == [(7,)]
    cli.query("DROP FUNCTION kite_instrument_as_of(timestamptz)")
    assert cli.load(to_csv([STAYS, A])).stderr == ""
    assert cli.query("SELECT count(*) FROM kite_instrument_as_of(now())") == [(2,)]


def test_function_reads_the_history_of_its_own_schema(cli: CommandLine) -> None:
    cli.load(to_csv([STAYS, A]))
    cli.query(
        "CREATE TEMPORARY TABLE kite_instrument_history (LIKE public.kite_instrument_history)"
    )
    assert cli.query("SELECT count(*) FROM kite_instrument_as_of(now())") == [(2,)]
    cli.query("DROP TABLE pg_temp.kite_instrument_history")


def test_function_is_no_barrier_to_conditions(kept: Kept) -> None:
    kept.load(A)
    plan = "\n".join(
        line
        for (line,) in kept.query(
            "EXPLAIN SELECT * FROM kite_instrument_as_of(now()) WHERE tradingsymbol = 'A'"
        )
    )
    assert "Function Scan" not in plan
    assert "kite_instrument_history" in plan


def test_each_change_is_looked_up_by_an_index_before_the_history_is_analysed(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after a first load, as in a folder of lists, nothing is known of the table."""
    rows = [share(512 + 256 * n, f"S{n}") for n in range(3000)]
    kept.load(*rows)
    plans: dict[str, str] = {}
    execute = _Versions._execute

    def explain(
        self: _Versions, name: str, delta: Any = DELTA, values: Any = None, **parts: Any
    ) -> None:
        if name in ("end_versions", "go_on", "come_back", "begin", "count_lost"):
            statement = compose(SQL[name], delta=delta, **self._parts, **parts)
            self._cursor.execute(compose("EXPLAIN {it}", it=statement), values or {})
            plans[name] = "\n".join(line for (line,) in self._cursor.fetchall())
        execute(self, name, delta, values, **parts)

    monkeypatch.setattr(_Versions, "_execute", explain)
    kept.load(*({**row, "lot_size": 7} for row in rows[:300]), *rows[300:2900], share(9, "NEW"))
    assert len(plans) == 5
    for name, plan in plans.items():
        assert not re.search("Seq Scan on kite_instrument_history|Materialize", plan), (name, plan)


def test_dry_run_writes_no_versions(kept: Kept) -> None:
    kept.load(A)
    before = kept.query(f"SELECT * FROM {HISTORY.name} ORDER BY 1")
    kept.days.load([STAYS, A, B], dry_run=True)
    assert kept.query(f"SELECT * FROM {HISTORY.name} ORDER BY 1") == before
