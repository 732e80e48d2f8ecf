"""The command `refetch NSE:INFY [--since DAY]`: ask for the candles of one instrument anew."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from dag_2_import_candles_from_kite.load import load_plan
from dag_2_import_candles_from_kite.plan import midnight
from dag_2_import_candles_from_kite.planning import make_plan
from dag_2_import_candles_from_kite.settings import FIRST_DAY
from dag_2_import_candles_from_kite.universe import read_selection
from shared import clock
from shared.arguments import read_day
from shared.config.config_loader import ConfigLoader
from shared.console import say
from shared.dag_discovery import discover_dags
from shared.exceptions import ConfigurationError, NotListedError
from shared.feed import API_SOURCE, Run, RunKey, RunOptions
from shared.run import retry_policy
from shared.summary import describe_rejects
from shared.utils.db_manager import DatabaseManager
from shared.utils.staged_merge import MergeResult

if TYPE_CHECKING:
    import argparse


def add_refetch(parser: argparse.ArgumentParser) -> None:
    """The arguments of `refetch`."""
    parser.add_argument("instrument", metavar="NSE:INFY", help="whose candles are asked for anew")
    parser.add_argument(
        "--since", type=read_day, metavar="DAY", help="those from this day on (YYYY-MM-DD)"
    )


def refetch(arguments: argparse.Namespace) -> int:
    """The command `refetch`; returns the exit status: 1 if Kite refused the token.

    Raises NotListedError if today's list has no such instrument, and as `load_plan` does.
    """
    from dag_2_import_candles_from_kite import FEED

    try:
        selection = read_selection(arguments.instrument)
    except ValueError:
        expected = f"expected an exchange and a symbol such as NSE:INFY, got {arguments.instrument}"
        raise ConfigurationError(f"refetch: {expected}.") from None
    config, dag = ConfigLoader.load_merged_config(FEED.folder, FEED.settings, needs_api=True)
    parameters = {**dag.parameters, "instruments": [selection]}
    key = RunKey(FEED.dag_id, FEED.name, API_SOURCE, clock.now())
    run = Run(FEED, key, RunOptions(), config, parameters)
    with DatabaseManager(asdict(config.database), retry=retry_policy(run)) as manager:
        _require_list(run, manager, in_sandbox=getattr(arguments, "sandbox", False))
        plan = manager.run_in_transaction(partial(make_plan, run))
        if not plan.universe.targets:
            [rejected] = plan.universe.rejected
            raise NotListedError(f"{selection}: {rejected.reason}.")
        since = arguments.since and max(arguments.since, FIRST_DAY)
        plan = plan.anew(midnight(since) if since else None)
        load_plan(plan, manager, plan.count(manager))
    figures, merge = run.figures, run.figures.merge or MergeResult()
    say(f"{selection}: {merge.given:,} candles: {merge.inserted:,} new, {merge.changed:,} changed")
    for line in figures.notes:
        say(line)
    if figures.rejected:
        say(describe_rejects(run))
    return 1 if figures.rejected and not merge.given else 0


def _require_list(run: Run, manager: DatabaseManager, *, in_sandbox: bool) -> None:
    """Refuse an old list, as a run does: since then a token may have become another's."""
    from shared.freshness import require_fresh

    dags = discover_dags(run.feed.folder.parent)
    [this] = [dag for dag in dags if dag.folder == run.feed.folder]
    before = [dag for dag in dags if dag.dag_id in this.after]
    require_fresh(manager, this, before, in_sandbox=in_sandbox, dry_run=False)
