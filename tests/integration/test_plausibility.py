"""Lists that are not to be believed: nothing is stored, and the message says what to do."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

import pytest

from dag_1_import_instruments_from_kite.import_instruments import FEED
from shared.exceptions import ValidationError
from shared.feed import Run, RunKey, RunOptions
from shared.gate import Plausibility
from tests.command_line import CommandLine, Result
from tests.instruments import instrument, to_csv
from tests.table_model import read_table

BAD_ROW = b"x,1,BAD,,0,,,0.05,1,EQ,NSE,NSE\n"


def listing(**rows: int) -> bytes:
    """A list with so many rows of each exchange."""
    return to_csv(
        instrument(1_000 * place + number, f"S{number}", exchange, expiry=None)
        for place, (exchange, count) in enumerate(sorted(rows.items()), 1)
        for number in range(count)
        if 1_000 * place + number
    )


def assert_refused(cli: CommandLine, dump: bytes, *arguments: str) -> Result:
    """The run fails with status 1; the table and its moment are as they were."""
    before, changes = read_table(cli.connection), cli.query("SELECT * FROM kite_instrument_change")
    result = cli.load(dump, *arguments)
    assert result.status == 1
    assert read_table(cli.connection) == before
    assert cli.query("SELECT * FROM kite_instrument_change") == changes
    assert result.stderr.count("ERROR: ") == 1
    return result


def assert_stored(cli: CommandLine, dump: bytes, *arguments: str) -> Result:
    """The run succeeds, and the newest list is this one."""
    result = cli.load(dump, *arguments)
    assert (result.status, "ERROR" in result.stderr) == (0, False)
    assert cli.query("SELECT count(*) FROM kite_instrument_today") == [(dump.count(b"\n") - 1,)]
    return result


def test_message_for_a_person_woken_at_half_past_eight(cli: CommandLine) -> None:
    assert_stored(cli, listing(NSE=400, NFO=250, MCX=120))
    result = assert_refused(cli, listing(NSE=160, NFO=250))
    assert result.stderr == (
        "ERROR: store failed: Kite's list is not plausible: MCX fell from 120 rows to 0; NSE fell "
        "from 400 rows to 160 since the last good run. Nothing was stored, the list of that run "
        "stays. Kite may not have finished today's list: run again in some minutes. If there "
        "really are so few rows, run once with --force.\n"
    )


@pytest.mark.parametrize(
    ("now", "is_refused"),
    [
        pytest.param({"NSE": 100, "NFO": 200}, False, id="half of it"),
        pytest.param({"NSE": 99, "NFO": 200}, True, id="just below half"),
        pytest.param({"NFO": 200}, True, id="nothing left"),
        pytest.param({"NSE": 900, "NFO": 100}, False, id="another one grew, this one halved"),
        pytest.param({"NSE": 900, "NFO": 99}, True, id="growth elsewhere does not make up for it"),
        pytest.param({"NSE": 200, "NFO": 200, "BSE": 1}, False, id="a new exchange"),
    ],
)
def test_exchange_that_lost_more_than_half(
    cli: CommandLine, now: dict[str, int], is_refused: bool
) -> None:
    assert_stored(cli, listing(NSE=200, NFO=200))
    (assert_refused if is_refused else assert_stored)(cli, listing(**now))


def test_rows_that_are_repeated_count_once(cli: CommandLine) -> None:
    assert_stored(cli, listing(NSE=200))
    once = listing(NSE=90)
    twice = once + once.partition(b"\n")[2]
    assert "NSE fell from 200 rows to 90 " in assert_refused(cli, twice).stderr


@pytest.mark.parametrize(
    ("before", "now", "is_refused"),
    [
        pytest.param(99, 1, False, id="99 rows may go"),
        pytest.param(99, 0, False, id="99 rows may vanish"),
        pytest.param(100, 49, True, id="100 rows may not"),
        pytest.param(100, 50, False, id="100 rows may halve"),
    ],
)
def test_exchange_of_few_rows(cli: CommandLine, before: int, now: int, is_refused: bool) -> None:
    assert_stored(cli, listing(NSE=200, GLOBAL=before))
    (assert_refused if is_refused else assert_stored)(cli, listing(NSE=200, GLOBAL=now))


def test_configured_exchange_that_vanished_however_small(cli: CommandLine) -> None:
    cli.parameters["exchanges"] = ["NSE", "GLOBAL"]
    assert_stored(cli, listing(NSE=200, GLOBAL=9))
    result = assert_refused(cli, listing(NSE=200))
    assert "GLOBAL fell from 9 rows to 0" in result.stderr
    assert "WARNING: Kite's list has no row of GLOBAL" in result.stderr
    assert_stored(cli, listing(NSE=200, GLOBAL=1))


def test_configured_exchange_that_was_never_there_is_only_warned_of(cli: CommandLine) -> None:
    cli.parameters["exchanges"] = ["NSE", "MCX"]
    for _ in range(2):
        assert "no row of MCX" in (assert_stored(cli, listing(NSE=200)).stderr)


def test_configuration_that_is_narrowed(cli: CommandLine) -> None:
    """What is left out by intention did not vanish."""
    assert_stored(cli, listing(NSE=200, NFO=300))
    cli.parameters["exchanges"] = ["NSE"]
    cli.load(listing(NSE=200, NFO=300))
    assert cli.query("SELECT count(*) FROM kite_instrument_today") == [(200,)]
    assert cli.runs("status") == [("succeeded",), ("succeeded",)]
    assert cli.query("SELECT count(*) FROM kite_instrument_change") == [(0,)]


def test_exchange_that_vanished_after_somebody_touched_its_rows(cli: CommandLine) -> None:
    """They are still those of the last list."""
    assert_stored(cli, listing(NSE=600, NFO=400))
    cli.query("UPDATE kite_instrument_master SET last_updated = now() WHERE exchange = 'NFO'")
    assert "NFO fell from 400 rows to 0" in assert_refused(cli, listing(NSE=600)).stderr


def test_configuration_that_is_narrowed_after_somebody_removed_a_row(cli: CommandLine) -> None:
    assert_stored(cli, listing(NSE=200, NFO=300))
    cli.query(
        "DELETE FROM kite_instrument_master WHERE ctid IN (SELECT ctid FROM"
        " kite_instrument_master WHERE exchange = 'NSE' LIMIT 1)"
    )
    cli.parameters["exchanges"] = ["NSE"]
    result = cli.load(listing(NSE=200, NFO=300))
    assert "The table holds 499 of the 500 rows that run 1 stored" in result.stderr
    assert result.status == 0
    assert cli.query("SELECT count(*) FROM kite_instrument_today") == [(200,)]


def test_configuration_that_is_widened_again(cli: CommandLine) -> None:
    assert_stored(cli, listing(NSE=200, NFO=300))
    cli.parameters["exchanges"] = ["NSE"]
    cli.load(listing(NSE=200, NFO=300))
    del cli.parameters["exchanges"]
    assert_stored(cli, listing(NSE=200, NFO=10))  # NFO is compared with nothing


def test_comparison_is_with_the_last_good_list_and_not_with_all_that_is_stored(
    cli: CommandLine,
) -> None:
    for count in (400, 250, 150):  # each is more than half of the one before
        assert_stored(cli, listing(NSE=count))
    assert len(read_table(cli.connection)) == 400
    assert_refused(cli, listing(NSE=70))
    assert_refused(cli, listing(NSE=70))  # a failed run is nothing to compare with
    assert_stored(cli, listing(NSE=80))


def test_force_stores_the_list_and_the_next_one_is_compared_with_it(cli: CommandLine) -> None:
    assert_stored(cli, listing(NSE=400, NFO=250))
    result = assert_stored(cli, listing(NSE=120), "--force")
    assert "changes since the last list:\n     530  gone\n" in result.stdout
    assert_stored(cli, listing(NSE=61))


def test_first_list_is_compared_with_nothing(
    cli: CommandLine,
) -> None:
    assert_stored(cli, listing(NSE=3))


@pytest.mark.parametrize(
    ("percent", "refused", "stored"),
    [pytest.param(0, 199, 200, id="0"), pytest.param(10, 179, 180, id="10")],
)
def test_max_drop_percent_is_configured(
    cli: CommandLine, percent: int, refused: int, stored: int
) -> None:
    cli.parameters["max_drop_percent"] = percent
    assert_stored(cli, listing(NSE=200))
    assert_refused(cli, listing(NSE=refused))
    assert_stored(cli, listing(NSE=stored))


def test_max_drop_percent_of_100_believes_everything(cli: CommandLine) -> None:
    cli.parameters["max_drop_percent"] = 100
    assert_stored(cli, listing(NSE=200, NFO=200))
    assert_stored(cli, listing(NSE=200))


def test_dry_run_says_that_the_list_is_not_plausible(cli: CommandLine) -> None:
    assert_stored(cli, listing(NSE=200))
    result = assert_refused(cli, listing(NSE=20), "--dry-run")
    assert "NSE fell from 200 rows to 20" in result.stderr
    assert cli.load(listing(NSE=20), "--dry-run", "--force").status == 0
    assert cli.query("SELECT count(*) FROM kite_instrument_today") == [(200,)]


def test_check_names_every_exchange_that_fell() -> None:
    before = Counter({"NSE": 1_000, "NFO": 2_000, "BSE": 100, "MCX": 99})
    key = RunKey(1, "import_instruments_from_kite", "api", datetime(2026, 8, 3, 8, 30))
    parameters = {"exchanges": [], "max_drop_percent": 50.0}
    run = Run(FEED, key, parameters=parameters)
    Plausibility(run).check(before, before)
    with pytest.raises(ValidationError) as caught:
        Plausibility(run).check(Counter({"NSE": 499, "NFO": 1_000, "BSE": 0}), before)
    assert "BSE fell from 100 rows to 0; NSE fell from 1,000 rows to 499" in str(caught.value)
    assert "NFO" not in str(caught.value)
    assert "MCX" not in str(caught.value)
    run.options = RunOptions(force=True)
    Plausibility(run).check(Counter(), before)


# Rejected rows


def spoilt(good: int, bad: int) -> bytes:
    return listing(NSE=good) + BAD_ROW * bad


def first_list(cli: CommandLine) -> None:
    assert_stored(cli, listing(NSE=200))


@pytest.mark.parametrize(
    ("good", "bad", "is_refused"),
    [
        pytest.param(190, 10, False, id="five percent"),
        pytest.param(189, 11, True, id="more than five percent"),
        pytest.param(100, 100, True, id="half of them: with --force it would be stored"),
        pytest.param(94, 6, True, id="of a hundred rows"),
        pytest.param(93, 6, False, id="of 99 rows"),
    ],
)
def test_too_many_rejected_rows(cli: CommandLine, good: int, bad: int, is_refused: bool) -> None:
    if not is_refused:
        result = cli.load(spoilt(good, bad))
        assert result.status == 0
        assert cli.query("SELECT count(*) FROM kite_instrument_today") == [(good,)]
        return
    first_list(cli)
    result = assert_refused(cli, spoilt(good, bad))
    # One line each for the message's own lines; the log has them again.
    assert result.stderr.startswith(
        f"ERROR: validate failed: {bad} of {good + bad} rows were rejected: too many to "
        "rely on, the table stays as it is. If it is right as it is, run again with --force.\n"
    )
    assert "instrument_token: expected a whole number" in result.stderr
    assert f"line {good + 2}: " in result.stderr
    assert "all of them: " in result.stderr


def test_force_stores_what_is_good_of_a_list_with_many_rejected_rows(cli: CommandLine) -> None:
    first_list(cli)
    result = cli.load(spoilt(160, 40), "--force")
    assert result.status == 0
    assert cli.query("SELECT count(*) FROM kite_instrument_today") == [(160,)]
    assert "rejected            40" in result.stdout


def test_force_does_not_store_a_list_of_which_most_is_rejected(cli: CommandLine) -> None:
    first_list(cli)
    result = assert_refused(cli, spoilt(99, 101), "--force")
    assert "101 of 200 rows were rejected" in result.stderr
    assert "--force" not in result.stderr


@pytest.mark.parametrize(
    ("percent", "good", "bad", "is_refused"),
    [
        pytest.param(0, 199, 1, True, id="none may be rejected"),
        pytest.param(20, 160, 40, False, id="a fifth may be rejected"),
        pytest.param(20, 159, 41, True, id="more than a fifth may not"),
    ],
)
def test_max_reject_percent_is_configured(
    cli: CommandLine, percent: int, good: int, bad: int, is_refused: bool
) -> None:
    first_list(cli)
    cli.parameters["max_reject_percent"] = percent
    if is_refused:
        assert_refused(cli, spoilt(good, bad))
    else:
        assert cli.load(spoilt(good, bad)).status == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("max_drop_percent", 101, id="drop above 100"),
        pytest.param("max_drop_percent", "half", id="drop as a word"),
        pytest.param("max_reject_percent", -1, id="rejects below 0"),
        pytest.param("archive_days", 1.5, id="a day and a half"),
        pytest.param("archive_directory", "", id="no directory"),
    ],
)
def test_setting_that_makes_no_sense(cli: CommandLine, name: str, value: Any) -> None:
    cli.parameters[name] = value
    result = cli.load(listing(NSE=3))
    assert result.status == 2
    assert f"parameters.{name}: expected " in result.stderr
