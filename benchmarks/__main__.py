"""`python -m benchmarks`: measure, print the tables, keep the results in docs/.

`make bench` runs this in an environment that has all contenders; those that are not installed
are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.candle_experiments import QUICK
from benchmarks.contestants import Runner
from benchmarks.experiments import Experiments, Plan
from benchmarks.plots import draw_plots
from benchmarks.processes import PROJECT, ContenderFailedError, UnequalTablesError
from benchmarks.servers import start_servers
from benchmarks.summary import as_markdown, as_text, make_tables
from benchmarks.surroundings import describe_surroundings
from sandbox.dump_generator import MIN_ROWS

FULL = Plan(
    rows=118_000,
    rounds=5,
    warm_up_rounds=1,
    growth_rows=(60_000, 118_000, 250_000, 500_000),
    growth_rounds=3,
    refreshes_in_a_row=10,
)
GENERATED = re.compile(r"(<!-- made by make bench -->\n).*(<!-- end -->)", re.DOTALL)


def make_quick_plan(rows: int) -> Plan:
    """A plan for development: everything once, and no waiting for the disk."""
    return Plan(
        rows,
        rounds=1,
        warm_up_rounds=0,
        growth_rows=(rows,),
        growth_rounds=1,
        refreshes_in_a_row=2,
        candles=QUICK,
        fsync=False,
    )


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="everything once, without fsync: to try it out, not to quote",
    )
    parser.add_argument(
        "--rows", type=int, default=20_000, metavar="N", help="rows of a quick run (default 20000)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where the results go (default: docs/, and nowhere for a quick run)",
    )
    arguments = parser.parse_args()
    if arguments.rows < MIN_ROWS:
        parser.error(f"--rows: expected {MIN_ROWS} or more, got {arguments.rows}")
    return arguments


def main() -> int:
    """Measure; returns 1 if a contender fails or stores something else than the others."""
    arguments = parse_arguments()
    plan = make_quick_plan(arguments.rows) if arguments.quick else FULL
    output = arguments.output or (None if arguments.quick else PROJECT / "docs")
    begin = time.monotonic()
    try:
        results = _measure(plan)
    except (ContenderFailedError, UnequalTablesError) as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted: nothing was written.\n")
        return 130
    results["minutes"] = round((time.monotonic() - begin) / 60, 1)
    tables = make_tables(results)
    for table in tables:
        _say(f"\n{as_text(table)}")
    if output is not None:
        _write_results(results, output, [as_markdown(table) for table in tables])
    return 0


def _measure(plan: Plan) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="kite-bench-") as name:
        folder = Path(name)
        with start_servers(folder, fsync=plan.fsync) as servers:
            surroundings = describe_surroundings(servers)
            results = Experiments(Runner(servers, folder), plan, _say).run()
    surroundings["machine"]["load_at_end"] = round(os.getloadavg()[0], 2)
    return {**surroundings, "plan": asdict(plan), **results}


def _write_results(results: dict[str, Any], folder: Path, tables: list[str]) -> None:
    """Write the page, the plots, and every single measurement beside them (not in git)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "benchmark.json"
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    _say(f"\nwrote {path}")
    try:
        for plot in draw_plots(results, folder / "img"):
            _say(f"wrote {plot}")
    except ImportError:
        _say("skipped: plots (matplotlib not installed: make bench)")
    page = folder / "benchmark.md"
    if page.exists():
        text = page.read_text(encoding="utf-8")
        made = "\n".join([_describe(results), *(f"{table}\n" for table in tables)])
        page.write_text(
            GENERATED.sub(lambda match: f"{match[1]}{made}{match[2]}", text), encoding="utf-8"
        )
        _say(f"wrote {page}")


def _describe(results: dict[str, Any]) -> str:
    machine, versions = results["machine"], dict(results["versions"])
    python = versions.pop("python")
    others = ", ".join(f"{name} {version}" for name, version in versions.items())
    quick = "" if results["plan"]["fsync"] else "A quick run, each figure measured once, no fsync. "
    return (
        f"{quick}{results['date']}, commit {results['commit']}: {machine['cores']} cores of "
        f"{machine['cpu']}, {machine['memory_gb']} GB, {machine['system']}; load "
        f"{machine['load_at_begin']} before, {machine['load_at_end']} after. PostgreSQL "
        f"{results['postgresql']['server_version']}, Python {python}, {others}. "
        f"{results['rows']['today']:,} rows. It took {results['minutes']} minutes.\n"
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
