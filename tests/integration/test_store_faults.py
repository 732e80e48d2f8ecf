"""The database fails in the middle of a run: the table, the history, the message, the secrets.

A trigger does it: where in the merge it fires is known, and whether once or at each attempt.
`test_database_errors` has the faults one by one, below the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from shared import archive, console, run
from shared.signals import Terminated
from shared.utils import db_manager
from tests.command_line import CommandLine
from tests.conftest import Server
from tests.instruments import instrument, to_csv
from tests.integration.test_database_errors import KILL_STATEMENT, PASSWORD, add_trigger
from tests.table_model import TableModel, read_table

FIRST = [instrument(number, f"S{number}", "NSE", expiry=None) for number in range(1, 151)]
# Each symbol goes to the next token, a row is new, one is gone, one has another lot size.
SECOND = [
    *({**row, "tradingsymbol": f"S{row['instrument_token'] % 149 + 1}"} for row in FIRST[:-1]),
    instrument(1_000, "NEW", "NSE", expiry=None, lot_size=7),
]
MOMENTS: dict[str, dict[str, Any]] = {
    "before the update": {"when": "BEFORE UPDATE OF lot_size"},
    "within the insert": {"when": "AFTER INSERT", "level": "ROW"},
    "at COMMIT": {"when": "AFTER INSERT OR UPDATE", "level": "ROW", "constraint": True},
}
in_each_moment = pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())


class Rig:
    """A first list is stored; the runs that follow are those of a role with a known password."""

    def __init__(self, cli: CommandLine, execute: Callable[[str], Any]) -> None:
        self.cli = cli
        self.execute = execute
        self.model = TableModel()
        self.model.merge(FIRST)
        self.before = self.read()
        self.model.assert_equals(self.before)

    def read(self) -> dict[Any, Any]:
        return read_table(self.cli.connection)

    def changes(self) -> dict[str, int]:
        return dict(
            self.cli.query(
                "SELECT kind, count(*) FROM kite_instrument_change WHERE run_id ="
                " (SELECT max(run_id) FROM kite_instrument_change) GROUP BY kind"
            )
        )

    def assert_no_secret(self, *texts: str) -> None:
        for text in (*texts, *(error or "" for (error,) in self.cli.runs("error"))):
            for secret in (PASSWORD, self.cli.kite.access_token, self.cli.kite.api_secret):
                assert secret not in text


@pytest.fixture
def rig(
    cli: CommandLine,
    server: Server,
    database: str,
    make_role: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Rig]:
    assert cli.load(to_csv(FIRST)).status == 0

    def execute(statement: str) -> Any:
        return server.execute(statement, dbname=database)

    rig = Rig(cli, execute)
    role = make_role(PASSWORD)
    for kind in ("TABLES", "SEQUENCES"):
        execute(f"GRANT ALL ON ALL {kind} IN SCHEMA public TO {role}")
    execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO {role}")
    monkeypatch.setenv("DB_USER", role)
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    yield rig
    execute(f"ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON SEQUENCES FROM {role}")


def assert_stored(rig: Rig, attempts: int) -> None:
    """The second list is stored by a run that needed so many attempts, and recorded once."""
    result = rig.cli.load(to_csv(SECOND))
    warnings = re.findall(r"^WARNING: .*attempt (\d) of 3 failed", result.stderr, re.M)
    assert (result.status, warnings) == (0, [str(number) for number in range(1, attempts)])
    assert "Stored 150 instruments" in result.stdout
    rig.model.merge(SECOND)
    rig.model.assert_equals(rig.read())
    assert rig.cli.runs("status")[-1:] == [("succeeded",)]
    assert rig.changes() == {"token moved": 149, "token reused": 149, "listed": 1, "gone": 1}
    rig.assert_no_secret(result.stdout, result.stderr)


@in_each_moment
def test_run_whose_connection_is_killed_once_succeeds(rig: Rig, moment: dict[str, Any]) -> None:
    body = f"IF nextval('attempts') = 1 THEN {KILL_STATEMENT} END IF;"
    add_trigger(rig.execute, body=body, **moment)
    assert_stored(rig, attempts=2)
    assert rig.cli.runs("status") == [("succeeded",)] * 2


@in_each_moment
@pytest.mark.parametrize(
    ("body", "attempts", "said"),
    [
        pytest.param(KILL_STATEMENT, 3, "administrator command|closed the connection", id="killed"),
        *(
            pytest.param(f"RAISE 'spoilt' USING ERRCODE = '{code}';", attempts, "spoilt", id=name)
            for name, code, attempts in (
                ("deadlock", "40P01", 3),
                ("disk full", "53100", 1),
                ("statement time-out", "57014", 1),
                ("lock time-out", "55P03", 1),
                ("read-only", "25006", 1),
                ("no privilege", "42501", 1),
            )
        ),
    ],
)
def test_run_with_a_fault_at_each_attempt_changes_nothing(
    rig: Rig, moment: dict[str, Any], body: str, attempts: int, said: str
) -> None:
    add_trigger(rig.execute, body=body, **moment)
    result = rig.cli.load(to_csv(SECOND))
    assert result.status == 1
    assert result.stderr.count("WARNING: ") == attempts - 1
    assert result.stderr.count("ERROR: ") == 1
    assert re.search(rf"PostgreSQL said: .*({said})", " ".join(result.stderr.split()))
    assert "Traceback" not in result.stderr
    assert rig.read() == rig.before
    log = (Path(rig.cli.folder) / "logs" / "stock_ingestion.log").read_text(encoding="utf-8")
    assert "Nothing was stored" in log
    assert "changes since the last list" not in log
    assert rig.cli.runs("status") == [("succeeded",), ("failed",)]
    assert rig.changes() == {}
    rig.assert_no_secret(result.stdout, result.stderr, log)
    rig.execute("DROP TRIGGER spoil ON kite_instrument_master")
    assert_stored(rig, attempts=1)


def assert_ends_with_the_list_stored(rig: Rig, status: int) -> None:
    """The run ends in an error, but says that its list is stored, and is recorded once."""
    result = rig.cli.load(to_csv(SECOND))
    assert result.status == status
    warning = "WARNING: The list is stored: the run ended only after its commit.\n"
    assert warning in result.stderr
    assert result.stderr.count("WARNING: ") == result.stderr.count("ERROR: ") == 1
    rig.model.merge(SECOND)
    rig.model.assert_equals(rig.read())
    assert rig.cli.runs("status") == [("succeeded",)] * 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(psycopg2.OperationalError("server closed the connection"), 1, id="lost"),
        pytest.param(KeyboardInterrupt(), 130, id="SIGINT"),
        pytest.param(Terminated(), 143, id="SIGTERM"),
    ],
)
def test_run_that_is_not_told_of_its_commit(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    """The answer is lost at the last attempt, or a signal comes before it."""
    call = db_manager.call_interruptibly

    def lose_answer(function: Callable[[], Any], **options: Any) -> Any:
        before = rig.cli.runs("status").count(("succeeded",))
        answer = call(function, **options)
        if rig.cli.runs("status").count(("succeeded",)) > before:  # it was the COMMIT of the list
            raise error
        return answer

    rig.cli.parameters["retry_attempts"] = 1
    monkeypatch.setattr(db_manager, "call_interruptibly", lose_answer)
    assert_ends_with_the_list_stored(rig, status)


def test_signal_after_the_commit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "keep", interrupt)
    assert_ends_with_the_list_stored(rig, 130)


def test_dry_run_that_ends_early_does_not_say_that_its_list_is_stored(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = run.predict

    def interrupt(*arguments: Any) -> None:
        predict(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "predict", interrupt)
    rig.cli.kite.dump = to_csv(SECOND)
    result = rig.cli.run("--dag", "1", "--dry-run")
    assert result.status == 130
    assert result.stderr == "ERROR: Interrupted: what was not committed yet is rolled back.\n"
    assert rig.read() == rig.before
    assert rig.cli.runs("status") == [("succeeded",)]


def test_rows_are_sent_in_batches_of_the_configured_size(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_QUIET_SECONDS", "_REPEAT_SECONDS"):
        monkeypatch.setattr(console, name, 0)  # each batch that is told is shown
    cli.parameters["batch_size"] = 60
    result = cli.load(to_csv(FIRST))
    told = re.findall(r"^  store: (\d+) of 150 rows$", result.stdout, re.M)
    assert told == ["60", "120", "150"]
