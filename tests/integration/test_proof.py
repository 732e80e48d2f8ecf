"""What is told as stored was looked at: a table that is not the list ends no run with status 0.

Each fault is one that the database does not call an error. A run either stores the list as it is,
or leaves everything as it was and says what may have been in the way (ruling 29).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from shared.exceptions import DatabaseError
from shared.models.instrument import INSTRUMENT_TABLE
from shared.utils import db_manager
from shared.utils.db_manager import DatabaseManager
from tests.command_line import CommandLine, Result
from tests.conftest import Server
from tests.instruments import instrument, to_csv
from tests.table_model import read_table, wait_until


def share(number: int, **fields: Any) -> dict[str, Any]:
    kind = {"instrument_type": "EQ", "expiry": None, **fields}
    return instrument(number << 8, f"S{number}", "NSE", **kind)


FIRST = [share(number) for number in range(1, 31)]
# One has another lot size, one is new, one is gone; the others are as they were.
SECOND = [share(1, lot_size=65), *FIRST[1:29], share(31)]
VIEWS = ("instrument_today", "token_map", "option_chain", "expiry", "underlying")


def everything(cli: CommandLine) -> tuple[Any, ...]:
    """The table, what is on record of its changes, and the good runs."""
    return (
        read_table(cli.connection),
        cli.query("SELECT * FROM kite_instrument_change"),
        cli.query("SELECT * FROM ingestion_run WHERE status = 'succeeded'"),
    )


def holds(cli: CommandLine, rows: list[dict[str, Any]]) -> bool:
    """Whether today's list is exactly these rows."""
    names = ", ".join(INSTRUMENT_TABLE.column_names)
    found = cli.query(f"SELECT {names} FROM kite_instrument_today")
    wanted = {tuple(row[name] for name in INSTRUMENT_TABLE.column_names) for row in rows}
    return len(found) == len(rows) and set(found) == wanted


def assert_refused(cli: CommandLine, *words: str, rows: list[dict[str, Any]] = SECOND) -> Result:
    before = everything(cli)
    result = cli.load(to_csv(rows))
    assert result.status == 1
    assert everything(cli) == before
    for word in ("Nothing was stored: ", *words):
        assert word in result.stderr
    return result


def add_trigger(cli: CommandLine, when: str, body: str, on: str = "kite_instrument_master") -> None:
    cli.query(f"CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} END$$")
    cli.query(f"CREATE {when.format(on=on)} EXECUTE FUNCTION spoil()")


EACH_ROW = "TRIGGER spoilt {} ON {{on}} FOR EACH ROW"
ANOTHER_LOT = "UPDATE kite_instrument_master SET lot_size = 7 WHERE tradingsymbol = 'S5';"
SPOILERS = {
    "a trigger that sets last_updated": (
        EACH_ROW.format("BEFORE UPDATE"),
        "NEW.last_updated = now(); RETURN NEW;",
        "29 of the list's 30 rows",
    ),
    "a trigger that sets each row a moment of its own": (
        EACH_ROW.format("BEFORE INSERT OR UPDATE"),
        "NEW.last_updated = clock_timestamp(); RETURN NEW;",
        "30 of the list's 30 rows",
    ),
    "a trigger that suppresses updates": (
        EACH_ROW.format("BEFORE UPDATE"),
        "RETURN NULL;",
        "29 of the list's 30 rows",
    ),
    "a trigger that keeps old values": (
        EACH_ROW.format("BEFORE UPDATE"),
        "RETURN OLD;",
        "29 of the list's 30 rows",
    ),
    "a trigger that keeps an old value alone": (
        EACH_ROW.format("BEFORE UPDATE"),
        "NEW.lot_size = OLD.lot_size; RETURN NEW;",
        "1 of the list's 30 rows",
    ),
    "a trigger that changes what was only touched": (
        EACH_ROW.format("BEFORE UPDATE"),
        "NEW.name = upper(NEW.name) || '!'; RETURN NEW;",
        "29 of the list's 30 rows",
    ),
    "a trigger that suppresses inserts": (
        EACH_ROW.format("BEFORE INSERT"),
        "RETURN NULL;",
        "1 of the list's 30 rows",
    ),
    "a trigger that deletes": (
        EACH_ROW.format("AFTER INSERT"),
        "DELETE FROM kite_instrument_master WHERE tradingsymbol = 'S5'; RETURN NULL;",
        "1 of the list's 30 rows",
    ),
    "a trigger that adds a row": (
        "TRIGGER spoilt AFTER INSERT ON {on} FOR EACH ROW WHEN (NEW.exchange <> 'OWN')",
        "INSERT INTO kite_instrument_master (instrument_token, exchange, tradingsymbol,"
        " last_updated) VALUES (1, 'OWN', 'MINE', NEW.last_updated); RETURN NULL;",
        "and 1 rows that it has not",
    ),
    "a trigger that is deferred to the COMMIT": (
        "CONSTRAINT TRIGGER spoilt AFTER INSERT ON {on} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
        f"{ANOTHER_LOT} RETURN NULL;",
        "1 of the list's 30 rows",
    ),
}


@pytest.fixture
def first(cli: CommandLine) -> CommandLine:
    """The first list is stored."""
    assert cli.load(to_csv(FIRST)).status == 0
    return cli


@pytest.mark.parametrize(("when", "body", "said"), SPOILERS.values(), ids=SPOILERS)
def test_trigger_that_makes_other_rows(first: CommandLine, when: str, body: str, said: str) -> None:
    add_trigger(first, when, body)
    assert_refused(first, said, "the trigger spoilt on public.kite_instrument_master")
    first.query("DROP TRIGGER spoilt ON kite_instrument_master")
    assert first.load(to_csv(SECOND)).status == 0
    assert holds(first, SECOND)


@pytest.mark.parametrize(
    ("table", "event"),
    [("ingestion_run", "AFTER UPDATE"), ("kite_instrument_change", "AFTER INSERT")],
)
def test_trigger_of_a_table_that_the_run_writes_besides(
    first: CommandLine, table: str, event: str
) -> None:
    """A run is recorded when it begins and if it fails, too; this trigger passes over that."""
    status = "coalesce(to_jsonb(NEW) ->> 'status', 'succeeded')"
    is_good = f"IF {status} = 'succeeded' THEN BODY END IF; RETURN NULL;"
    add_trigger(first, EACH_ROW.format(event), is_good.replace("BODY", ANOTHER_LOT), table)
    assert_refused(first, "1 of the list's 30 rows", f"the trigger spoilt on public.{table}")


@pytest.mark.parametrize("event", ["INSERT", "UPDATE"])
def test_trigger_that_keeps_the_run_from_being_recorded(first: CommandLine, event: str) -> None:
    """Views and the next run would look for the list at the moment of the run before."""
    add_trigger(first, EACH_ROW.format(f"BEFORE {event}"), "RETURN NULL;", "ingestion_run")
    assert_refused(first, "the run is not in ingestion_run as it was written there")
    first.query("DROP TRIGGER spoilt ON ingestion_run")
    assert first.load(to_csv(SECOND)).status == 0
    assert holds(first, SECOND)


def test_trigger_of_a_table_that_a_foreign_key_writes(first: CommandLine) -> None:
    first.query(
        "CREATE TABLE holding (symbol varchar(50), exchange varchar(10), FOREIGN KEY"
        " (symbol, exchange) REFERENCES kite_instrument_master (tradingsymbol, exchange)"
        " ON UPDATE CASCADE)"
    )
    first.query("INSERT INTO holding VALUES ('S2', 'NSE')")
    add_trigger(first, EACH_ROW.format("AFTER UPDATE"), f"{ANOTHER_LOT} RETURN NULL;", "holding")
    renamed = [{**row, "tradingsymbol": "NEW"} if row is FIRST[1] else row for row in FIRST]
    assert_refused(first, "1 of the list's 30 rows", "the trigger spoilt on", rows=renamed)


def test_event_trigger_that_makes_other_rows(first: CommandLine) -> None:
    """The run makes temporary tables, the last of them after it has compared."""
    first.query(
        "CREATE FUNCTION spoil() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN"
        " IF tg_tag = 'CREATE TABLE AS' THEN UPDATE public.kite_instrument_master SET lot_size = 7"
        " WHERE tradingsymbol = 'S5'; END IF; END$$"
    )
    first.query("CREATE EVENT TRIGGER spoilt ON ddl_command_end EXECUTE FUNCTION spoil()")
    assert_refused(first, "1 of the list's 30 rows", "the event trigger spoilt")
    first.query("DROP EVENT TRIGGER spoilt")
    assert first.load(to_csv(SECOND)).status == 0
    assert holds(first, SECOND)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param("ADD mine integer, ALTER mine SET DEFAULT spoil()", id="default"),
        pytest.param(
            "ADD CONSTRAINT mine CHECK (tradingsymbol <> 'S31' OR spoil() > 0)", id="check"
        ),
    ],
)
def test_function_that_makes_other_rows(first: CommandLine, call: str) -> None:
    first.query(
        "CREATE FUNCTION spoil() RETURNS integer LANGUAGE plpgsql AS $$BEGIN"
        " IF current_setting('my.mark', true) IS DISTINCT FROM '1' THEN"  # else for ever
        " PERFORM set_config('my.mark', '1', true);"
        " UPDATE public.kite_instrument_master SET lot_size = 7 WHERE tradingsymbol = 'S5';"
        " END IF; RETURN 1; END$$"
    )
    first.query(f"ALTER TABLE kite_instrument_master {call}")
    assert_refused(first, "1 of the list's 30 rows", "the function public.spoil() of a default")


def test_trigger_that_changes_nothing_is_no_hindrance(first: CommandLine) -> None:
    """It finds its own tables, whatever the run's statements may find."""
    first.query("CREATE TABLE seen (symbol text)")
    add_trigger(
        first,
        EACH_ROW.format("AFTER INSERT OR UPDATE"),
        "INSERT INTO seen VALUES (NEW.tradingsymbol); RETURN NULL;",
    )
    assert first.load(to_csv(SECOND)).status == 0
    assert holds(first, SECOND)
    assert first.query("SELECT count(*) FROM seen") == [(30,)]


def test_dry_run_says_what_may_make_a_run_end_otherwise(first: CommandLine) -> None:
    add_trigger(first, EACH_ROW.format("BEFORE UPDATE"), "RETURN NULL;")
    first.kite.dump = to_csv(SECOND)
    result = first.run("--dag", "1", "--dry-run")
    assert result.status == 0
    assert result.stderr == (
        "WARNING: A run may end otherwise than this dry run, since the database has the trigger "
        "spoilt on public.kite_instrument_master\n"
    )


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        pytest.param("ON INSERT TO {} DO INSTEAD NOTHING", "1 of the list's 30", id="no insert"),
        pytest.param(
            "ON INSERT TO {} DO ALSO UPDATE {} SET name = 'x' WHERE tradingsymbol = 'S4'",
            "1 of the list's 30",
            id="an update besides",
        ),
    ],
)
def test_rule_that_makes_other_rows(first: CommandLine, rule: str, said: str) -> None:
    table = "kite_instrument_master"
    first.query(f"CREATE RULE spoilt AS {rule.format(table, table)}")
    assert_refused(first, said, "the rule spoilt on public.kite_instrument_master")


def test_rule_that_suppresses_updates(first: CommandLine) -> None:
    """PostgreSQL itself refuses it, where symbols move."""
    first.query("CREATE RULE spoilt AS ON UPDATE TO kite_instrument_master DO INSTEAD NOTHING")
    before = everything(first)
    result = first.load(to_csv(SECOND))
    assert result.status == 1
    assert everything(first) == before
    assert 'cannot perform UPDATE RETURNING on relation "kite_instrument_master"' in result.stderr


HISTORY = (
    "GRANT ALL ON ingestion_run, kite_instrument_change, kite_instrument_history TO {role}",
    "ALTER TABLE kite_instrument_master ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY i ON kite_instrument_master FOR INSERT WITH CHECK (true)",
    "CREATE POLICY d ON kite_instrument_master FOR DELETE USING (true)",
)
SELECT_ALL = "CREATE POLICY s ON kite_instrument_master FOR SELECT USING (true)"


@pytest.mark.parametrize(
    "policies",
    [
        pytest.param([SELECT_ALL], id="no policy for updates"),
        pytest.param(
            [
                SELECT_ALL,
                "CREATE POLICY u ON kite_instrument_master FOR UPDATE USING (lot_size <> 2025)",
            ],
            id="a narrower one",
        ),
        pytest.param(
            [
                "CREATE POLICY s ON kite_instrument_master FOR SELECT USING (exchange <> 'NSE')",
                "CREATE POLICY u ON kite_instrument_master FOR UPDATE USING (true)",
            ],
            id="rows that the role may not see",
        ),
    ],
)
def test_row_security_that_keeps_old_rows(
    first: CommandLine, as_role: Callable[..., str], policies: list[str]
) -> None:
    as_role(*HISTORY, *policies)
    before = everything(first)
    result = first.load(to_csv(SECOND), "--force")
    assert result.status == 1
    assert everything(first) == before


def test_row_security_that_lets_everything_through(
    first: CommandLine, as_role: Callable[..., str]
) -> None:
    update = "CREATE POLICY u ON kite_instrument_master FOR UPDATE USING (true)"
    as_role(*HISTORY, SELECT_ALL, update)
    result = first.load(to_csv(SECOND))
    assert (result.status, result.stderr) == (0, "")
    assert holds(first, SECOND)


def test_column_that_rounds_is_found_even_where_nobody_looked_at_it_before(
    db_manager: DatabaseManager,
) -> None:
    """`upsert_instruments` by itself, without a run's look at the table."""
    db_manager.execute_query("ALTER TABLE kite_instrument_master ALTER strike TYPE integer")
    with pytest.raises(DatabaseError, match=r"1 of the list's 1 rows are not in public\.kite_"):
        db_manager.upsert_instruments([instrument(1, "USDINR26SEP90.875CE", strike="90.875")])
    assert db_manager.count_all_instruments() == 0


# Moments


def test_table_without_moments_is_filled_and_seen_whole(first: CommandLine) -> None:
    """As after a restore without the columns, or where they were added as a message advised."""
    first.query("UPDATE kite_instrument_master SET last_updated = NULL, created_at = NULL")
    result = first.load(to_csv(SECOND))
    assert result.status == 0
    assert holds(first, SECOND)
    assert "inserted             1\nupdated             29\n" in result.stdout
    assert first.load(to_csv(SECOND)).status == 0
    assert holds(first, SECOND)
    assert first.query("SELECT count(*) FROM kite_instrument_change") == [(0,)]


def test_row_that_another_session_touches_while_the_run_waits(
    first: CommandLine, server: Server, database: str
) -> None:
    """The run waits for it, and then stores what the list has."""
    other = server.connect(database)
    other.autocommit = False
    with other.cursor() as cursor:
        cursor.execute(
            "UPDATE kite_instrument_master SET last_updated = '2001-01-01', lot_size = 9"
            " WHERE tradingsymbol = 'S7'"
        )

        def end_when_waited_for() -> None:
            wait_until(
                lambda: server.execute(
                    "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'ShareRowExclusiveLock'"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = %s)",
                    (database,),
                )
            )
            other.commit()

        ender = threading.Thread(target=end_when_waited_for)
        ender.start()
        try:
            result = first.load(to_csv(SECOND))
        finally:
            ender.join()
            other.close()
    assert result.status == 0
    assert holds(first, SECOND)


def test_moment_ahead_of_the_clock_is_warned_of(first: CommandLine) -> None:
    """A run before had a clock a year ahead; this one's moment has to be later than that."""
    first.query(
        "WITH moved AS (UPDATE ingestion_run SET list_moment = list_moment + interval '1 year')"
        " UPDATE kite_instrument_master SET last_updated = last_updated + interval '1 year'"
    )
    result = first.load(to_csv(SECOND))
    assert result.status == 0
    assert result.stderr.startswith("WARNING: The list's moment, ")
    assert "is more than an hour ahead of a clock" in result.stderr
    assert holds(first, SECOND)


def test_own_row_ahead_of_the_clock_moves_no_list(first: CommandLine) -> None:
    first.query(
        "INSERT INTO kite_instrument_master (instrument_token, exchange, tradingsymbol,"
        " last_updated) VALUES (1, 'OWN', 'MINE', '2199-01-01')"
    )
    result = first.load(to_csv(SECOND))
    assert (result.status, result.stderr) == (
        0,
        "WARNING: 1 rows of public.kite_instrument_master are not of this list and have a later "
        "last_updated: the views show them with it. Give them an earlier one\n",
    )
    [(moment,)] = first.query("SELECT max(list_moment) FROM ingestion_run")
    assert moment < datetime.now() + timedelta(hours=15)  # in whatever time zone


# What the last list was (ruling 30)


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(
            "INSERT INTO kite_instrument_master (instrument_token, exchange, tradingsymbol)"
            " VALUES (9999999, 'CUSTOM', 'MYBASKET')",
            id="a row by hand",
        ),
        pytest.param(
            "UPDATE kite_instrument_master SET last_updated = clock_timestamp()",
            id="every row touched",
        ),
        pytest.param(
            "UPDATE kite_instrument_master SET last_updated = now() WHERE instrument_token > 9000",
            id="most rows touched",
        ),
        pytest.param(
            "UPDATE kite_instrument_master SET last_updated = last_updated - interval '2 days'",
            id="the table of two days ago restored",
        ),
        pytest.param("UPDATE kite_instrument_master SET last_updated = NULL", id="no moments"),
        pytest.param("TRUNCATE kite_instrument_master", id="emptied"),
    ],
)
def test_plausibility_is_not_blinded_by_what_others_write(cli: CommandLine, statement: str) -> None:
    whole = [share(number) for number in range(1, 301)]
    assert cli.load(to_csv(whole)).status == 0
    cli.query(statement)
    before = everything(cli)
    result = cli.load(to_csv(whole[:20]))
    assert result.status == 1
    assert "fell from 300 rows to 20" in result.stderr
    assert everything(cli) == before
    assert cli.load(to_csv(whole)).status == 0
    assert holds(cli, whole)


@pytest.mark.parametrize("moment", ["clock_timestamp()", "'2199-12-31'", "'2001-01-01'", "NULL"])
def test_rows_that_others_touched_are_not_told_as_listed(first: CommandLine, moment: str) -> None:
    first.query(
        f"UPDATE kite_instrument_master SET last_updated = {moment} WHERE instrument_token <= 1280"
    )
    assert first.load(to_csv(FIRST)).status == 0
    assert holds(first, FIRST)
    kinds = first.query("SELECT DISTINCT kind FROM kite_instrument_change")
    # What is said to be of an older list, or of none, is back again.
    assert kinds == ([("listed",)] if moment in ("NULL", "'2001-01-01'") else [])


def test_row_that_others_touched_is_told_as_gone_once(first: CommandLine) -> None:
    touch = (
        "UPDATE kite_instrument_master SET last_updated = clock_timestamp()"
        " WHERE instrument_token <= 1280"
    )
    first.query(touch)
    assert first.load(to_csv(FIRST[1:])).status == 0
    first.query(touch)
    assert first.load(to_csv(FIRST[1:])).status == 0
    assert first.query("SELECT run_id, kind, tradingsymbol FROM kite_instrument_change") == [
        (2, "gone", "S1")
    ]


def test_upsert_of_a_few_rows_between_two_runs_makes_no_changes(
    first: CommandLine, server: Server, database: str
) -> None:
    with DatabaseManager(server.config(database)) as manager:
        manager.upsert_instruments([FIRST[4], share(99)])
    assert first.load(to_csv([*FIRST, share(99)])).status == 0
    assert first.query("SELECT kind, tradingsymbol FROM kite_instrument_change") == [
        ("listed", "S99")
    ]


def test_without_a_history_the_newest_rows_serve_and_the_summary_says_so(
    cli: CommandLine, as_role: Callable[..., str]
) -> None:
    as_role()
    assert "No run is on record" not in cli.load(to_csv(FIRST)).stdout
    result = cli.load(to_csv(FIRST[1:]))
    assert "\nNo run is on record: it was compared with the newest rows of the table" in (
        result.stdout
    )
    assert "       1  gone\n" in result.stdout


# An answer to COMMIT that is lost


@pytest.mark.parametrize("with_history", [True, False])
def test_lost_answer_to_commit_is_looked_for_and_its_figures_are_told(
    first: CommandLine,
    as_role: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    with_history: bool,
) -> None:
    if not with_history:
        as_role()
    lost = _lose_one_commit(
        monkeypatch, first, "SELECT max(last_updated) FROM kite_instrument_master"
    )
    result = first.load(to_csv(SECOND))
    assert lost == [True]
    assert result.status == 0
    assert "inserted             1\nupdated             29\n" in result.stdout
    assert "       1  gone\n       1  listed\n" in "".join(sorted(result.stdout.splitlines(True)))
    table = read_table(first.connection)
    assert len(table) == 31
    assert [
        table[row["instrument_token"], "NSE"]["lot_size"] for row in (SECOND[0], SECOND[-1])
    ] == [
        65,
        2025,
    ]
    good = first.query("SELECT rows_inserted FROM ingestion_run WHERE status = 'succeeded'")
    assert good == ([(30,), (1,)] if with_history else [(30,)])


def _lose_one_commit(monkeypatch: pytest.MonkeyPatch, cli: CommandLine, probe: str) -> list[bool]:
    """The connection breaks right after the COMMIT that changes what `probe` finds."""
    call = db_manager.call_interruptibly
    lost: list[bool] = []

    def lose(function: Callable[[], Any], **options: Any) -> Any:
        before = cli.query(probe)
        answer = call(function, **options)
        if not lost and cli.query(probe) != before:
            lost.append(True)
            raise db_manager.psycopg2.OperationalError("server closed the connection unexpectedly")
        return answer

    monkeypatch.setattr(db_manager, "call_interruptibly", lose)
    return lost


def test_upsert_whose_answer_to_commit_is_lost_tells_the_counts_of_its_commit(
    db_manager: DatabaseManager, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = _lose_one_commit(monkeypatch, cli, "SELECT count(*) FROM kite_instrument_master")
    assert db_manager.upsert_instruments(FIRST) == (30, 0)
    assert lost == [True]
