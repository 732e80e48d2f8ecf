"""Whose table, whose functions: names mean the same whatever the session's search_path says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from shared.utils.db_manager import DatabaseManager
from shared.utils.relations import Relation, find_relation
from tests.command_line import CommandLine
from tests.conftest import NO_WAIT, Server
from tests.instruments import instrument, to_csv
from tests.table_model import fields_of, key_of, read_table

FIRST = [instrument(number, f"S{number}", "NSE") for number in range(1, 21)]
# Every kind of change, so that every statement runs: renamed, moved, swapped, new, gone.
SECOND = [
    instrument(1, "S2", "NSE"),
    instrument(2, "S1", "NSE"),
    instrument(3, "NEW", "NSE"),
    instrument(30, "S4", "NSE", lot_size=65),
    *FIRST[5:],
]


@pytest.fixture
def set_path(server: Server, database: str) -> Iterator[Any]:
    """Give the sessions of the test's database another search_path."""

    def change(path: str) -> None:
        server.execute(f"ALTER DATABASE {database} SET search_path = {path}")

    return change


def find(manager: DatabaseManager, name: str = "kite_instrument_master") -> Relation:
    return manager.run_in_transaction(lambda cursor: find_relation(cursor, name))


@pytest.mark.parametrize("path", ["pg_temp, public", "pg_temp, pg_catalog, public"])
def test_temporary_schema_that_comes_first_is_passed_over(
    cli: CommandLine, set_path: Any, path: str
) -> None:
    set_path(path)
    cli.query("DROP TABLE kite_instrument_master CASCADE")
    for rows in (FIRST, SECOND):
        assert cli.load(to_csv(rows)).status == 0
    assert (
        cli.query(
            "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname IN"
            " ('kite_instrument_master', 'kite_instrument_change', 'ingestion_run', 'kite_expiry')"
        )
        == [("public",)] * 4
    )
    assert {row["tradingsymbol"] for row in read_table(cli.connection).values()} >= {"NEW", "S1"}
    assert cli.run("changes").stdout.startswith("Run 2, ")


@pytest.mark.parametrize("path", ["pg_temp", "''", "nowhere"])
def test_path_without_a_schema(cli: CommandLine, set_path: Any, path: str) -> None:
    set_path(path)
    result = cli.load(to_csv(FIRST))
    assert result.status == 1
    assert "The search_path of DB_USER names no schema that exists" in result.stderr


def test_table_in_another_schema_of_the_path(cli: CommandLine, set_path: Any) -> None:
    assert cli.load(to_csv(FIRST)).status == 0
    cli.query("CREATE SCHEMA first")
    set_path("first, public")
    assert cli.load(to_csv(SECOND)).status == 0
    assert len(read_table(cli.connection)) == 20  # S4 has another token
    assert (
        cli.query("SELECT relname FROM pg_class WHERE relnamespace = 'first'::regnamespace") == []
    )


def test_table_in_two_other_schemas_of_the_path(
    cli: CommandLine, set_path: Any, server: Server, database: str
) -> None:
    cli.query("CREATE SCHEMA first")
    cli.query("CREATE SCHEMA last")
    cli.query("CREATE TABLE last.kite_instrument_master (LIKE public.kite_instrument_master)")
    set_path("first, public, last")
    result = cli.load(to_csv(FIRST))
    assert result.status == 1
    assert (
        "kite_instrument_master is in two schemas of the search_path: public and last. Name the "
        "one that is meant first in it" in result.stderr
    )
    set_path("public, last")  # the advice: the first one counts
    assert cli.load(to_csv(FIRST)).status == 0
    with DatabaseManager(server.config(database)) as manager:
        assert str(find(manager)) == "public.kite_instrument_master"


def test_history_name_taken_in_two_other_schemas_costs_no_import(
    cli: CommandLine, set_path: Any
) -> None:
    cli.query("CREATE SCHEMA first")
    cli.query("CREATE SCHEMA last")
    for schema in ("public", "last"):
        cli.query(f"CREATE TABLE {schema}.kite_instrument_change (x int)")
    set_path("first, public, last")
    result = cli.load(to_csv(FIRST))
    assert result.status == 0
    assert "What changes is not kept" in result.stderr
    assert cli.query("SELECT status FROM first.ingestion_run") == [("succeeded",)]


def test_temporary_tables_that_another_client_of_a_pooled_session_left(
    server: Server, database: str
) -> None:
    """As behind pgbouncer: the session is another client's, with its temporary tables."""
    with DatabaseManager(server.config(database), retry=NO_WAIT) as manager:
        with manager.get_connection() as connection, connection.cursor() as cursor:
            cursor.execute(
                "CREATE TEMPORARY TABLE kite_instrument_master (LIKE kite_instrument_master);"
                "CREATE TEMPORARY TABLE ingestion_run (run_id bigint);"
                "CREATE TEMPORARY TABLE stock_ingestion_stage (x int);"
                "CREATE TEMPORARY TABLE stock_ingestion_delta (x int);"
                "CREATE TEMPORARY TABLE stock_ingestion_change (x int)"
            )
        assert manager.upsert_instruments(FIRST) == (20, 0)
        assert manager.count_all_instruments() == 20
        assert not find(manager, "ingestion_run").exists
    other = server.connect(database)
    assert fields_of(read_table(other)) == {key_of(row): row for row in FIRST}
    other.close()


def test_table_of_anothers_with_the_name_of_a_temporary_one(cli: CommandLine) -> None:
    for name in ("stage", "delta", "change"):
        cli.query(f"CREATE TABLE stock_ingestion_{name} (x int)")
    for rows in (FIRST, SECOND):
        assert cli.load(to_csv(rows)).status == 0
    assert cli.query("SELECT count(*) > 0 FROM kite_instrument_change") == [(True,)]


# What takes exactly the given types is preferred to PostgreSQL's own function that takes text.
TRAPS = """
CREATE FUNCTION public.trap(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''trapped''; END';
CREATE FUNCTION public.trap(varchar, text) RETURNS boolean LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''trapped''; END';
CREATE OPERATOR public.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = public.trap);
CREATE OPERATOR public.<> (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = public.trap);
CREATE OPERATOR public.~ (LEFTARG = varchar, RIGHTARG = text, FUNCTION = public.trap);
CREATE FUNCTION public.regexp_replace(varchar, text, text) RETURNS text LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''trapped''; END';
CREATE FUNCTION public.regexp_replace(varchar, text, varchar) RETURNS text LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''trapped''; END';
CREATE FUNCTION public.trap_text(varchar, text) RETURNS text LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''trapped''; END';
CREATE OPERATOR public.|| (LEFTARG = varchar, RIGHTARG = text, FUNCTION = public.trap_text);
CREATE FUNCTION public.quote_ident(name) RETURNS text LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''trapped''; END';
CREATE FUNCTION public.chr(bigint) RETURNS text LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''trapped''; END';
"""
# Of what reads the catalogs.
TRAPPED_FUNCTIONS = (
    ("has_table_privilege(regclass, text)", "boolean"),
    ("has_schema_privilege(name, text)", "boolean"),
    ("has_database_privilege(name, text)", "boolean"),
    ("obj_description(oid, text)", "text"),
    ("unnest(text[])", "SETOF text"),
    ("unnest(name[])", "SETOF name"),
    ("json_agg(text[])", "json"),
)
TRAPPED_OPERATORS = (
    ("!~", "name", "name", "boolean"),
    ("=", "oid", "regclass", "boolean"),
    ("=", "oid", "regnamespace", "boolean"),
    ("=", "oid[]", "oid[]", "boolean"),
    ("&", "smallint", "integer", "integer"),
)


def set_catalog_traps(cli: CommandLine) -> None:
    body = "LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trapped''; END'"
    for function, result in TRAPPED_FUNCTIONS:
        cli.query(f"CREATE FUNCTION public.{function} RETURNS {result} {body}")
    for operator, left, right, result in TRAPPED_OPERATORS:
        cli.query(f"CREATE FUNCTION public.trap({left}, {right}) RETURNS {result} {body}")
        cli.query(
            f"CREATE OPERATOR public.{operator}"
            f" (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = public.trap)"
        )


@pytest.mark.parametrize("path", ["public", "public, pg_catalog"])
def test_functions_of_others_are_not_called(cli: CommandLine, set_path: Any, path: str) -> None:
    set_path(path)
    cli.query(TRAPS)
    set_catalog_traps(cli)
    for rows in (FIRST, SECOND, FIRST):
        result = cli.load(to_csv(rows))
        assert (result.status, "trapped" in result.stderr) == (0, False)
    told = {kind for (kind,) in cli.query("SELECT DISTINCT kind FROM kite_instrument_change")}
    assert {"token moved", "token reused", "renamed", "expired", "terms changed"} <= told
    for command in ("changes", "check", "status"):
        result = cli.run(command)
        assert (result.status, result.stderr) == (0, "")
