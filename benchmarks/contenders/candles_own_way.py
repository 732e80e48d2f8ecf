"""The project's own Loader, to which answers that are at hand are Kite's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from benchmarks.contenders.candle_steps import read_answers
from benchmarks.contenders.steps import Steps
from dag_2_import_candles_from_kite import FEED
from dag_2_import_candles_from_kite.load import Loader
from dag_2_import_candles_from_kite.planning import make_plan
from shared import clock
from shared.config.config_loader import ConfigLoader
from shared.feed import API_SOURCE, Run, RunKey
from shared.utils.db_manager import DatabaseManager

T = TypeVar("T")
_TOKEN = re.compile(r"/instruments/historical/(\d+)/")


class _Kite:
    """Answers of which each is asked for once, and need not be sent."""

    def __init__(self, bodies: Mapping[int, bytes]) -> None:
        self._bodies = bodies

    def ask(
        self, route: str, _params: Mapping[str, Any], *, read: Callable[[bytes], T], **_bounds: Any
    ) -> T:
        found = _TOKEN.match(route)
        assert found is not None
        return read(self._bodies[int(found[1])])


def main() -> None:
    """Load what local.json of the DAG's folder asks for."""
    steps = Steps()
    answers = {each.token: each.body for each in read_answers()}
    config, dag = ConfigLoader.load_merged_config(FEED.folder, FEED.settings, needs_api=True)
    key = RunKey(FEED.dag_id, FEED.name, API_SOURCE, clock.now())
    run = Run(FEED, key, config=config, parameters=dag.parameters)
    with DatabaseManager(asdict(config.database)) as manager:
        plan = manager.run_in_transaction(partial(make_plan, run))
        totals = plan.count(manager)
        assert totals.requests == len(answers), totals
        loader = Loader(run, manager, plan)
        loader.kite = _Kite(answers)  # type: ignore[assignment]
        with steps.step("read and store"):
            loader.load(plan.jobs(manager), totals.lacking, totals.requests)
    steps.write()


if __name__ == "__main__":
    main()
