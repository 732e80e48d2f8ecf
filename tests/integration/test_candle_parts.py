"""DAG 2 in several processes, each with its part: they store what one process does.

tests/chaos/test_candle_parts.py kills them at random moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.kite_server import KiteServer
from tests.candle_faults import Held, plan_faults
from tests.candle_parts import GONE, Twins, finish, make_market, twins
from tests.candle_rig import list_stored
from tests.conftest import Project, Server, make_project
from tests.table_model import wait_until


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
    both.run_parts("4/4", "2/4")
    both.run_parts("3/4", "1/4", "2/4")
    both.assert_equal()
    assert [row[2] for row in both.parts.adjustments()] == [
        row[2] for row in both.one.adjustments()
    ]
    assert len(both.parts.adjustments()) == 2
    assert GONE
