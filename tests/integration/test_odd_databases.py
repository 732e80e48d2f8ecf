"""Databases and files that nobody would expect: found by trying to get a false "stored".

Either the run stores the list, and what is told of it is true; or it stores nothing and says why.
"""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from sandbox.kite_server import KiteServer
from shared import store
from tests.command_line import CommandLine
from tests.conftest import PROJECT, Project, Server
from tests.instruments import instrument, to_csv
from tests.integration.test_proof import FIRST, SECOND, add_trigger, assert_refused, share
from tests.table_model import wait_until

BIG = [share(number) for number in range(1, 301)]
MASTER = "kite_instrument_master"
TABLES = (MASTER, "ingestion_run", "kite_instrument_change")
VIEWS = (
    *("kite_instrument_today", "kite_token_map", "kite_option_chain", "kite_expiry"),
    "kite_underlying",
)
RIGHT_CHANGES = [("gone", "S30"), ("listed", "S31"), ("terms changed", "S1")]


@pytest.fixture
def first(cli: CommandLine) -> CommandLine:
    """The first list is stored."""
    assert cli.load(to_csv(FIRST)).status == 0
    return cli


@pytest.fixture
def own_nothing(cli: CommandLine, as_role: Callable[..., str]) -> Callable[..., str]:
    """From now on runs are those of a role that owns nothing, as docs/production.md has it."""

    def become(lost: str = "") -> str:
        role = as_role()
        for name in (*TABLES[1:], "kite_instrument_history", *VIEWS):
            cli.query(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {role}")
        if lost:
            cli.query(f"REVOKE {lost} FROM {role}")
        return role

    return become


def symbols(cli: CommandLine) -> set[str]:
    return {symbol for (symbol,) in cli.query("SELECT tradingsymbol FROM kite_instrument_today")}


def told_changes(cli: CommandLine) -> list[tuple[str, str]]:
    changes = json.loads(cli.run("changes", "--json").stdout)["dags"][0]["changes"]
    return sorted((change["kind"], change["tradingsymbol"]) for change in changes)


SECOND_SYMBOLS = {row["tradingsymbol"] for row in SECOND}


# Names


@pytest.mark.parametrize("schema", ["50%", "a%%b"])
def test_schema_with_a_percent_sign_is_refused_by_check_and_run(
    cli: CommandLine, as_role: Callable[..., str], schema: str
) -> None:
    role = as_role()
    cursor = cli.connection.cursor()
    cursor.execute("DROP TABLE kite_instrument_master CASCADE")
    ddl = (PROJECT / "dag_1_import_instruments_from_kite" / "schema.sql").read_text("utf-8")
    for name in (schema, schema.replace("%%", "%")):
        cursor.execute(f'CREATE SCHEMA IF NOT EXISTS "{name}" AUTHORIZATION {role}')
        cursor.execute(f'SET search_path = "{name}"')
        cursor.execute(ddl)
        cursor.execute(f"ALTER TABLE {MASTER} OWNER TO {role}")
    cursor.execute(f'ALTER ROLE {role} SET search_path = "{schema}"')
    for command in (("check",), ("--dag", "1")):
        result = cli.run(*command)
        assert result.status == 1
        assert f'The schema "{schema}" has a % in its name' in result.stdout + result.stderr


# Moments


def test_moments_with_a_time_zone_are_the_same_in_another_zone(
    cli: CommandLine, own_nothing: Callable[..., str]
) -> None:
    cli.query(f"ALTER TABLE {MASTER} ALTER last_updated TYPE timestamptz")
    [(name,)] = cli.query("SELECT current_database()")
    cli.query(f"ALTER DATABASE {name} SET timezone = 'UTC'")
    assert cli.load(to_csv(FIRST)).status == 0
    role = own_nothing()
    cli.query(f"ALTER ROLE {role} SET timezone = 'Asia/Kolkata'")
    result = cli.load(to_csv(SECOND))
    assert (result.status, result.stderr) == (0, "")
    assert symbols(cli) == SECOND_SYMBOLS
    assert told_changes(cli) == RIGHT_CHANGES
    assert cli.run("status").stdout.count("\nFRESH: ") == 1


@pytest.mark.parametrize("moment", ["'2199-01-01'", "'infinity'"])
def test_row_ahead_of_the_list_is_warned_of(first: CommandLine, moment: str) -> None:
    first.query(
        f"INSERT INTO {MASTER} (instrument_token, exchange, tradingsymbol, last_updated)"
        f" VALUES (5, 'OWN', 'MINE', {moment})"
    )
    result = first.load(to_csv(SECOND))
    assert result.status == 0
    assert "1 rows of public.kite_instrument_master are not of this list" in result.stderr


@pytest.mark.parametrize("moment", ["'infinity'", "'20000-01-01'", "NULL", "'0044-03-15 BC'"])
def test_run_on_record_with_a_moment_that_cannot_be(first: CommandLine, moment: str) -> None:
    first.query(f"UPDATE ingestion_run SET list_moment = {moment}")
    status = first.run("status")
    assert (status.status, status.stderr) == (1, "")
    assert first.load(to_csv(SECOND)).status == 0
    assert symbols(first) >= SECOND_SYMBOLS


# The history


@pytest.mark.parametrize(
    "body", ["NEW.list_moment = now() + interval '1 day'", "NEW.list_moment = '2001-01-01'"]
)
def test_trigger_that_changes_the_moment_on_record(first: CommandLine, body: str) -> None:
    add_trigger(
        first,
        "TRIGGER spoilt BEFORE INSERT OR UPDATE ON {on} FOR EACH ROW",
        f"{body}; RETURN NEW;",
        "ingestion_run",
    )
    result = first.load(to_csv(SECOND))
    assert result.status == 1
    assert first.query(f"SELECT 1 FROM {MASTER} WHERE lot_size = 65") == []


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(
            "CREATE RULE spoilt AS ON INSERT TO kite_instrument_change DO INSTEAD NOTHING",
            id="rule",
        ),
        pytest.param(
            "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN NEW.kind = ''gone''; RETURN NEW; END';"
            "CREATE TRIGGER spoilt BEFORE INSERT ON kite_instrument_change"
            " FOR EACH ROW EXECUTE FUNCTION spoil()",
            id="trigger",
        ),
    ],
)
def test_changes_that_are_not_kept_as_they_were_found(first: CommandLine, statements: str) -> None:
    first.query(statements)
    assert_refused(first, "of the run's changes are not in public.kite_instrument_change")


@pytest.mark.parametrize(
    "statement",
    [
        f"TRUNCATE {MASTER}",
        f"UPDATE {MASTER} SET last_updated = last_updated - interval '1 day'",
    ],
    ids=["emptied", "an older one restored"],
)
def test_changes_that_cannot_be_told_are_not_called_none(
    first: CommandLine, statement: str
) -> None:
    first.query(statement)
    assert first.load(to_csv(SECOND)).status == 0
    remark = "What changed cannot be told: the table held none of the rows that run 1 had stored."
    assert first.run("changes").stdout.endswith(f": {remark}\n")
    [document] = json.loads(first.run("changes", "--json").stdout)["dags"]
    assert (document["run"]["remark"], document["changes"]) == (remark, [])


def test_role_that_may_not_keep_changes_keeps_runs_and_views_right(
    first: CommandLine, own_nothing: Callable[..., str]
) -> None:
    own_nothing(lost="INSERT ON kite_instrument_change")
    result = first.load(to_csv(SECOND))
    assert result.status == 0
    assert result.stderr.startswith("WARNING: What changes is not kept: ")
    assert symbols(first) == SECOND_SYMBOLS
    assert "What changed is not kept" in first.run("changes").stdout
    assert "       1  gone\n" in result.stdout


@pytest.mark.parametrize("lost", ["INSERT ON kite_instrument_change", "UPDATE ON ingestion_run"])
def test_plausibility_goes_by_a_history_that_may_only_be_read(
    cli: CommandLine, own_nothing: Callable[..., str], lost: str
) -> None:
    assert cli.load(to_csv(BIG)).status == 0
    own_nothing(lost)
    cli.query(
        f"INSERT INTO {MASTER} (instrument_token, exchange, tradingsymbol)"
        " VALUES (5, 'NSE', 'MINE')"
    )
    result = cli.load(to_csv(BIG[:20]))
    assert result.status == 1
    assert "NSE fell from 300 rows to 20" in result.stderr
    assert "No run is on record" not in cli.load(to_csv(BIG)).stdout


def test_changes_of_an_attempt_that_was_lost_are_worked_out_again(
    first: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, killed = store.keep_changes, []

    def kill_once(cursor: Any, *rest: Any) -> None:
        if not killed:
            cursor.execute("SELECT pg_backend_pid()")
            killed.append(cursor.fetchone()[0])
            first.query("SELECT pg_terminate_backend(%s)", killed[0])
            is_there = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
            wait_until(lambda: not first.query(is_there, killed[0]))
            first.query(f"TRUNCATE {MASTER}")
        keep(cursor, *rest)

    monkeypatch.setattr(store, "keep_changes", kill_once)
    result = first.load(to_csv(SECOND))
    assert (result.status, len(killed)) == (0, 1)
    assert symbols(first) == SECOND_SYMBOLS
    assert "inserted            30" in result.stdout
    assert "changes since the last list" not in result.stdout


# What changes rows on their way


SPOIL = f"UPDATE public.{MASTER} SET lot_size = 7 WHERE tradingsymbol = ''S5'';"


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(
            f"CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN {SPOIL} RETURN 1; END';"
            f"ALTER TABLE {MASTER} ADD own int;"
            f"ALTER TABLE {MASTER} ALTER own SET DEFAULT f()",
            id="default",
        ),
        pytest.param(
            "CREATE FUNCTION f(t text) RETURNS bool LANGUAGE plpgsql AS"
            f" 'BEGIN IF t = ''S301'' THEN {SPOIL} END IF; RETURN true; END';"
            f"ALTER TABLE {MASTER} ADD CHECK (f(tradingsymbol)) NOT VALID",
            id="check",
        ),
    ],
)
def test_function_of_a_column_that_changes_other_rows(cli: CommandLine, statements: str) -> None:
    assert cli.load(to_csv(BIG)).status == 0
    cli.query(statements)
    rows = [share(1, lot_size=65), *BIG[1:299], share(301)]
    assert_refused(cli, "1 of the list's 300 rows", "the function public.f(", rows=rows)


def test_event_trigger_that_spoils_the_stage(first: CommandLine) -> None:
    first.query(
        "CREATE FUNCTION public.clean() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF to_jsonb(NEW)->>'tradingsymbol' = 'S5' THEN"
        " NEW := jsonb_populate_record(NEW, jsonb_build_object('lot_size', 7)); END IF;"
        " RETURN NEW; END$$"
    )
    cursor = first.connection.cursor()
    cursor.execute(
        "CREATE FUNCTION public.spread() RETURNS event_trigger LANGUAGE plpgsql AS $$"
        "DECLARE t text; BEGIN FOR t IN SELECT object_identity FROM"
        " pg_event_trigger_ddl_commands() WHERE command_tag = 'CREATE TABLE' LOOP"
        " EXECUTE format('CREATE TRIGGER clean BEFORE INSERT ON %s"
        " FOR EACH ROW EXECUTE FUNCTION public.clean()', t); END LOOP; END$$"
    )
    first.query(
        "CREATE EVENT TRIGGER spread ON ddl_command_end WHEN TAG IN ('CREATE TABLE')"
        " EXECUTE FUNCTION public.spread()"
    )
    assert_refused(first, "1 of the list's 30 rows", "the event trigger spread")


UPDATE_ANOTHER = f"UPDATE public.{MASTER} SET lot_size = 7 WHERE tradingsymbol = 'S5';"
RETURNS_1 = (
    "CREATE FUNCTION spoil() RETURNS integer LANGUAGE plpgsql AS"
    f" $$BEGIN {UPDATE_ANOTHER} RETURN 1; END$$;"
)
RETURNS_TRUE = (
    "CREATE FUNCTION spoil(v text) RETURNS boolean LANGUAGE plpgsql AS"
    f" $$BEGIN {UPDATE_ANOTHER} RETURN true; END$$;"
)


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(
            f"{RETURNS_TRUE} ALTER TABLE ingestion_run ADD CHECK (spoil(status)) NOT VALID",
            id="check of the runs",
        ),
        pytest.param(
            f"{RETURNS_1} ALTER TABLE kite_instrument_change ADD own integer;"
            "ALTER TABLE kite_instrument_change ALTER own SET DEFAULT spoil()",
            id="default of the changes",
        ),
        pytest.param(
            f"{RETURNS_TRUE} ALTER TABLE ingestion_run ENABLE ROW LEVEL SECURITY;"
            "ALTER TABLE ingestion_run FORCE ROW LEVEL SECURITY;"
            "CREATE POLICY p ON ingestion_run USING (true) WITH CHECK (spoil(status))",
            id="policy of the runs",
        ),
    ],
)
def test_function_of_the_history_that_changes_rows(
    first: CommandLine, own_nothing: Callable[..., str], statements: str
) -> None:
    """The record of a failed run calls it as well: what it changes then is not the run's."""
    first.query(statements)
    own_nothing()
    result = first.load(to_csv(SECOND))
    assert result.status == 1
    assert first.query(f"SELECT 1 FROM {MASTER} WHERE lot_size = 65") == []


def test_function_of_the_history_that_changes_rows_when_a_run_begins(
    first: CommandLine, own_nothing: Callable[..., str]
) -> None:
    """It is called before the list is stored, which puts the rows right."""
    first.query(
        f"{RETURNS_1} ALTER TABLE ingestion_run ADD own integer;"
        "ALTER TABLE ingestion_run ALTER own SET DEFAULT spoil()"
    )
    own_nothing()
    assert first.load(to_csv(SECOND)).status == 0
    assert first.query(f"SELECT count(*) FROM {MASTER} WHERE lot_size = 65") != [(0,)]
    assert first.query(f"SELECT 1 FROM {MASTER} WHERE lot_size = 7") == []


def test_function_behind_a_foreign_key_of_another_table(first: CommandLine) -> None:
    first.query(
        "CREATE FUNCTION spoil() RETURNS varchar LANGUAGE plpgsql AS"
        f" $$BEGIN {UPDATE_ANOTHER} RETURN NULL; END$$;"
        "CREATE TABLE holding (s varchar(50) DEFAULT spoil(), e varchar(10), FOREIGN KEY (s, e)"
        f" REFERENCES {MASTER} (tradingsymbol, exchange) ON UPDATE SET DEFAULT);"
        "INSERT INTO holding VALUES ('S2', 'NSE')"
    )
    rows = [{**row, "tradingsymbol": "NEW"} if row is FIRST[1] else row for row in FIRST]
    assert_refused(first, "1 of the list's 30 rows", rows=rows)


def test_event_trigger_that_makes_the_stage_coarser(first: CommandLine) -> None:
    first.query(
        "CREATE FUNCTION public.coarsen() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF to_regclass('pg_temp.stock_ingestion_stage') IS NOT NULL THEN"
        " ALTER TABLE pg_temp.stock_ingestion_stage ALTER strike TYPE numeric(15, 1);"
        " END IF; END$$;"
        "CREATE EVENT TRIGGER coarsen ON ddl_command_end WHEN TAG IN ('CREATE TABLE')"
        " EXECUTE FUNCTION public.coarsen()"
    )
    assert_refused(first, "30 of the list's 30 rows", "the event trigger coarsen")


def test_trigger_that_spoils_table_and_stage_alike(first: CommandLine) -> None:
    stage = "UPDATE pg_temp.stock_ingestion_stage SET lot_size = 7 WHERE tradingsymbol = 'S5';"
    body = (
        'IF NOT (to_jsonb(NEW) @> \'{"status": "failed"}\') THEN '
        f"{UPDATE_ANOTHER} {stage} END IF; RETURN NULL;"
    )
    add_trigger(first, "TRIGGER spoilt AFTER INSERT ON {on} FOR EACH ROW", body, "ingestion_run")
    assert_refused(first, "1 of the list's 30 rows", "the trigger spoilt")


def test_trigger_that_comes_after_the_proof(first: CommandLine) -> None:
    """Deferred once more by a deferred trigger: it fires at COMMIT, and may write nothing."""
    first.query(
        "CREATE TABLE side (i int); CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$BEGIN {UPDATE_ANOTHER} RETURN NULL; END$$;"
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON side DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION late()"
    )
    add_trigger(
        first,
        "CONSTRAINT TRIGGER spoilt AFTER INSERT ON {on} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
        "SET CONSTRAINTS ALL DEFERRED; INSERT INTO public.side VALUES (1); RETURN NULL;",
    )
    result = first.load(to_csv(SECOND))
    assert result.status == 1
    assert first.query(f"SELECT 1 FROM {MASTER} WHERE lot_size IN (7, 65)") == []


def test_row_that_row_security_hides_from_the_proof(
    first: CommandLine, as_role: Callable[..., str]
) -> None:
    first.query(
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN"
        f" INSERT INTO public.{MASTER} (instrument_token, exchange, tradingsymbol, last_updated)"
        " VALUES (1, 'OWN', 'MINE', NEW.last_updated); RETURN NULL; END$$;"
        f"CREATE TRIGGER spoilt AFTER INSERT ON {MASTER} FOR EACH ROW"
        " WHEN (NEW.exchange <> 'OWN') EXECUTE FUNCTION spoil()"
    )
    as_role(
        "GRANT ALL ON ingestion_run, kite_instrument_change, kite_instrument_history TO {role}",
        f"ALTER TABLE {MASTER} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY p ON {MASTER} USING (exchange <> 'OWN')",
    )
    assert_refused(first, "row security may hide rows of public.kite_instrument_master")


@pytest.mark.parametrize(
    ("fields", "change"),
    [
        pytest.param({"name": None}, "name = ''", id="blank for NULL"),
        pytest.param({"expiry": date(9999, 12, 31)}, "expiry = 'infinity'", id="infinity"),
    ],
)
def test_trigger_whose_value_a_driver_takes_for_the_same(
    first: CommandLine, fields: dict[str, Any], change: str
) -> None:
    add_trigger(
        first,
        "TRIGGER spoilt BEFORE INSERT OR UPDATE ON {on} FOR EACH ROW WHEN"
        " (NEW.tradingsymbol = 'S1')",
        f"NEW.{change}; RETURN NEW;",
    )
    assert_refused(first, "1 of the list's 30 rows", rows=[share(1, **fields), *FIRST[1:]])


def test_row_that_a_cascade_writes_behind_row_security(
    first: CommandLine, as_role: Callable[..., str]
) -> None:
    first.query(
        f"ALTER TABLE {MASTER} ADD UNIQUE (instrument_token, exchange, last_updated),"
        " ADD own_token bigint, ADD own_exchange varchar(10);"
        f"INSERT INTO {MASTER} (instrument_token, exchange, tradingsymbol, last_updated, own_token,"
        " own_exchange) SELECT 5, 'OWN', 'MINE', last_updated, instrument_token, exchange"
        f" FROM {MASTER} WHERE tradingsymbol = 'S5';"
        f"ALTER TABLE {MASTER} ADD FOREIGN KEY (own_token, own_exchange, last_updated) REFERENCES"
        f" {MASTER} (instrument_token, exchange, last_updated) ON UPDATE CASCADE"
    )
    as_role(
        "GRANT ALL ON ingestion_run, kite_instrument_change, kite_instrument_history TO {role}",
        f"ALTER TABLE {MASTER} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY p ON {MASTER} USING (exchange <> 'OWN') WITH CHECK (true)",
    )
    assert_refused(first, "row security may hide rows of public.kite_instrument_master")


def test_encoding_in_which_two_characters_are_one(
    cli: CommandLine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.execute(
        f"CREATE DATABASE {name} ENCODING 'EUC_JP' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    try:
        monkeypatch.setenv("DB_NAME", name)
        result = cli.load(to_csv([share(1, name="A\N{BROKEN BAR}B"), *FIRST[1:]]))
        assert result.status == 1
        assert "1 of the list's 30 rows" in result.stderr
        assert cli.load(to_csv(FIRST)).status == 0
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York"])
def test_domain_over_moments_with_a_time_zone(cli: CommandLine, zone: str) -> None:
    cli.query("CREATE DOMAIN moment AS timestamptz; CREATE DOMAIN own_moment AS moment")
    cli.query(f"ALTER TABLE {MASTER} ALTER last_updated TYPE own_moment")
    [(name,)] = cli.query("SELECT current_database()")
    cli.query(f"ALTER DATABASE {name} SET timezone = '{zone}'")
    for rows in (FIRST, SECOND):
        assert cli.load(to_csv(rows)).status == 0
        assert symbols(cli) == {row["tradingsymbol"] for row in rows}


# What must not stop a run


@pytest.mark.parametrize(
    "values",
    [
        "started_at = '20000-01-01'",
        "started_at = '0044-03-15 BC'",
        "rows_inserted = 2147483647, rows_updated = 5",
    ],
)
def test_run_on_record_that_cannot_be(first: CommandLine, values: str) -> None:
    first.query(f"UPDATE ingestion_run SET {values}")
    result = first.load(to_csv(FIRST), "--force")
    assert (result.status, "Error" in result.stderr) == (0, False)


def test_number_with_thousands_of_zeros_is_one_rejected_row(first: CommandLine) -> None:
    rows = [{**row, "strike": "0." + "0" * 17_000} if row is SECOND[5] else row for row in SECOND]
    result = first.load(to_csv(rows))
    assert result.status == 0
    assert "rejected             1\n" in result.stdout


def test_equality_with_null_is_none_whatever_the_setting(cli: CommandLine) -> None:
    """transform_null_equals makes `= NULL` of the program's own statements IS NULL."""
    assert cli.load(to_csv(FIRST)).status == 0
    cli.query(f"UPDATE {MASTER} SET last_updated = NULL; DELETE FROM ingestion_run")
    [(name,)] = cli.query("SELECT current_database()")
    cli.query(f"ALTER DATABASE {name} SET transform_null_equals = on")
    assert cli.load(to_csv(FIRST)).status == 0
    assert symbols(cli) == {row["tradingsymbol"] for row in FIRST}


def test_index_of_the_tables_name_elsewhere_is_no_second_table(first: CommandLine) -> None:
    [(name,)] = first.query("SELECT current_database()")
    first.query("CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE b.t (i int)")
    first.query(f"CREATE INDEX {MASTER} ON b.t (i)")
    first.query(f"ALTER DATABASE {name} SET search_path = a, public, b")
    assert first.load(to_csv(SECOND)).status == 0


def test_renamed_table_keeps_the_names_of_its_keys(first: CommandLine) -> None:
    first.query(f"ALTER TABLE {MASTER} RENAME TO old_list")
    result = first.load(to_csv(SECOND))
    assert result.status == 1
    assert "A table that was renamed keeps theirs: rename them as well" in result.stderr
    first.query("ALTER INDEX unique_tradingsymbol_exchange RENAME TO old_unique")
    assert first.load(to_csv(SECOND)).status == 0


# Files and output


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("others", [[100], [100, 101]], ids=["the only row", "one of two"])
def test_file_that_is_cut_within_its_last_exchange(
    cli: CommandLine, tmp_path: Path, others: list[int], cut: int
) -> None:
    """Of NSEIX there may be left NSE, or NSEI, or all."""
    rows = [instrument(n << 8, f"X{n}", "NSEIX", instrument_type="FUT") for n in others]
    whole = to_csv([*FIRST, *rows])
    path = tmp_path / "cut.csv"
    path.write_bytes(whole.rstrip(b"\r\n")[: -cut or None])
    result = cli.run("--dag", "1", "--from-file", str(path))
    assert result.status == 1
    assert "ends early (if the list is whole, give its last line an end)" in result.stderr
    path.write_bytes(whole)
    assert cli.run("--dag", "1", "--from-file", str(path)).status == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_json_that_a_full_disk_cuts_is_no_success(
    configured_project: Project, kite: KiteServer, unbuffered: str
) -> None:
    project = configured_project
    for lot in (1, 3):
        kite.dump = to_csv([share(number, lot_size=lot) for number in range(1, 301)])
        assert project.run("--dag", "1").returncode == 0
    command = " ".join(project.command("changes", "--json"))
    result = subprocess.run(
        ["bash", "-c", f"ulimit -f 8; exec {command} > out.json"],
        cwd=project.folder,
        env={**project.environment, "PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "Standard output cannot take all of it: File too large." in result.stderr
