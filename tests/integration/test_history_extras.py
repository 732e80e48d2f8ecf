"""Names of the history that something else has, views one by one, and older databases: no import
fails for any of it, one warning says what is lacking, and so does `check`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest

from dag_1_import_instruments_from_kite.changes import CHANGES
from dag_1_import_instruments_from_kite.import_instruments import FEED
from shared.preparation import prepare_extras
from shared.utils import run_history
from shared.utils.db_manager import DatabaseManager
from shared.utils.extras import (
    ExtraTable,
    ensure_extra_table,
    find_extra,
    find_upgrades,
    is_readable,
)
from shared.utils.table_check import FoundTable
from tests.command_line import CommandLine
from tests.conftest import Server
from tests.instruments import instrument, to_csv
from tests.table_model import read_table

ROWS = [instrument(number, f"S{number}", expiry=None) for number in range(1, 151)]
ALL_VIEWS = (
    "kite_instrument_today",
    "kite_token_map",
    "kite_option_chain",
    "kite_expiry",
    "kite_underlying",
)

# As the version before the marks made them (views.sql of November 2026).
OLD_VIEWS = """
CREATE VIEW kite_instrument_today AS
SELECT instrument_token, exchange, tradingsymbol, exchange_token, instrument_type, name, segment,
       expiry, strike, tick_size, lot_size, last_updated, created_at
FROM kite_instrument_master
WHERE last_updated >= (SELECT max(list_moment) FROM ingestion_run WHERE dag_id = 1);
CREATE VIEW kite_token_map AS
SELECT instrument_token, exchange, tradingsymbol, exchange || ':' || tradingsymbol AS quote_key
FROM kite_instrument_today;
CREATE VIEW kite_option_chain AS
SELECT name AS underlying, exchange, expiry, strike,
       max(tradingsymbol) FILTER (WHERE instrument_type = 'CE') AS call_symbol,
       max(instrument_token) FILTER (WHERE instrument_type = 'CE') AS call_token,
       max(tradingsymbol) FILTER (WHERE instrument_type = 'PE') AS put_symbol,
       max(instrument_token) FILTER (WHERE instrument_type = 'PE') AS put_token,
       max(lot_size) AS lot_size
FROM kite_instrument_today
WHERE instrument_type IN ('CE', 'PE')
GROUP BY name, exchange, expiry, strike;
CREATE VIEW kite_expiry AS
SELECT name AS underlying, exchange, expiry,
       count(*) FILTER (WHERE instrument_type = 'FUT') AS futures,
       count(*) FILTER (WHERE instrument_type = 'CE') AS calls,
       count(*) FILTER (WHERE instrument_type = 'PE') AS puts
FROM kite_instrument_today
WHERE expiry IS NOT NULL
GROUP BY name, exchange, expiry;
CREATE VIEW kite_underlying AS
SELECT name AS underlying, exchange, count(DISTINCT expiry) AS expiries, count(*) AS contracts
FROM kite_instrument_today
WHERE expiry IS NOT NULL
GROUP BY name, exchange;
"""


def relations(cli: CommandLine) -> list[tuple[str, ...]]:
    """All that is there: a run or a check that leaves it as it is makes nothing anew either."""
    return cli.query(
        "SELECT oid::text, xmin::text, relname, relkind::text FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace ORDER BY oid"
    )


def comments(cli: CommandLine) -> list[str]:
    return [
        comment or ""
        for (comment,) in cli.query(
            "SELECT obj_description(to_regclass(name)) FROM unnest(%s) AS name", list(ALL_VIEWS)
        )
    ]


def assert_lacking(cli: CommandLine, *words: str) -> None:
    """Two imports go through with one warning each, and `check` says the same."""
    before = relations(cli)
    check = cli.run("check")
    assert check.status == 0
    assert relations(cli) == before
    for rows in (ROWS, ROWS[1:]):
        result = cli.load(to_csv(rows))
        assert result.status == 0
        assert result.stderr.startswith("WARNING: ")
        assert result.stderr.count("\n") == 1
        for word in words:
            assert word in result.stderr
            assert word in check.stdout
        newest = "SELECT count(*) FROM kite_instrument_master WHERE last_updated = (SELECT max("
        assert cli.query(newest + "last_updated) FROM kite_instrument_master)") == [(len(rows),)]


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        pytest.param(
            "CREATE TABLE ingestion_run"
            " (id serial PRIMARY KEY, job text, at timestamptz DEFAULT now())",
            "ingestion_run",
            id="table for the runs",
        ),
        pytest.param("CREATE VIEW ingestion_run AS SELECT 1", "ingestion_run", id="view"),
        pytest.param("CREATE SEQUENCE ingestion_run", "ingestion_run", id="sequence"),
        pytest.param("CREATE TYPE ingestion_run AS ENUM ('a')", "ingestion_run", id="enum"),
        pytest.param("CREATE TYPE ingestion_run AS (a int)", "ingestion_run", id="type"),
        pytest.param(
            "CREATE TABLE kite_instrument_change (id serial PRIMARY KEY, token bigint, what text)",
            "kite_instrument_change",
            id="table for the changes",
        ),
        pytest.param(
            "CREATE TABLE kite_instrument_change (run_id text, exchange text,"
            " instrument_token bigint, tradingsymbol text, kind text, field text, old text,"
            " new text)",
            "kite_instrument_change",
            id="table of other types",
        ),
    ],
)
def test_name_of_a_history_table_is_taken(cli: CommandLine, statement: str, name: str) -> None:
    cli.query(statement)
    what = "The history of runs and changes" if name == "ingestion_run" else "What changes"
    assert_lacking(cli, f"{what} is not kept", name)
    for command in (("status",), ("changes",), ("--dag", "1", "--dry-run")):
        result = cli.run(*command)
        # Without a history it cannot be known what is fresh.
        assert result.status == (4 if (command, name) == (("status",), "ingestion_run") else 0)
        assert "ERROR" not in result.stderr
    cli.kite.expire_token()
    assert cli.run("--dag", "1").status == 3


@pytest.mark.parametrize(
    ("statement", "name", "made"),
    [
        pytest.param("CREATE TABLE kite_expiry (day date)", "kite_expiry", 4, id="table"),
        pytest.param("CREATE VIEW kite_expiry AS SELECT 1 AS day", "kite_expiry", 4, id="view"),
        pytest.param(
            "CREATE VIEW kite_expiry AS SELECT name AS underlying, exchange"
            " FROM kite_instrument_master",
            "kite_expiry",
            4,
            id="view whose columns are the first two",
        ),
        pytest.param("CREATE TYPE kite_expiry AS ENUM ('a')", "kite_expiry", 4, id="enum"),
        pytest.param(
            "CREATE SEQUENCE kite_option_chain", "kite_option_chain", 4, id="a view in the middle"
        ),
        pytest.param(
            "CREATE TABLE kite_instrument_today AS TABLE kite_instrument_master",
            "kite_instrument_today",
            0,
            id="the view that the others read",
        ),
    ],
)
def test_name_of_a_view_is_taken(cli: CommandLine, statement: str, name: str, made: int) -> None:
    cli.query(statement)
    before = cli.query("SELECT oid FROM pg_class WHERE relname = %s", name)
    assert_lacking(cli, f"{name} (")
    assert cli.query("SELECT oid FROM pg_class WHERE relname = %s", name) == before
    assert sum(map(bool, comments(cli))) == made
    assert cli.runs("status") == [("succeeded",), ("succeeded",)]
    cli.query(f"ALTER {statement.split()[1]} {name} RENAME TO mine")  # as the warning says
    assert cli.load(to_csv(ROWS)).stderr == ""
    assert all(comments(cli))


@pytest.mark.parametrize("name", ALL_VIEWS)
def test_view_that_was_dropped_comes_back(cli: CommandLine, name: str) -> None:
    cli.load(to_csv(ROWS))
    cli.query(f"DROP VIEW {name} CASCADE")
    assert cli.load(to_csv(ROWS)).stderr == ""
    assert cli.query("SELECT count(*) FROM kite_token_map") == [(150,)]
    assert all(comments(cli))


def test_views_of_an_earlier_version_are_made_anew_with_what_others_built_on_them(
    cli: CommandLine,
) -> None:
    cli.load(to_csv(ROWS))
    cli.query(f"DROP VIEW kite_instrument_today CASCADE; {OLD_VIEWS}")
    cli.query("CREATE VIEW mine AS SELECT call_symbol FROM kite_option_chain")
    assert comments(cli) == [""] * 5
    assert cli.load(to_csv(ROWS)).stderr == ""
    assert all(comments(cli))
    assert "DISTINCT ON" in cli.query("SELECT pg_get_viewdef('kite_option_chain'::regclass)")[0][0]
    assert cli.query("SELECT * FROM mine") != []
    before = relations(cli)
    assert cli.load(to_csv(ROWS)).stderr == ""
    assert relations(cli) == before


def test_views_follow_a_table_that_was_renamed_out_of_the_way(cli: CommandLine) -> None:
    cli.load(to_csv(ROWS))
    cli.query("ALTER TABLE kite_instrument_master RENAME TO old_list")
    cli.query("ALTER INDEX unique_tradingsymbol_exchange RENAME TO old_unique")
    assert cli.load(to_csv(ROWS[:120])).stderr == (
        "WARNING: The table holds 0 of the 150 rows that run 1 stored; something else has changed "
        "or removed the others\n"
    )
    assert len(read_table(cli.connection)) == 120
    assert cli.query("SELECT count(*) FROM kite_instrument_today") == [(120,)]


@pytest.fixture
def become_importer(
    cli: CommandLine, make_role: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], str]:
    """From now on runs are those of the role that docs/production.md says: it owns nothing."""

    def become() -> str:
        role = make_role()
        cli.query(
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC;"
            "GRANT SELECT, INSERT, UPDATE, DELETE ON kite_instrument_master,"
            f" kite_instrument_change, kite_instrument_history, ingestion_run TO {role}"
        )
        monkeypatch.setenv("DB_USER", role)
        monkeypatch.setenv("DB_PASSWORD", "Role-Secret-3f9")
        return role

    return become


def test_view_that_the_role_may_not_replace_is_named(
    cli: CommandLine, become_importer: Callable[[], str]
) -> None:
    cli.load(to_csv(ROWS))
    cli.query("COMMENT ON VIEW kite_expiry IS 'Made by stock_ingestion, version 0'")
    become_importer()
    assert_lacking(cli, "kite_expiry (permission denied", "let the table's owner run this DAG once")


def test_reader_of_a_view_does_not_cost_the_run_that_wants_to_replace_it(
    cli: CommandLine, server: Server, database: str
) -> None:
    cli.load(to_csv(ROWS))
    cli.query("COMMENT ON VIEW kite_expiry IS 'Made by stock_ingestion, version 0'")
    with closing(server.connect(database)) as reader:
        reader.autocommit = False
        reader.cursor().execute("SELECT count(*) FROM kite_expiry")
        result = cli.load(to_csv(ROWS))
    assert result.status == 0
    assert "kite_expiry (it is in use, the next run tries again)" in result.stderr
    assert cli.load(to_csv(ROWS)).stderr == ""


def test_event_trigger_that_forbids_new_tables_costs_no_import(
    cli: CommandLine, server: Server
) -> None:
    if server.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") != [(True,)]:
        pytest.skip("only a superuser can make an event trigger")
    cli.query(
        "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE 'not without a ticket'; END$$;"
        "CREATE EVENT TRIGGER forbid ON ddl_command_start"
        " WHEN TAG IN ('CREATE VIEW') EXECUTE FUNCTION forbid()"
    )
    assert_lacking(cli, "kite_instrument_today (not without a ticket)")


# The primary key of the changes


def drop_key(cli: CommandLine) -> None:
    """As the version before made the table."""
    cli.query("ALTER TABLE kite_instrument_change DROP COLUMN change_id")


TRIM = "DELETE FROM ingestion_run WHERE run_id < (SELECT max(run_id) FROM ingestion_run)"


@pytest.mark.parametrize("is_old", [True, False], ids=["older table", "new table"])
def test_history_is_trimmed_while_it_is_published(cli: CommandLine, is_old: bool) -> None:
    cli.load(to_csv(ROWS))
    cli.load(to_csv(ROWS[1:]))
    if is_old:
        drop_key(cli)
    cli.query("CREATE PUBLICATION everything FOR ALL TABLES")
    assert cli.load(to_csv(ROWS[2:])).stderr == ""
    cli.query(TRIM)
    assert cli.query("SELECT tradingsymbol FROM kite_instrument_change") == [("S2",)]
    assert cli.runs("run_id") == [(3,)]
    assert cli.load(to_csv(ROWS[3:])).stderr == ""


def test_table_of_changes_without_a_key_works_for_a_role_that_may_not_add_it(
    cli: CommandLine, become_importer: Callable[[], str]
) -> None:
    cli.load(to_csv(ROWS))
    drop_key(cli)
    become_importer()
    result = cli.load(to_csv(ROWS[1:]))
    assert (result.status, result.stderr) == (
        0,
        "WARNING: Of an earlier version, and used as it is: kite_instrument_change. `check` prints "
        "what the owner has to run.\n",
    )
    assert cli.query("SELECT tradingsymbol FROM kite_instrument_change") == [("S1",)]
    check = cli.run("check")
    assert check.status == 0
    add_key = CHANGES.upgrades[""]
    assert f"        {add_key};\n" in check.stdout
    cli.query(add_key)
    assert "lacking" not in cli.run("check").stdout
    assert cli.load(to_csv(ROWS[2:])).stderr == ""
    cli.query("CREATE PUBLICATION everything FOR ALL TABLES")
    cli.query(TRIM)
    assert cli.query("SELECT tradingsymbol FROM kite_instrument_change") == [("S2",)]


@pytest.mark.parametrize("table", [run_history.TABLE, CHANGES], ids=lambda table: table.name)
def test_columns_that_tell_a_history_table_are_those_of_its_script(
    cli: CommandLine, table: run_history.ExtraTable
) -> None:
    cli.load(to_csv(ROWS))
    stored = cli.query(
        "SELECT attname::text, NOT attnotnull FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0",
        table.name,
    )
    own = [(column.name, column.nullable) for column in table.columns]
    assert [row for row in stored if row[0] not in ("change_id", *table.key)] == own


def test_check_before_the_first_run_lacks_nothing(cli: CommandLine) -> None:
    cli.query("DROP TABLE kite_instrument_master")
    before = relations(cli)
    check = cli.run("check")
    assert check.status == 0
    assert "lacking" not in check.stdout
    assert relations(cli) == before


OVERLOADS = """
CREATE FUNCTION stolen(varchar, text) RETURNS text LANGUAGE sql AS $$SELECT 'stolen'$$;
CREATE FUNCTION stolen(varchar, varchar) RETURNS boolean LANGUAGE sql AS $$SELECT true$$;
CREATE FUNCTION stolen_last(varchar, varchar) RETURNS varchar LANGUAGE sql AS $$SELECT $2$$;
CREATE FUNCTION stolen_days(bigint, date) RETURNS bigint LANGUAGE sql AS $$SELECT -1::bigint$$;
CREATE FUNCTION "left"(varchar, integer) RETURNS text LANGUAGE sql AS $$SELECT 'stolen'$$;
CREATE FUNCTION "right"(varchar, integer) RETURNS text LANGUAGE sql AS $$SELECT 'stolen'$$;
CREATE OPERATOR || (LEFTARG = varchar, RIGHTARG = text, FUNCTION = stolen);
CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = stolen);
CREATE OPERATOR <> (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = stolen);
CREATE AGGREGATE max(varchar) (SFUNC = stolen_last, STYPE = varchar);
CREATE AGGREGATE count(date) (SFUNC = stolen_days, STYPE = bigint, INITCOND = '0');
"""


def test_views_use_no_function_that_another_role_made_for_their_types(
    cli: CommandLine, db_manager: DatabaseManager
) -> None:
    """It would be the better match for a VARCHAR, and run with the reader's rights."""
    rows = [instrument(1, "A1CE"), instrument(2, "A1PE", instrument_type="PE")]
    assert cli.load(to_csv(rows)).status == 0
    cli.query("DROP VIEW kite_instrument_today CASCADE")
    cli.query(OVERLOADS)
    history, _ = db_manager.run_in_transaction(lambda cursor: prepare_extras(cursor, FEED))
    assert history == (True, True, True)
    assert all(comments(cli))
    used = (
        "SELECT DISTINCT w.ev_class::regclass::text, d.refobjid FROM pg_rewrite AS w"
        " JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid"
        " WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)"
        " AND w.ev_class::regclass::text LIKE 'kite%%'"
    )
    assert cli.query(used) == []  # on what PostgreSQL brings nothing depends
    assert cli.query("SELECT quote_key FROM kite_token_map WHERE instrument_token = 1") == [
        ("NFO:A1CE",)
    ]
    assert cli.query("SELECT call_symbol, put_symbol FROM kite_option_chain") == [("A1CE", "A1PE")]
    assert cli.query("SELECT expiries FROM kite_underlying") == [(1,)]


# A table of an earlier version

NOTES = ExtraTable(
    "note",
    """\
CREATE TABLE note (
    note_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    text text,
    host text
);
CREATE INDEX idx_note_text ON note (text)""",
    privileges=("SELECT", "INSERT"),
    key=("note_id",),
    upgrades={
        "host": "ALTER TABLE note ADD COLUMN IF NOT EXISTS host text",
        "idx_note_text": "CREATE INDEX idx_note_text ON note (text)",
    },
)


def look_up(manager: DatabaseManager) -> FoundTable:
    found = manager.run_in_transaction(lambda cursor: find_extra(cursor, NOTES))
    assert found is not None
    return found


@pytest.fixture
def old_notes(db_manager: DatabaseManager) -> DatabaseManager:
    db_manager.execute_query(NOTES.script.partition(";")[0].replace(",\n    host text", ""))
    return db_manager


def test_table_that_is_made_needs_no_upgrade(db_manager: DatabaseManager) -> None:
    ensure = partial(ensure_extra_table, table=NOTES)
    assert db_manager.run_in_transaction(ensure) is None
    assert find_upgrades(NOTES, look_up(db_manager)) == []


def test_older_table_gets_the_column_and_the_index_that_it_lacks(
    old_notes: DatabaseManager,
) -> None:
    assert "host" not in look_up(old_notes).columns
    assert old_notes.run_in_transaction(partial(ensure_extra_table, table=NOTES)) is None
    assert "host" in look_up(old_notes).columns
    assert look_up(old_notes).comment == "Made by stock_ingestion, version 3"
    assert find_upgrades(NOTES, look_up(old_notes)) == []


def test_older_table_is_used_as_it_is_by_a_role_that_may_not_change_it(
    old_notes: DatabaseManager, server: Server, database: str, make_role: Callable[[], str]
) -> None:
    role = make_role()
    old_notes.execute_query(f"GRANT SELECT, INSERT ON note TO {role}")
    config = server.config(database, user=role, password="Role-Secret-3f9")
    with DatabaseManager(config) as manager:
        assert manager.run_in_transaction(partial(ensure_extra_table, table=NOTES)) is None
        assert manager.run_in_transaction(lambda cursor: is_readable(cursor, NOTES))
        found = look_up(manager)
    assert "host" not in found.columns
    assert find_upgrades(NOTES, found) == list(NOTES.upgrades.values())


def test_upgrade_that_is_not_wanted_now(old_notes: DatabaseManager) -> None:
    """As `check` looks."""
    ensure = partial(ensure_extra_table, table=NOTES, upgrade=False)
    assert old_notes.run_in_transaction(ensure) is None
    assert "host" not in look_up(old_notes).columns


def test_table_that_lacks_more_than_an_upgrade_adds_is_something_elses(
    db_manager: DatabaseManager,
) -> None:
    db_manager.execute_query("CREATE TABLE note (note_id bigint PRIMARY KEY, words text)")
    reason = db_manager.run_in_transaction(partial(ensure_extra_table, table=NOTES))
    assert reason == "note was made by something else, rename it (it lacks the column text)"
    assert db_manager.run_in_transaction(lambda cursor: find_extra(cursor, NOTES)) is None
