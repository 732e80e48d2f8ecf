"""What PostgreSQL's refusals are told as, and that the advice on each works when it is followed."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from contextlib import closing

import pytest

from shared.config.config_loader import override_config
from shared.exceptions import DatabaseError
from shared.utils.db_manager import DatabaseManager
from tests.command_line import CommandLine
from tests.conftest import PROJECT, Server
from tests.instruments import instrument, to_csv
from tests.table_model import fields_of, key_of, read_table

ERRORS = (PROJECT / "docs/errors.md").read_text(encoding="utf-8")
INFY = instrument(408065, "INFY", "NSE", instrument_type="EQ", expiry=None)
FUTURE = instrument(11536386, "NIFTY26DECFUT", "NFO", instrument_type="FUT")
ROWS = [INFY, FUTURE]
INDEX = instrument(256265, "NIFTY 50", "NSE", instrument_type="EQ", expiry=None, lot_size=0)
SENSEX = instrument(1, "SENSEX26DECFUT", "BFO", instrument_type="FUT")


def fail(cli: CommandLine, rows: list[dict[str, object]], *words: str) -> str:
    """A run with these rows fails with these words, and stores nothing. Returns its message."""
    before = read_table(cli.connection)
    result = cli.load(to_csv(rows))
    assert result.status == 1
    for word in words:
        assert word in result.stderr
    assert "Traceback" not in result.stderr
    assert read_table(cli.connection) == before
    return result.stderr


def succeed(cli: CommandLine, rows: list[dict[str, object]]) -> None:
    assert cli.load(to_csv(rows)).status == 0
    stored = fields_of(read_table(cli.connection))
    assert {key: stored[key] for key in map(key_of, rows)} == {key_of(row): row for row in rows}


def test_foreign_key_on_the_token_follows_its_instrument_as_advised(cli: CommandLine) -> None:
    succeed(cli, ROWS)
    cli.query(
        "CREATE TABLE trade (id serial PRIMARY KEY, instrument_token bigint, exchange varchar(10),"
        " quantity int, CONSTRAINT trade_instrument FOREIGN KEY (instrument_token, exchange)"
        " REFERENCES kite_instrument_master);"
        "INSERT INTO trade (instrument_token, exchange, quantity)"
        " VALUES (408065, 'NSE', 10), (11536386, 'NFO', 75)"
    )
    moved = [{**INFY, "instrument_token": 408321}, FUTURE]
    fail(
        cli,
        moved,
        "The foreign key trade_instrument of your table trade refers to a row",
        "ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED",
    )
    [script] = re.findall(r"```sql\n(ALTER TABLE trade .*?)```", ERRORS, re.S)
    cli.query(script)
    succeed(cli, moved)
    # Then the symbols change: swapped, renamed, and taken over by another token at once.
    renamed = [{**moved[0], "tradingsymbol": "INFOSYS"}, {**FUTURE, "tradingsymbol": "N26DECFUT"}]
    succeed(cli, renamed)
    newcomer = instrument(77, "INFOSYS", "NSE", instrument_type="EQ", expiry=None)
    succeed(cli, [newcomer, renamed[1]])
    assert cli.query(
        "SELECT t.tradingsymbol, m.instrument_token, quantity FROM trade AS t"
        " JOIN kite_instrument_master AS m USING (tradingsymbol, exchange) ORDER BY t.id"
    ) == [("INFOSYS", 77, 10), ("N26DECFUT", 11536386, 75)]


@pytest.mark.parametrize(
    ("constraint", "drop", "words"),
    [
        pytest.param(
            "ADD CONSTRAINT has_lot CHECK (lot_size > 0)",
            "ALTER TABLE kite_instrument_master DROP CONSTRAINT has_lot",
            "has_lot of kite_instrument_master, which is no constraint of this program's|violates "
            'check constraint "has_lot"',
            id="check",
        ),
        pytest.param(
            "ADD CONSTRAINT one_name UNIQUE (name)",
            "ALTER TABLE kite_instrument_master DROP CONSTRAINT one_name",
            "one_name of kite_instrument_master, which is|violates unique constraint",
            id="unique",
        ),
        pytest.param(
            "ADD CONSTRAINT apart EXCLUDE USING btree (segment WITH =)",
            "ALTER TABLE kite_instrument_master DROP CONSTRAINT apart",
            "apart of kite_instrument_master, which is|violates exclusion constraint",
            id="exclusion",
        ),
        pytest.param(
            "ALTER lot_size TYPE positive",
            "ALTER DOMAIN positive DROP CONSTRAINT positive_check",
            "positive_check of positive, which is no constraint of this program's",
            id="domain",
        ),
    ],
)
def test_constraint_of_the_users_is_named_in_the_databases_own_words(
    cli: CommandLine, constraint: str, drop: str, words: str
) -> None:
    cli.query("CREATE DOMAIN positive AS integer CHECK (VALUE > 0)")
    cli.query(f"ALTER TABLE kite_instrument_master {constraint}")
    words += "|change it or drop it"
    message = fail(cli, [*ROWS, INDEX], *words.split("|"))
    assert "does not fit its column" not in message
    cli.query(drop)
    succeed(cli, [*ROWS, INDEX])


def test_exchange_without_a_partition_gets_one_as_advised(cli: CommandLine) -> None:
    cli.query(
        "ALTER TABLE kite_instrument_master RENAME TO plain;"
        "CREATE TABLE kite_instrument_master (LIKE plain INCLUDING DEFAULTS)"
        " PARTITION BY LIST (exchange);"
        "DROP TABLE plain;"
        "ALTER TABLE kite_instrument_master"
        " ADD PRIMARY KEY (instrument_token, exchange), ADD UNIQUE (tradingsymbol, exchange);"
        "CREATE TABLE known PARTITION OF kite_instrument_master FOR VALUES IN ('NSE', 'NFO')"
    )
    succeed(cli, ROWS)
    message = fail(cli, [*ROWS, SENSEX], "(exchange) = (BFO)", "No partition of kite_instrument")
    [statement] = re.findall(r"CREATE TABLE .*? DEFAULT", message)
    cli.query(statement)
    succeed(cli, [*ROWS, SENSEX])


def test_not_null_that_comes_to_light_at_the_insert_is_mended_as_advised(cli: CommandLine) -> None:
    """A trigger might have filled the column: this one does not."""
    cli.query(
        "ALTER TABLE kite_instrument_master ADD note text NOT NULL;"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;"
        "CREATE TRIGGER note BEFORE INSERT ON kite_instrument_master"
        " FOR EACH ROW EXECUTE FUNCTION note()"
    )
    message = fail(cli, ROWS, "The column note of kite_instrument_master is NOT NULL")
    [statement] = re.findall(r"ALTER TABLE \S+ ALTER COLUMN \S+ DROP NOT NULL", message)
    cli.query(statement)
    succeed(cli, ROWS)


@pytest.fixture
def importer(
    cli: CommandLine, make_role: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """Runs are those of a role with rights on the instrument table alone."""
    role = make_role()
    cli.query(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON kite_instrument_master TO {role};"
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    )
    monkeypatch.setenv("DB_USER", role)
    monkeypatch.setenv("DB_PASSWORD", "Role-Secret-3f9")
    return role


def test_row_security_is_not_told_as_a_missing_grant(cli: CommandLine, importer: str) -> None:
    cli.query(
        "ALTER TABLE kite_instrument_master ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY reading ON kite_instrument_master FOR SELECT USING (true)"
    )
    message = fail(cli, ROWS, "Row security keeps DB_USER from writing a row")
    assert "needs SELECT, INSERT" not in message
    cli.query(
        "CREATE POLICY writing ON kite_instrument_master"
        f" FOR ALL TO {importer} USING (true) WITH CHECK (true)"
    )
    succeed(cli, ROWS)


@pytest.mark.parametrize("right", ["SELECT", "INSERT", "UPDATE", "DELETE"])
def test_missing_right_is_granted_as_check_names_it(
    cli: CommandLine, importer: str, right: str
) -> None:
    succeed(cli, ROWS)
    cli.query(f"REVOKE {right} ON kite_instrument_master FROM {importer}")
    fail(cli, [INFY, {**FUTURE, "lot_size": 1}], "DB_USER may not do this")
    check = cli.run("check")
    assert check.status == 1
    [lacking] = re.findall(r"lacks (\w+) on kite_instrument_master", check.stdout)
    cli.query(f"GRANT {lacking} ON kite_instrument_master TO {importer}")
    succeed(cli, [INFY, {**FUTURE, "lot_size": 1}])


def test_lock_that_is_held_too_long_is_found_and_ended_as_advised(
    cli: CommandLine, server: Server, database: str
) -> None:
    succeed(cli, ROWS)
    [query] = re.findall(r"^(SELECT pid, .*?);\n", ERRORS, re.S | re.M)
    with closing(server.connect(database)) as other:
        other.autocommit = False
        other.cursor().execute("LOCK TABLE kite_instrument_master")
        with override_config("the lock", {"database": {"lock_timeout_seconds": 0.1}}):
            result = cli.load(to_csv([INFY]))
        assert result.status == 1
        assert "Another session held a lock" in result.stderr
        holders = cli.query(query)
        assert [pid for pid, *_ in holders] == [other.info.backend_pid]
        cli.query("SELECT pg_terminate_backend(%s)", holders[0][0])
    succeed(cli, [INFY])


def test_database_that_is_not_there_is_created_as_advised(
    cli: CommandLine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test_{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("DB_NAME", name)
    result = cli.load(to_csv(ROWS))
    assert result.status == 1
    assert "does not exist: create it (createdb)" in result.stderr
    assert cli.kite.requests == []
    server.execute(f"CREATE DATABASE {name}")
    try:
        assert cli.load(to_csv(ROWS)).status == 0
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_table_that_is_not_there_is_made_by_a_run_as_advised(
    cli: CommandLine, db_manager: DatabaseManager
) -> None:
    cli.query("DROP TABLE kite_instrument_master")
    with pytest.raises(DatabaseError, match="run the DAG once with a role that may create it"):
        db_manager.upsert_instruments(ROWS)
    succeed(cli, ROWS)
    assert db_manager.upsert_instruments(ROWS) == (0, 2)


def test_database_that_is_read_only_is_set_to_write_as_advised(
    cli: CommandLine, server: Server, database: str
) -> None:
    server.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    fail(cli, ROWS, "its role or database has default_transaction_read_only set")
    server.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    succeed(cli, ROWS)


def test_value_that_is_too_large_for_its_type_is_told_with_line_and_column(
    cli: CommandLine, db_manager: DatabaseManager
) -> None:
    """The functions themselves take rows that no run would let through."""
    with pytest.raises(DatabaseError, match='line 2, column lot_size: "2147483648"'):
        db_manager.upsert_instruments([INFY, {**FUTURE, "lot_size": 2**31}])
    with pytest.raises(DatabaseError, match=r"A text is too long for its column.*column segment"):
        db_manager.upsert_instruments([{**INFY, "segment": "X" * 21}])
    with pytest.raises(DatabaseError, match=r"A text is too long for its column segment; nothing"):
        db_manager.upsert_instruments([{**INFY, "segment": "X" * 20 + " "}])  # SQL would cut it
    assert read_table(cli.connection) == {}
