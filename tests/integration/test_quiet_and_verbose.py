"""`--quiet`: nothing unless something is wrong. `--verbose`: requests and statements, too."""

from __future__ import annotations

import re

import pytest

from sandbox.kite_faults import HttpError
from tests.command_line import CommandLine
from tests.instruments import instrument, to_csv

DUMP = to_csv([instrument(1, "INFY", "NSE"), instrument(2, "NIFTY26AUGFUT", "NFO")])


def test_quiet_run_that_is_well_says_nothing(cli: CommandLine) -> None:
    result = cli.load(DUMP, "--quiet")
    assert (result.status, result.stdout, result.stderr) == (0, "", "")
    assert cli.runs("status") == [("succeeded",)]


def test_quiet_run_tells_what_is_not_well(cli: CommandLine) -> None:
    result = cli.load(DUMP + b"x,1,BAD,,0,,,0.05,1,EQ,NSE,NSE\n", "--quiet")
    assert (result.status, result.stdout, result.stderr) == (0, "", "")  # the rejects are on record
    cli.kite.fail_next("/instruments", HttpError(503), None)
    failed = cli.run("--dag", "1", "--quiet")
    assert (failed.status, failed.stdout) == (1, "")
    *warnings, error = failed.stderr.splitlines()
    assert all(line.startswith("WARNING: fetch instruments: attempt ") for line in warnings)
    assert error == (
        "ERROR: fetch instruments failed: Kite answered HTTP 503 (Service Unavailable)."
    )


def test_quiet_commands_tell_what_they_have_found_wrong(cli: CommandLine) -> None:
    stale = cli.run("status", "--quiet", "--dag", "1")
    assert (stale.status, stale.stdout) == (1, "")
    assert stale.stderr.startswith("STALE: DAG 1 import_instruments_from_kite was never loaded")
    checked = cli.run("check", "--quiet")
    assert (checked.status, checked.stdout, checked.stderr) == (0, "", "")
    cli.kite.expire_token()
    checked = cli.run("check", "--quiet")
    assert (checked.status, checked.stdout) == (3, "")
    assert re.search(r"^FAILED  Kite session: Kite refused the session", checked.stderr, re.M)


def test_verbose_tells_requests_and_statements_with_their_seconds(cli: CommandLine) -> None:
    result = cli.load(DUMP, "--verbose")
    assert result.status == 0
    told = re.findall(r"^DEBUG: \d+\.\d{3} s: (.*)$", result.stderr, re.M)
    assert len(told) == result.stderr.count("DEBUG: ")
    assert max(map(len, told)) <= 63  # a line of 79
    assert "Stored 2 instruments" not in result.stderr  # which standard output has
    assert "GET /user/profile: HTTP 200 (OK), " in "\n".join(told)
    assert re.search(r"^GET /instruments: HTTP 200 \(OK\), \d+ bytes$", "\n".join(told), re.M)
    assert "LOCK TABLE " in "\n".join(told)
    assert "COMMIT" in told
    for hidden in ("INFY", cli.kite.access_token, cli.kite.api_secret):
        assert hidden not in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--quiet", "--verbose"], id="quiet and verbose"),
        pytest.param(["--quiet", "--log-level", "INFO"], id="quiet and a level"),
        pytest.param(["changes", "--quiet"], id="what is asked for what it prints"),
    ],
)
def test_contradictions_are_refused(cli: CommandLine, words: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.run(*words)
