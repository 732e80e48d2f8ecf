"""Tables and views as each earlier version made them, with data, are brought up by a run.

tests/upgrades has their SQL. Of the versions that differ in nothing but the text of their views,
one is there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from dag_1_import_instruments_from_kite.import_instruments import FEED
from dag_2_import_candles_from_kite import FEED as CANDLES
from shared.feed import Batch, Feed, Run
from shared.models.table import Column
from shared.preparation import prepare_extras, read_schema
from shared.utils import run_history
from shared.utils.changes import CHANGES, table_of
from shared.utils.db_manager import DatabaseManager
from shared.utils.table_setup import ensure_table
from shared.utils.versions import version_of
from tests.command_line import CommandLine
from tests.conftest import PROJECT, Server
from tests.databases import Databases
from tests.instruments import instrument, to_csv

FOLDER = PROJECT / "tests" / "upgrades"
TABLES = ("kite_instrument_master", "ingestion_run", "kite_instrument_change")
VIEWS = [
    f"kite_{name}"
    for name in ("instrument_today", "token_map", "option_chain", "expiry", "underlying")
]
# What `check` names of each form.
FORMS = {
    "0_design": ["kite_instrument_master"],
    "1_table": [],
    "2_history": ["ingestion_run", "kite_instrument_change", *VIEWS],
    "3_key_of_changes": ["ingestion_run", *VIEWS],
    "4_host_of_runs": ["ingestion_run", *VIEWS],
    "5_numbers_of_versions": ["ingestion_run", *VIEWS],
}
# The last list, but for one that is gone, one that is new, and another lot size.
LIST = [
    instrument(
        256 * n,
        f"OLD{n}CE" if n < 30 else "NEWCE",
        "NSE" if n % 3 == 0 else "NFO",
        lot_size=75 if n > 2 else 50,
    )
    for n in [*range(1, 30), 1000]
]

# Everything about the tables, the views and their indexes that a new installation could have else.
SCHEMA = """
SELECT 'column', c.relname, a.attname, concat_ws(
    ' ', row_number() OVER (PARTITION BY c.oid ORDER BY attnum), format_type(atttypid, atttypmod),
    attnotnull, attidentity, pg_get_expr(d.adbin, d.adrelid))
FROM pg_class AS c JOIN pg_attribute AS a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = attnum
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT 'view', viewname, '', definition FROM pg_views WHERE schemaname = 'public'
UNION ALL
SELECT 'comment', relname, array_to_string(reloptions, ' '), obj_description(oid, 'pg_class')
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')
"""
# What changes where anything is made, altered or written anew.
WRITES = """
SELECT c.oid::regclass::text, c.relfilenode, w.xmin::text, d.xmin::text, max(a.xmin::text)
FROM pg_class AS c LEFT JOIN pg_rewrite AS w ON w.ev_class = c.oid
LEFT JOIN pg_description AS d ON d.objoid = c.oid LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace
GROUP BY c.oid, c.relfilenode, w.xmin, d.xmin ORDER BY 1
"""

Schema = set[tuple[str, ...]]


@pytest.fixture(scope="module")
def fresh(databases: Databases, server: Server) -> Iterator[Schema]:
    """What a new installation has."""
    name = databases.take(with_table=False)
    with DatabaseManager(server.config(name)) as manager, manager.transaction() as cursor:
        ensure_table(cursor, FEED.table, read_schema(FEED))
        prepare_extras(cursor, FEED)
    yield set(server.execute(SCHEMA, dbname=name))
    databases.give_back(name, with_table=False)


def make(cli: CommandLine, form: str) -> dict[str, list[dict[str, Any]]]:
    """The tables and views of an earlier version, with data; returns those, by table."""
    scripts = [form, "rows"] if form < "2" else [form, "rows", "history"]
    cli.query("DROP TABLE kite_instrument_master")
    cli.query("".join((FOLDER / f"{name}.sql").read_text(encoding="utf-8") for name in scripts))
    return read_data(cli)


def read_data(cli: CommandLine) -> dict[str, list[dict[str, Any]]]:
    return {
        table: [row for (row,) in cli.query(f"SELECT to_jsonb(t) FROM {table} AS t ORDER BY ctid")]
        for table in TABLES
        if cli.query("SELECT to_regclass(%s)::text", table) != [(None,)]
    }


def assert_kept(cli: CommandLine, old: dict[str, list[dict[str, Any]]]) -> None:
    """Every row is there with every value; of the new list's rows those that it does not give."""
    new = read_data(cli)
    listed = {row["instrument_token"] for row in LIST}
    for table, rows in old.items():
        assert len(rows) >= 120
        given = (
            [row for row in rows if row.get("instrument_token") in listed]
            if table == TABLES[0]
            else []
        )
        of_old_columns = [{name: row[name] for name in rows[0]} for row in new[table]]
        assert [row for row in rows if row not in given and row not in of_old_columns] == []
        created = {(row["instrument_token"], row["created_at"]) for row in given}
        assert created <= {
            (row.get("instrument_token"), row.get("created_at")) for row in new[table]
        }


def names_in(check: str, line: str) -> list[str]:
    """What a line of `check` names."""
    return re.findall(
        r"\w+", "".join(re.findall(rf"^{line} +DAG 1 \w+: .*brings up (.*)", check, re.M))
    )


@pytest.mark.parametrize("form", FORMS)
def test_run_brings_up_what_an_earlier_version_made(
    cli: CommandLine, fresh: Schema, form: str
) -> None:
    data = make(cli, form)
    before = cli.query(WRITES)
    check = cli.run("check")
    assert check.status == 0
    assert names_in(check.stdout, "older") == FORMS[form]
    assert cli.query(WRITES) == before

    result = cli.load(to_csv(LIST))
    assert result.status == 0
    assert [line for line in result.stderr.splitlines() if "widening" not in line] == []
    assert_kept(cli, data)
    changed = set(cli.query(SCHEMA)) ^ fresh
    # An early design had none, and nothing that works without is made beside a table that is there.
    assert {row[0] for row in changed} == ({"index"} if form == "0_design" else set())
    assert cli.query("SELECT count(*) FROM kite_instrument_today") == [(30,)]

    check = cli.run("check")
    assert not re.search("^(older|lacking)", check.stdout, re.M)
    before = cli.query(WRITES)
    assert cli.load(to_csv(LIST)).stderr == ""
    assert cli.query(WRITES) == before


def test_role_that_owns_nothing_goes_on_and_is_told_what_its_owner_runs(
    cli: CommandLine, fresh: Schema, as_role: Callable[..., str]
) -> None:
    data = make(cli, "3_key_of_changes")
    before = set(cli.query(SCHEMA))
    as_role("GRANT SELECT, INSERT, UPDATE ON ingestion_run, kite_instrument_change TO {role}")
    result = cli.load(to_csv(LIST))
    assert result.status == 0
    assert "Of an earlier version, and used as it is: ingestion_run" in result.stderr
    assert result.stderr.count("\n") == 1
    assert set(cli.query(SCHEMA)) == before
    listed = "SELECT tradingsymbol FROM kite_instrument_change WHERE kind = 'listed'"
    assert cli.query(listed) == [("NEWCE",)]

    check = cli.run("check")
    assert check.status == 0
    [script] = re.findall(r"in psql for example:\n((?: {8}.*\n)+)", check.stdout)
    cli.query(script)
    # A table that lacks nothing needs no version for it.
    assert {row[0] for row in set(cli.query(SCHEMA)) ^ fresh} == {"comment"}
    assert_kept(cli, data)
    assert not re.search("^(older|lacking)", cli.run("check").stdout, re.M)
    assert cli.load(to_csv(LIST)).stderr == ""


def test_what_a_newer_program_made_is_left_as_it_is(cli: CommandLine) -> None:
    assert cli.load(to_csv(LIST)).status == 0
    cli.query(
        "ALTER TABLE ingestion_run ADD COLUMN later TEXT;"
        "COMMENT ON TABLE ingestion_run IS 'Made by stock_ingestion, version 77';"
        "CREATE OR REPLACE VIEW kite_underlying AS SELECT 'a'::varchar(255) AS underlying,"
        " 'b'::varchar(10) AS exchange, 1::bigint AS expiries, 1::bigint AS contracts, 1 AS later;"
        "COMMENT ON VIEW kite_underlying IS 'Made by stock_ingestion, version 78 0123456789ab'"
    )
    schema, before = set(cli.query(SCHEMA)), cli.query(WRITES)
    words = (
        "Made by a newer version of this program, and left as it is: ingestion_run (version 77, "
        "here 3), kite_underlying (version 78, here 5). Upgrade this one."
    )
    assert words in cli.run("check").stdout
    result = cli.load(to_csv(LIST))
    assert (result.status, result.stderr) == (0, f"WARNING: {words}\n")
    assert (set(cli.query(SCHEMA)), cli.query(WRITES)) == (schema, before)


def test_comment_of_a_user_stays_before_the_version_and_so_do_rights_and_views_of_theirs(
    cli: CommandLine,
) -> None:
    make(cli, "2_history")
    words = "Ask Ravi's team \\ first,\nthen us"
    for kind, name in (("TABLE", "ingestion_run"), ("VIEW", "kite_expiry")):
        cli.query(f"COMMENT ON {kind} {name} IS %s", words)
    cli.query("GRANT SELECT ON kite_expiry TO PUBLIC; CREATE VIEW mine AS TABLE kite_expiry")
    rights = cli.query("SELECT relacl::text FROM pg_class WHERE relname = 'kite_expiry'")
    comments = "SELECT obj_description(name::regclass) FROM unnest(%s) AS name"
    for _ in range(2):
        assert cli.load(to_csv(LIST)).status == 0
        table, view = (row[0] for row in cli.query(comments, ["ingestion_run", "kite_expiry"]))
        assert table == f"{words}\nMade by stock_ingestion, version 3"
        assert view.startswith(f"{words}\nMade by stock_ingestion, version 5 ")
        assert view.count("Made by") == 1
    assert cli.query("SELECT relacl::text FROM pg_class WHERE relname = 'kite_expiry'") == rights
    assert cli.query("SELECT count(*) FROM mine") == cli.query("SELECT count(*) FROM kite_expiry")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on DAG 1 is of a version whose list has a column more."""
    isin = Column("isin", "varchar", 12, nullable=True, since=2)

    def prepare(run: Run, batch: Batch) -> list[dict[str, Any]]:
        return [{**row, "isin": f"IN{row['tradingsymbol']}"} for row in FEED.prepare(run, batch)]

    table = replace(FEED.table, columns=(*FEED.table.columns, isin))
    feed = replace(FEED, table=table, prepare=prepare)
    for module in ("", ".import_instruments"):
        monkeypatch.setattr(f"{FEED.folder.name}{module}.FEED", feed)


ADD = "ALTER TABLE kite_instrument_master ADD COLUMN isin varchar(12)"


@pytest.mark.usefixtures("later")
def test_column_that_comes_with_a_later_version(cli: CommandLine) -> None:
    data = make(cli, "4_host_of_runs")
    cli.kite.dump = to_csv(LIST)
    dry = cli.run("--dag", "1", "--dry-run")
    assert dry.status == 0
    assert "is of an earlier version: a run gives it the column isin first" in dry.stderr
    assert f"        {ADD};\n" in cli.run("check").stdout
    assert cli.load(to_csv(LIST)).stderr == ""
    assert_kept(cli, data)
    isin = "SELECT isin, count(*) FROM kite_instrument_master GROUP BY isin ORDER BY 2 DESC LIMIT 2"
    assert cli.query(isin)[0] == (None, 271)
    assert cli.query(isin)[1][0].startswith("INOLD")
    assert cli.query("SELECT obj_description('kite_instrument_master'::regclass)") == [
        ("Made by stock_ingestion, version 2",)
    ]
    assert not re.search("^(older|lacking)", cli.run("check").stdout, re.M)
    assert cli.load(to_csv(LIST)).stderr == ""


@pytest.mark.usefixtures("later")
def test_column_that_the_role_may_not_add_is_told_before_kite_is_asked(
    cli: CommandLine, as_role: Callable[..., str]
) -> None:
    make(cli, "1_table")
    as_role()
    words = f"it lacks the column isin: let the table's owner run {ADD}"
    result = cli.load(to_csv(LIST))
    assert result.status == 1
    assert words in result.stderr
    assert cli.kite.requests == []
    assert words in cli.run("check").stdout


def scripts_of(*feeds: Feed) -> Iterator[tuple[str, int, str]]:
    """What has a version, once each: its name, its version and its script."""
    tables = {table.name: table for table in (run_history.TABLE, CHANGES)}
    for feed in feeds:
        yield feed.table.name, feed.table.version, read_schema(feed)
        yield f"views.sql of DAG {feed.dag_id}", version_of(feed.views), feed.views
        beside = (table_of(feed), feed.versions, *feed.needs)
        tables |= {table.name: table for table in beside if table is not None}
    for table in tables.values():
        yield table.name, table.version, table.script


def test_version_is_raised_with_what_it_is_of() -> None:
    """Whoever changes a script raises its version, and puts the form before into tests/upgrades."""
    found = {
        name: (version, hashlib.sha256(re.sub(r"--.*|\s+", "", script).encode()).hexdigest()[:8])
        for name, version, script in scripts_of(FEED, CANDLES)
    }
    assert found == {
        "kite_instrument_master": (1, "271a996a"),
        "views.sql of DAG 1": (5, "9ae90638"),
        "ingestion_run": (3, "d13e132e"),
        "ingestion_change": (1, "1cdc89b5"),
        "kite_instrument_change": (2, "4a3bd9ea"),
        "kite_instrument_history": (1, "c8f1a087"),
        "kite_candle": (1, "b1f741c4"),
        "kite_candle_coverage": (1, "89cbf9f4"),
        "kite_candle_adjustment": (1, "ae3ab746"),
        "views.sql of DAG 2": (1, "cfabf5e1"),
    }
