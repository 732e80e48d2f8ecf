"""The results of candles in figures, and what was to be reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.candle_experiments import FLOOR, KITES_LIMIT
from benchmarks.contestants import PROJECT_NAME

Table = list[list[str]]
_STEP = "read and store"


def make_candle_tables(results: Mapping[str, Any]) -> list[Table]:
    """All tables, in the order in which they are shown."""
    return [make_comparison(results), make_reading(results), make_targets(results)]


def make_comparison(results: Mapping[str, Any]) -> Table:
    """Candles a second by each way, its header first."""
    table = [["candles", "bytes to commit", "a second", "/ floor", "peak memory"]]
    floor = rate_of(results, FLOOR)
    for name, rows in results["to_commit"].items():
        rate = rate_of(results, name)
        table.append(
            [
                name,
                f"{results['candles'] / rate:.2f} s",
                f"{rate:,.0f}",
                f"{rate / floor:.2f}",
                f"{median(row['peak_mb'] for row in rows):.0f} MB",
            ]
        )
    return table


def make_reading(results: Mapping[str, Any]) -> Table:
    """What reading a candle takes, its header first."""
    table = [["bytes to values", "a candle"]]
    for name in results["reading"][0]:
        table.append([name, f"{reading_of(results, name):.1f} us"])
    return table


def make_targets(results: Mapping[str, Any]) -> Table:
    """What was to be reached, and whether it is; its header first."""
    table = [["candles", "to be reached", "measured", ""]]

    def add(what: str, wanted: str, value: str, is_reached: bool) -> None:
        table.append([what, wanted, value, "yes" if is_reached else "NO"])

    rate, reading = rate_of(results, PROJECT_NAME), reading_of(results, PROJECT_NAME)
    add("bytes to commit, a second", "100,000", f"{rate:,.0f}", rate >= 100_000)
    add("bytes to values, a candle", "5 us", f"{reading:.1f} us", reading <= 5)
    small, large = results["growth"][0], results["growth"][-1]
    if large is not small:
        times = [sum(run["steps"][_STEP] for run in each["runs"]) for each in (small, large)]
        ratio = times[1] / times[0]
        into = f"into {large['stored']:,} / into {small['stored']:,}"
        add(f"{small['instruments']:,} candles {into}", "1.3", f"{ratio:.2f}", ratio <= 1.3)
    many, planned, limited = results["many"], results["planned"], results["limited"]
    title = f"a day of {many['instruments']:,} instruments, whole process"
    add(title, "20 s", f"{many['seconds']:.1f} s", many["seconds"] <= 20)
    peaks = {
        "peak memory of that": many,
        f"peak memory, {results['instruments']:,} instruments planned": planned["planned"],
        "peak memory, those and 60 days of minutes asked": planned["asked"],
    }
    for title, run in peaks.items():
        add(title, "150 MB", f"{run['peak_mb']:.0f} MB", run["peak_mb"] <= 150)
    ratio = limited["seconds"] / (limited["requests"] / KITES_LIMIT)
    title = f"{limited['requests']} requests at {KITES_LIMIT} a second, whole process / the limit's"
    add(title, "1.03", f"{ratio:.3f}", ratio <= 1.03)
    return table


def rate_of(results: Mapping[str, Any], name: str) -> float:
    """Candles a second by the median time of a way."""
    rows: Sequence[Mapping[str, Any]] = results["to_commit"][name]
    return float(results["candles"] / median(row["steps"][_STEP] for row in rows))


def reading_of(results: Mapping[str, Any], name: str) -> float:
    """The median microseconds that reading a candle takes."""
    seconds = median(float(row[name]) for row in results["reading"])
    return seconds * 1e6 / float(results["candles"])
