"""What kinds of table hold a list exactly, and which are refused by name before Kite is asked."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from tests.command_line import CommandLine
from tests.conftest import Server
from tests.instruments import instrument, to_csv
from tests.table_model import fields_of, key_of, read_table

LAST_TOKEN = 2**63 - 1
ROWS = [
    instrument(LAST_TOKEN, "USDINR26FEB90.875CE", "CDS", strike=Decimal("90.875"), lot_size=1),
    instrument(2, "X" * 50, "NSE", name="M&M FIN. SERVICES, LTD" + "é" * 233, expiry=None),
    instrument(3, "NIFTY 50", "NSE", name=None, tick_size=Decimal(0), lot_size=0, expiry=None),
    instrument(4, "MINIMUM", tick_size=Decimal("0.0025"), strike=Decimal("99999999999.9999")),
    instrument(5, "FUTURE", lot_size=2**31 - 1, expiry=date(2031, 12, 30)),
    instrument(6, "BLANK", exchange_token=None, segment=None, strike=None, tick_size=None),
]
EVERYTHING = "SELECT t::text FROM kite_instrument_master AS t ORDER BY 1"
NEXT_ROWS = [*ROWS[:4], {**ROWS[4], "lot_size": 65, "tradingsymbol": "BLANK"}]


def alter(cli: CommandLine, column: str, sql_type: str) -> None:
    base = sql_type.split(" COLLATE")[0]
    cli.query(
        f"ALTER TABLE kite_instrument_master ALTER {column} DROP DEFAULT,"
        f" ALTER {column} TYPE {sql_type} USING {column}::text::{base}"
    )


def assert_stored(cli: CommandLine, rows: list[dict[str, Any]]) -> None:
    stored = fields_of(read_table(cli.connection))
    assert stored == {key_of(row): row for row in rows}


def assert_refused(cli: CommandLine, *clauses: str) -> str:
    """Neither a run nor `check` has asked for a list; both say why. Returns the words."""
    before, asked = cli.query(EVERYTHING), len(cli.kite.requests)
    result = cli.load(to_csv(ROWS))
    assert result.status == 1
    assert len(cli.kite.requests) == asked
    check = cli.run("check")
    assert check.status == 1
    for clause in clauses:
        assert clause in result.stderr
        assert clause in check.stdout
    assert cli.query(EVERYTHING) == before
    return result.stderr


def follow(cli: CommandLine, words: str) -> None:
    """Run the statements that the message gives."""
    if views := re.search(r"drop (\w+(?:, \w+)*) first", words):
        cli.query(f"DROP VIEW {views[1]}")
    statements = re.findall(r"(?:: |run )(ALTER TABLE .+?)(?:; |\.\n|, or give)", words)
    assert statements
    for statement in statements:
        cli.query(statement)


DOMAINS = """
CREATE DOMAIN price AS numeric(15, 4);
CREATE DOMAIN paise AS numeric(15, 2);
CREATE DOMAIN rounded AS paise;
CREATE DOMAIN moment AS timestamp;
CREATE DOMAIN any_text AS text;
CREATE DOMAIN given_text AS varchar(255) NOT NULL;
"""


@pytest.mark.parametrize(
    ("column", "sql_type"),
    [
        *(("instrument_token", each) for each in ("numeric", "numeric(19)", "numeric(30, 4)")),
        *(("lot_size", each) for each in ("bigint", "numeric", "numeric(10)", "numeric(14, 2)")),
        *(("strike", each) for each in ("numeric", "numeric(20, 6)", "price")),
        *(("tick_size", each) for each in ("numeric", "price", "numeric(10, 2)", "numeric(5, 4)")),
        *((each, "text") for each in ("tradingsymbol", "exchange", "name", "segment")),
        *((each, "any_text") for each in ("tradingsymbol", "instrument_type")),
        *(("name", each) for each in ("varchar", "varchar(1000)", 'text COLLATE "C"')),
        *(("last_updated", each) for each in ("timestamptz", "timestamp(6)", "moment")),
        *(("created_at", each) for each in ("timestamptz", "timestamptz(6)")),
    ],
)
def test_list_is_stored_exactly_in_a_column_that_can_hold_it(
    cli: CommandLine, column: str, sql_type: str
) -> None:
    cli.query(DOMAINS)
    alter(cli, column, sql_type)
    assert cli.load(to_csv(ROWS)).status == 0
    assert_stored(cli, ROWS)
    assert cli.run("check").status == 0
    assert cli.load(to_csv(NEXT_ROWS)).status == 0
    assert_stored(cli, NEXT_ROWS)
    assert cli.query("SELECT count(*) FROM kite_instrument_today") == [(5,)]
    changes = cli.query("SELECT kind, field, old, new FROM kite_instrument_change ORDER BY 1, 2")
    assert changes == [
        ("terms changed", "expiry", "2026-08-27", "2031-12-30"),
        ("terms changed", "lot_size", "2025", "65"),
        ("terms changed", "segment", None, "NFO-OPT"),
        ("terms changed", "strike", None, "370.75"),
        ("terms changed", "tick_size", None, "0.05"),
        ("token moved", "instrument_token", "6", "5"),
        ("token reused", "tradingsymbol", "FUTURE", "BLANK"),
    ]


def test_views_of_a_table_with_time_zones_show_the_list_to_readers_anywhere(
    cli: CommandLine,
) -> None:
    alter(cli, "last_updated", "timestamptz")
    for rows in (ROWS, ROWS[:5]):
        assert cli.load(to_csv(rows)).status == 0
        for zone in ("Pacific/Kiritimati", "UTC", "Pacific/Pago_Pago"):
            cli.query(f"SET timezone = '{zone}'")
            assert cli.query("SELECT count(*) FROM kite_instrument_today") == [(len(rows),)]


@pytest.mark.parametrize(
    ("column", "sql_type"),
    [
        *(("instrument_token", each) for each in ("double precision", "numeric(10)", "integer")),
        *(("lot_size", each) for each in ("smallint", "real", "numeric(9)", "text")),
        *(("strike", each) for each in ("integer", "double precision", "real", "money", "text")),
        *(("strike", each) for each in ("paise", "rounded")),
        *(("name", each) for each in ("char(255)", "varchar(254)", "name", "given_text")),
        *(("tradingsymbol", each) for each in ("varchar(49)", "char(50)")),
        *(("expiry", each) for each in ("text", "timestamp", "timestamptz")),
        *(("last_updated", each) for each in ("date", "timestamp(0)", "timestamptz(3)", "text")),
        ("created_at", "timestamp(3)"),
    ],
)
def test_column_that_cannot_hold_every_value_is_refused_by_name(
    cli: CommandLine, column: str, sql_type: str
) -> None:
    cli.query(DOMAINS)
    alter(cli, column, sql_type)
    words = assert_refused(cli, f" {column} is ")
    follow(cli, words)
    assert cli.load(to_csv(ROWS)).status == 0
    assert_stored(cli, ROWS)


def test_column_that_compares_different_texts_as_equal_is_refused(
    cli: CommandLine, server: Server
) -> None:
    if server.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") != [(True,)]:
        pytest.skip("makes its collation in the catalog, since not every server has ICU")
    cli.query(
        'CREATE COLLATION insensitive FROM "C";'
        "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'insensitive'"
    )
    alter(cli, "segment", "varchar(20) COLLATE insensitive")
    words = assert_refused(
        cli, "segment is character varying(20) with a nondeterministic collation"
    )
    follow(cli, words)
    assert cli.load(to_csv(ROWS)).status == 0
    assert_stored(cli, ROWS)


def test_all_faults_of_a_table_are_told_at_once(cli: CommandLine) -> None:
    """An older importer's table, which has been imported into, with the views on it."""
    assert cli.load(to_csv(ROWS)).status == 0
    cli.query("DROP VIEW kite_instrument_today CASCADE")
    cli.query(
        "ALTER TABLE kite_instrument_master ALTER strike TYPE integer USING 0,"
        " ALTER last_updated TYPE timestamp(3), ALTER tick_size TYPE numeric(10, 1),"
        " DROP CONSTRAINT unique_tradingsymbol_exchange, DROP segment,"
        " ADD checked_by text NOT NULL DEFAULT '';"
        "ALTER TABLE kite_instrument_master ALTER checked_by DROP DEFAULT;"
        "UPDATE kite_instrument_master SET name = '' WHERE name IS NULL;"
        "ALTER TABLE kite_instrument_master ALTER name SET NOT NULL;"
        "CREATE VIEW mine AS SELECT strike, tick_size FROM kite_instrument_master;"
        "CREATE VIEW mine_too AS SELECT strike + 1 AS next FROM mine"
    )
    words = assert_refused(
        cli,
        "strike is integer, which does not hold every numeric(15, 4) exactly",
        "last_updated is timestamp(3) without time zone",
        "tick_size is numeric(10,1)",
        "it has no unique key (tradingsymbol, exchange)",
        "it lacks the column segment",
        "its own column checked_by is NOT NULL and has no default",
        "name is NOT NULL, and rows come without it",
        "drop mine_too, mine first",
    )
    assert words.count("\n") == 1
    follow(cli, words)
    assert cli.load(to_csv(ROWS)).status == 0
    assert_stored(cli, ROWS)


@pytest.mark.parametrize(
    ("spoil", "clause"),
    [
        pytest.param(
            "ALTER TABLE kite_instrument_master DROP CONSTRAINT kite_instrument_master_pkey",
            "it has no unique key (instrument_token, exchange): ALTER TABLE kite_instrument_master"
            " ADD PRIMARY KEY (instrument_token, exchange)",
            id="no primary key",
        ),
        pytest.param(
            "ALTER TABLE kite_instrument_master DROP CONSTRAINT unique_tradingsymbol_exchange;"
            "CREATE UNIQUE INDEX ON kite_instrument_master (tradingsymbol, exchange)"
            " WHERE exchange = 'NSE'",
            "it has no unique key (tradingsymbol, exchange)",
            id="partial index",
        ),
        pytest.param(
            "ALTER TABLE kite_instrument_master DROP CONSTRAINT unique_tradingsymbol_exchange;"
            "CREATE UNIQUE INDEX ON kite_instrument_master (lower(tradingsymbol), exchange)",
            "it has no unique key (tradingsymbol, exchange)",
            id="index of an expression",
        ),
        pytest.param(
            "ALTER TABLE kite_instrument_master DROP CONSTRAINT unique_tradingsymbol_exchange;"
            "CREATE UNIQUE INDEX ON kite_instrument_master (tradingsymbol, exchange, segment)",
            "it has no unique key (tradingsymbol, exchange)",
            id="index of more columns",
        ),
        pytest.param(
            "ALTER TABLE kite_instrument_master DROP segment,"
            " ADD segment varchar(20) GENERATED ALWAYS AS ('NSE') STORED",
            "segment is generated, nothing can be written to it: ",
            id="generated column",
        ),
        pytest.param(
            "ALTER TABLE kite_instrument_master"
            " ALTER instrument_token ADD GENERATED ALWAYS AS IDENTITY",
            "instrument_token is generated, nothing can be written to it: ",
            id="identity",
        ),
    ],
)
def test_table_that_cannot_take_a_list_is_refused_and_mended_as_told(
    cli: CommandLine, spoil: str, clause: str
) -> None:
    cli.query(spoil)
    words = assert_refused(cli, clause)
    follow(cli, words)
    assert cli.load(to_csv(ROWS)).status == 0
    assert_stored(cli, ROWS)


def test_virtual_column_is_refused_and_mended_as_told(cli: CommandLine) -> None:
    if cli.connection.server_version < 180_000:
        pytest.skip("virtual columns came with PostgreSQL 18")
    assert cli.load(to_csv(ROWS)).status == 0
    cli.query(
        "ALTER TABLE kite_instrument_master DROP segment CASCADE,"
        " ADD segment varchar(20) GENERATED ALWAYS AS ('NSE') VIRTUAL;"
        "CREATE VIEW mine AS SELECT segment FROM kite_instrument_master"
    )
    result = cli.run("check")
    assert "segment is generated, nothing can be written to it: " in result.stdout
    follow(cli, result.stdout)
    assert cli.load(to_csv(ROWS)).status == 0
    assert_stored(cli, ROWS)


@pytest.mark.parametrize(
    ("unlike", "said"),
    [
        pytest.param("CREATE VIEW {} AS TABLE moved", "it is a view", id="view"),
        pytest.param("CREATE MATERIALIZED VIEW {} AS TABLE moved", "it is a mat", id="matview"),
        pytest.param("CREATE SEQUENCE {}", "it is a sequence", id="sequence"),
        pytest.param(
            "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
            "CREATE FOREIGN TABLE {} (a int) SERVER s",
            "it is a foreign table",
            id="foreign table",
        ),
    ],
)
def test_what_is_no_table_is_refused(cli: CommandLine, unlike: str, said: str) -> None:
    name = "kite_instrument_master"
    cli.query(f"ALTER TABLE {name} RENAME TO moved; {unlike.format(name)}")
    assert cli.load(to_csv(ROWS)).status == 1
    assert cli.kite.requests == []
    check = cli.run("check")
    assert check.status == 1
    assert said in check.stdout
    assert "rename it out of the way" in check.stdout


def test_table_that_others_inherit_from_is_refused(cli: CommandLine) -> None:
    cli.query("CREATE TABLE heir () INHERITS (kite_instrument_master)")
    assert_refused(cli, "other tables inherit from it")


def test_column_that_a_trigger_fills_is_no_fault(cli: CommandLine) -> None:
    cli.query(
        "ALTER TABLE kite_instrument_master ADD note text NOT NULL;"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN NEW.note = 'x'; RETURN NEW; END$$;"
        "CREATE TRIGGER note BEFORE INSERT ON kite_instrument_master"
        " FOR EACH ROW EXECUTE FUNCTION note()"
    )
    assert cli.load(to_csv(ROWS)).status == 0
    assert_stored(cli, ROWS)


@pytest.mark.parametrize(
    "definition",
    [
        pytest.param("text NOT NULL DEFAULT 'x'", id="default"),
        pytest.param("bigint GENERATED ALWAYS AS IDENTITY", id="identity"),
        pytest.param("text NOT NULL GENERATED ALWAYS AS ('x') STORED", id="generated"),
        pytest.param("filled NOT NULL", id="default of its domain"),
        pytest.param("text", id="nullable"),
    ],
)
def test_column_of_the_users_that_fills_itself_is_no_fault(
    cli: CommandLine, definition: str
) -> None:
    cli.query("CREATE DOMAIN filled AS text DEFAULT 'x'")
    cli.query(f"ALTER TABLE kite_instrument_master ADD mine {definition}")
    assert cli.load(to_csv(ROWS)).status == 0
    assert_stored(cli, ROWS)


def make_partitioned(cli: CommandLine) -> None:
    """By exchange, with the strikes of the first design."""
    cli.query(
        "ALTER TABLE kite_instrument_master RENAME TO plain;"
        "CREATE TABLE kite_instrument_master (LIKE plain INCLUDING DEFAULTS)"
        " PARTITION BY LIST (exchange);"
        "DROP TABLE plain;"
        "ALTER TABLE kite_instrument_master ALTER strike TYPE numeric(15, 2),"
        " ADD PRIMARY KEY (instrument_token, exchange), ADD UNIQUE (tradingsymbol, exchange);"
        "CREATE TABLE nse PARTITION OF kite_instrument_master FOR VALUES IN ('NSE');"
        "CREATE TABLE others PARTITION OF kite_instrument_master DEFAULT"
    )


def test_partitioned_table_is_widened(cli: CommandLine) -> None:
    make_partitioned(cli)
    assert cli.run("check").status == 0
    result = cli.load(to_csv(ROWS))
    assert result.status == 0
    assert "kite_instrument_master.strike has too few digits (numeric(15,2))" in result.stderr
    assert_stored(cli, ROWS)
    assert cli.load(to_csv(NEXT_ROWS)).stderr == ""
    assert_stored(cli, NEXT_ROWS)


def test_widening_that_a_view_forbids_is_told_before_kite_is_asked(cli: CommandLine) -> None:
    cli.query(
        "ALTER TABLE kite_instrument_master ALTER strike TYPE numeric(15, 2);"
        "CREATE VIEW mine AS SELECT strike FROM kite_instrument_master"
    )
    words = assert_refused(cli, "strike is numeric(15,2)", "drop mine first")
    follow(cli, words)
    assert cli.load(to_csv(ROWS)).status == 0
    assert_stored(cli, ROWS)
