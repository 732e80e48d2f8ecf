"""Small inputs that went wrong, from ../shared/cases, and what is right.

Each kind has a test of its own elsewhere, on data that the project makes; here are the inputs as
they were found.
"""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import CommandLine, Result
from tests.conftest import PROJECT, Project
from tests.table_model import read_table

CASES = PROJECT.parent / "shared" / "cases"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not at hand")


class Cases:
    """The command line on the cases' lists."""

    def __init__(self, cli: CommandLine) -> None:
        self.cli = cli

    def load(self, name: str, *arguments: str) -> Result:
        return self.cli.load((CASES / name).read_bytes(), *arguments)

    def begin(self, name: str = "day1.csv") -> None:
        assert self.load(name).status == 0

    def execute(self, name: str) -> None:
        """The statements of a file."""
        self.cli.query((CASES / name).read_text(encoding="utf-8"))

    def assert_unchanged(self, name: str, *words: str) -> Result:
        """The run ends with 1 and leaves everything as it was."""
        before = read_table(self.cli.connection), self.changes()
        result = self.load(name)
        assert result.status == 1
        assert (read_table(self.cli.connection), self.changes()) == before
        assert [word for word in words if word not in result.stderr] == []
        return result

    def changes(self) -> list[tuple[Any, ...]]:
        return self.cli.query(
            "SELECT kind, tradingsymbol, old, new FROM kite_instrument_change"
            " ORDER BY change_id IS NULL, tradingsymbol, kind"
        )

    def today(self) -> set[str]:
        rows = self.cli.query("SELECT tradingsymbol FROM kite_instrument_today")
        assert len(rows) == len(set(rows))
        return {symbol for (symbol,) in rows}


@pytest.fixture
def cases(cli: CommandLine) -> Cases:
    return Cases(cli)


DAY_2 = {"INFY", "RELIANCE", "TCS", "NIFTY26DECFUT", "HDFCBANK"}


def symbols(name: str) -> set[str]:
    lines = (CASES / name).read_text(encoding="utf-8").splitlines()
    return {line.split(",")[2] for line in lines[1:]}


def test_row_security_without_a_policy_for_updates(
    cases: Cases, as_role: Callable[..., str]
) -> None:
    cases.begin()
    statements = [
        line.split("--")[0].strip()
        for line in (CASES / "F01_rls_no_update_policy.sql").read_text("utf-8").splitlines()
    ]
    as_role(
        "GRANT ALL ON ingestion_run, kite_instrument_change, kite_instrument_history TO {role}",
        *(line for line in statements if line and "OWNER" not in line),
    )
    cases.assert_unchanged("day2.csv", "Nothing was stored: ", "row security on public.kite_")


@pytest.mark.parametrize(
    "name", ["F01b_update_suppressed_by_trigger.sql", "F02_moddatetime_trigger.sql"]
)
def test_trigger(cases: Cases, name: str) -> None:
    cases.begin()
    cases.execute(name)
    cases.assert_unchanged("day2.csv", "Nothing was stored: ", "the trigger t on public.kite_")


def test_row_by_hand_and_a_list_of_20(cases: Cases) -> None:
    cases.begin("nse300.csv")
    cases.execute("F03_manual_row_disables_guard.sql")
    cases.assert_unchanged("nse20.csv", "NSE fell from 300 rows to 20")


@pytest.mark.parametrize("number", [0, 1])
def test_names_of_the_history_are_taken(cases: Cases, number: int) -> None:
    statements = [
        line
        for line in (CASES / "F05_history_names_taken.sql").read_text("utf-8").splitlines()
        if line.strip()
    ]
    cases.cli.query(statements[number])
    name = ("ingestion_run", "kite_instrument_change")[number]
    for day in ("day1.csv", "day2.csv"):
        result = cases.load(day)
        assert result.status == 0
        assert result.stderr.count("WARNING: ") == 1
        assert f"{name} was made by something else" in result.stderr
    assert len(read_table(cases.cli.connection)) == len(symbols("day1.csv") | symbols("day2.csv"))
    check = cases.cli.run("check")
    assert check.status == 0
    assert f"{name} was made by something else" in check.stdout + check.stderr


def test_moments_that_are_null(cases: Cases) -> None:
    cases.cli.query(
        "ALTER TABLE kite_instrument_master DROP last_updated CASCADE, DROP created_at CASCADE"
    )
    cases.cli.query(
        "INSERT INTO kite_instrument_master (instrument_token, exchange, tradingsymbol)"
        " VALUES (408065, 'NSE', 'INFY')"
    )
    cases.execute("F06_null_moments.sql")
    cases.begin()
    assert cases.today() == symbols("day1.csv")
    cases.begin("day2.csv")
    assert cases.today() == symbols("day2.csv")


def test_moments_of_a_coarser_type(cases: Cases) -> None:
    cases.execute("F07_coarse_last_updated.sql")
    result = cases.load("day1.csv")
    assert result.status == 1
    assert "last_updated" in result.stderr
    assert cases.cli.kite.requests == []
    assert "last_updated" in cases.cli.run("check").stdout


def test_two_symbols_under_one_token(cases: Cases) -> None:
    cases.begin("rename_day1.csv")
    result = cases.load("rename_day2_both_symbols.csv", "--force")
    lines = (CASES / "rename_day2_both_symbols.csv").read_text("utf-8").splitlines()[1:]
    stored = {line.split(",")[0]: line.split(",")[2] for line in reversed(lines)}
    assert result.status == 0
    assert f"Stored {len(stored)} instruments" in result.stdout
    assert "an earlier row has the same with another symbol" in result.stdout
    assert cases.today() == set(stored.values())


def test_option_chains(cases: Cases) -> None:
    chain = (
        "SELECT underlying, call_symbol, call_token, put_symbol, put_token FROM kite_option_chain"
    )
    cases.begin("option_chain_two_contracts.csv")
    lines = (CASES / "option_chain_two_contracts.csv").read_text("utf-8").splitlines()[1:]
    pairs = {(line.split(",")[2], int(line.split(",")[0])) for line in lines}
    for _, call, call_token, put, put_token in cases.cli.query(chain):
        assert {(call, call_token), (put, put_token)} <= {*pairs, (None, None)}
    assert cases.load("option_chain_blank_name.csv", "--force").status == 0
    assert cases.cli.query(chain) == []


def test_bonds(cases: Cases) -> None:
    cases.begin("bond_day1.csv")
    cases.begin("bond_day2.csv")
    assert sorted(cases.changes()) == [
        ("renamed", "9ISS31A-NA", "9ISSU31A-NA", "9ISS31A-NA"),
        ("renamed", "ISS230125A-N0", "ISSU230125-N0", "ISS230125A-N0"),
        ("token reused", "82HUDX27-N2", "HUDX-N2", "82HUDX27-N2"),
    ]


def test_share_that_is_renamed_and_moves_to_another_series(cases: Cases) -> None:
    cases.begin("rename_series_day1.csv")
    cases.begin("rename_series_day2.csv")
    assert sorted(cases.changes()) == [
        ("gone", "SAH", None, None),
        ("listed", "AEROX-BE", None, None),
    ]


def test_foreign_key_of_the_users(cases: Cases) -> None:
    cases.begin()
    cases.execute("F08_fk_advice.sql")
    result = cases.assert_unchanged("token_moved.csv", "The foreign key")
    assert "CASCADE" not in result.stderr or "DEFERRABLE" in result.stderr
    assert cases.cli.query("SELECT tok, qty FROM trade") == [(408065, 10)]


def test_check_of_the_users_that_an_index_breaks(cases: Cases) -> None:
    cases.begin()
    cases.cli.query(
        "ALTER TABLE kite_instrument_master ADD CONSTRAINT lot_is_positive CHECK (lot_size > 0)"
    )
    cases.assert_unchanged("index_lot0.csv", "lot_is_positive", "PostgreSQL said: ")


def test_partition_that_is_missing(cases: Cases) -> None:
    cases.cli.query(
        "ALTER TABLE kite_instrument_master RENAME TO plain;"
        "CREATE TABLE kite_instrument_master (LIKE plain INCLUDING DEFAULTS,"
        " PRIMARY KEY (instrument_token, exchange), UNIQUE (tradingsymbol, exchange))"
        " PARTITION BY LIST (exchange);"
        "CREATE TABLE part_nse PARTITION OF kite_instrument_master FOR VALUES IN ('NSE');"
        "CREATE TABLE part_nfo PARTITION OF kite_instrument_master FOR VALUES IN ('NFO')"
    )
    cases.begin()
    cases.assert_unchanged("new_exchange_bfo.csv", "No partition of", "BFO")


def test_history_is_trimmed_under_a_publication(cases: Cases) -> None:
    cases.begin()
    cases.begin("day2.csv")
    assert cases.changes()
    cases.execute("F10_publication_trim.sql")
    assert cases.changes() == []


def test_list_from_a_pipe(configured_project: Project, cases: Cases, tmp_path: Path) -> None:
    packed = tmp_path / "list.csv.gz"
    packed.write_bytes(gzip.compress((CASES / "day1.csv").read_bytes()))
    command = " ".join(configured_project.command("--dag", "1", "--from-file"))
    for pipe in (f"{command} <(zcat {packed})", f"zcat {packed} | {command} -"):
        result = subprocess.run(
            ["bash", "-c", pipe],
            env=configured_project.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")
    assert cases.today() == symbols("day1.csv")


@pytest.mark.parametrize(
    ("name", "said"), [("list.json", "This is JSON"), ("utf16le_bom.csv", "This is UTF-16")]
)
def test_files_of_other_kinds(cases: Cases, name: str, said: str) -> None:
    result = cases.cli.run("--dag", "1", "--from-file", str(CASES / name))
    assert result.status == 1
    assert said in result.stderr


def test_floats_of_pandas(cases: Cases) -> None:
    result = cases.cli.run("--dag", "1", "--from-file", str(CASES / "pandas_floats.csv"), "--force")
    assert result.status == 1
    assert "expected a whole number" in result.stderr
