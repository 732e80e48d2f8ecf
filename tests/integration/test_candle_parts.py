"""DAG 2 in several processes, each with its part: they store what one process does.

tests/chaos/test_candle_parts.py kills them at random moments.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from sandbox.kite_server import KiteServer
from shared.feed import Slice
from shared.utils.http_source import Pacer
from tests.candle_faults import Held, plan_faults
from tests.candle_parts import FACTOR, SPLIT, Twins, finish, make_market, twins
from tests.candle_rig import INTERVALS, list_stored
from tests.conftest import Project, Server, make_project
from tests.integration.test_candle_runs import EVENING, INDEX, INFY, LISTED, TCS, Desk, desk, until
from tests.table_model import wait_until

__all__ = ["desk"]

DAY = timedelta(days=1)
TOKENS = (INDEX, INFY, TCS)


@pytest.fixture(scope="module")
def listed(
    shipped: Path, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    project = make_project(shipped, tmp_path_factory.mktemp("listed"))
    with list_stored(project, server, make_market()) as name:
        yield name


@pytest.fixture
def both(project: Project, server: Server, kite: KiteServer, listed: str) -> Iterator[Twins]:
    with twins(project, server, kite, listed, make_market()) as pair:
        yield pair


def test_parts_store_what_one_process_does(both: Twins) -> None:
    """At once on an empty database, one of them killed; then a day on which much has happened."""
    both.run_one()
    gate = Held()
    [listing] = both.one.market.share("SHARE4").listings
    plan_faults(both.parts.kite, listing.token, "minute", [gate])
    with both.started("1/4", "2/4", "3/4", "4/4") as processes:
        wait_until(gate.reached.is_set)
        wait_until(lambda: sum(process.poll() is None for process in processes) == 1)
        for number, process in enumerate(processes, 1):
            if process.poll() is None:
                killed = f"{number}/4"
                process.kill()
            else:
                finish(process)
    gate.opened.set()
    both.parts.wait_for_the_end()
    both.run_parts(killed, "3/4")
    both.assert_equal()

    both.change()
    both.run_one()
    both.run_parts("3/3", "1/3")
    both.run_parts("2/3", "1/3")
    both.assert_equal()
    assert sorted(both.parts.adjustments()) == [(SPLIT, each, FACTOR) for each in INTERVALS]


# --- one part after the other, in this process ---------------------------------------------------


def holders(desk: Desk, count: int) -> dict[int, str]:
    """Which of so many parts has each token."""
    desk.load_list()
    ids = dict(desk.cli.query("SELECT instrument_token, instrument_id FROM kite_token_map"))
    parts = [Slice(number, count) for number in range(1, count + 1)]
    return {token: str(part) for token in TOKENS for part in parts if part.holds(ids[token])}


def said_of(output: str) -> list[str]:
    """What a summary says of the plan, without the numbers of candles."""
    return re.findall(r"in \d+ of \d+ series.*|to ask: .*|Nothing to ask for: .*", output)


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["run", "dry run"])
def test_what_is_said_is_of_the_part(desk: Desk, options: tuple[str, ...]) -> None:
    """More parts than series: some have nothing to do."""
    parts = holders(desk, 5)
    for number in range(1, 6):
        part = f"{number}/5"
        mine = [token for token in TOKENS if parts[token] == part]
        result = desk.run("--slice", part, *options)
        assert (result.status, result.stderr) == (0, "")
        if not mine:
            assert said_of(result.stdout) == [f"Nothing to ask for: part {part} has no series"]
        else:
            assert said_of(result.stdout) == [
                f"in 1 of 1 series of part {part}",
                "to ask: 1 request, 0 s at 200 a second (1000 for all parts together)",
            ]
        assert [asked.token for asked in desk.asked] == ([] if options else mine)
    if not options:
        again = desk.run("--slice", parts[INFY])
        (told,) = said_of(again.stdout)
        assert told == (
            f"Nothing to ask for: all that is wanted of 1 series of part {parts[INFY]} was answered"
        )
        whole = desk.run()
        (told,) = said_of(whole.stdout)
        assert told == "Nothing to ask for: all that is wanted of 3 series was answered"


def test_only_part_is_the_whole(desk: Desk) -> None:
    result = desk.run("--slice", "1/1")
    assert said_of(result.stdout)[0] == "in 3 of 3 series of part 1/1"
    assert [desk.days(token) for token in TOKENS] == [until(18)] * 3
    assert "Nothing to ask for" in desk.run().stdout


def test_time_is_that_of_the_rate_of_a_part(desk: Desk) -> None:
    part = holders(desk, 4)[INFY]
    desk.cli.parameters["requests_per_second"] = 0.02
    result = desk.run("--slice", part, "--dry-run")
    assert said_of(result.stdout)[1] == (
        "to ask: 1 request, 3 min at 0.005 a second (0.02 for all parts together)"
    )


def test_item_that_names_nothing_is_told_by_each_part(desk: Desk) -> None:
    """Whichever runs, or is looked at: nobody has to look at all."""
    desk.cli.parameters["instruments"] = ["NSE:INFY", "NSE:INFI"]
    for part in ("1/3", "2/3", "3/3"):
        result = desk.run("--slice", part)
        assert result.status == 0
        assert "rejected 1 row" in result.stdout
        assert "NSE:INFI" in result.stdout


def test_one_that_left_the_list_is_asked_for_and_closed_by_its_part_alone(desk: Desk) -> None:
    parts = holders(desk, 3)
    for part in sorted({*parts.values()}):
        desk.run("--slice", part)
    desk.load_list(*(row for row in LISTED if row["tradingsymbol"] != "INFY"), at=EVENING + DAY)
    desk.cli.parameters["instruments"] = ["NSE:TCS"]
    desk.route.forget(INFY)
    told: dict[str, int] = {}
    for part in sorted({*parts.values()}) * 2:
        result = desk.run("--slice", part, at=EVENING + DAY)
        assert result.status == 0
        told[part] = told.get(part, 0) + result.stdout.count("no longer answered, told once: 1")
    assert told == {part: int(part == parts[INFY]) for part in parts.values()}


# --- a table that was emptied --------------------------------------------------------------------


def test_part_that_begins_while_another_has_only_an_empty_answer(desk: Desk) -> None:
    """No candle is there yet, and nothing is lost: what the other one was told stays."""
    parts = holders(desk, 3)
    desk.truth[INFY, "day"].clear()
    desk.run("--slice", parts[INFY])
    covered = desk.covered(INFY)
    assert covered
    result = desk.run("--slice", parts[TCS])
    assert (result.status, result.stderr) == (0, "")
    assert desk.covered(INFY) == covered


def test_parts_after_the_table_was_emptied(desk: Desk) -> None:
    """The first ones have put theirs back when the last begins, and it still misses its own."""
    parts = holders(desk, 3)
    desk.run()
    desk.cli.query("TRUNCATE kite_candle")
    for part in sorted(parts.values()):
        result = desk.run("--slice", part, "--log-level", "INFO")
        assert result.status == 0
        assert f"has no candle of day in part {part}, though some were asked for" in result.stderr
    assert [desk.days(token) for token in TOKENS] == [until(18)] * 3
    for part in sorted(parts.values()):
        assert desk.run("--slice", part).stderr == ""


# --- the rate ------------------------------------------------------------------------------------


def test_requests_of_a_part_take_its_turns(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[float, Slice | None]] = []

    class Recorded(Pacer):
        def __init__(self, requests_per_second: float, *, part: Slice | None) -> None:
            made.append((requests_per_second, part))
            super().__init__(requests_per_second, part=part)

    part = holders(desk, 2)[INFY]
    module = sys.modules["dag_2_import_candles_from_kite.load"]
    monkeypatch.setattr(module, "Pacer", Recorded)
    desk.run("--slice", part)
    desk.run()
    assert [(rate, str(each)) for rate, each in made] == [(1000, part), (1000, "None")]


def test_warning_is_about_the_rate_of_all(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two a second for one part of two is more than Kite answers."""
    module = sys.modules["dag_2_import_candles_from_kite.load"]
    monkeypatch.setattr(module, "DEFAULT_ROOT", desk.cli.kite.root)
    desk.cli.parameters["requests_per_second"] = 4
    result = desk.run("--slice", "1/2", "--dry-run")
    assert "parameters.requests_per_second is 4, and Kite answers 3 a second" in result.stderr
    desk.cli.parameters["requests_per_second"] = 3
    assert desk.run("--slice", "1/2", "--dry-run").stderr == ""
