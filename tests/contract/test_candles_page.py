"""docs/candles.md: its settings, figures and columns are so, and its scripts do what it says."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from dag_2_import_candles_from_kite import FEED
from dag_2_import_candles_from_kite.answers import Candle
from dag_2_import_candles_from_kite.gaps import list_gaps
from dag_2_import_candles_from_kite.intervals import INTERVALS
from dag_2_import_candles_from_kite.plan import Span, count_requests, find_missing, midnight
from dag_2_import_candles_from_kite.planning import Totals
from dag_2_import_candles_from_kite.state import describe_state
from dag_2_import_candles_from_kite.store import Series, Store
from dag_2_import_candles_from_kite.universe import resolve
from shared.arguments import read_slice
from shared.config.config_loader import override_config
from shared.exceptions import DatabaseError
from shared.feed import Slice
from shared.utils.db_manager import DatabaseManager
from tests.change_model import Days
from tests.command_line import CommandLine
from tests.conftest import PROJECT, Server
from tests.documents import BLOCKS, section, table_rows
from tests.instruments import instrument
from tests.stored_candles import CONTRACT, FIRST, GAP, INDEX, LAST, SHARE, store_candles

PAGE = PROJECT / "docs" / "candles.md"
DAY = INTERVALS["day"]
PRICES = (Decimal(1),) * 4
NOW = midnight(LAST) + timedelta(days=1, hours=18)


def blocks(heading: str, language: str) -> list[str]:
    """The blocks under a heading."""
    place = (PAGE.name, heading, language)
    return [b.text for b in BLOCKS if (b.document, b.heading, b.language) == place]


def tables(heading: str) -> list[list[list[str]]]:
    """The tables under a heading."""
    parts = section(PAGE, heading).split("\n\n")
    return [table_rows(part) for part in parts if part.startswith("|")]


# --- settings and figures ------------------------------------------------------------------------


def test_settings_that_are_shown_can_be_read() -> None:
    (text,) = blocks("Switch it on", "json")
    parameters = json.loads(text)["parameters"]
    converters = {field.path.partition(".")[2]: field.convert for field in FEED.fields}
    for name, value in parameters.items():
        assert converters[name](value), name
    assert {str(item) for item in converters["instruments"](parameters["instruments"])} == {
        str(item) for item in parameters["instruments"]
    }


def test_table_of_settings_has_them_with_their_defaults() -> None:
    (rows,) = tables("Switch it on")
    told = {row[0].strip("`"): row[1] for row in rows}
    shipped = json.loads((FEED.folder / "config.json").read_text(encoding="utf-8"))["parameters"]
    texts = {name: v if isinstance(v, str) else json.dumps(v) for name, v in shipped.items()}
    assert told == {f.path: texts[f.path.partition(".")[2]] for f in FEED.fields}


def test_parts_say_what_is_shown() -> None:
    plan, nothing = blocks("In several processes", "text")
    candles, lacking, wanted, *of_part, requests = map(int, re.findall(r"\d+", plan)[:6])
    (rate,) = (f.default for f in FEED.fields if f.path == "parameters.requests_per_second")
    totals = Totals(wanted, lacking, requests, candles)
    assert plan.splitlines() == totals.describe(rate, Slice(*of_part))
    assert nothing.splitlines() == Totals(0, 0, 0, 0).describe(rate, Slice(7, 8))
    (script,) = blocks("In several processes", "sh")
    named = [read_slice(text) for text in re.findall(r"\d+/\d+", script)]
    assert named == [Slice(number, 4) for number in range(1, 5)]
    assert FEED.can_slice


def test_requests_and_times_are_those_of_the_plan() -> None:
    (rows,) = tables("How long it takes")
    assert len(rows) > 5
    for instruments, name, days, requests, duration in rows:
        begin = midnight(date(2015, 1, 1))
        span = Span(begin, begin + timedelta(days=_number(days)))
        count = _number(instruments) * count_requests([span], INTERVALS[name])
        assert (_number(requests), duration) == (count, _in_words(count / 3))
    text = section(PAGE, "How long it takes")
    for interval in INTERVALS.values():
        assert re.search(rf"\b{interval.longest_days:,}\b", text), interval


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _in_words(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


# --- tables, views, scripts ----------------------------------------------------------------------


@pytest.fixture
def manager(server: Server, database: str) -> Iterator[DatabaseManager]:
    """A database with a list of a few instruments, and candles of July 2026."""
    index = {"instrument_type": "EQ", "segment": "INDICES", "expiry": None}
    share = {"instrument_type": "EQ", "segment": "NSE", "expiry": None}
    rows = [
        instrument(256265, "NIFTY 50", "NSE", **index),
        instrument(408065, "INFY", "NSE", **share),
        instrument(738561, "RELIANCE", "NSE", **share),
        instrument(8999170, CONTRACT.partition(":")[2], "NFO", expiry=date(2026, 8, 4)),
    ]
    with DatabaseManager(server.config(database)) as manager:
        connection = server.connect(database)
        Days(manager, connection).load(rows)
        connection.close()
        store_candles(manager)
        yield manager


def test_columns_of_tables_and_views(manager: DatabaseManager) -> None:
    of_candles, of_coverage, of_adjustments, views = tables("The table `kite_candle`")
    for name, rows in (
        ("kite_candle", of_candles),
        ("kite_candle_coverage", of_coverage),
        ("kite_candle_adjustment", of_adjustments),
    ):
        real = read_columns(manager, name)
        told = {
            column: kind for names, kind, _ in rows for column in names.replace("`", "").split(", ")
        }
        assert list(told) == list(real), name
        for column, kind in told.items():
            assert kind in ("as above", real[column]), column
    named = {row[0].strip("`"): row[1].split(", ") for row in views}
    assert set(named) == set(re.findall(r"CREATE OR REPLACE VIEW (\w+)", FEED.views))
    candles = list(read_columns(manager, "kite_candle"))
    for name, columns in named.items():
        if columns == ["the same"]:
            columns = named["kite_candle_by_symbol"]
        told_columns = {*columns} - {"those of `kite_candle`"}
        told_columns |= {*candles} if len(told_columns) < len(columns) else set()
        assert told_columns == {*read_columns(manager, name)}, name


def read_columns(manager: DatabaseManager, name: str) -> dict[str, str]:
    """The types of a relation's columns, as the page writes them."""
    rows = manager.fetch_all(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
        (name,),
    )
    names = {
        "character varying": "VARCHAR",
        "timestamp with time zone": "TIMESTAMPTZ",
        "numeric(15,4)": "NUMERIC(15, 4)",
    }
    kinds = {name: re.sub("character varying", "VARCHAR", kind) for name, kind in rows}
    return {name: names.get(kind, kind.upper()) for name, kind in kinds.items()}


def test_dropped_partitions_are_no_gaps_and_are_not_asked_for_until_coverage_is_cut(
    server: Server, database: str, manager: DatabaseManager
) -> None:
    """The scripts of the page, with candles of 2025 beside those of 2026."""
    drop, cut = blocks("Disk", "sql")
    old = Span(midnight(date(2025, 12, 1)), midnight(FIRST))
    store_old_candles(manager, old.begin)
    if server.connect(database).server_version < 140_000:
        drop = drop.replace(" CONCURRENTLY", "")
    for statement in filter(str.strip, drop.split(";")):
        server.execute(statement, dbname=database)

    asked = Span(old.begin, midnight(LAST))
    whole = read_missing(manager, asked)
    assert whole == []
    assert [gap[4:] for gap in manager.run_in_transaction(list_gaps)] == [(GAP, GAP, 1)]

    server.execute(cut, dbname=database)
    cut_at = midnight(date(2026, 1, 1))
    assert read_missing(manager, asked) == [Span(asked.begin, cut_at)]
    assert read_missing(manager, Span(cut_at, asked.end)) == []
    assert [gap[4:] for gap in manager.run_in_transaction(list_gaps)] == [(GAP, GAP, 1)]


def store_old_candles(manager: DatabaseManager, begin: datetime) -> None:
    """Day candles of December 2025 of all that is covered, which is covered from there on."""
    manager.execute_query(
        "CREATE TABLE kite_candle_day_2025 (LIKE kite_candle INCLUDING ALL);"
        "ALTER TABLE kite_candle_day ATTACH PARTITION kite_candle_day_2025"
        " FOR VALUES FROM ('2025-01-01 00:00+05:30') TO ('2026-01-01 00:00+05:30');"
        "INSERT INTO kite_candle SELECT instrument_id, 'day', ts, 1, 2, 1, 1, 1, NULL"
        " FROM (SELECT DISTINCT instrument_id FROM kite_candle) AS one,"
        " generate_series(timestamptz '2025-12-01 00:00+05:30', '2025-12-30 00:00+05:30', '1 day')"
        " AS ts"
    )
    manager.execute_query(
        "UPDATE kite_candle_coverage SET \"from\" = %s WHERE interval = 'day'", (begin,)
    )


def read_missing(manager: DatabaseManager, wanted: Span) -> list[Span]:
    """What a run would ask for of the share."""
    ids = read_ids(manager)

    def read(cursor: Any) -> list[Span]:
        covered = Store.open(cursor).read_coverage(cursor, [ids[SHARE]], DAY)
        return find_missing(wanted, covered[ids[SHARE]], NOW)

    return manager.run_in_transaction(read)


def read_ids(manager: DatabaseManager) -> Mapping[str, int]:
    return dict(manager.fetch_all("SELECT quote_key, instrument_id FROM kite_token_map"))


@pytest.fixture
def role(server: Server, database: str) -> Iterator[str]:
    """A role that may only connect."""
    name = f"role_{uuid.uuid4().hex[:8]}"
    server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'Ch0sen'")
    yield name
    server.execute(f"DROP OWNED BY {name}", dbname=database)
    server.execute(f"DROP ROLE {name}")


@pytest.mark.usefixtures("manager")
def test_rights_of_a_role_that_owns_nothing(server: Server, database: str, role: str) -> None:
    script, _ = blocks("Rights", "sql")
    server.execute(f"GRANT SELECT ON ingestion_run TO {role}", dbname=database)  # as DAG 1 needs
    config = {**server.config(database), "user": role, "password": "Ch0sen"}
    with DatabaseManager(config) as manager:
        with pytest.raises(DatabaseError, match="permission denied"):
            manager.run_in_transaction(store_an_answer)
        server.execute(script.replace("stock_ingestion", role), dbname=database)
        manager.run_in_transaction(store_an_answer)


@pytest.mark.usefixtures("manager")
def test_rights_of_a_reader(server: Server, database: str, role: str) -> None:
    _, script = blocks("Rights", "sql")
    server.execute(script.replace("instrument_reader", role), dbname=database)
    with DatabaseManager({**server.config(database), "user": role, "password": "Ch0sen"}) as reader:
        for view in re.findall(r"CREATE OR REPLACE VIEW (\w+)", FEED.views):
            assert reader.fetch_all(f"SELECT 1 FROM {view} LIMIT 1")


@pytest.mark.usefixtures("manager")
def test_check_prints_the_partitions_that_the_owner_has_to_make(
    cli: CommandLine, server: Server, database: str, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, _ = blocks("Rights", "sql")
    server.execute(script.replace("stock_ingestion", role), dbname=database)
    server.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}", dbname=database)
    monkeypatch.setenv("DB_USER", role)
    monkeypatch.setenv("DB_PASSWORD", "Ch0sen")
    said = cli.run("check", "--dag", "2")
    assert said.status == 0, said
    statements = re.findall(r"^ *((?:CREATE|ALTER) TABLE [^;]*;)", said.stdout, re.M | re.S)
    assert statements, said.stdout
    server.execute(" ".join(statements), dbname=database)
    assert "ALTER TABLE" not in cli.run("check", "--dag", "2").stdout


def test_gaps_and_state_as_they_are_shown(cli: CommandLine, manager: DatabaseManager) -> None:
    gaps, state = blocks("Gaps", "text")
    result = cli.run("gaps")
    assert result.status == 1
    assert _words(result.stdout) == _words(gaps.partition("\n")[2])
    wanted = {"parameters": {"instruments": [SHARE]}}
    with override_config("the test", wanted, FEED.folder):
        figures = manager.run_in_transaction(describe_state)
    assert re.findall(r"([a-z][a-z ]+):", state) == list(figures)
    assert figures == {
        "series wanted": 2,
        "complete": 1,
        "with gaps": 1,
        "days missing": 1,
        "never answered": 0,
    }


def _words(text: str) -> list[str]:
    """What a table has, in whatever frame."""
    return re.findall(r"[\w:.-]*\w", text)


def store_an_answer(cursor: Any) -> None:
    """A day more of the share, in a partition that is there."""
    universe = resolve(cursor, [SHARE])
    (target,) = universe.targets
    assert universe.calendar is not None
    assert universe.calendar.name == INDEX
    begin = midnight(LAST + timedelta(days=1))
    candle = Candle(begin, *PRICES, 1, None)
    span = Span(begin, begin + timedelta(days=1))
    _, result = Store.open(cursor).merge(
        cursor, Series(target, DAY), span, [candle], NOW, lambda comparison: True
    )
    assert result is not None
    assert result.inserted == 1


def test_intervals_that_are_named_are_all() -> None:
    (rows,) = tables("Switch it on")
    (meaning,) = [row[2] for row in rows if row[0] == "`parameters.intervals`"]
    told = re.findall(r"\b(?:\d*minute|day)\b", meaning)
    assert told == [each.name for each in INTERVALS.values()]
