"""The results in figures: medians, ratios to the floor, and what was to be reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from statistics import median
from typing import Any

from benchmarks import statements
from benchmarks.candle_summary import make_candle_tables
from benchmarks.contestants import (
    CONTESTANTS,
    FLOOR_NAME,
    PROJECT_NAME,
    STAGES,
    Contestant,
)
from benchmarks.processes import Measurement

Rows = Sequence[Mapping[str, Any]]


def median_of(rows: Rows, value_of: Callable[[Mapping[str, Any]], float]) -> float:
    """The median of a figure over several runs."""
    return median(map(value_of, rows))


def seconds_of(rows: Rows) -> float:
    """The median wall time."""
    return median_of(rows, lambda row: float(row["seconds"]))


def peak_of(rows: Rows) -> float:
    """The median peak memory in MB."""
    return median_of(rows, lambda row: float(row["peak_mb"]))


def to_commit_of(name: str, rows: Rows) -> float:
    """The median seconds from the bytes at hand to the commit."""
    contestant = contestant_of(name)
    return median_of(rows, lambda row: contestant.sum_from_bytes_to_commit(Measurement(**row)))


def stages_of(name: str, rows: Rows) -> dict[str, float]:
    """The median seconds of each stage."""
    contestant = contestant_of(name)
    sums = [contestant.sum_stages(Measurement(**row)) for row in rows]
    return {stage: median(each[stage] for each in sums) for stage in STAGES}


def steps_of(name: str, rows: Rows) -> dict[str, float]:
    """The median seconds of each of a contender's own steps, in their order."""
    names = [step for step in contestant_of(name).stages if step in rows[0]["steps"]]
    return {step: median(row["steps"][step] for row in rows) for step in names}


def contestant_of(name: str) -> Contestant:
    """The contestant of this name."""
    return next(each for each in CONTESTANTS if each.name == name)


def make_comparison(results: Mapping[str, Any]) -> list[list[str]]:
    """The table of ratios, its header first."""
    header = [
        "",
        "refresh",
        "/ floor",
        "bytes to commit",
        "/ floor",
        "own CPU",
        "peak memory",
        "first load",
    ]
    table = [header]
    refresh, first = results["refresh"], results["first_load"]
    floor = seconds_of(refresh[FLOOR_NAME])
    floor_commit = to_commit_of(FLOOR_NAME, refresh[FLOOR_NAME])
    for name, rows in refresh.items():
        seconds, commit = seconds_of(rows), to_commit_of(name, rows)
        table.append(
            [
                name,
                f"{seconds:.2f} s",
                f"{seconds / floor:.2f}",
                f"{commit:.2f} s",
                f"{commit / floor_commit:.2f}",
                f"{median_of(rows, itemgetter('cpu_seconds')):.2f} s",
                f"{peak_of(rows):.0f} MB",
                f"{seconds_of(first[name]):.2f} s",
            ]
        )
    return table


def make_targets(results: Mapping[str, Any]) -> list[list[str]]:
    """What was to be reached, and whether it is; its header first."""
    refresh = results["refresh"]
    project, floor = refresh[PROJECT_NAME], refresh[FLOOR_NAME]
    whole = seconds_of(project) / seconds_of(floor)
    commit = to_commit_of(PROJECT_NAME, project) / to_commit_of(FLOOR_NAME, floor)
    in_a_row = results["refreshes_in_a_row"]
    later = max(len(in_a_row) // 2, 1)
    creep = seconds_of(in_a_row[-later:]) / seconds_of(in_a_row[:later])
    size = in_a_row[-1]["table_mb"] / in_a_row[0]["table_mb"]
    hot = min(row["heap_only_updates"] / max(row["updates"], 1) for row in in_a_row)
    table = [["", "to be reached", "measured", ""]]

    def add(what: str, wanted: str, value: str, is_reached: bool) -> None:
        table.append([what, wanted, value, "yes" if is_reached else "NO"])

    add("whole process / floor", "2.5 (aim: 2)", f"{whole:.2f}", whole <= 2.5)
    add("bytes to commit / floor", "2 (aim: 1.5)", f"{commit:.2f}", commit <= 2)
    for name, wanted in (("client's way", 4.0), ("dlt", 1.0)):
        if name in refresh:
            times = seconds_of(refresh[name]) / seconds_of(project)
            add(f"times faster than {name}", f"{wanted:g}", f"{times:.2f}", times >= wanted)
    peak = peak_of(project)
    add("peak memory", "160 MB (aim: 120)", f"{peak:.0f} MB", peak <= 160)
    if len(results["growth"]) > 1:
        first, last = results["growth"][0], results["growth"][-1]
        ratios = [peak_of(each["contenders"][PROJECT_NAME]) for each in (first, last)]
        times, rows = ratios[1] / ratios[0], last["rows"] / first["rows"]
        add(
            f"memory, rows times {rows:.1f}",
            f"times {rows:.1f}",
            f"times {times:.1f}",
            times <= rows,
        )
    add(
        f"{len(in_a_row)} refreshes in a row: time of the later half / the first",
        "about 1",
        f"{creep:.2f}",
        creep < 1.25,
    )
    add("table size, last / first", "about 1", f"{size:.2f}", size < 1.05)
    add("heap-only updates, lowest share", "nearly all", f"{hot:.1%}", hot > 0.9)
    listing = median(results["list_seconds"])
    add("--list", "0.15 s", f"{listing:.3f} s", listing < 0.15)
    share = share_of_moves(results)
    add("moved symbols / merge", "25%", f"{share:.0%}", share <= 0.25)
    return table


def share_of_moves(results: Mapping[str, Any]) -> float:
    """What resolving moved symbols costs of the merge's statements, on a day that has moves."""
    groups = statements_of(results, "day_of_moves")
    merge = (statements.MOVES, statements.COMPARE, statements.WRITE)
    return groups[statements.MOVES] / sum(groups[name] for name in merge)


def statements_of(results: Mapping[str, Any], day: str) -> dict[str, float]:
    """The median milliseconds of each group of statements."""
    runs = results["statements"][day]
    return {group: median(run[group] for run in runs) for group in statements.GROUPS}


def make_statements(results: Mapping[str, Any]) -> list[list[str]]:
    """The statements' times, its header first."""
    days = {day: statements_of(results, day) for day in ("ordinary_day", "day_of_moves")}
    table = [["statements of this project", "ordinary day", "day with moved symbols"]]
    for group in statements.GROUPS:
        table.append([group, *(f"{groups[group]:.0f} ms" for groups in days.values())])
    return table


def make_steps(results: Mapping[str, Any]) -> list[list[str]]:
    """The own steps of this project, its header first."""
    steps = steps_of(PROJECT_NAME, results["refresh"][PROJECT_NAME])
    whole = seconds_of(results["refresh"][PROJECT_NAME])
    rest = whole - sum(steps.values())
    table = [["step of this project", "seconds"]]
    return (
        table
        + [[name, f"{seconds:.3f}"] for name, seconds in steps.items()]
        + [["start, imports, end", f"{rest:.3f}"]]
    )


def make_growth(results: Mapping[str, Any]) -> list[list[str]]:
    """Time and memory by rows, its header first."""
    table = [
        [
            "rows",
            *(f"{name}{what}" for name in (PROJECT_NAME, FLOOR_NAME) for what in ("", ", memory")),
        ]
    ]
    for point in results["growth"]:
        row = [f"{point['rows']:,}"]
        for name in (PROJECT_NAME, FLOOR_NAME):
            rows = point["contenders"][name]
            row += [f"{seconds_of(rows):.2f} s", f"{peak_of(rows):.0f} MB"]
        table.append(row)
    return table


def make_in_a_row(results: Mapping[str, Any]) -> list[list[str]]:
    """The refreshes in a row, its header first."""
    table = [["refresh", "seconds", "table and indexes", "updates", "heap-only"]]
    for number, row in enumerate(results["refreshes_in_a_row"], 1):
        table.append(
            [
                str(number),
                f"{row['seconds']:.2f}",
                f"{row['table_mb']:.1f} MB",
                f"{row['updates']:,}",
                f"{row['heap_only_updates']:,}",
            ]
        )
    return table


def make_tables(results: Mapping[str, Any]) -> list[list[list[str]]]:
    """All tables, in the order in which they are shown."""
    return [
        make_comparison(results),
        make_targets(results),
        make_steps(results),
        make_statements(results),
        make_growth(results),
        make_in_a_row(results),
        *make_candle_tables(results["candles"]),
    ]


def as_text(table: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if position == 0 else cell.rjust(width)
            for position, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in table
    )


def as_markdown(table: Sequence[Sequence[str]]) -> str:
    """A table for the docs."""
    header, *rows = table
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
