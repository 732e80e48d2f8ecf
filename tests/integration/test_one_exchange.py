"""A saved list of one exchange, as Kite gives it on demand: it says nothing of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import CommandLine
from tests.integration.test_plausibility import listing


@pytest.fixture
def part(cli: CommandLine, tmp_path: Path) -> str:
    """The file, after a whole list was stored."""
    assert cli.load(listing(NSE=200, NFO=300, GLOBAL=5)).status == 0
    path = tmp_path / "nse.csv"
    path.write_bytes(listing(NSE=199))
    return str(path)


def kinds(cli: CommandLine) -> list[tuple[str, str, int]]:
    found: list[tuple[str, str, int]] = cli.query(
        "SELECT kind, exchange, count(*) FROM kite_instrument_change"
        " WHERE run_id = (SELECT max(run_id) FROM ingestion_run) GROUP BY 1, 2 ORDER BY 1, 2"
    )
    return found


def test_it_is_refused_with_advice_that_fits_a_file(cli: CommandLine, part: str) -> None:
    result = cli.run("--dag", "1", "--from-file", part)
    assert result.status == 1
    assert result.stderr == (
        "ERROR: store failed: The file is only a part of a list, its rows are of NSE alone: NFO "
        "fell from 300 rows to 0 since the last good run. Nothing was stored, the list of that run "
        "stays. Import a whole list. If only NSE is wanted from now on, set "
        'parameters.exchanges to ["NSE"]. With --force the file is stored as it is: until the next '
        "whole list the views show NSE alone.\n"
    )


def test_forced_it_tells_nothing_of_the_other_exchanges(cli: CommandLine, part: str) -> None:
    assert cli.run("--dag", "1", "--from-file", part, "--force").status == 0
    assert [kind for kind in kinds(cli) if kind[1] != "NSE"] == []
    today = cli.query("SELECT exchange, count(*) FROM kite_instrument_today GROUP BY 1")
    assert today == [("NSE", 199)]
    assert cli.query("SELECT count(*) FROM kite_instrument_master WHERE exchange = 'NFO'") == [
        (300,)
    ]


def test_where_it_is_the_only_one_that_is_wanted_it_is_taken(cli: CommandLine, part: str) -> None:
    """The message's other advice."""
    cli.parameters["exchanges"] = ["NSE"]
    result = cli.run("--dag", "1", "--from-file", part)
    assert (result.status, result.stderr) == (0, "")


def test_list_of_the_api_with_one_exchange_is_the_whole_list(cli: CommandLine, part: str) -> None:
    result = cli.load(Path(part).read_bytes())
    assert result.status == 1
    assert "Kite's list is not plausible: NFO fell from 300 rows to 0 since" in result.stderr
