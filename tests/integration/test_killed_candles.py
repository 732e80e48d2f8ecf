"""SIGKILL at chosen moments of a run of DAG 2: what is covered is there, and the next run goes on.

tests/chaos/test_candle_kills.py has random moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from dag_2_import_candles_from_kite.sandbox_route import PATH
from sandbox.kite_faults import Fault
from sandbox.kite_server import KiteServer
from tests.candle_faults import Fine, Held, plan_faults
from tests.candle_rig import CandleRig, list_stored, make_market, rigged
from tests.candle_truth import Market
from tests.conftest import Project, Server, make_project
from tests.table_model import wait_until

FACTOR = Decimal("0.2")


@pytest.fixture(scope="module")
def listed(
    shipped: Path, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    project = make_project(shipped, tmp_path_factory.mktemp("listed"))
    with list_stored(project, server, make_market()) as name:
        yield name


@pytest.fixture
def rig(project: Project, server: Server, kite: KiteServer, listed: str) -> Iterator[CandleRig]:
    with rigged(project, server, kite, listed, make_market()) as rig:
        yield rig


def token_of(market: Market, name: str) -> int:
    listing = market.share(name).listing(market.now.date())
    assert listing is not None
    return listing.token


def kill_at_answer(rig: CandleRig, name: str, interval: str, number: int) -> None:
    """Kill a run while Kite holds an answer back: the number-th of an instrument."""
    gate = Held()
    faults: list[Fault] = [*[Fine()] * (number - 1), gate]
    plan_faults(rig.kite, token_of(rig.market, name), interval, faults)
    with rig.start() as process:
        wait_until(gate.reached.is_set, seconds=60)
        process.kill()
        process.wait(60)
    gate.opened.set()
    rig.kite.clear_faults()
    rig.wait_for_the_end()


def kill_at_lock(rig: CandleRig, table: str, count: int = 1) -> None:
    """Kill a run that waits within a transaction, to write into a table that is locked."""
    with rig.server.connect(rig.database) as holder:
        holder.autocommit = False
        with holder.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {table} IN SHARE MODE")
        with rig.start() as process:
            wait_until(lambda: rig.sessions("wait_event_type = 'Lock'") >= count, seconds=60)
            process.kill()
            process.wait(60)
        holder.rollback()
    holder.close()
    rig.wait_for_the_end()


def asked(rig: CandleRig) -> list[str]:
    paths = (request.path for request in rig.kite.requests)
    return [path.removeprefix(PATH) for path in paths if path.startswith(PATH)]


def assert_goes_on(rig: CandleRig) -> None:
    """The next run does the rest, and no more."""
    complete = [pair for pair in rig.pairs() if rig.is_complete(*pair)]
    before = len(asked(rig))
    rig.finish()
    again = asked(rig)[before:]
    for name, interval in complete:
        assert f"{token_of(rig.market, name)}/{interval}" not in again
    twice = "SELECT FROM kite_candle GROUP BY instrument_id, interval, ts HAVING count(*) > 1"
    assert rig.query(twice) == []


@pytest.mark.parametrize(
    ("name", "interval", "number"),
    [
        pytest.param("NIFTY 50", "day", 1, id="before the first answer"),
        pytest.param("TWO", "minute", 2, id="between the spans of an instrument"),
    ],
)
def test_kill_while_an_answer_waits(rig: CandleRig, name: str, interval: str, number: int) -> None:
    kill_at_answer(rig, name, interval, number)
    rig.assert_honest()
    assert len(rig.covered(name, interval)) == number - 1
    assert_goes_on(rig)


def test_kill_before_the_commit_of_an_answer(rig: CandleRig) -> None:
    kill_at_answer(rig, "ONE", "minute", 1)  # the tables are made
    kill_at_lock(rig, "kite_candle_coverage")
    rig.assert_honest()
    assert_goes_on(rig)


def test_kill_before_a_new_history_is_committed(rig: CandleRig) -> None:
    """It is wholly as before, and the next run finds the adjustment again."""
    kept = adjust(rig)
    kill_at_lock(rig, "kite_candle_adjustment")
    assert rig.adjustments() == []
    assert rig.stored("ONE", "minute") == kept
    assert_adjusted_once(rig)


@pytest.mark.parametrize("number", [1, 3])
def test_kill_while_a_history_is_asked_for_anew(rig: CandleRig, number: int) -> None:
    kept = adjust(rig)
    kill_at_answer(rig, "ONE", "minute", number)
    assert rig.stored("ONE", "minute") == kept
    assert_adjusted_once(rig)


def adjust(rig: CandleRig) -> list[object]:
    """All is stored, then days pass and ONE is adjusted. Returns its minutes."""
    rig.finish()
    kept = rig.stored("ONE", "minute")
    rig.market.share("ONE").adjustments.append((rig.market.now.date(), FACTOR))
    rig.forget_days()
    return list(kept)


def assert_adjusted_once(rig: CandleRig) -> None:
    rig.finish()
    assert sorted(rig.adjustments()) == [("ONE", "day", FACTOR), ("ONE", "minute", FACTOR)]
